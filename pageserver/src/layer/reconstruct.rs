//! What a reader has collected so far.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use ogel_ids::Lsn;

use super::{
    VersionKind,
    file::{LayerFile, StoredValue},
    tombstone::Tombstone,
};
use crate::keyspace::{Key, KeyRange};

/// Room made for deltas at the first: more than that few pages have.
const USUAL_DELTAS: usize = 12;

/// A version's value, which may still be in its file: values are located first and fetched together afterwards.
#[derive(Clone)]
pub enum Value {
    /// In memory.
    Ready(Bytes),
    /// In one of the files of its [`Reconstruction`].
    Stored(StoredValue),
}

/// The versions needed to make one key's value as of one LSN, collected from the newest layer to the oldest.
///
/// Invariant: `deltas` are newest first and all newer than `base`; once `done`, nothing older is looked at.
pub struct Reconstruction {
    key: Key,
    at: Lsn,
    kept: Option<(Lsn, Bytes)>,
    /// Those that hold values: named here once, because counting references to a file that other threads read too is slow.
    files: Vec<Arc<LayerFile>>,
    deltas: Vec<(Lsn, Value)>,
    base: Option<Value>,
    newest: Option<Lsn>,
    last_offered: Option<Lsn>,
    layers: u32,
    done: bool,
}

impl Reconstruction {
    /// Nothing collected yet.
    pub fn new(key: Key, at: Lsn) -> Self {
        Self {
            key,
            at,
            kept: None,
            files: Vec::new(),
            deltas: Vec::new(),
            base: None,
            newest: None,
            last_offered: None,
            layers: 0,
            done: false,
        }
    }

    /// The value of exactly this version is at hand: when it is met on the way, nothing older is needed.
    pub fn with_kept(mut self, version: Lsn, value: Bytes) -> Self {
        self.kept = Some((version, value));
        self
    }

    /// Whose versions.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// As of here.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// Older layers are read at most up to here.
    pub fn lower_to(&mut self, lsn: Lsn) {
        self.at = self.at.min(lsn);
    }

    /// A layer is being visited.
    pub fn enter_layer(&mut self) {
        self.layers += 1;
    }

    /// Takes the next older version. `true` when that was the last one needed.
    pub fn offer(&mut self, lsn: Lsn, kind: VersionKind, value: impl FnOnce() -> Value) -> bool {
        self.newest.get_or_insert(lsn);
        // Of several versions made by one record, a kept value is that of the last one.
        let kept = self.kept.take_if(|(kept, _)| *kept == lsn).filter(|_| self.last_offered != Some(lsn));
        if let Some((_, value)) = kept {
            self.base = Some(Value::Ready(value));
            self.done = true;
            return true;
        }
        self.last_offered = Some(lsn);
        match kind {
            VersionKind::Image => self.base = Some(value()),
            VersionKind::Delta | VersionKind::InitDelta => {
                if self.deltas.is_empty() {
                    self.deltas.reserve(USUAL_DELTAS);
                }
                self.deltas.push((lsn, value()));
            }
        }
        self.done = kind != VersionKind::Delta;
        self.done
    }

    /// Takes the next older version, whose value lies in `file`. `true` when that was the last one needed.
    pub fn offer_stored(
        &mut self,
        lsn: Lsn,
        kind: VersionKind,
        file: &Arc<LayerFile>,
        value: impl FnOnce(usize) -> StoredValue,
    ) -> bool {
        if self.files.last().is_none_or(|last| !Arc::ptr_eq(last, file)) {
            self.files.push(file.clone());
        }
        let number = self.files.len() - 1;
        self.offer(lsn, kind, || Value::Stored(value(number)))
    }

    /// Nothing older is visible.
    pub fn finish(&mut self) {
        self.done = true;
    }

    /// Whether older layers need not be visited.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// LSN of the newest version found.
    pub fn newest(&self) -> Option<Lsn> {
        self.newest
    }

    /// How many layers were visited.
    pub fn layers(&self) -> u32 {
        self.layers
    }

    /// Files and values, for fetching those that are in files.
    pub fn stored_mut(&mut self) -> impl Iterator<Item = (&[Arc<LayerFile>], &mut Value)> {
        let (files, deltas) = (&self.files[..], self.deltas.iter_mut().map(|(_, value)| value));
        self.base.iter_mut().chain(deltas).map(move |value| (files, value))
    }

    /// Where redo starts; `None` is the zero page (or absence). All values must have been fetched.
    pub fn base(&self) -> Option<&Bytes> {
        self.base.as_ref().map(ready)
    }

    /// How many deltas are to be applied.
    pub fn delta_count(&self) -> usize {
        self.deltas.len()
    }

    /// Deltas to apply, oldest first. All values must have been fetched.
    pub fn deltas(&self) -> impl Iterator<Item = (Lsn, &Bytes)> {
        self.deltas.iter().rev().map(|(lsn, value)| (*lsn, ready(value)))
    }
}

fn ready(value: &Value) -> &Bytes {
    match value {
        Value::Ready(bytes) => bytes,
        Value::Stored(_) => panic!("values are fetched before they are used"),
    }
}

/// The newest visible value of each key in a range. For keys that hold images only.
pub struct Scan {
    /// The keys.
    pub range: KeyRange,
    /// As of here.
    pub at: Lsn,
    found: BTreeMap<Key, (Lsn, Bytes)>,
    tombstones: Vec<Tombstone>,
    /// Disjoint, in order: nothing older than what was offered so far is visible there.
    settled: Vec<KeyRange>,
}

impl Scan {
    /// Nothing found yet.
    pub fn new(range: KeyRange, at: Lsn) -> Self {
        Self { range, at, found: BTreeMap::new(), tombstones: Vec::new(), settled: Vec::new() }
    }

    /// A layer that holds everything of these keys was offered: older layers are not looked at there.
    pub fn settle(&mut self, keys: KeyRange) {
        let (start, end) = (keys.start.max(self.range.start), keys.end.min(self.range.end));
        if start >= end {
            return;
        }
        let first = self.settled.partition_point(|range| range.end < start);
        let after = self.settled.partition_point(|range| range.start <= end);
        let merged = self.settled.drain(first..after).fold(KeyRange { start, end }, |merged, range| KeyRange {
            start: merged.start.min(range.start),
            end: merged.end.max(range.end),
        });
        self.settled.insert(first, merged);
    }

    /// Nothing older can be visible.
    pub fn is_settled(&self) -> bool {
        self.settled.first() == Some(&self.range)
    }

    /// Nothing older can be visible among these keys.
    pub fn is_settled_in(&self, keys: KeyRange) -> bool {
        let (start, end) = (keys.start.max(self.range.start), keys.end.min(self.range.end));
        let next = self.settled.partition_point(|range| range.end <= start);
        start >= end || self.settled.get(next).is_some_and(|range| range.start <= start && end <= range.end)
    }

    fn is_settled_at(&self, key: &Key) -> bool {
        let next = self.settled.partition_point(|range| range.end <= *key);
        self.settled.get(next).is_some_and(|range| range.contains(key))
    }

    /// Takes a version; the newest of each key wins, of equal ones the later. Within one key, newer layers must come first where ranges
    /// are settled.
    pub fn offer(&mut self, key: Key, lsn: Lsn, value: impl FnOnce() -> Bytes) {
        if lsn > self.at || !self.range.contains(&key) || self.is_settled_at(&key) {
            return;
        }
        match self.found.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert((lsn, value()));
            }
            std::collections::btree_map::Entry::Occupied(mut entry) if entry.get().0 <= lsn => {
                entry.insert((lsn, value()));
            }
            std::collections::btree_map::Entry::Occupied(_) => {}
        }
    }

    /// Takes a tombstone.
    pub fn offer_tombstone(&mut self, tombstone: &Tombstone) {
        if tombstone.lsn <= self.at && tombstone.range.overlaps(&self.range) {
            self.tombstones.push(*tombstone);
        }
    }

    /// The keys that are there, and their values.
    pub fn finish(mut self) -> BTreeMap<Key, Bytes> {
        for tombstone in &self.tombstones {
            let hidden: Vec<Key> = self
                .found
                .range(tombstone.range.start..tombstone.range.end)
                .filter(|(_, (lsn, _))| *lsn < tombstone.lsn)
                .map(|(key, _)| *key)
                .collect();
            for key in hidden {
                self.found.remove(&key);
            }
        }
        self.found.into_iter().map(|(key, (_, value))| (key, value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use wal_decoder::key::{Fork, Rel};

    use super::*;

    const FORK: wal_decoder::key::RelFork = Rel { spc: 1663, db: 5, rel: 9 }.fork(Fork::Main);

    fn keys(from: u32, to: u32) -> KeyRange {
        KeyRange { start: Key::rel_page(FORK, from), end: Key::rel_page(FORK, to) }
    }

    #[test]
    fn a_key_that_a_complete_layer_does_not_hold_is_not_found_in_older_ones() {
        let mut scan = Scan::new(keys(0, 10), Lsn(100));
        let offer = |scan: &mut Scan, block| scan.offer(Key::rel_page(FORK, block), Lsn(50), Bytes::new);
        offer(&mut scan, 1);
        scan.settle(keys(0, 3));
        scan.settle(keys(5, 7));
        (0..10).for_each(|block| offer(&mut scan, block));
        assert!(!scan.is_settled());
        scan.settle(keys(2, 5));
        scan.settle(keys(7, 20));
        assert!(scan.is_settled(), "{:?}", scan.settled);
        let found: Vec<Key> = scan.finish().into_keys().collect();
        assert_eq!(found, [1, 3, 4, 7, 8, 9].map(|block| Key::rel_page(FORK, block)));
    }
}
