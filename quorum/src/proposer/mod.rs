//! The compute's side: wins an election and streams its WAL to a quorum.
mod event;

pub use event::{NodeState, NodeStatus, ProposerAction, ProposerEvent, Victory};
use ogel_ids::{Lsn, TenantId, Term, TimelineId};

/// What a proposer is started with.
#[derive(Debug, Clone)]
pub struct ProposerConfig {
    /// Customer.
    pub tenant: TenantId,
    /// Branch.
    pub timeline: TimelineId,
    /// PostgreSQL's system identifier; 0 = not known, learnt from the safekeepers.
    pub system_identifier: u64,
    /// PostgreSQL major version, 17.
    pub pg_major_version: u32,
    /// WAL segment size; 0 = not known, learnt from the safekeepers.
    pub wal_segment_size_bytes: u32,
    /// Most uncommitted WAL held before back-pressure, and most WAL kept for slow nodes.
    pub window_bytes: u64,
    /// Most WAL on its way to one node.
    pub in_flight_bytes: u64,
    /// Longest time without a message to a node.
    pub heartbeat_ms: u64,
    /// A node that owes an answer for so long is disconnected.
    pub silence_ms: u64,
    /// A refused campaign is repeated after a random part of this, which doubles each time up to `retry_max_ms`.
    pub retry_min_ms: u64,
    /// See `retry_min_ms`.
    pub retry_max_ms: u64,
}

impl ProposerConfig {
    /// The usual bounds.
    pub fn new(tenant: TenantId, timeline: TimelineId) -> Self {
        Self {
            tenant,
            timeline,
            system_identifier: 0,
            pg_major_version: 17,
            wal_segment_size_bytes: 0,
            window_bytes: 64 << 20,
            in_flight_bytes: 16 << 20,
            heartbeat_ms: 1_000,
            silence_ms: 10_000,
            retry_min_ms: 100,
            retry_max_ms: 5_000,
        }
    }
}

/// The compute's side of one timeline, for one reign.
#[derive(Debug)]
pub struct Proposer {
    config: ProposerConfig,
    commit_lsn: Lsn,
}

impl Proposer {
    /// Starts without any connection.
    pub fn new(config: ProposerConfig) -> Self {
        Self { config, commit_lsn: Lsn::INVALID }
    }

    /// Takes one event and says what must be done.
    pub fn handle(&mut self, event: ProposerEvent) -> Vec<ProposerAction> {
        let _ = (event, &self.config);
        Vec::new()
    }

    /// The term won, or campaigned for; 0 before.
    pub fn term(&self) -> Term {
        Term(0)
    }

    /// What a quorum is known to have.
    pub fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    /// End of the WAL taken from the compute; 0 before the election.
    pub fn end_lsn(&self) -> Lsn {
        Lsn::INVALID
    }

    /// Every node ever connected.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        Vec::new()
    }
}
