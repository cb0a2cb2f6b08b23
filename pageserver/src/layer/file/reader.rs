//! Reads layer files.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use ogel_ids::Lsn;

use super::{
    BlockCache, FORMAT_VERSION, LayerError, LayerHeader, LayerKind, StoredValue,
    block::{self, IndexEntry, RootEntry},
    format::{BlockRef, FOOTER_SIZE, Footer, FormatError, HEADER_SIZE},
};
use crate::{
    keyspace::{KEY_SIZE, Key, KeyRange},
    layer::{
        Io,
        reconstruct::{Reconstruction, Scan, Value},
        tombstone::TombstoneSet,
    },
    metrics::{CacheLevel, CacheMetrics},
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
    counted: ReadCounts,
}

/// The levels that reads of this file go through.
struct ReadCounts {
    blocks: CacheMetrics,
    local: CacheMetrics,
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
        let counted = ReadCounts {
            blocks: cache.metrics().cache(CacheLevel::Blocks, header.tenant),
            local: cache.metrics().cache(CacheLevel::Local, header.tenant),
        };
        let mut layer = Self { path, file, number, header, size_bytes, root, tombstones, cache, counted };
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

    /// Locates the versions that the reads of `keys` (those that this file serves) need and this file holds. Index blocks are read, values
    /// are not.
    pub fn locate(self: &Arc<Self>, reads: &mut [Reconstruction], keys: KeyRange, io: Io) -> Result<(), LayerError> {
        let mut cursor = None;
        for read in reads.iter_mut().filter(|read| !read.is_done() && keys.contains(read.key()) && self.concerns(read))
        {
            read.enter_layer();
            let floor = self.tombstones.newest_on(read.key(), read.at());
            self.locate_one(read, floor, &mut cursor, io)?;
            if floor.is_some() || self.header.kind == LayerKind::Image {
                read.finish();
            }
        }
        Ok(())
    }

    fn concerns(&self, read: &Reconstruction) -> bool {
        let reaches = self.header.kind == LayerKind::Image || self.header.lsns.start < read.at();
        reaches && self.header.keys.contains(read.key())
    }

    /// `cursor` is the index block used last: blocks of one relation share it.
    fn locate_one(
        self: &Arc<Self>,
        read: &mut Reconstruction,
        floor: Option<Lsn>,
        cursor: &mut Option<(usize, Bytes)>,
        io: Io,
    ) -> Result<(), LayerError> {
        let wanted = position(read.key(), read.at());
        let mut blocks = self.root.partition_point(|entry| entry.first <= wanted);
        while let Some(number) = blocks.checked_sub(1) {
            blocks = number;
            if cursor.as_ref().is_none_or(|(held, _)| *held != number) {
                *cursor = Some((number, self.index_block(number, io)?));
            }
            let Some((_, index)) = &*cursor else { unreachable!("the cursor was set") };
            let count = index.len() / IndexEntry::SIZE;
            let mut places = partition_point(count, |place| IndexEntry::position(index, place) <= &wanted[..]);
            while let Some(place) = places.checked_sub(1) {
                places = place;
                let entry = IndexEntry::decode(index, place).map_err(|what| self.damaged(what))?;
                if entry.key != *read.key() || floor.is_some_and(|floor| entry.lsn < floor) {
                    return Ok(());
                }
                if read.offer(entry.lsn, entry.kind, || Value::Stored(self.stored(&entry))) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn stored(self: &Arc<Self>, entry: &IndexEntry) -> StoredValue {
        StoredValue { file: self.clone(), block: entry.block, offset: entry.offset, len: entry.len }
    }

    /// Collects the newest versions of the scan's keys, as far as they lie in `keys`: those that this file serves.
    pub fn scan(&self, scan: &mut Scan, keys: KeyRange, io: Io) -> Result<(), LayerError> {
        let keys = KeyRange { start: keys.start.max(scan.range.start), end: keys.end.min(scan.range.end) };
        for tombstone in self.tombstones.iter().filter(|tombstone| tombstone.range.overlaps(&keys)) {
            scan.offer_tombstone(tombstone);
        }
        let wanted = position(&keys.start, Lsn(0));
        let first = self.root.partition_point(|entry| entry.first <= wanted).saturating_sub(1);
        // Entries are in order of key, then LSN. A relation that grew block by block has thousands of sizes: only the last counts.
        let mut newest: Option<IndexEntry> = None;
        for number in first..self.root.len() {
            if self.root[number].first[..KEY_SIZE] >= keys.end.as_bytes()[..] {
                break;
            }
            let index = self.index_block(number, io)?;
            for place in 0..index.len() / IndexEntry::SIZE {
                let entry = IndexEntry::decode(&index, place).map_err(|what| self.damaged(what))?;
                if entry.lsn > scan.at || !keys.contains(&entry.key) {
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
        if self.header.kind == LayerKind::Image {
            scan.settle(keys);
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
        match self.cached(place) {
            Some(block) => Ok(block),
            None if io == Io::MemoryOnly => Err(LayerError::WouldBlock),
            None => Ok(self.read_run(&[place])?.remove(0)),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// A block, when it is in the cache.
    pub(super) fn cached(&self, place: BlockRef) -> Option<Bytes> {
        let found = self.cache.get(self.number, place.offset);
        match &found {
            Some(block) => {
                self.counted.blocks.hits.inc();
                self.counted.blocks.read_bytes.inc_by(block.len() as u64);
            }
            None => _ = self.counted.blocks.misses.inc(),
        }
        found
    }

    /// Reads blocks that lie near each other, in order of their offsets, by one call; they are in the cache afterwards.
    pub(super) fn read_run(&self, places: &[BlockRef]) -> Result<Vec<Bytes>, LayerError> {
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(Vec::new()) };
        let raw = self.read_range(first.offset, last.end())?;
        let mut blocks = Vec::with_capacity(places.len());
        for place in places {
            let start = (place.offset - first.offset) as usize;
            let stored = raw.get(start..start + place.len as usize);
            let stored = stored.ok_or_else(|| self.damaged("blocks overlap"))?;
            let block = Bytes::from(self.unpack(stored, place.offset)?);
            self.cache.insert(self.number, place.offset, block.clone());
            blocks.push(block);
        }
        Ok(blocks)
    }

    fn read_block(&self, place: BlockRef) -> Result<Vec<u8>, LayerError> {
        self.unpack(&self.read_range(place.offset, place.end())?, place.offset)
    }

    fn unpack(&self, stored: &[u8], offset: u64) -> Result<Vec<u8>, LayerError> {
        block::decode(stored).map_err(|what| self.damaged(&format!("{what} (offset {offset})")))
    }

    /// The file's bytes from `start` up to `end`.
    fn read_range(&self, start: u64, end: u64) -> Result<Vec<u8>, LayerError> {
        if start > end || end > self.size_bytes {
            return Err(self.damaged("a block lies outside the file"));
        }
        let began = Instant::now();
        let mut bytes = vec![0; (end - start) as usize];
        self.file
            .read_exact_at(&mut bytes, start)
            .map_err(|source| LayerError::Io { path: self.path.clone(), source })?;
        self.counted.local.hits.inc();
        self.counted.local.read_bytes.inc_by(end - start);
        self.counted.local.seconds.observe(began.elapsed().as_secs_f64());
        Ok(bytes)
    }

    pub(super) fn damaged(&self, what: &str) -> LayerError {
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
