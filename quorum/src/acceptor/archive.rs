//! WAL that is safe elsewhere: what may be removed here, and when all of it may go (H5).
//!
//! Committed WAL is the same bytes on every node and in the object store, so whoever says that it is safe up to an LSN is
//! believed as far as WAL is known to be committed here. WAL above commit_lsn is never dropped: a quorum may have acknowledged
//! it without this node's having heard of it.

use ogel_ids::Lsn;

use super::{Acceptor, AcceptorAction, ArchivedTail};
use crate::mutation::Mutation;

impl Acceptor {
    /// WAL below is committed, in the object store and durably ingested, and a restart knows it: it may be removed.
    pub fn removal_horizon(&self) -> Lsn {
        self.promises.durable().lazy.into_iter().fold(Lsn::MAX, Lsn::min)
    }

    /// WAL is in the object store up to `backup_lsn`, and what the pageserver made of it up to `remote_consistent_lsn`.
    pub(super) fn note_copies(&mut self, backup_lsn: Lsn, remote_consistent_lsn: Lsn) {
        let commit_lsn = self.state.commit_lsn;
        let [known_backup, known_remote] = &mut self.known_copies;
        *known_backup = backup_lsn.max(*known_backup);
        *known_remote = remote_consistent_lsn.max(*known_remote);
        let state = &mut self.state;
        state.backup_lsn = state.backup_lsn.max(commit_lsn.min(*known_backup));
        state.remote_consistent_lsn = state.remote_consistent_lsn.max(commit_lsn.min(*known_remote));
    }

    /// Drops all local WAL if `tail` is still its end, and all of it is committed. The control file says so first.
    pub(super) fn on_tail_archived(&mut self, tail: ArchivedTail) {
        let commit_lsn = self.state.commit_lsn;
        let is_all = self.log.flush_lsn() == commit_lsn || self.mutations.has(Mutation::DropAboveCommit);
        let is_same = tail.end == commit_lsn && tail.term == self.last_log_term();
        let before = tail.end.segment_start(self.state.identity.wal_segment_size_bytes.into());
        if !(self.is_idle() && is_all && is_same && self.state.backup_lsn >= before) {
            return;
        }
        self.log.dropped();
        self.state.archived_tail = Some(tail);
        self.persist();
        self.out.push(AcceptorAction::DropWal(tail));
    }
}
