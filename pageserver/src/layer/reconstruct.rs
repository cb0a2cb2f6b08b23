//! What a reader has collected so far.

use std::collections::BTreeMap;

use bytes::Bytes;
use ogel_ids::Lsn;

use super::{VersionKind, tombstone::Tombstone};
use crate::keyspace::{Key, KeyRange};

/// A value already made for the version of a key at exactly this LSN, if somebody keeps it.
pub type KnownValue<'a> = &'a dyn Fn(Lsn) -> Option<Bytes>;

/// The versions needed to make one key's value, collected from the newest layer to the oldest.
///
/// Invariant: `deltas` are newest first and all newer than `base`; once `done`, nothing older is looked at.
pub struct Reconstruction<'a> {
    known: KnownValue<'a>,
    /// Deltas to apply, newest first.
    pub deltas: Vec<(Lsn, Bytes)>,
    /// Where redo starts; `None` is the zero page (or absence).
    pub base: Option<Bytes>,
    newest: Option<Lsn>,
    last_offered: Option<Lsn>,
    done: bool,
}

impl<'a> Reconstruction<'a> {
    /// Nothing collected yet. `known` is asked for each version on the way.
    pub fn new(known: KnownValue<'a>) -> Self {
        Self { known, deltas: Vec::new(), base: None, newest: None, last_offered: None, done: false }
    }

    /// Takes the next older version. `true` when that was the last one needed.
    pub fn offer(&mut self, lsn: Lsn, kind: VersionKind, value: impl FnOnce() -> Bytes) -> bool {
        self.newest.get_or_insert(lsn);
        // Of several versions made by one record, a kept value is that of the last one.
        let may_be_known = kind != VersionKind::Image && self.last_offered != Some(lsn);
        if let Some(value) = may_be_known.then(|| (self.known)(lsn)).flatten() {
            self.base = Some(value);
            self.done = true;
            return true;
        }
        self.last_offered = Some(lsn);
        match kind {
            VersionKind::Image => self.base = Some(value()),
            VersionKind::Delta | VersionKind::InitDelta => self.deltas.push((lsn, value())),
        }
        self.done = kind != VersionKind::Delta;
        self.done
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
}

/// The newest visible value of each key in a range. For keys that hold images only.
pub struct Scan {
    /// The keys.
    pub range: KeyRange,
    /// As of here.
    pub at: Lsn,
    found: BTreeMap<Key, (Lsn, Bytes)>,
    tombstones: Vec<Tombstone>,
}

impl Scan {
    /// Nothing found yet.
    pub fn new(range: KeyRange, at: Lsn) -> Self {
        Self { range, at, found: BTreeMap::new(), tombstones: Vec::new() }
    }

    /// Takes a version; the newest of each key wins, of equal ones the later.
    pub fn offer(&mut self, key: Key, lsn: Lsn, value: impl FnOnce() -> Bytes) {
        if lsn > self.at || !self.range.contains(&key) {
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
