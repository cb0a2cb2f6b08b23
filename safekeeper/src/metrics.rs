//! What a safekeeper counts.

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use ogel_service::metrics::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::timeline::disk_queue::DiskWork;

/// Counters of one node; names begin with `safekeeper_`.
#[derive(Debug)]
pub struct Metrics {
    wal_written_bytes: Counter<u64, AtomicU64>,
    wal_write_seconds: Histogram,
    wal_flush_seconds: Histogram,
    control_file_seconds: Histogram,
    /// Connected proposers, elected or not.
    pub proposers: Gauge<i64, AtomicI64>,
    /// Connected readers of WAL: pageservers, peers, stock clients.
    pub readers: Gauge<i64, AtomicI64>,
    /// WAL sent to readers.
    pub wal_sent_bytes: Counter<u64, AtomicU64>,
    /// Timelines that are open.
    pub open_timelines: Gauge<i64, AtomicI64>,
    /// Timelines that acknowledge nothing for lack of disk space.
    pub timelines_out_of_space: Gauge<i64, AtomicI64>,
    /// Timelines that cannot be served because their files are damaged.
    pub refused_timelines: Gauge<i64, AtomicI64>,
    /// Timelines whose damaged WAL was repaired from a peer.
    pub repaired_timelines: Counter<u64, AtomicU64>,
    /// WAL that was written again for that.
    pub repaired_wal_bytes: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("safekeeper");
        // 50 µs to 13 s
        let seconds = || Histogram::new(exponential_buckets(50e-6, 2.0, 18));
        let metrics = Self {
            wal_written_bytes: Counter::default(),
            wal_write_seconds: seconds(),
            wal_flush_seconds: seconds(),
            control_file_seconds: seconds(),
            proposers: Gauge::default(),
            readers: Gauge::default(),
            wal_sent_bytes: Counter::default(),
            open_timelines: Gauge::default(),
            timelines_out_of_space: Gauge::default(),
            refused_timelines: Gauge::default(),
            repaired_timelines: Counter::default(),
            repaired_wal_bytes: Counter::default(),
        };
        let m = &metrics;
        registry.register_with_unit("wal_written", "WAL written", Unit::Bytes, m.wal_written_bytes.clone());
        registry.register_with_unit(
            "wal_write",
            "Time to write WAL, without flush",
            Unit::Seconds,
            m.wal_write_seconds.clone(),
        );
        registry.register_with_unit(
            "wal_flush",
            "Time of fdatasync of WAL",
            Unit::Seconds,
            m.wal_flush_seconds.clone(),
        );
        registry.register_with_unit(
            "control_file_write",
            "Time to replace a control file durably",
            Unit::Seconds,
            m.control_file_seconds.clone(),
        );
        registry.register("proposers", "Connected proposers", m.proposers.clone());
        registry.register("readers", "Connected readers of WAL", m.readers.clone());
        registry.register_with_unit("wal_sent", "WAL sent to readers", Unit::Bytes, m.wal_sent_bytes.clone());
        registry.register("open_timelines", "Timelines open", m.open_timelines.clone());
        registry.register(
            "repaired_timelines",
            "Timelines whose damaged WAL was repaired from a peer",
            m.repaired_timelines.clone(),
        );
        registry.register_with_unit(
            "repaired_wal",
            "Damaged WAL written again from a peer",
            Unit::Bytes,
            m.repaired_wal_bytes.clone(),
        );
        let lacking = m.timelines_out_of_space.clone();
        registry.register("timelines_out_of_space", "Timelines that wait for disk space or their quota", lacking);
        registry.register("refused_timelines", "Timelines refused because of damage", m.refused_timelines.clone());
        metrics
    }

    /// Counts a piece of disk work.
    pub fn disk_work(&self, work: &DiskWork, time: Duration) {
        let histogram = match work {
            DiskWork::Write { wal, .. } => {
                self.wal_written_bytes.inc_by(wal.len() as u64);
                &self.wal_write_seconds
            }
            DiskWork::Flush { .. } => &self.wal_flush_seconds,
            DiskWork::Persist { .. } => &self.control_file_seconds,
            DiskWork::Cut { .. } | DiskWork::Drop { .. } | DiskWork::Rest => return,
        };
        histogram.observe(time.as_secs_f64());
    }
}

/// One more while it lives.
pub struct Present(Gauge<i64, AtomicI64>);

impl Present {
    /// Counts up now and down when dropped.
    pub fn count(gauge: &Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.dec();
    }
}
