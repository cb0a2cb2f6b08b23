//! Reads layer files.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use ogel_ids::Lsn;

use super::{
    BlockCache, FORMAT_VERSION, LayerError, LayerHeader, LayerKind, RemoteLayer, StoredValue,
    block::{self, IndexEntry, RootEntry},
    cursor::Cursor,
    format::{BlockRef, FOOTER_SIZE, Footer, FormatError, HEADER_SIZE},
    source::{Origin, Source},
};
use crate::{
    keyspace::{KEY_SIZE, Key, KeyRange},
    layer::{
        Io,
        desc::LayerDesc,
        reconstruct::{Reconstruction, Scan},
        tombstone::TombstoneSet,
    },
    metrics::{CacheLevel, CacheMetrics},
};

/// A layer file in use. Root and tombstones come into memory with the first read, all else is read by position, through the cache.
pub struct LayerFile {
    source: Arc<Source>,
    number: u64,
    header: LayerHeader,
    /// Where the separable index begins, when that is known without reading the file.
    index_offset: Option<u64>,
    index: OnceLock<Index>,
    cache: Arc<BlockCache>,
    counted: ReadCounts,
}

struct Index {
    root: Vec<RootEntry>,
    tombstones: TombstoneSet,
}

/// The levels that reads of this file go through.
struct ReadCounts {
    blocks: CacheMetrics,
    local: CacheMetrics,
    remote: CacheMetrics,
}

/// A remote index up to this length comes in one request.
const WHOLE_INDEX_BYTES: u64 = 4 << 20;

impl LayerFile {
    /// Opens a local file and checks that it is whole and the one expected.
    pub fn open(path: &Path, expected: &LayerHeader, cache: Arc<BlockCache>) -> Result<Self, LayerError> {
        let source = Source::local(path).map_err(|source| LayerError::Io { path: path.to_owned(), source })?;
        let layer = Self::of(source, *expected, None, cache);
        layer.index(Io::MayBlock)?;
        Ok(layer)
    }

    /// A layer that the object store has, or will have; `path` is where it lies locally, if it does. Nothing is read yet.
    pub fn in_store(
        desc: &LayerDesc,
        header: LayerHeader,
        path: PathBuf,
        remote: RemoteLayer,
        cache: Arc<BlockCache>,
    ) -> Self {
        Self::of(Source::remote(path, desc.size_bytes, remote), header, Some(desc.index_offset), cache)
    }

    fn of(source: Source, header: LayerHeader, index_offset: Option<u64>, cache: Arc<BlockCache>) -> Self {
        let counted = ReadCounts {
            blocks: cache.metrics().cache(CacheLevel::Blocks, header.tenant),
            local: cache.metrics().cache(CacheLevel::Local, header.tenant),
            remote: cache.metrics().cache(CacheLevel::Remote, header.tenant),
        };
        let (source, number, index) = (Arc::new(source), cache.file_number(), OnceLock::new());
        Self { source, number, header, index_offset, index, cache, counted }
    }

    fn check_header(&self, head: &[u8]) -> Result<(), LayerError> {
        let head = head.try_into().map_err(|_| self.damaged("its header is cut"))?;
        let header = LayerHeader::decode(head).map_err(|error| self.bad_format(error))?;
        if header != self.header {
            let (path, what) = (self.source.path.clone(), difference(&header, &self.header));
            return Err(LayerError::Foreign { path, what });
        }
        Ok(())
    }

    fn bad_format(&self, error: FormatError) -> LayerError {
        match error {
            FormatError::Damaged(what) => self.damaged(what),
            FormatError::FutureVersion(found) => {
                LayerError::FutureVersion { path: self.source.path.clone(), found, known: FORMAT_VERSION }
            }
        }
    }

    fn index(&self, io: Io) -> Result<&Index, LayerError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        if io == Io::MemoryOnly {
            return Err(LayerError::WouldBlock);
        }
        let index = match self.load_index() {
            Err(LayerError::Damaged { .. } | LayerError::Foreign { .. } | LayerError::FutureVersion { .. })
                if self.source.distrust_local() =>
            {
                self.load_index()?
            }
            other => other?,
        };
        Ok(self.index.get_or_init(|| index))
    }

    fn load_index(&self) -> Result<Index, LayerError> {
        let size = self.source.size_bytes;
        let footer_start = size.saturating_sub(FOOTER_SIZE as u64);
        // From far away everything comes at once, and the index blocks go into the cache; a local file is read as it is needed.
        let start = match self.index_offset {
            Some(start) if !self.source.is_local() && size.saturating_sub(start) <= WHOLE_INDEX_BYTES => start,
            _ => footer_start,
        };
        if size < (HEADER_SIZE + FOOTER_SIZE) as u64 {
            return Err(self.damaged("it is shorter than the smallest layer file"));
        }
        let (head, tail) = self.read_ends(start.min(footer_start))?;
        self.check_header(&head)?;
        let footer = tail.get(tail.len().saturating_sub(FOOTER_SIZE)..).and_then(|end| end.try_into().ok());
        let footer = footer.ok_or_else(|| self.damaged("it is shorter than the smallest layer file"))?;
        let footer = Footer::decode(footer).map_err(|error| self.bad_format(error))?;
        let block = |place: BlockRef| {
            let within = place.offset.checked_sub(start).and_then(|from| {
                let from = usize::try_from(from).ok()?;
                tail.get(from..from.checked_add(place.len as usize)?)
            });
            match within {
                Some(stored) => self.unpack(stored, place.offset),
                None => self.read_block(place),
            }
        };
        let root = block(footer.root)?;
        if root.len() % RootEntry::SIZE != 0 {
            return Err(self.damaged("the root block has the wrong length"));
        }
        let root: Vec<RootEntry> = root.chunks_exact(RootEntry::SIZE).map(RootEntry::decode).collect();
        let mut tombstones = TombstoneSet::default();
        let raw = block(footer.tombstones)?;
        for tombstone in block::decode_tombstones(&raw).map_err(|what| self.damaged(what))? {
            if tombstone.range.start >= tombstone.range.end {
                return Err(self.damaged("a tombstone covers nothing"));
            }
            tombstones.insert(tombstone);
        }
        if start < footer_start {
            for entry in &root {
                self.cache.insert(self.number, entry.block.offset, block(entry.block)?.into());
            }
        }
        Ok(Index { root, tombstones })
    }

    /// The object is there: the local file may go.
    pub fn mark_uploaded(&self) {
        self.source.mark_uploaded();
    }

    /// Gives the local file back, if the object store has it too. Says whether there was one. Blocks.
    pub fn evict(&self) -> bool {
        self.source.evict()
    }

    /// Seconds since the local file was last read, when it may be evicted.
    pub fn evictable_idle_s(&self) -> Option<u32> {
        self.source.evictable_idle_s()
    }

    /// Removes the local file for good: no manifest names the layer any more. Blocks.
    pub fn discard(&self) -> std::io::Result<()> {
        self.source.discard()
    }

    /// Whether it is on the local disk.
    pub fn is_local(&self) -> bool {
        self.source.is_local()
    }

    /// What it is.
    pub fn header(&self) -> &LayerHeader {
        &self.header
    }

    /// Its size on disk.
    pub fn size_bytes(&self) -> u64 {
        self.source.size_bytes
    }

    /// Its tombstones. Blocks.
    pub fn tombstones(&self) -> Result<&TombstoneSet, LayerError> {
        Ok(&self.index(Io::MayBlock)?.tombstones)
    }

    /// Its index blocks. Blocks.
    pub(super) fn root(&self) -> Result<&[RootEntry], LayerError> {
        Ok(&self.index(Io::MayBlock)?.root)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// Locates the versions that the reads of `keys` (those that this file serves) need and this file holds. Index blocks are read, values
    /// are not.
    pub fn locate(self: &Arc<Self>, reads: &mut [Reconstruction], keys: KeyRange, io: Io) -> Result<(), LayerError> {
        let mut cursor = None;
        for read in reads.iter_mut().filter(|read| !read.is_done() && keys.contains(read.key()) && self.concerns(read))
        {
            let index = self.index(io)?;
            read.enter_layer();
            let floor = index.tombstones.newest_on(read.key(), read.at());
            self.locate_one(&index.root, read, floor, &mut cursor, io)?;
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

    fn locate_one(
        self: &Arc<Self>,
        root: &[RootEntry],
        read: &mut Reconstruction,
        floor: Option<Lsn>,
        cursor: &mut Option<Cursor>,
        io: Io,
    ) -> Result<(), LayerError> {
        let wanted = position(read.key(), read.at());
        let mut blocks = root.partition_point(|entry| entry.first <= wanted);
        while let Some(number) = blocks.checked_sub(1) {
            blocks = number;
            if cursor.as_ref().is_none_or(|cursor| cursor.number != number) {
                *cursor = Some(Cursor::new(number, self.index_block(root[number].block, io)?));
            }
            let Some(cursor) = cursor else { unreachable!("the cursor was set") };
            let mut places = cursor.find(&wanted);
            while let Some(place) = places.checked_sub(1) {
                places = place;
                let entry = IndexEntry::decode(&cursor.index, place).map_err(|what| self.damaged(what))?;
                if entry.key != *read.key() || floor.is_some_and(|floor| entry.lsn < floor) {
                    return Ok(());
                }
                let IndexEntry { lsn, kind, block, offset, len, .. } = entry;
                if read.offer_stored(lsn, kind, self, |file| StoredValue { file, block, offset, len }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Collects the newest versions of the scan's keys, as far as they lie in `keys`: those that this file serves.
    pub fn scan(&self, scan: &mut Scan, keys: KeyRange, io: Io) -> Result<(), LayerError> {
        let keys = KeyRange { start: keys.start.max(scan.range.start), end: keys.end.min(scan.range.end) };
        let Index { root, tombstones } = self.index(io)?;
        for tombstone in tombstones.iter().filter(|tombstone| tombstone.range.overlaps(&keys)) {
            scan.offer_tombstone(tombstone);
        }
        let wanted = position(&keys.start, Lsn(0));
        let first = root.partition_point(|entry| entry.first <= wanted).saturating_sub(1);
        // Entries are in order of key, then LSN. A relation that grew block by block has thousands of sizes: only the last counts.
        let mut newest: Option<IndexEntry> = None;
        for entry in &root[first.min(root.len())..] {
            if entry.first[..KEY_SIZE] >= keys.end.as_bytes()[..] {
                break;
            }
            let index = self.index_block(entry.block, io)?;
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

    fn index_block(&self, place: BlockRef, io: Io) -> Result<Bytes, LayerError> {
        let block = self.cached_block(place, io)?;
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
            None => Ok(self.read_run(&[place], io)?.remove(0)),
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
    pub(super) fn read_run(&self, places: &[BlockRef], io: Io) -> Result<Vec<Bytes>, LayerError> {
        match self.try_run(places, io) {
            // A local file that has rotted is worth nothing while the object store has the same bytes.
            Err(LayerError::Damaged { .. }) if self.source.distrust_local() => self.try_run(places, io),
            other => other,
        }
    }

    fn try_run(&self, places: &[BlockRef], io: Io) -> Result<Vec<Bytes>, LayerError> {
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(Vec::new()) };
        let raw = self.read_range(first.offset, last.end(), io)?;
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

    pub(super) fn read_block(&self, place: BlockRef) -> Result<Vec<u8>, LayerError> {
        self.unpack(&self.read_range(place.offset, place.end(), Io::MayBlock)?, place.offset)
    }

    fn unpack(&self, stored: &[u8], offset: u64) -> Result<Vec<u8>, LayerError> {
        block::decode(stored).map_err(|what| self.damaged(&format!("{what} (offset {offset})")))
    }

    /// The file's bytes from `start` up to `end`.
    fn read_range(&self, start: u64, end: u64, io: Io) -> Result<Bytes, LayerError> {
        if start > end || end > self.source.size_bytes {
            return Err(self.damaged("a block lies outside the file"));
        }
        let began = Instant::now();
        let (bytes, origin) = self.source.read(start, end, io)?;
        self.count(origin, bytes.len(), began);
        Ok(bytes)
    }

    /// The header, and everything from `start` on.
    fn read_ends(&self, start: u64) -> Result<(Bytes, Bytes), LayerError> {
        let began = Instant::now();
        let (head, tail, origin) = self.source.read_ends(HEADER_SIZE as u64, start)?;
        self.count(origin, head.len() + tail.len(), began);
        Ok((head, tail))
    }

    fn count(&self, origin: Origin, bytes: usize, began: Instant) {
        let level = match origin {
            Origin::Local => &self.counted.local,
            Origin::Remote => {
                self.counted.local.misses.inc();
                &self.counted.remote
            }
        };
        level.hits.inc();
        level.read_bytes.inc_by(bytes as u64);
        level.seconds.observe(began.elapsed().as_secs_f64());
    }

    pub(super) fn damaged(&self, what: &str) -> LayerError {
        LayerError::Damaged { path: self.source.path.clone(), what: what.to_owned() }
    }
}

/// Key and LSN as bytes, which compare as they do.
fn position(key: &Key, lsn: Lsn) -> [u8; KEY_SIZE + 8] {
    let mut bytes = [0; KEY_SIZE + 8];
    bytes[..KEY_SIZE].copy_from_slice(key.as_bytes());
    bytes[KEY_SIZE..].copy_from_slice(&lsn.0.to_be_bytes());
    bytes
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
