//! What is counted, by operation.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationError {
    operation: &'static str,
    kind: &'static str,
}

/// Requests to the object store. Clones share the counters; names begin with `object_store_`.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    requests: Family<Operation, Counter>,
    errors: Family<OperationError, Counter>,
    bytes: Family<Operation, Counter>,
    seconds: Family<Operation, Histogram, fn() -> Histogram>,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        // 100 µs to 52 s
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(100e-6, 2.0, 20));
        Self {
            requests: Family::default(),
            errors: Family::default(),
            bytes: Family::default(),
            seconds: Family::new_with_constructor(histogram),
        }
    }
}

impl StoreMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("object_store");
        registry.register("requests", "Attempts, by operation", metrics.requests.clone());
        registry.register("errors", "Attempts that failed, by operation and kind", metrics.errors.clone());
        registry.register_with_unit("moved", "Content moved, by operation", Unit::Bytes, metrics.bytes.clone());
        registry.register_with_unit("request", "Time of attempts", Unit::Seconds, metrics.seconds.clone());
        metrics
    }

    /// Attempts of an operation so far: `get`, `put`, `head`, `list`, `delete`, `part`.
    pub fn requests(&self, operation: &'static str) -> u64 {
        self.requests.get_or_create(&Operation { operation }).get()
    }

    pub(crate) fn attempt(&self, operation: &'static str, took: Duration, bytes: u64, error: Option<&'static str>) {
        let label = Operation { operation };
        self.requests.get_or_create(&label).inc();
        self.seconds.get_or_create(&label).observe(took.as_secs_f64());
        match error {
            Some(kind) => drop(self.errors.get_or_create(&OperationError { operation, kind }).inc()),
            None => drop(self.bytes.get_or_create(&label).inc_by(bytes)),
        }
    }
}
