//! How far the WAL is, for everybody to read without a lock.

use std::{sync::atomic::AtomicU64, time::Duration};

use ogel_ids::{Lsn, Term};
use ogel_service::metrics::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Less than this is under way while all is well.
const WORTH_TELLING_BYTES: u64 = 4 << 20;

type LsnGauge = Gauge<u64, AtomicU64>;

/// Positions of this compute's WAL. last_record ≤ commit ≤ flush.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    term: LsnGauge,
    flush_lsn: LsnGauge,
    commit_lsn: LsnGauge,
    last_record_lsn: LsnGauge,
    disk_consistent_lsn: LsnGauge,
    remote_consistent_lsn: LsnGauge,
    election_seconds: Gauge<f64, AtomicU64>,
    first_commit_seconds: Gauge<f64, AtomicU64>,
    pub(super) elections: Counter,
    pub(super) walsender_attachments: Counter,
    pub(super) safekeeper_disconnections: Counter,
}

impl Progress {
    /// Makes the positions visible at `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        let compute = registry.sub_registry_with_prefix("ogel_compute");
        let mut gauge = |name, help, gauge: &LsnGauge| compute.register(name, help, gauge.clone());
        gauge("term", "Term that this compute has asked for or won", &self.term);
        gauge("flush_lsn_bytes", "End of the WAL received from Postgres", &self.flush_lsn);
        gauge("commit_lsn_bytes", "End of the WAL that a quorum of safekeepers has", &self.commit_lsn);
        gauge(
            "pageserver_last_record_lsn_bytes",
            "End of the WAL that the pageserver has ingested",
            &self.last_record_lsn,
        );
        gauge(
            "pageserver_disk_consistent_lsn_bytes",
            "End of the WAL in the pageserver's fsynced layers",
            &self.disk_consistent_lsn,
        );
        gauge(
            "pageserver_remote_consistent_lsn_bytes",
            "End of the WAL in the object store",
            &self.remote_consistent_lsn,
        );
        compute.register(
            "election_seconds",
            "From connecting to the safekeepers to the last election won",
            self.election_seconds.clone(),
        );
        compute.register(
            "first_commit_seconds",
            "From connecting to the safekeepers to the first commit of the last term won",
            self.first_commit_seconds.clone(),
        );
        compute.register("elections", "Elections won", self.elections.clone());
        compute.register(
            "walsender_attachments",
            "Times that Postgres' WAL stream was attached",
            self.walsender_attachments.clone(),
        );
        compute.register(
            "safekeeper_disconnections",
            "Connections to safekeepers lost",
            self.safekeeper_disconnections.clone(),
        );
    }

    /// Highest term that this process has asked for.
    pub fn term(&self) -> Term {
        Term(self.term.get())
    }

    /// End of the WAL received from Postgres.
    pub fn flush_lsn(&self) -> Lsn {
        Lsn(self.flush_lsn.get())
    }

    /// End of the WAL that a quorum has.
    pub fn commit_lsn(&self) -> Lsn {
        Lsn(self.commit_lsn.get())
    }

    /// End of the WAL that the pageserver has ingested, as far as heard.
    pub fn last_record_lsn(&self) -> Lsn {
        Lsn(self.last_record_lsn.get())
    }

    /// End of the WAL in the pageserver's fsynced layers, as far as heard.
    pub fn disk_consistent_lsn(&self) -> Lsn {
        Lsn(self.disk_consistent_lsn.get())
    }

    /// End of the WAL whose layers are in the object store, as far as heard.
    pub fn remote_consistent_lsn(&self) -> Lsn {
        Lsn(self.remote_consistent_lsn.get())
    }

    /// Who is behind, in words; `None` when nobody is by more than what is always under way.
    pub fn waits_for(&self) -> Option<String> {
        let flush = self.flush_lsn();
        let behind = |lsn: Lsn| flush.bytes_since(lsn.min(flush));
        let (quorum, pageserver) = (behind(self.commit_lsn()), behind(self.last_record_lsn()));
        let told = |bytes: u64, who: &str, what: &str| {
            (bytes > WORTH_TELLING_BYTES).then(|| format!("{who} ({} MB of WAL behind): {what}", bytes >> 20))
        };
        told(quorum, "a quorum of safekeepers", "commits wait").or_else(|| {
            told(pageserver, "the pageserver", "reads of pages changed lately wait, and writers are slowed down")
        })
    }

    pub(super) fn set_elected_after(&self, time: Duration) {
        self.election_seconds.set(time.as_secs_f64());
    }

    pub(super) fn set_first_commit_after(&self, time: Duration) {
        self.first_commit_seconds.set(time.as_secs_f64());
    }

    pub(super) fn set_term(&self, term: Term) {
        self.term.set(term.0.max(self.term.get()));
    }

    pub(super) fn set_flush_lsn(&self, lsn: Lsn) {
        self.flush_lsn.set(lsn.0);
    }

    pub(super) fn set_commit_lsn(&self, lsn: Lsn) {
        self.commit_lsn.set(lsn.0);
    }

    pub(super) fn set_pageserver(&self, feedback: quorum::PageserverFeedback) {
        self.last_record_lsn.set(feedback.last_record_lsn.0);
        self.disk_consistent_lsn.set(feedback.disk_consistent_lsn.0);
        self.remote_consistent_lsn.set(feedback.remote_consistent_lsn.0);
    }
}
