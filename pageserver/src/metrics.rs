//! What a pageserver counts. Names carry their unit; labels are few and bounded.

use std::{collections::HashSet, sync::Arc};

use ogel_ids::TenantId;
use ogel_object_store::StoreMetrics;
use ogel_service::metrics::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use parking_lot::Mutex;

/// Tenants that get a label of their own; all others are `other`.
const MAX_TENANT_LABELS: usize = 100;

type Labels = Vec<(&'static str, String)>;

/// Where a read is answered from. The first level, buffers and file cache of a compute, is counted there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheLevel {
    /// Level 2: pages already made, in memory.
    Pages,
    /// Level 2: unpacked blocks of layer files, in memory.
    Blocks,
    /// Level 3: layer files on the local disk.
    Local,
    /// Level 4: the object store.
    Remote,
}

impl CacheLevel {
    const fn label(self) -> &'static str {
        match self {
            CacheLevel::Pages => "2_pages",
            CacheLevel::Blocks => "2_blocks",
            CacheLevel::Local => "3_local",
            CacheLevel::Remote => "4_remote",
        }
    }
}

/// One level of the cache hierarchy as one tenant uses it.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    /// Reads answered from this level.
    pub hits: Counter,
    /// Reads that had to go to the next one.
    pub misses: Counter,
    /// Bytes that the hits gave.
    pub read_bytes: Counter,
    /// Bytes that the tenant holds here.
    pub held_bytes: Gauge,
    /// How long the hits took, seconds.
    pub seconds: Histogram,
}

/// All of them; clones share the values.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Pages answered.
    pub pages_served: Counter,
    /// Requests answered with an error.
    pub request_errors: Counter,
    /// Connections of computes now.
    pub connections: Gauge,
    /// Deltas applied to make pages.
    pub deltas_applied: Counter,
    /// Layers visited to make pages.
    pub layers_visited: Counter,
    /// Layer bytes written.
    pub flushed_bytes: Counter,
    /// Layer bytes evicted from the local disk.
    pub evicted_bytes: Counter,
    /// Layer bytes written by merges.
    pub compacted_bytes: Counter,
    /// Pages found to be damaged since the start.
    pub damaged_pages: Counter,
    /// Timelines whose ingest has stopped for good since the start.
    pub stopped_timelines: Counter,
    /// Pages in the requests that were answered together.
    pub batch_pages: Histogram,
    /// Requests to the object store.
    pub object_store: StoreMetrics,
    cache_hits: Family<Labels, Counter>,
    cache_misses: Family<Labels, Counter>,
    cache_read_bytes: Family<Labels, Counter>,
    cache_held_bytes: Family<Labels, Gauge>,
    cache_seconds: Family<Labels, Histogram, fn() -> Histogram>,
    labelled: Arc<Mutex<HashSet<TenantId>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            pages_served: Counter::default(),
            request_errors: Counter::default(),
            connections: Gauge::default(),
            deltas_applied: Counter::default(),
            layers_visited: Counter::default(),
            flushed_bytes: Counter::default(),
            evicted_bytes: Counter::default(),
            compacted_bytes: Counter::default(),
            damaged_pages: Counter::default(),
            stopped_timelines: Counter::default(),
            batch_pages: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            object_store: StoreMetrics::default(),
            cache_hits: Family::default(),
            cache_misses: Family::default(),
            cache_read_bytes: Family::default(),
            cache_held_bytes: Family::default(),
            cache_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-6, 4.0, 12))),
            labelled: Arc::default(),
        }
    }
}

impl Metrics {
    /// Makes them and puts them into a registry.
    pub fn registered() -> (Metrics, Registry) {
        let mut registry = Registry::with_prefix("pageserver");
        let metrics = Metrics { object_store: StoreMetrics::register(&mut registry), ..Metrics::default() };
        let m = &metrics;
        registry.register("pages_served", "Pages answered", m.pages_served.clone());
        registry.register("request_errors", "Requests answered with an error", m.request_errors.clone());
        registry.register("connections", "Connections of computes now", m.connections.clone());
        registry.register("deltas_applied", "Deltas applied to make pages", m.deltas_applied.clone());
        registry.register("layers_visited", "Layers visited to make pages", m.layers_visited.clone());
        registry.register_with_unit("layers_flushed", "Layer files written", Unit::Bytes, m.flushed_bytes.clone());
        let evicted = m.evicted_bytes.clone();
        registry.register_with_unit("layers_evicted", "Layer files evicted from the local disk", Unit::Bytes, evicted);
        registry.register_with_unit(
            "layers_compacted",
            "Layer files written by merges",
            Unit::Bytes,
            m.compacted_bytes.clone(),
        );
        registry.register("damaged_pages", "Pages found to be damaged", m.damaged_pages.clone());
        let stopped = m.stopped_timelines.clone();
        registry.register("stopped_timelines", "Timelines whose ingest has stopped for good", stopped);
        registry.register("batch_pages", "Pages in the requests that were answered together", m.batch_pages.clone());
        registry.register("cache_hits", "Reads answered from a level", m.cache_hits.clone());
        registry.register("cache_misses", "Reads that went on to the next level", m.cache_misses.clone());
        let read = m.cache_read_bytes.clone();
        registry.register_with_unit("cache_read", "What the hits of a level gave", Unit::Bytes, read);
        let held = m.cache_held_bytes.clone();
        registry.register_with_unit("cache_held", "What a level holds", Unit::Bytes, held);
        let seconds = m.cache_seconds.clone();
        registry.register_with_unit("cache_read", "How long the hits of a level took", Unit::Seconds, seconds);
        (metrics, registry)
    }

    /// A level as a tenant uses it.
    pub fn cache(&self, level: CacheLevel, tenant: TenantId) -> CacheMetrics {
        let labels = vec![("level", level.label().to_owned()), ("tenant", self.tenant_label(tenant))];
        CacheMetrics {
            hits: self.cache_hits.get_or_create_owned(&labels),
            misses: self.cache_misses.get_or_create_owned(&labels),
            read_bytes: self.cache_read_bytes.get_or_create_owned(&labels),
            held_bytes: self.cache_held_bytes.get_or_create_owned(&labels),
            seconds: self.cache_seconds.get_or_create_owned(&labels),
        }
    }

    fn tenant_label(&self, tenant: TenantId) -> String {
        let mut labelled = self.labelled.lock();
        if labelled.len() < MAX_TENANT_LABELS {
            labelled.insert(tenant);
        }
        if labelled.contains(&tenant) { tenant.to_string() } else { "other".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let metrics = Metrics::default();
        for number in 0..1000_u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_be_bytes());
            metrics.cache(CacheLevel::Pages, TenantId::from_bytes(id)).hits.inc();
        }
        let other = vec![("level", "2_pages".to_owned()), ("tenant", "other".to_owned())];
        assert_eq!(metrics.cache_hits.get_or_create_owned(&other).get(), 1000 - MAX_TENANT_LABELS as u64);
    }
}
