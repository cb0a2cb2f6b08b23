//! What an acceptor has promised, and which of it is durable.

use std::collections::VecDeque;

use ogel_ids::{CandidateId, Generation, Lsn, Term};

use super::{AcceptorState, ArchivedTail};
use crate::TermHistory;

/// The part of the state that may only be spoken of once it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) term: Term,
    pub(super) voted_for: Option<CandidateId>,
    pub(super) history: TermHistory,
    pub(super) generation: Generation,
    pub(super) archived_tail: Option<ArchivedTail>,
    /// commit_lsn, backup_lsn, remote_consistent_lsn: written along, nobody waits for them.
    pub(super) lazy: [Lsn; 3],
}

impl Promise {
    fn of(state: &AcceptorState) -> Self {
        Self {
            term: state.term,
            voted_for: state.voted_for,
            history: state.history.clone(),
            generation: state.membership.generation(),
            archived_tail: state.archived_tail,
            lazy: [state.commit_lsn, state.backup_lsn, state.remote_consistent_lsn],
        }
    }
}

/// Follows the control file: versions are written in order, so a version's completion makes all before it durable.
#[derive(Debug)]
pub(super) struct Promises {
    durable: Promise,
    durable_version: u64,
    issued: VecDeque<(u64, Promise)>,
    version: u64,
}

impl Promises {
    pub(super) fn read_from_disk(state: &AcceptorState) -> Self {
        Self { durable: Promise::of(state), durable_version: 0, issued: VecDeque::new(), version: 0 }
    }

    /// What may be spoken of.
    pub(super) fn durable(&self) -> &Promise {
        &self.durable
    }

    pub(super) fn durable_version(&self) -> u64 {
        self.durable_version
    }

    /// Version of a write of `state` that is about to be issued.
    pub(super) fn issue(&mut self, state: &AcceptorState) -> u64 {
        self.version += 1;
        self.issued.push_back((self.version, Promise::of(state)));
        self.version
    }

    /// The first version that will have made all of `state` durable: what is written for other fields' sake, and may wait for
    /// disk space, is not waited for.
    pub(super) fn version_of(&self, state: &AcceptorState) -> u64 {
        let same = |promise: &Promise| {
            promise.term == state.term
                && promise.voted_for == state.voted_for
                && promise.history == state.history
                && promise.generation == state.membership.generation()
                && promise.archived_tail == state.archived_tail
        };
        let mut version = self.version + 1;
        for (issued, promise) in self.issued.iter().rev() {
            if !same(promise) {
                return version;
            }
            version = *issued;
        }
        if same(&self.durable) { self.durable_version } else { version }
    }

    pub(super) fn persisted(&mut self, version: u64) {
        assert!(version <= self.version, "only what was issued can complete");
        while self.issued.front().is_some_and(|(issued, _)| *issued <= version) {
            if let Some((issued, promise)) = self.issued.pop_front() {
                (self.durable_version, self.durable) = (issued, promise);
            }
        }
    }
}
