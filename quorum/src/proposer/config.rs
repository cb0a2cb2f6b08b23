//! What a proposer is started with.

use ogel_ids::{TenantId, TimelineId};

/// Identity and bounds.
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
    /// Most WAL held that a quorum has not taken before there is back-pressure, and most WAL kept for slow nodes.
    pub window_bytes: u64,
    /// Most WAL on its way to one node, plus one append.
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
