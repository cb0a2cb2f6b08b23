//! Pages that were dear to read, for compaction to make images of.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::keyspace::{Key, KeyRange};

/// More are not remembered: the next reader asks again.
const MAX_REQUESTS: usize = 4096;

/// A bounded set of keys.
#[derive(Debug, Default)]
pub struct ImageRequests(Mutex<BTreeSet<Key>>);

impl ImageRequests {
    /// Asks for an image of this page.
    pub fn add(&self, key: Key) {
        let mut keys = self.0.lock();
        if keys.len() < MAX_REQUESTS {
            keys.insert(key);
        }
    }

    /// How many are wanted.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn keys(&self) -> BTreeSet<Key> {
        self.0.lock().clone()
    }

    /// Layers of these keys were merged: whoever still finds a page dear asks again.
    pub fn forget(&self, keys: KeyRange) {
        self.0.lock().retain(|key| !keys.contains(key));
    }
}
