//! A place in an index block, from which the next search goes on.

use bytes::Bytes;

use super::block::IndexEntry;

/// The index block used last. Reads come in order of their keys, so that what is sought next mostly lies a few entries behind.
pub(super) struct Cursor {
    /// Of the block, among those of its file.
    pub number: usize,
    /// The unpacked block.
    pub index: Bytes,
    /// What the last search found.
    places: usize,
}

impl Cursor {
    /// Before the first search in a block.
    pub fn new(number: usize, index: Bytes) -> Self {
        Self { number, index, places: 0 }
    }

    /// Number of entries at or before `wanted` (key and LSN).
    pub fn find(&mut self, wanted: &[u8]) -> usize {
        let count = self.index.len() / IndexEntry::SIZE;
        let holds = |place: usize| IndexEntry::position(&self.index, place) <= wanted;
        let mut low = if self.places > 0 && holds(self.places - 1) { self.places } else { 0 };
        // Steps that double until one is too far; then what lies between is halved.
        let (mut high, mut step) = (low, 1);
        while high < count && holds(high) {
            low = high + 1;
            high = low + step;
            step *= 2;
        }
        high = high.min(count);
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.places = low;
        low
    }
}

#[cfg(test)]
mod tests {
    use ogel_ids::Lsn;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        keyspace::Key,
        layer::{VersionKind, file::format::BlockRef},
    };

    proptest! {
        #[test]
        fn a_search_finds_the_same_from_wherever_the_last_one_ended(
            mut lsns in proptest::collection::vec(0_u64..200, 0..80),
            searches in proptest::collection::vec(0_u64..220, 1..40),
        ) {
            lsns.sort_unstable();
            let (key, mut index) = (Key::from_bytes([7; 18]), Vec::new());
            for lsn in &lsns {
                let block = BlockRef { offset: 0, len: 0 };
                IndexEntry { key, lsn: Lsn(*lsn), kind: VersionKind::Delta, block, offset: 0, len: 0 }.encode(&mut index);
            }
            let mut cursor = Cursor::new(0, index.into());
            for wanted in searches {
                let position = [key.as_bytes(), &wanted.to_be_bytes()[..]].concat();
                let expected = lsns.iter().filter(|lsn| **lsn <= wanted).count();
                prop_assert_eq!(cursor.find(&position), expected);
            }
        }
    }
}
