//! Ranges of keys, half-open.

use wal_decoder::key::{Fork, Rel, RelFork, SlruKind};

use super::{KEY_SIZE, Key, KeyKind};

/// Keys from `start` up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct KeyRange {
    /// First key in the range.
    pub start: Key,
    /// First key behind it.
    pub end: Key,
}

impl KeyRange {
    /// Every key.
    pub const ALL: KeyRange = KeyRange { start: Key::MIN, end: Key::MAX };

    /// Both ends given as keys that belong to the range.
    pub fn inclusive(first: Key, last: Key) -> KeyRange {
        KeyRange { start: first, end: last.next() }
    }

    /// One key.
    pub fn single(key: Key) -> KeyRange {
        KeyRange::inclusive(key, key)
    }

    /// Pages of a fork from `block` on.
    pub fn rel_pages_from(rel: RelFork, block: u32) -> KeyRange {
        KeyRange::inclusive(Key::rel_page(rel, block), Key::rel_page(rel, u32::MAX))
    }

    /// Pages of all forks of a relation.
    pub fn rel_pages(rel: Rel) -> KeyRange {
        KeyRange::inclusive(Key::rel_page(rel.fork(Fork::Main), 0), Key::rel_page(rel.fork(Fork::Init), u32::MAX))
    }

    /// Sizes of all forks of a relation.
    pub fn rel_sizes(rel: Rel) -> KeyRange {
        KeyRange::inclusive(Key::rel_size(rel.fork(Fork::Main)), Key::rel_size(rel.fork(Fork::Init)))
    }

    /// Pages of all relations of a database in a tablespace.
    pub fn database_pages(spc: u32, db: u32) -> KeyRange {
        KeyRange {
            start: Self::rel_pages(Rel { spc, db, rel: 0 }).start,
            end: Self::rel_pages(Rel { spc, db, rel: u32::MAX }).end,
        }
    }

    /// Sizes of all relations of a database in a tablespace.
    pub fn database_sizes(spc: u32, db: u32) -> KeyRange {
        KeyRange {
            start: Self::rel_sizes(Rel { spc, db, rel: 0 }).start,
            end: Self::rel_sizes(Rel { spc, db, rel: u32::MAX }).end,
        }
    }

    /// Sizes of all relations.
    pub fn all_rel_sizes() -> KeyRange {
        KeyRange { start: Self::database_sizes(0, 0).start, end: Self::database_sizes(u32::MAX, u32::MAX).end }
    }

    /// All databases.
    pub fn databases() -> KeyRange {
        KeyRange::inclusive(Key::database(0, 0), Key::database(u32::MAX, u32::MAX))
    }

    /// All relation maps.
    pub fn relmaps() -> KeyRange {
        KeyRange::inclusive(Key::relmap(0, 0), Key::relmap(u32::MAX, u32::MAX))
    }

    /// Pages of an SLRU segment.
    pub fn slru_segment_pages(kind: SlruKind, segment: u32) -> KeyRange {
        let first = segment.saturating_mul(SlruKind::PAGES_PER_SEGMENT);
        KeyRange::inclusive(
            Key::slru_page(kind, first),
            Key::slru_page(kind, first | (SlruKind::PAGES_PER_SEGMENT - 1)),
        )
    }

    /// Sizes of all segments of an SLRU.
    pub fn slru_sizes(kind: SlruKind) -> KeyRange {
        KeyRange::inclusive(Key::slru_size(kind, 0), Key::slru_size(kind, u32::MAX))
    }

    /// All two-phase files.
    pub fn two_phase_files() -> KeyRange {
        KeyRange::inclusive(Key::two_phase(0), Key::two_phase(u64::MAX))
    }

    /// All replication origins.
    pub fn origins() -> KeyRange {
        KeyRange::inclusive(Key::origin(0), Key::origin(u16::MAX))
    }

    /// All auxiliary files.
    pub fn aux_files() -> KeyRange {
        let first = |kind: KeyKind| {
            let mut bytes = [0; KEY_SIZE];
            bytes[0] = kind as u8;
            bytes
        };
        let mut last = first(KeyKind::AuxFile);
        last[1..].fill(0xff);
        KeyRange::inclusive(Key::from_bytes(first(KeyKind::AuxFile)), Key::from_bytes(last))
    }

    /// Whether the key lies in the range.
    pub fn contains(&self, key: &Key) -> bool {
        self.start <= *key && *key < self.end
    }

    /// Whether the two have a key in common.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        self.start < other.end && other.start < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_relation_takes_its_own_keys_only() {
        let rel = Rel { spc: 1663, db: 5, rel: 16384 };
        let range = KeyRange::rel_pages(rel);
        for fork in Fork::ALL {
            assert!(range.contains(&Key::rel_page(rel.fork(fork), 0)));
            assert!(range.contains(&Key::rel_page(rel.fork(fork), u32::MAX)));
        }
        assert!(!range.contains(&Key::rel_page(Rel { rel: 16385, ..rel }.fork(Fork::Main), 0)));
        assert!(!range.contains(&Key::rel_page(Rel { rel: 16383, ..rel }.fork(Fork::Init), u32::MAX)));
        assert!(!range.overlaps(&KeyRange::rel_sizes(rel)));
        assert_eq!(range.start.prefix(), rel_page_prefix(rel));
    }

    fn rel_page_prefix(rel: Rel) -> [u8; crate::keyspace::PREFIX_SIZE] {
        Key::rel_page(rel.fork(Fork::Init), 77).prefix()
    }

    #[test]
    fn truncation_keeps_the_blocks_before() {
        let fork = Rel { spc: 1663, db: 5, rel: 16384 }.fork(Fork::Main);
        let range = KeyRange::rel_pages_from(fork, 10);
        assert!(!range.contains(&Key::rel_page(fork, 9)));
        assert!(range.contains(&Key::rel_page(fork, 10)));
        assert!(!range.contains(&Key::rel_page(fork.rel.fork(Fork::FreeSpaceMap), 0)));
    }
}
