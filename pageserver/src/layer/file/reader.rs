//! Reads layer files.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use ogel_ids::Lsn;

use super::{
    BlockCache, FORMAT_VERSION, LayerError, LayerHeader, LayerKind,
    block::{self, IndexEntry, RootEntry},
    format::{BlockRef, FOOTER_SIZE, Footer, FormatError, HEADER_SIZE},
};
use crate::{
    keyspace::{KEY_SIZE, Key},
    layer::{
        Io,
        reconstruct::{Reconstruction, Scan},
        tombstone::TombstoneSet,
    },
};

/// An open layer file. Root and tombstones are in memory, all else is read by position, through the cache.
pub struct LayerFile {
    path: PathBuf,
    file: File,
    number: u64,
    header: LayerHeader,
    size_bytes: u64,
    root: Vec<RootEntry>,
    tombstones: TombstoneSet,
    cache: Arc<BlockCache>,
}

impl LayerFile {
    /// Opens a file and checks that it is whole and the one expected.
    pub fn open(path: &Path, expected: &LayerHeader, cache: Arc<BlockCache>) -> Result<Self, LayerError> {
        let failed = |source| LayerError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let size_bytes = file.metadata().map_err(failed)?.len();
        let damaged = |what: &str| LayerError::Damaged { path: path.to_owned(), what: what.to_owned() };
        if size_bytes < (HEADER_SIZE + FOOTER_SIZE) as u64 {
            return Err(damaged("it is shorter than the smallest layer file"));
        }
        let of_format = |error| match error {
            FormatError::Damaged(what) => damaged(what),
            FormatError::FutureVersion(found) => {
                LayerError::FutureVersion { path: path.to_owned(), found, known: FORMAT_VERSION }
            }
        };
        let mut head = [0; HEADER_SIZE];
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        let header = LayerHeader::decode(&head).map_err(of_format)?;
        if header != *expected {
            return Err(LayerError::Foreign { path: path.to_owned(), what: difference(&header, expected) });
        }
        let mut end = [0; FOOTER_SIZE];
        file.read_exact_at(&mut end, size_bytes - FOOTER_SIZE as u64).map_err(failed)?;
        let footer = Footer::decode(&end).map_err(of_format)?;
        let number = cache.file_number();
        let (path, root, tombstones) = (path.to_owned(), Vec::new(), TombstoneSet::default());
        let mut layer = Self { path, file, number, header, size_bytes, root, tombstones, cache };
        layer.load_index(&footer)?;
        Ok(layer)
    }

    fn load_index(&mut self, footer: &Footer) -> Result<(), LayerError> {
        let root = self.read_block(footer.root)?;
        if root.len() % RootEntry::SIZE != 0 {
            return Err(self.damaged("the root block has the wrong length"));
        }
        self.root = root.chunks_exact(RootEntry::SIZE).map(RootEntry::decode).collect();
        let raw = self.read_block(footer.tombstones)?;
        let mut tombstones = TombstoneSet::default();
        block::decode_tombstones(&raw).map_err(|what| self.damaged(what))?.for_each(|t| tombstones.insert(t));
        self.tombstones = tombstones;
        Ok(())
    }

    /// What it is.
    pub fn header(&self) -> &LayerHeader {
        &self.header
    }

    /// Its size on disk.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Collects the versions of `key` up to `at`.
    pub fn visit(&self, key: &Key, at: Lsn, reconstruction: &mut Reconstruction<'_>, io: Io) -> Result<(), LayerError> {
        let floor = self.tombstones.newest_on(key, at);
        self.versions_of(key, at, floor, reconstruction, io)?;
        if floor.is_some() || self.header.kind == LayerKind::Image {
            reconstruction.finish();
        }
        Ok(())
    }

    fn versions_of(
        &self,
        key: &Key,
        at: Lsn,
        floor: Option<Lsn>,
        reconstruction: &mut Reconstruction<'_>,
        io: Io,
    ) -> Result<(), LayerError> {
        let wanted = position(key, at);
        let mut blocks = self.root.partition_point(|entry| entry.first <= wanted);
        while let Some(number) = blocks.checked_sub(1) {
            blocks = number;
            let index = self.index_block(number, io)?;
            let count = index.len() / IndexEntry::SIZE;
            let mut places = partition_point(count, |place| IndexEntry::position(&index, place) <= &wanted[..]);
            while let Some(place) = places.checked_sub(1) {
                places = place;
                let entry = IndexEntry::decode(&index, place).map_err(|what| self.damaged(what))?;
                if entry.key != *key || floor.is_some_and(|floor| entry.lsn < floor) {
                    return Ok(());
                }
                let value = self.value(&entry, io)?;
                if reconstruction.offer(entry.lsn, entry.kind, || value) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Collects the newest versions of a range of keys.
    pub fn scan(&self, scan: &mut Scan, io: Io) -> Result<(), LayerError> {
        self.tombstones.iter().for_each(|tombstone| scan.offer_tombstone(tombstone));
        let wanted = position(&scan.range.start, Lsn(0));
        let first = self.root.partition_point(|entry| entry.first <= wanted).saturating_sub(1);
        // Entries are in order of key, then LSN. A relation that grew block by block has thousands of sizes: only the last counts.
        let mut newest: Option<IndexEntry> = None;
        for number in first..self.root.len() {
            if self.root[number].first[..KEY_SIZE] >= scan.range.end.as_bytes()[..] {
                break;
            }
            let index = self.index_block(number, io)?;
            for place in 0..index.len() / IndexEntry::SIZE {
                let entry = IndexEntry::decode(&index, place).map_err(|what| self.damaged(what))?;
                if entry.lsn > scan.at || !scan.range.contains(&entry.key) {
                    continue;
                }
                if let Some(before) =
                    newest.replace(entry).filter(|before| Some(before.key) != newest.map(|now| now.key))
                {
                    self.offer(scan, &before, io)?;
                }
            }
        }
        if let Some(last) = newest {
            self.offer(scan, &last, io)?;
        }
        if self.header.kind == LayerKind::Image && self.header.lsns.end <= scan.at {
            scan.settle(self.header.keys);
        }
        Ok(())
    }

    fn offer(&self, scan: &mut Scan, entry: &IndexEntry, io: Io) -> Result<(), LayerError> {
        let value = self.value(entry, io)?;
        scan.offer(entry.key, entry.lsn, || value);
        Ok(())
    }

    fn index_block(&self, number: usize, io: Io) -> Result<Bytes, LayerError> {
        let block = self.cached_block(self.root[number].block, io)?;
        if block.len() % IndexEntry::SIZE != 0 {
            return Err(self.damaged("an index block has the wrong length"));
        }
        Ok(block)
    }

    fn value(&self, entry: &IndexEntry, io: Io) -> Result<Bytes, LayerError> {
        let block = self.cached_block(entry.block, io)?;
        let (start, len) = (entry.offset as usize, entry.len as usize);
        match start.checked_add(len) {
            Some(end) if end <= block.len() => Ok(block.slice(start..end)),
            _ => Err(self.damaged("a value lies outside its block")),
        }
    }

    fn cached_block(&self, place: BlockRef, io: Io) -> Result<Bytes, LayerError> {
        if let Some(block) = self.cache.get(self.number, place.offset) {
            return Ok(block);
        }
        if io == Io::MemoryOnly {
            return Err(LayerError::WouldBlock);
        }
        let block = Bytes::from(self.read_block(place)?);
        self.cache.insert(self.number, place.offset, block.clone());
        Ok(block)
    }

    fn read_block(&self, place: BlockRef) -> Result<Vec<u8>, LayerError> {
        if place.offset.checked_add(u64::from(place.len)).is_none_or(|end| end > self.size_bytes) {
            return Err(self.damaged("a block lies outside the file"));
        }
        let mut stored = vec![0; place.len as usize];
        self.file
            .read_exact_at(&mut stored, place.offset)
            .map_err(|source| LayerError::Io { path: self.path.clone(), source })?;
        block::decode(&stored).map_err(|what| self.damaged(&format!("{what} (offset {})", place.offset)))
    }

    fn damaged(&self, what: &str) -> LayerError {
        LayerError::Damaged { path: self.path.clone(), what: what.to_owned() }
    }
}

/// Key and LSN as bytes, which compare as they do.
fn position(key: &Key, lsn: Lsn) -> [u8; KEY_SIZE + 8] {
    let mut bytes = [0; KEY_SIZE + 8];
    bytes[..KEY_SIZE].copy_from_slice(key.as_bytes());
    bytes[KEY_SIZE..].copy_from_slice(&lsn.0.to_be_bytes());
    bytes
}

/// Number of leading places for which `holds` is true.
fn partition_point(count: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn difference(found: &LayerHeader, expected: &LayerHeader) -> String {
    if (found.tenant, found.timeline) != (expected.tenant, expected.timeline) {
        return format!(
            "it belongs to tenant {}, timeline {}, expected were {} and {}",
            found.tenant, found.timeline, expected.tenant, expected.timeline
        );
    }
    format!("it is {:?} {:?} {:?}, expected was {expected:?}", found.kind, found.lsns, found.keys)
}
