//! Unpacked blocks of layer files, in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

use crate::metrics::Metrics;

/// (number of an opened file, offset of the block in it).
type BlockKey = (u64, u64);

#[derive(Clone)]
struct ByLength;

impl Weighter<BlockKey, Bytes> for ByLength {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        block.len() as u64 + 64
    }
}

/// Blocks that were read, checked and unpacked; bounded in bytes, shared by all files of a process.
pub struct BlockCache {
    blocks: Cache<BlockKey, Bytes, ByLength>,
    next_file: AtomicU64,
    metrics: Metrics,
}

impl BlockCache {
    /// Holds at most this much.
    pub fn new(capacity_bytes: u64) -> Self {
        Self::counted(capacity_bytes, Metrics::default())
    }

    /// Holds at most this much, and counts what is read.
    pub fn counted(capacity_bytes: u64, metrics: Metrics) -> Self {
        let estimated_blocks = (capacity_bytes / (16 << 10)).max(16) as usize;
        let blocks = Cache::with_weighter(estimated_blocks, capacity_bytes, ByLength);
        Self { blocks, next_file: AtomicU64::new(0), metrics }
    }

    /// What counts the reads of files through it.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Memory that it may take.
    pub fn capacity_bytes(&self) -> u64 {
        self.blocks.capacity()
    }

    /// Changes the memory that it may take.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.blocks.set_capacity(capacity_bytes);
    }

    /// A number for a file that is opened.
    pub(super) fn file_number(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self, file: u64, offset: u64) -> Option<Bytes> {
        self.blocks.get(&(file, offset))
    }

    pub(super) fn insert(&self, file: u64, offset: u64, block: Bytes) {
        self.blocks.insert((file, offset), block);
    }

    /// Bytes in it.
    pub fn used_bytes(&self) -> u64 {
        self.blocks.weight()
    }
}
