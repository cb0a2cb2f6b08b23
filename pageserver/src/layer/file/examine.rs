//! A whole layer file looked through: every checksum, every bound, every order. For tools; readers check what they read.

use std::collections::HashMap;

use ogel_ids::Lsn;

use super::{
    FORMAT_VERSION, LayerHeader, LayerKind,
    block::{self, IndexEntry, RootEntry},
    format::{BlockRef, FOOTER_SIZE, Footer, FormatError, HEADER_SIZE},
};
use crate::{
    keyspace::Key,
    layer::{VersionKind, tombstone::Tombstone},
};

/// Findings that are told; a file with more is as useless.
const MAX_PROBLEMS: usize = 50;

/// What a file holds and what is wrong with it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Examined {
    /// As the file says.
    #[serde(skip)]
    pub header: LayerHeader,
    /// Versions in the index.
    pub versions: u64,
    /// Blocks of values.
    pub data_blocks: u64,
    /// From here to the end is the separable index.
    pub index_offset: u64,
    /// Tombstones.
    #[serde(skip)]
    pub tombstones: Vec<Tombstone>,
    /// What is wrong; empty when the file is sound.
    pub problems: Vec<String>,
}

/// One version, as the index has it.
#[derive(Debug, Clone)]
pub struct ExaminedVersion<'a> {
    /// Whose.
    pub key: Key,
    /// End of its record.
    pub lsn: Lsn,
    /// How it is stored.
    pub kind: VersionKind,
    /// Its value; `None` when its block is damaged.
    pub value: Option<&'a [u8]>,
}

/// Looks through a file; `visit` is shown every version that the index still names. `Err`: nothing in it can be read, and why.
pub fn examine(bytes: &[u8], mut visit: impl FnMut(ExaminedVersion<'_>)) -> Result<Examined, String> {
    let ends = (bytes.first_chunk::<HEADER_SIZE>(), bytes.last_chunk::<FOOTER_SIZE>());
    let (Some(head), Some(end), true) = (ends.0, ends.1, bytes.len() >= HEADER_SIZE + FOOTER_SIZE) else {
        return Err("it is shorter than the smallest layer file".to_owned());
    };
    let header = LayerHeader::decode(head).map_err(told)?;
    let footer = Footer::decode(end).map_err(told)?;
    let (index_offset, tombstones) = (footer.index_offset, Vec::new());
    let examined = Examined { header, versions: 0, data_blocks: 0, index_offset, tombstones, problems: Vec::new() };
    let mut examiner = Examiner { bytes, examined, places: Vec::new(), data: HashMap::new() };
    examiner.tombstones(&footer);
    examiner.versions(&footer, &mut visit);
    examiner.gaps();
    Ok(examiner.examined)
}

fn told(error: FormatError) -> String {
    match error {
        FormatError::Damaged(what) => what.to_owned(),
        FormatError::FutureVersion(found) => {
            format!("it has format version {found}, this program reads versions up to {FORMAT_VERSION}")
        }
    }
}

struct Examiner<'a> {
    bytes: &'a [u8],
    examined: Examined,
    /// Every block seen.
    places: Vec<BlockRef>,
    /// The data block looked at last, by its place; `None` when it is damaged.
    data: HashMap<(u64, u32), Option<Vec<u8>>>,
}

impl Examiner<'_> {
    fn problem(&mut self, what: impl Into<String>) {
        if self.examined.problems.len() < MAX_PROBLEMS {
            self.examined.problems.push(what.into());
        }
    }

    fn block(&mut self, what: &str, place: BlockRef) -> Option<Vec<u8>> {
        self.places.push(place);
        let inside = place.offset >= HEADER_SIZE as u64 && place.end() <= (self.bytes.len() - FOOTER_SIZE) as u64;
        let stored = inside.then(|| &self.bytes[place.offset as usize..place.end() as usize]);
        match stored.ok_or("it lies outside the file").and_then(block::decode) {
            Ok(raw) => Some(raw),
            Err(error) => {
                self.problem(format!("{what} at {}: {error}", place.offset));
                None
            }
        }
    }

    fn tombstones(&mut self, footer: &Footer) {
        let Some(raw) = self.block("tombstones", footer.tombstones) else { return };
        let tombstones: Vec<Tombstone> = match block::decode_tombstones(&raw) {
            Ok(tombstones) => tombstones.collect(),
            Err(error) => return self.problem(error),
        };
        let lsns = self.examined.header.lsns;
        for tombstone in &tombstones {
            if tombstone.range.start >= tombstone.range.end || tombstone.lsn > lsns.end {
                self.problem(format!("tombstone at {} on {}: it is impossible", tombstone.lsn, tombstone.range.start));
            }
        }
        if !tombstones.is_sorted() {
            self.problem("the tombstones are out of order");
        }
        self.examined.tombstones = tombstones;
    }

    fn versions(&mut self, footer: &Footer, visit: &mut impl FnMut(ExaminedVersion<'_>)) {
        let Some(root) = self.block("root", footer.root) else { return };
        if root.len() % RootEntry::SIZE != 0 {
            return self.problem("the root block has the wrong length");
        }
        let mut last: Option<(Key, Lsn)> = None;
        for entry in root.chunks_exact(RootEntry::SIZE).map(RootEntry::decode) {
            let Some(index) = self.block("index block", entry.block) else { continue };
            if index.is_empty() || index.len() % IndexEntry::SIZE != 0 {
                self.problem(format!("index block at {}: it has the wrong length", entry.block.offset));
                continue;
            }
            if IndexEntry::position(&index, 0) != entry.first {
                self.problem(format!("index block at {}: it does not begin as the root says", entry.block.offset));
            }
            for place in 0..index.len() / IndexEntry::SIZE {
                self.examined.versions += 1;
                match IndexEntry::decode(&index, place) {
                    Ok(entry) => self.version(&entry, &mut last, visit),
                    Err(error) => self.problem(format!("index block at {}: {error}", entry.block.offset)),
                }
            }
        }
        if self.examined.versions != footer.entries && self.examined.problems.is_empty() {
            self.problem(format!("it has {} versions, its end says {}", self.examined.versions, footer.entries));
        }
    }

    fn version(
        &mut self,
        entry: &IndexEntry,
        last: &mut Option<(Key, Lsn)>,
        visit: &mut impl FnMut(ExaminedVersion<'_>),
    ) {
        let what = || format!("{} at {}", entry.key.describe(), entry.lsn);
        let LayerHeader { lsns, keys, kind, .. } = self.examined.header;
        if last.replace((entry.key, entry.lsn)).is_some_and(|last| last > (entry.key, entry.lsn)) {
            self.problem(format!("{}: it is out of order", what()));
        }
        if !keys.contains(&entry.key) {
            self.problem(format!("{}: the key lies outside the file's range", what()));
        }
        if entry.lsn > lsns.end || kind == LayerKind::Delta && entry.lsn <= lsns.start {
            self.problem(format!("{}: the LSN lies outside the file's range", what()));
        }
        let place = (entry.block.offset, entry.block.len);
        if !self.data.contains_key(&place) {
            let block = self.block("data block", entry.block);
            self.examined.data_blocks += 1;
            self.data.clear(); // values of a block lie side by side in the index, mostly
            self.data.insert(place, block);
        }
        let (start, len) = (entry.offset as usize, entry.len as usize);
        let block = self.data.get(&place).and_then(Option::as_ref);
        let value = block.map(|block| start.checked_add(len).and_then(|end| block.get(start..end)));
        visit(ExaminedVersion { key: entry.key, lsn: entry.lsn, kind: entry.kind, value: value.flatten() });
        if value == Some(None) {
            self.problem(format!("{}: its value lies outside its block", what()));
        }
    }

    /// Every byte between header and footer belongs to one block.
    fn gaps(&mut self) {
        self.places.sort_unstable_by_key(|place| (place.offset, place.len));
        self.places.dedup();
        let mut at = HEADER_SIZE as u64;
        let mut wrong = None;
        for place in &self.places {
            if place.offset != at {
                wrong.get_or_insert(at.min(place.offset));
            }
            at = place.end();
        }
        if at != (self.bytes.len() - FOOTER_SIZE) as u64 {
            wrong.get_or_insert(at);
        }
        if let Some(wrong) = wrong.filter(|_| self.examined.problems.is_empty()) {
            self.problem(format!("bytes from {wrong} on belong to no block, or to two"));
        }
    }
}
