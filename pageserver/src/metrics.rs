//! What a pageserver counts. Names carry their unit; labels are few and bounded.

use ogel_service::metrics::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

/// All of them; clones share the values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Pages answered.
    pub pages_served: Counter,
    /// Requests answered with an error.
    pub request_errors: Counter,
    /// Connections of computes now.
    pub connections: Gauge,
    /// Deltas applied to make pages.
    pub deltas_applied: Counter,
    /// Layer bytes written.
    pub flushed_bytes: Counter,
    /// Pages found to be damaged since the start.
    pub damaged_pages: Counter,
    /// Timelines whose ingest has stopped for good since the start.
    pub stopped_timelines: Counter,
}

impl Metrics {
    /// Makes them and puts them into a registry.
    pub fn registered() -> (Metrics, Registry) {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("pageserver");
        registry.register("pages_served", "Pages answered", metrics.pages_served.clone());
        registry.register("request_errors", "Requests answered with an error", metrics.request_errors.clone());
        registry.register("connections", "Connections of computes now", metrics.connections.clone());
        registry.register("deltas_applied", "Deltas applied to make pages", metrics.deltas_applied.clone());
        let flushed = metrics.flushed_bytes.clone();
        registry.register_with_unit("layers_flushed", "Layer files written", Unit::Bytes, flushed);
        registry.register("damaged_pages", "Pages found to be damaged", metrics.damaged_pages.clone());
        let stopped = metrics.stopped_timelines.clone();
        registry.register("stopped_timelines", "Timelines whose ingest has stopped for good", stopped);
        (metrics, registry)
    }
}
