//! Pages already rebuilt.

use bytes::Bytes;
use ogel_ids::Lsn;
use quick_cache::{Weighter, sync::Cache};

use crate::keyspace::Key;

/// (number of an opened timeline, key, LSN of the version).
type VersionKey = (u64, Key, Lsn);

#[derive(Clone)]
struct ByLength;

impl Weighter<VersionKey, Bytes> for ByLength {
    fn weight(&self, _: &VersionKey, page: &Bytes) -> u64 {
        page.len() as u64 + 96
    }
}

/// Rebuilt pages by version, bounded in bytes.
///
/// An entry is the content of one version, which never changes. Whether that version is the one to serve at some LSN is asked of the
/// layers each time, never of the cache: so an entry needs no closing when the key is written again (H28).
pub struct PageCache(Cache<VersionKey, Bytes, ByLength>);

impl PageCache {
    /// Holds at most this much.
    pub fn new(capacity_bytes: u64) -> Self {
        Self(Cache::with_weighter((capacity_bytes / 8192).max(16) as usize, capacity_bytes, ByLength))
    }

    /// The page of this version, if it is kept.
    pub fn get(&self, timeline: u64, key: &Key, version: Lsn) -> Option<Bytes> {
        self.0.get(&(timeline, *key, version))
    }

    /// Keeps a page.
    pub fn insert(&self, timeline: u64, key: Key, version: Lsn, page: Bytes) {
        self.0.insert((timeline, key, version), page);
    }
}
