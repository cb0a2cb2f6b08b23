//! The object store. Objects are made once; now and then one is not what was sent.

use std::collections::BTreeMap;

use ogel_ids::{Lsn, Term};
use quorum::ArchivedTail;

use crate::rng::Rng;

/// Ends of idle logs. There are no segments here: an object holds a whole log.
#[derive(Debug, Default)]
pub struct Archive(BTreeMap<(Term, Lsn), Vec<u8>>);

impl Archive {
    /// Makes the object, unless it is there.
    pub fn put(&mut self, tail: ArchivedTail, wal: &[u8], rng: &mut Rng) {
        let damaged = rng.per_mille(100) && !wal.is_empty();
        self.0.entry((tail.term, tail.end)).or_insert_with(|| {
            let mut object = wal.to_vec();
            if damaged {
                let at = rng.index(object.len());
                object[at] ^= 1;
            }
            object
        });
    }

    /// The object, empty if there is none.
    pub fn get(&self, tail: ArchivedTail) -> &[u8] {
        self.0.get(&(tail.term, tail.end)).map_or(&[], Vec::as_slice)
    }
}
