//! Keys: what a stored value belongs to.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use wal_decoder::key::{Fork, Rel, RelFork, SlruKind};

/// Bytes of a key.
pub const KEY_SIZE: usize = 18;
/// Leading bytes that name one relation (or one SLRU segment) within a kind; most tombstones stay inside one such prefix.
pub const PREFIX_SIZE: usize = 13;

/// Kinds of keys, the first byte of each. Stored on disk: numbers never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// tablespace, database, relation, fork, block → page.
    RelPage = 0x01,
    /// tablespace, database, relation, fork → blocks u32; present while the fork exists.
    RelSize = 0x02,
    /// tablespace, database → empty value; present while the database exists.
    Database = 0x03,
    /// tablespace, database → `pg_filenode.map`.
    RelMap = 0x04,
    /// SLRU kind, segment, 0, 0, page in the segment → page.
    SlruPage = 0x05,
    /// SLRU kind, segment → pages u32; present while the segment exists.
    SlruSize = 0x06,
    /// high and low half of a full transaction id → state file without its CRC.
    TwoPhase = 0x07,
    /// → running state at the end of a record (see `timeline::state`).
    Checkpoint = 0x08,
    /// origin id → remote LSN u64.
    Origin = 0x09,
    /// First 16 bytes of a path's SHA-256 → auxiliary file (see `timeline::aux_file`).
    AuxFile = 0x0a,
}

/// One key: kind u8, three u32, u8, u32, all big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; KEY_SIZE]);

impl Key {
    /// Lowest of all.
    pub const MIN: Key = Key([0; KEY_SIZE]);
    /// Highest of all; never used for a value.
    pub const MAX: Key = Key([0xff; KEY_SIZE]);

    const fn new(kind: KeyKind, a: u32, b: u32, c: u32, d: u8, e: u32) -> Key {
        let (a, b, c, e) = (a.to_be_bytes(), b.to_be_bytes(), c.to_be_bytes(), e.to_be_bytes());
        Key([
            kind as u8, a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d, e[0], e[1], e[2],
            e[3],
        ])
    }

    /// A page of a relation fork.
    pub const fn rel_page(rel: RelFork, block: u32) -> Key {
        Key::new(KeyKind::RelPage, rel.rel.spc, rel.rel.db, rel.rel.rel, rel.fork as u8, block)
    }

    /// The size of a relation fork.
    pub const fn rel_size(rel: RelFork) -> Key {
        Key::new(KeyKind::RelSize, rel.rel.spc, rel.rel.db, rel.rel.rel, rel.fork as u8, 0)
    }

    /// Existence of a database in a tablespace.
    pub const fn database(spc: u32, db: u32) -> Key {
        Key::new(KeyKind::Database, spc, db, 0, 0, 0)
    }

    /// The relation map of a database in a tablespace.
    pub const fn relmap(spc: u32, db: u32) -> Key {
        Key::new(KeyKind::RelMap, spc, db, 0, 0, 0)
    }

    /// A page of an SLRU, by its number in the whole log.
    pub const fn slru_page(kind: SlruKind, page: u32) -> Key {
        let segment = page / SlruKind::PAGES_PER_SEGMENT;
        Key::new(KeyKind::SlruPage, kind as u32, segment, 0, 0, page % SlruKind::PAGES_PER_SEGMENT)
    }

    /// The size of an SLRU segment.
    pub const fn slru_size(kind: SlruKind, segment: u32) -> Key {
        Key::new(KeyKind::SlruSize, kind as u32, segment, 0, 0, 0)
    }

    /// The state file of a prepared transaction.
    pub const fn two_phase(xid: u64) -> Key {
        Key::new(KeyKind::TwoPhase, (xid >> 32) as u32, xid as u32, 0, 0, 0)
    }

    /// The running state.
    pub const fn checkpoint() -> Key {
        Key::new(KeyKind::Checkpoint, 0, 0, 0, 0, 0)
    }

    /// A replication origin's progress.
    pub const fn origin(origin: u16) -> Key {
        Key::new(KeyKind::Origin, origin as u32, 0, 0, 0, 0)
    }

    /// An auxiliary file.
    pub fn aux_file(path: &str) -> Key {
        let hash = ring::digest::digest(&ring::digest::SHA256, path.as_bytes());
        let mut bytes = [0; KEY_SIZE];
        bytes[0] = KeyKind::AuxFile as u8;
        bytes[1..17].copy_from_slice(&hash.as_ref()[..16]);
        Key(bytes)
    }

    /// Takes stored bytes as they are; an unknown kind is seen when the key is looked at.
    pub const fn from_bytes(bytes: [u8; KEY_SIZE]) -> Key {
        Key(bytes)
    }

    /// The key's bytes, as stored.
    pub const fn as_bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }

    /// The bytes that name the relation or segment.
    pub fn prefix(&self) -> [u8; PREFIX_SIZE] {
        *self.0.first_chunk().expect("a key is longer than its prefix")
    }

    /// The next key in byte order ([`Key::MAX`] stays itself).
    pub fn next(self) -> Key {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Key(bytes);
            }
        }
        Key::MAX
    }

    /// What the key belongs to, for people.
    pub fn describe(&self) -> String {
        let (a, b, c, e) = (self.part(1), self.part(5), self.part(9), self.part(14));
        let fork = Fork::from_number(self.0[13]).map_or("?", Fork::file_suffix);
        match self.0[0] {
            0x01 => format!("block {e} of relation {a}/{b}/{c}{fork}"),
            0x02 => format!("size of relation {a}/{b}/{c}{fork}"),
            0x03 => format!("database {a}/{b}"),
            0x04 => format!("relation map of database {a}/{b}"),
            kind @ (0x05 | 0x06) => {
                let log = u8::try_from(a).ok().and_then(SlruKind::from_number).map_or("SLRU", SlruKind::directory);
                let what = if kind == 0x05 { format!("page {e}") } else { "size".to_owned() };
                format!("{what} of segment {b:04X} in {log}")
            }
            0x07 => format!("prepared transaction {a:08X}{b:08X}"),
            0x08 => "running state".to_owned(),
            0x09 => format!("progress of replication origin {a}"),
            0x0a => "auxiliary file".to_owned(),
            _ => format!("key {self}"),
        }
    }

    fn part(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: KeyKind) -> bool {
        self.0[0] == kind as u8
    }

    /// The relation fork, when this is the key of its size.
    pub fn as_rel_size(&self) -> Option<RelFork> {
        let fork = Fork::from_number(self.0[13])?;
        self.is(KeyKind::RelSize).then(|| Rel { spc: self.part(1), db: self.part(5), rel: self.part(9) }.fork(fork))
    }

    /// The relation fork and block, when this is the key of a page.
    pub fn as_rel_page(&self) -> Option<(RelFork, u32)> {
        let fork = Fork::from_number(self.0[13])?;
        let rel = Rel { spc: self.part(1), db: self.part(5), rel: self.part(9) };
        self.is(KeyKind::RelPage).then(|| (rel.fork(fork), self.part(14)))
    }

    /// The SLRU and the page's number in the whole log, when this is the key of an SLRU page.
    pub fn as_slru_page(&self) -> Option<(SlruKind, u32)> {
        let kind = u8::try_from(self.part(1)).ok().and_then(SlruKind::from_number)?;
        let page = self.part(5).checked_mul(SlruKind::PAGES_PER_SEGMENT)?.checked_add(self.part(14))?;
        self.is(KeyKind::SlruPage).then_some((kind, page))
    }

    /// (tablespace, database), when this is the key of a database or of a relation map.
    pub fn as_database(&self) -> Option<(u32, u32)> {
        (self.is(KeyKind::Database) || self.is(KeyKind::RelMap)).then(|| (self.part(1), self.part(5)))
    }

    /// The segment number, when this is the key of an SLRU segment's size.
    pub fn as_slru_segment(&self) -> Option<u32> {
        self.is(KeyKind::SlruSize).then(|| self.part(5))
    }

    /// The full transaction id, when this is the key of a two-phase file.
    pub fn as_two_phase(&self) -> Option<u64> {
        self.is(KeyKind::TwoPhase).then(|| u64::from(self.part(1)) << 32 | u64::from(self.part(5)))
    }

    /// The origin id, when this is the key of an origin.
    pub fn as_origin(&self) -> Option<u16> {
        self.is(KeyKind::Origin).then(|| self.part(1) as u16)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// As text, 36 hexadecimal digits.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).filter(|pair| pair.len() == 2).map(byte).collect();
        let bytes = bytes.filter(|_| text.len() == 2 * KEY_SIZE).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Key).ok_or_else(|| de::Error::custom("a key has 36 hexadecimal digits"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REL: Rel = Rel { spc: 1663, db: 5, rel: 16384 };

    #[test]
    fn byte_order_is_logical_order() {
        let main = REL.fork(Fork::Main);
        let ordered = [
            Key::rel_page(main, 0),
            Key::rel_page(main, 255),
            Key::rel_page(main, 256),
            Key::rel_page(REL.fork(Fork::Init), 0),
            Key::rel_page(Rel { rel: 16385, ..REL }.fork(Fork::Main), 0),
            Key::rel_page(Rel { db: 6, rel: 1, ..REL }.fork(Fork::Main), 0),
            Key::rel_size(main),
            Key::slru_page(SlruKind::Clog, 31),
            Key::slru_page(SlruKind::Clog, 32),
            Key::slru_page(SlruKind::CommitTs, 0),
            Key::two_phase(3),
            Key::two_phase(1 << 32),
        ];
        assert!(ordered.is_sorted());
    }

    #[test]
    fn keys_tell_what_they_belong_to() {
        let fork = REL.fork(Fork::VisibilityMap);
        assert_eq!(Key::rel_size(fork).as_rel_size(), Some(fork));
        assert_eq!(Key::rel_page(fork, 7).as_rel_size(), None);
        assert_eq!(Key::rel_page(fork, 7).as_rel_page(), Some((fork, 7)));
        assert_eq!(Key::slru_page(SlruKind::CommitTs, 99).as_slru_page(), Some((SlruKind::CommitTs, 99)));
        assert_eq!((Key::MAX.as_slru_page(), Key::rel_size(fork).as_rel_page()), (None, None));
        assert_eq!(Key::two_phase(7 << 32 | 9).as_two_phase(), Some(7 << 32 | 9));
        assert_eq!(Key::slru_size(SlruKind::Clog, 12).as_slru_segment(), Some(12));
        assert_eq!(Key::from_bytes([0xff; KEY_SIZE]).as_rel_size(), None);
        let said = [Key::two_phase(7 << 32 | 9), Key::slru_size(SlruKind::Clog, 12), Key::relmap(1663, 5)];
        let said = said.map(|key| key.describe());
        assert_eq!(
            said,
            [
                "prepared transaction 0000000700000009",
                "size of segment 000C in pg_xact",
                "relation map of database 1663/5"
            ]
        );
    }

    #[test]
    fn next_carries() {
        assert_eq!(
            Key::rel_page(REL.fork(Fork::Main), u32::MAX).next(),
            Key::rel_page(REL.fork(Fork::FreeSpaceMap), 0)
        );
        assert_eq!(Key::MAX.next(), Key::MAX);
    }
}
