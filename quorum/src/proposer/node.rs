//! What a proposer knows of one acceptor.

use ogel_ids::{Lsn, NodeId};

use super::{NodeState, NodeStatus};
use crate::{Member, Vote};

/// One acceptor. What it has acknowledged in this proposer's term outlives its connections, because it is durable there.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) state: NodeState,
    /// With the store that it had when it last greeted.
    pub(super) member: Option<Member>,
    /// Its answer in the current campaign or term, on this connection.
    pub(super) vote: Option<Vote>,
    /// Flushed of this proposer's term's log; 0 until it has reached the term's start.
    pub(super) acked: Lsn,
    /// Last heard, of whatever term.
    pub(super) flush_lsn: Lsn,
    /// Flow control counts from here: `settled ≤ next` while streaming.
    pub(super) settled: Lsn,
    /// End of what was sent on this connection.
    pub(super) next: Lsn,
    pub(super) sent_commit: Lsn,
    pub(super) last_sent_ms: u64,
    /// When the oldest message that it has not answered was sent.
    pub(super) owes_since_ms: Option<u64>,
    pub(super) error: Option<String>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            state: NodeState::Disconnected,
            member: None,
            vote: None,
            acked: Lsn::INVALID,
            flush_lsn: Lsn::INVALID,
            settled: Lsn::INVALID,
            next: Lsn::INVALID,
            sent_commit: Lsn::INVALID,
            last_sent_ms: 0,
            owes_since_ms: None,
            error: None,
        }
    }

    /// The connection is gone, and with it what was on its way.
    pub(super) fn disconnected(&mut self, state: NodeState) {
        self.state = state;
        self.vote = None;
        self.settled = self.acked;
        self.owes_since_ms = None;
    }

    /// Whether it has greeted on this connection and can be asked for its vote.
    pub(super) fn is_greeted(&self) -> bool {
        matches!(self.state, NodeState::Voting | NodeState::Joining | NodeState::Streaming | NodeState::Lagging)
    }

    /// Whether it has carried out Elected on this connection and takes appends.
    pub(super) fn takes_appends(&self) -> bool {
        matches!(self.state, NodeState::Streaming | NodeState::Lagging)
    }

    pub(super) fn status(&self, node: NodeId) -> NodeStatus {
        NodeStatus { node, state: self.state, flush_lsn: self.flush_lsn, error: self.error.clone() }
    }
}
