//! What the shell tells a proposer, and what it must do in return.

use bytes::Bytes;
use ogel_ids::{CandidateId, Lsn, NodeId, Term};

use crate::{AcceptorMessage, PageserverFeedback, ProposerMessage, TermHistory};

/// What happened. `Tick` is the only source of time: send one about every 100 ms.
#[derive(Debug, Clone)]
pub enum ProposerEvent {
    /// A connection to a node was opened (`START_WAL_PUSH` was answered). Messages of an earlier connection to it must not be
    /// delivered after this.
    Connected(NodeId),
    /// The connection is gone. The shell tries again with back-off.
    Disconnected(NodeId),
    /// A node said something on its current connection.
    Message(NodeId, AcceptorMessage),
    /// Milliseconds on a clock that never goes back.
    Tick {
        /// Now.
        now_ms: u64,
    },
    /// Answer to `NeedCandidate`: 128 bits freshly drawn (H1).
    NewCandidate(CandidateId),
    /// WAL of the elected compute: at first the supervisor's start checkpoint at the term's start, then Postgres' stream. What
    /// overlaps with WAL given before is skipped; a gap is an error.
    Wal {
        /// Position of the first byte.
        begin: Lsn,
        /// The bytes.
        wal: Bytes,
    },
}

/// What the shell must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposerAction {
    /// Send a message on the node's current connection; never block on it.
    Send(NodeId, ProposerMessage),
    /// Close the connection to a node that is silent or broke the protocol, and open a new one after a back-off.
    Disconnect {
        /// Which node.
        node: NodeId,
        /// For the log.
        reason: String,
    },
    /// Draw 128 random bits and answer with `NewCandidate`.
    NeedCandidate,
    /// The election is won: fetch the basebackup at `start_lsn`, which commit_lsn reaches next. It may never get there: a donor
    /// that is lost for good right after the election takes the only copy of uncommitted WAL with it. A shell that has waited
    /// long enough (its Postgres does not run yet) gives up and starts over with a new proposer, whose start is another.
    Elected(Box<Victory>),
    /// A quorum has everything below.
    CommitAdvanced {
        /// The new commit_lsn: report it to Postgres as write and flush position.
        commit_lsn: Lsn,
    },
    /// The pageserver's progress as the safekeepers have heard it, grown since last time.
    PageserverFeedback(PageserverFeedback),
    /// The window of uncommitted WAL is full (true): give no more WAL until told otherwise (false).
    BackPressure(bool),
    /// A higher term was seen after the election: this proposer can never commit again. Stop Postgres at once and exit with the
    /// distinct code; never campaign again by itself (H18). Nothing follows.
    Fenced {
        /// The higher term.
        by_term: Term,
    },
    /// A node cannot be used until it changes; for the log and the status.
    Unusable {
        /// Which node.
        node: NodeId,
        /// Cause, consequence, next step.
        reason: String,
    },
    /// This proposer met a contradiction after which going on could lose data. Stop as if fenced. Nothing follows.
    Failed {
        /// Cause, consequence, next step.
        reason: String,
    },
}

/// A won election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victory {
    /// The term won.
    pub term: Term,
    /// X: where the term's log begins, the donor's flush_lsn.
    pub start_lsn: Lsn,
    /// Who holds all WAL up to `start_lsn`.
    pub donor: NodeId,
    /// The donor's history and (term, start_lsn).
    pub history: TermHistory,
    /// Known to be committed at the time of the election. Even if it is `start_lsn` already, a `CommitAdvanced` with
    /// `start_lsn` or more follows once a quorum has accepted the term.
    pub commit_lsn: Lsn,
    /// PostgreSQL's system identifier, from the safekeepers.
    pub system_identifier: u64,
    /// Such as 170011.
    pub pg_version_num: u32,
    /// WAL segment size.
    pub wal_segment_size_bytes: u32,
    /// Where the timeline begins.
    pub timeline_start_lsn: Lsn,
}

/// Where a node stands, for the status page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// No connection.
    Disconnected,
    /// Connected, greeting not answered yet.
    Greeting,
    /// Greeted, waiting for an election or for its vote.
    Voting,
    /// Told of the election, not answered yet.
    Joining,
    /// WAL is sent to it.
    Streaming,
    /// It needs WAL that is no longer held here and fetches it from its peers.
    Lagging,
    /// See the reason.
    Unusable,
}

impl NodeState {
    /// As the status page shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            NodeState::Disconnected => "disconnected",
            NodeState::Greeting => "greeting",
            NodeState::Voting => "voting",
            NodeState::Joining => "joining",
            NodeState::Streaming => "streaming",
            NodeState::Lagging => "lagging",
            NodeState::Unusable => "unusable",
        }
    }
}

/// One node for the status page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Which.
    pub node: NodeId,
    /// Where it stands.
    pub state: NodeState,
    /// Last heard of; 0 = nothing.
    pub flush_lsn: Lsn,
    /// Why it was last refused or disconnected.
    pub error: Option<String>,
}
