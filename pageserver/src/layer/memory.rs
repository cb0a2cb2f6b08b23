//! The open layer: appended to by ingest, read at the same time.

use std::{collections::BTreeMap, sync::OnceLock, time::Instant};

use bytes::Bytes;
use ogel_ids::Lsn;
use parking_lot::{RwLock, RwLockReadGuard};

use super::{
    LsnRange, VersionKind,
    reconstruct::{Reconstruction, Scan, Value},
    tombstone::{Tombstone, TombstoneSet},
};
use crate::keyspace::{Key, KeyRange};

/// Memory that an index entry costs, by estimate: its share of a tree node and of its key's list.
const ENTRY_COST_BYTES: usize = 64;

/// Versions and tombstones on their way into the open layer, in the order of the WAL.
#[derive(Debug, Default)]
pub struct WriteBatch {
    data: Vec<u8>,
    operations: Vec<Operation>,
    /// What was put into a layer last.
    applied: Vec<Operation>,
    last_put: Lsn,
    /// Bytes of values put into a layer last: the next batch is likely to have as many.
    usual_bytes: usize,
}

#[derive(Debug)]
enum Operation {
    Put { key: Key, lsn: Lsn, kind: VersionKind, offset: u32, len: u32 },
    Erase { tombstone: Tombstone, own_record_put: bool },
}

impl WriteBatch {
    /// Adds a version.
    pub fn put(&mut self, key: Key, lsn: Lsn, kind: VersionKind, value: &[u8]) {
        let (offset, len) = (self.data.len() as u32, value.len() as u32);
        if self.data.capacity() == 0 {
            self.data.reserve(self.usual_bytes.max(value.len()));
        }
        self.data.extend_from_slice(value);
        self.operations.push(Operation::Put { key, lsn, kind, offset, len });
        self.last_put = lsn;
    }

    /// Hides what the keys held before, the same record's earlier versions included.
    pub fn erase(&mut self, range: KeyRange, lsn: Lsn) {
        let own_record_put = self.last_put == lsn;
        self.operations.push(Operation::Erase { tombstone: Tombstone { range, lsn }, own_record_put });
    }

    /// Bytes of values in it.
    pub fn value_bytes(&self) -> usize {
        self.data.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Keys and LSNs of the versions that were put into a layer last.
    pub fn applied_versions(&self) -> impl Iterator<Item = (&Key, Lsn)> {
        self.applied.iter().filter_map(|operation| match operation {
            Operation::Put { key, lsn, .. } => Some((key, *lsn)),
            Operation::Erase { .. } => None,
        })
    }

    /// LSN of the newest tombstone that was put into a layer last.
    pub fn applied_erasure(&self) -> Option<Lsn> {
        let erased = self.applied.iter().filter_map(|operation| match operation {
            Operation::Erase { tombstone, .. } => Some(tombstone.lsn),
            Operation::Put { .. } => None,
        });
        erased.max()
    }
}

/// One version of one key; its value is `len` bytes at `offset` of a chunk.
#[derive(Debug, Clone, Copy)]
struct Entry {
    lsn: Lsn,
    chunk: u32,
    offset: u32,
    len: u32,
    kind: VersionKind,
}

#[derive(Default)]
struct Inner {
    chunks: Vec<Bytes>,
    /// Versions of each key in the order of the WAL.
    index: BTreeMap<Key, Vec<Entry>>,
    tombstones: TombstoneSet,
    size_bytes: usize,
}

/// Versions in memory, from `start` on. Readers see a batch as soon as it is applied, but they read at most at `last_record_lsn`,
/// which advances after the batch: so a record becomes visible as a whole.
pub struct MemoryLayer {
    /// Where its WAL begins.
    pub start: Lsn,
    /// When it was opened.
    pub opened: Instant,
    inner: RwLock<Inner>,
    sealed: OnceLock<Sealed>,
}

/// How a layer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// End of its WAL, and of its last record.
    pub end: Lsn,
    /// Sum of all relation sizes there.
    pub logical_size_bytes: u64,
}

impl MemoryLayer {
    /// An empty layer for the WAL from `start` on.
    pub fn new(start: Lsn) -> Self {
        Self { start, opened: Instant::now(), inner: RwLock::default(), sealed: OnceLock::new() }
    }

    /// Nothing is appended from now on.
    pub fn seal(&self, sealed: Sealed) {
        self.sealed.set(sealed).expect("a layer is sealed once");
    }

    /// How it ended, once it has.
    pub fn sealed(&self) -> Option<Sealed> {
        self.sealed.get().copied()
    }

    /// Appends a batch and empties it. Returns by how much the layer's memory has grown.
    pub fn apply(&self, batch: &mut WriteBatch) -> usize {
        assert!(self.sealed.get().is_none(), "nothing is appended to a sealed layer");
        batch.usual_bytes = batch.data.len();
        // The layer keeps it for as long as it lives; what it has to spare would not be counted.
        batch.data.shrink_to_fit();
        let data = Bytes::from(std::mem::take(&mut batch.data));
        let mut inner = self.inner.write();
        let chunk = u32::try_from(inner.chunks.len()).expect("a layer is frozen long before 4 billion batches");
        let grown_bytes = data.len() + batch.operations.len() * ENTRY_COST_BYTES;
        inner.size_bytes += grown_bytes;
        inner.chunks.push(data);
        batch.applied.clear();
        std::mem::swap(&mut batch.applied, &mut batch.operations);
        for operation in &batch.applied {
            match *operation {
                Operation::Put { key, lsn, kind, offset, len } => {
                    inner.index.entry(key).or_default().push(Entry { lsn, chunk, offset, len, kind });
                }
                Operation::Erase { tombstone, own_record_put } => {
                    if own_record_put {
                        inner.forget(&tombstone);
                    }
                    inner.tombstones.insert(tombstone);
                }
            }
        }
        batch.last_put = Lsn::INVALID;
        grown_bytes
    }

    /// Memory that it takes, by estimate.
    pub fn size_bytes(&self) -> usize {
        self.inner.read().size_bytes
    }

    /// Whether nothing was put into it.
    pub fn is_empty(&self) -> bool {
        let inner = self.inner.read();
        inner.index.is_empty() && inner.tombstones.is_empty()
    }

    /// Collects the versions that the reads need and this layer holds.
    pub fn locate(&self, reads: &mut [Reconstruction]) {
        let mut inner = None;
        for read in reads.iter_mut().filter(|read| !read.is_done() && self.start < read.at()) {
            read.enter_layer();
            inner.get_or_insert_with(|| self.inner.read()).locate(read);
        }
    }

    /// LSN of the newest version of `key`.
    pub fn newest_version(&self, key: &Key) -> Option<Lsn> {
        self.inner.read().index.get(key)?.last().map(|entry| entry.lsn)
    }

    /// Collects the newest versions of a range of keys.
    pub fn scan(&self, scan: &mut Scan) {
        let inner = self.inner.read();
        for (key, entries) in inner.index.range(scan.range.start..scan.range.end) {
            let visible = entries.partition_point(|entry| entry.lsn <= scan.at);
            if let Some(entry) = visible.checked_sub(1).map(|last| &entries[last]) {
                scan.offer(*key, entry.lsn, || inner.value(entry));
            }
        }
        inner.tombstones.iter().for_each(|tombstone| scan.offer_tombstone(tombstone));
    }

    /// Its content, for writing it out.
    pub fn content(&self) -> Content<'_> {
        Content(self.inner.read())
    }

    /// The range it would have when frozen at `end`.
    pub fn lsn_range(&self, end: Lsn) -> LsnRange {
        LsnRange { start: self.start, end }
    }
}

impl Inner {
    fn locate(&self, read: &mut Reconstruction) {
        let floor = self.tombstones.newest_on(read.key(), read.at());
        if let Some(entries) = self.index.get(read.key()) {
            let visible = entries.partition_point(|entry| entry.lsn <= read.at());
            for entry in
                entries[..visible].iter().rev().take_while(|entry| floor.is_none_or(|floor| entry.lsn >= floor))
            {
                if read.offer(entry.lsn, entry.kind, || Value::Ready(self.value(entry))) {
                    return;
                }
            }
        }
        if floor.is_some() {
            read.finish();
        }
    }

    fn value(&self, entry: &Entry) -> Bytes {
        let start = entry.offset as usize;
        self.chunks[entry.chunk as usize].slice(start..start + entry.len as usize)
    }

    /// Takes out what the record at the tombstone's LSN has put under its keys.
    fn forget(&mut self, tombstone: &Tombstone) {
        for (_, entries) in self.index.range_mut(tombstone.range.start..tombstone.range.end) {
            let kept = entries.partition_point(|entry| entry.lsn < tombstone.lsn);
            entries.truncate(kept);
        }
    }
}

/// A layer's content while nothing is appended.
pub struct Content<'a>(RwLockReadGuard<'a, Inner>);

impl Content<'_> {
    /// All versions, by key and in the order of the WAL.
    pub fn versions(&self) -> impl Iterator<Item = (Key, Lsn, VersionKind, &[u8])> {
        self.versions_of(KeyRange::ALL)
    }

    /// The versions of some keys, by key and in the order of the WAL.
    pub fn versions_of(&self, keys: KeyRange) -> impl Iterator<Item = (Key, Lsn, VersionKind, &[u8])> {
        self.0.index.range(keys.start..keys.end).flat_map(move |(key, entries)| {
            entries.iter().map(move |entry| {
                let start = entry.offset as usize;
                let value = &self.0.chunks[entry.chunk as usize][start..start + entry.len as usize];
                (*key, entry.lsn, entry.kind, value)
            })
        })
    }

    /// All tombstones.
    pub fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.0.tombstones.iter()
    }
}

#[cfg(test)]
mod tests {
    use wal_decoder::key::{Fork, Rel};

    use super::*;

    const PAGE: Key = Key::rel_page(Rel { spc: 1663, db: 5, rel: 9 }.fork(Fork::Main), 3);

    fn read(layer: &MemoryLayer, at: u64) -> (Option<Bytes>, usize, bool) {
        let mut reads = [Reconstruction::new(PAGE, Lsn(at))];
        layer.locate(&mut reads);
        (reads[0].base().cloned(), reads[0].delta_count(), reads[0].is_done())
    }

    #[test]
    fn a_tombstone_hides_older_versions_and_what_its_record_put_before_it() {
        let layer = MemoryLayer::new(Lsn(0));
        let mut batch = WriteBatch::default();
        batch.put(PAGE, Lsn(8), VersionKind::Image, b"old");
        batch.put(PAGE, Lsn(16), VersionKind::Delta, b"d1");
        batch.put(PAGE, Lsn(24), VersionKind::Image, b"same record, before");
        batch.erase(KeyRange::single(PAGE), Lsn(24));
        batch.put(PAGE, Lsn(24), VersionKind::Delta, b"same record, after");
        batch.put(PAGE, Lsn(32), VersionKind::Delta, b"d3");
        layer.apply(&mut batch);
        assert_eq!(read(&layer, 7), (None, 0, false));
        assert_eq!(read(&layer, 20), (Some(Bytes::from_static(b"old")), 1, true));
        assert_eq!(read(&layer, 24), (None, 1, true));
        assert_eq!(read(&layer, 99), (None, 2, true));
    }
}
