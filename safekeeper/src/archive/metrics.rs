//! What the archive counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use ogel_service::metrics::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// Names begin with `safekeeper_archive_`.
#[derive(Debug)]
pub struct ArchiveMetrics {
    /// WAL uploaded by this node, as PostgreSQL wrote it.
    pub uploaded_bytes: Counter<u64, AtomicU64>,
    /// What the objects with that WAL take.
    pub stored_bytes: Counter<u64, AtomicU64>,
    /// WAL read because it is not here any more.
    pub fetched_bytes: Counter<u64, AtomicU64>,
    /// Finished segments that are not in the object store, over all timelines that are open.
    pub waiting_segments: Gauge<i64, AtomicI64>,
    /// From the end of a segment to its being in the object store, for those that this node uploads.
    pub lag_seconds: Histogram,
    /// Attempts that failed.
    pub failures: Counter<u64, AtomicU64>,
    /// Objects that differ from committed WAL, and damaged WAL that was not uploaded.
    pub differences: Counter<u64, AtomicU64>,
    /// Segments removed here.
    pub removed_segments: Counter<u64, AtomicU64>,
    /// Idle timelines whose WAL was dropped.
    pub dropped_tails: Counter<u64, AtomicU64>,
    /// Dropped tails that were brought back.
    pub restored_tails: Counter<u64, AtomicU64>,
}

impl ArchiveMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("safekeeper_archive");
        let m = Self {
            uploaded_bytes: Counter::default(),
            stored_bytes: Counter::default(),
            fetched_bytes: Counter::default(),
            waiting_segments: Gauge::default(),
            // 10 ms to 87 min
            lag_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 20)),
            failures: Counter::default(),
            differences: Counter::default(),
            removed_segments: Counter::default(),
            dropped_tails: Counter::default(),
            restored_tails: Counter::default(),
        };
        registry.register_with_unit("uploaded", "WAL uploaded by this node", Unit::Bytes, m.uploaded_bytes.clone());
        let stored = "Bytes of the objects that hold the WAL uploaded by this node, compressed";
        registry.register_with_unit("stored", stored, Unit::Bytes, m.stored_bytes.clone());
        registry.register_with_unit("fetched", "WAL read back for readers", Unit::Bytes, m.fetched_bytes.clone());
        registry.register("waiting_segments", "Finished segments not yet archived", m.waiting_segments.clone());
        let lag = "From the end of a segment to its being archived by this node";
        registry.register_with_unit("lag", lag, Unit::Seconds, m.lag_seconds.clone());
        registry.register("failures", "Attempts that failed", m.failures.clone());
        registry.register(
            "differences",
            "Objects that differ from committed WAL, or damaged WAL not uploaded",
            m.differences.clone(),
        );
        registry.register("removed_segments", "Segments removed here", m.removed_segments.clone());
        registry.register("dropped_tails", "Idle timelines whose WAL was dropped", m.dropped_tails.clone());
        registry.register("restored_tails", "Dropped tails brought back", m.restored_tails.clone());
        m
    }
}
