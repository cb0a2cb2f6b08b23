//! Ranges of keys whose older versions are gone.

use std::collections::HashMap;

use ogel_ids::Lsn;

use crate::keyspace::{Key, KeyRange, PREFIX_SIZE};

/// Versions of the keys in `range` below `lsn` are hidden from readers at or above `lsn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tombstone {
    /// The keys.
    pub range: KeyRange,
    /// End of the record that put it.
    pub lsn: Lsn,
}

impl Tombstone {
    /// Its part within `keys`, if there is one.
    pub fn clipped(&self, keys: KeyRange) -> Option<Tombstone> {
        let range = KeyRange { start: self.range.start.max(keys.start), end: self.range.end.min(keys.end) };
        (range.start < range.end).then_some(Tombstone { range, lsn: self.lsn })
    }
}

/// The tombstones of one layer. Those within one relation or segment (nearly all) are found by its key prefix; the few wider ones
/// (dropped databases) are looked through.
#[derive(Debug, Default)]
pub struct TombstoneSet {
    narrow: HashMap<[u8; PREFIX_SIZE], Vec<Tombstone>>,
    wide: Vec<Tombstone>,
    count: usize,
}

impl TombstoneSet {
    /// Adds one.
    pub fn insert(&mut self, tombstone: Tombstone) {
        self.count += 1;
        match narrow_prefix(&tombstone.range) {
            Some(prefix) => self.narrow.entry(prefix).or_default().push(tombstone),
            None => self.wide.push(tombstone),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// LSN of the newest tombstone on `key` that a reader at `at` sees.
    pub fn newest_on(&self, key: &Key, at: Lsn) -> Option<Lsn> {
        if self.count == 0 {
            return None;
        }
        let narrow = self.narrow.get(&key.prefix()).map_or(&[][..], Vec::as_slice);
        narrow.iter().chain(&self.wide).filter(|t| t.lsn <= at && t.range.contains(key)).map(|t| t.lsn).max()
    }

    /// LSNs of all tombstones on `key`, in order.
    pub fn all_on(&self, key: &Key) -> Vec<Lsn> {
        if self.count == 0 {
            return Vec::new();
        }
        let narrow = self.narrow.get(&key.prefix()).map_or(&[][..], Vec::as_slice);
        let mut lsns: Vec<Lsn> =
            narrow.iter().chain(&self.wide).filter(|t| t.range.contains(key)).map(|t| t.lsn).collect();
        lsns.sort_unstable();
        lsns
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Tombstone> {
        self.narrow.values().flatten().chain(&self.wide)
    }
}

/// The prefix that all keys of the range share, if they do.
fn narrow_prefix(range: &KeyRange) -> Option<[u8; PREFIX_SIZE]> {
    let prefix = range.start.prefix();
    let mut last = [0xff; crate::keyspace::KEY_SIZE];
    last[..PREFIX_SIZE].copy_from_slice(&prefix);
    (range.end <= Key::from_bytes(last).next()).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use wal_decoder::key::{Fork, Rel};

    use super::*;

    #[test]
    fn the_newest_visible_tombstone_counts() {
        let rel = Rel { spc: 1663, db: 5, rel: 16384 };
        let mut set = TombstoneSet::default();
        set.insert(Tombstone { range: KeyRange::rel_pages_from(rel.fork(Fork::Main), 10), lsn: Lsn(100) });
        set.insert(Tombstone { range: KeyRange::rel_pages(rel), lsn: Lsn(200) });
        set.insert(Tombstone { range: KeyRange::database_pages(1663, 5), lsn: Lsn(300) });
        assert_eq!((set.narrow.len(), set.wide.len()), (1, 1));
        let (low, high) = (Key::rel_page(rel.fork(Fork::Main), 9), Key::rel_page(rel.fork(Fork::Main), 10));
        assert_eq!(set.newest_on(&low, Lsn(150)), None);
        assert_eq!(set.newest_on(&high, Lsn(99)), None);
        assert_eq!(set.newest_on(&high, Lsn(150)), Some(Lsn(100)));
        assert_eq!(set.newest_on(&low, Lsn(250)), Some(Lsn(200)));
        assert_eq!(set.newest_on(&high, Lsn(1000)), Some(Lsn(300)));
        assert_eq!(set.newest_on(&Key::rel_page(Rel { db: 6, ..rel }.fork(Fork::Main), 10), Lsn(1000)), None);
    }
}
