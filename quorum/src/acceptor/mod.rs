//! One safekeeper's side of one timeline.
mod event;
mod state;

use ogel_ids::{Lsn, Term};

pub use event::{AcceptorAction, AcceptorEvent, ConnectionId, FetchId, PeerStatus, Token};
pub use state::{AcceptorState, TimelineIdentity};

use crate::Member;

/// One safekeeper's side of one timeline.
#[derive(Debug)]
pub struct Acceptor {
    me: Member,
    state: AcceptorState,
    flush_lsn: Lsn,
}

/// The timeline cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Committed WAL is missing or unreadable.
    #[error(
        "WAL is readable up to {flush_lsn} only, but {commit_lsn} was committed: acknowledged WAL of this node is damaged; it must not vote until it is repaired from a peer"
    )]
    Damaged {
        /// End of the last valid record.
        flush_lsn: Lsn,
        /// By the control file.
        commit_lsn: Lsn,
    },
    /// The control file contradicts itself.
    #[error("the control file says term {term} but its history ends with term {last}: it is damaged")]
    TermBehindHistory {
        /// By the control file.
        term: Term,
        /// Last in the history.
        last: Term,
    },
}

impl Acceptor {
    /// After a process start: the control file's state, and the end of the last valid record that a scan of the WAL from
    /// `state.commit_lsn` found.
    pub fn restore(me: Member, state: AcceptorState, flush_lsn: Lsn) -> Result<Self, RestoreError> {
        if flush_lsn < state.commit_lsn {
            return Err(RestoreError::Damaged { flush_lsn, commit_lsn: state.commit_lsn });
        }
        if state.term < state.history.last().term {
            return Err(RestoreError::TermBehindHistory { term: state.term, last: state.history.last().term });
        }
        Ok(Self { me, state, flush_lsn })
    }

    /// Takes one event and says what must be done.
    pub fn handle(&mut self, event: AcceptorEvent) -> Vec<AcceptorAction> {
        let _ = event;
        Vec::new()
    }

    /// The state as it would be persisted now; `commit_lsn` is the newest known.
    pub fn state(&self) -> &AcceptorState {
        &self.state
    }

    /// End of the last whole durable record.
    pub fn flush_lsn(&self) -> Lsn {
        self.flush_lsn
    }

    /// What a quorum is known to have; readers get WAL up to here.
    pub fn commit_lsn(&self) -> Lsn {
        self.state.commit_lsn
    }

    /// The term whose log this acceptor's log is a prefix of.
    pub fn last_log_term(&self) -> Term {
        self.state.history.last_log_term(self.flush_lsn)
    }

    /// For the peers: durable facts only.
    pub fn status(&self) -> PeerStatus {
        PeerStatus {
            member: self.me,
            generation: self.state.membership.generation(),
            term: self.state.term,
            history: self.state.history.cut_at(self.flush_lsn),
            flush_lsn: self.flush_lsn,
            commit_lsn: self.state.commit_lsn,
        }
    }

    /// All members have flushed up to here, by the proposer's word: peers need no WAL below.
    pub fn peer_horizon_lsn(&self) -> Lsn {
        self.state.identity.start_lsn
    }

    /// Whether an elected proposer of the current term is connected.
    pub fn proposer_connected(&self) -> bool {
        false
    }
}
