//! WAL from peers, and when a commit may be believed.
//!
//! Bytes are taken from a peer in two cases only (H3):
//! 1. **Committed WAL**: up to the peer's commit_lsn, after this log was cut where it departs from the peer's committed one. What
//!    is cut cannot be committed, because the peer's WAL at that place is.
//! 2. **An elected term's prefix**: after Elected(T), up to T's start, from a peer whose last_log_term is T. Its log up to there
//!    is T's log, which this acceptor has accepted. Without this, nothing could be committed while the third node is dead and
//!    this one lacks WAL between commit_lsn and T's start, which no proposer holds.

use bytes::Bytes;
use ogel_ids::{Lsn, NodeId, Term};

use super::{Acceptor, AcceptorAction, FetchId, PeerStatus};
use crate::mutation::Mutation;

/// WAL that is being read from a peer.
#[derive(Debug)]
pub(super) struct Fetch {
    id: FetchId,
    peer: NodeId,
    to: Lsn,
}

impl Acceptor {
    pub(super) fn on_peer_status(&mut self, status: PeerStatus) {
        let known = self.state.membership.contains(status.member) || self.mutations.has(Mutation::AmnesiacVotes);
        if status.member == self.me || !known {
            return;
        }
        if self.mutations.has(Mutation::PeerCommitUnchecked) || status.last_log_term() == self.last_log_term() {
            self.raise_commit(status.commit_lsn);
        }
        self.note_copies(status.backup_lsn, status.remote_consistent_lsn);
        self.peers.insert(status.member.node_id, status);
        self.advance_commit();
        self.plan_catch_up();
    }

    /// Raises commit_lsn as far as what is known allows: by the proposer's or the fetched peer's word, and by what a quorum
    /// reports for one term (H5).
    pub(super) fn advance_commit(&mut self) {
        let quorum = self.quorum_flushed();
        self.raise_commit(self.known_commit.max(quorum));
    }

    /// `committed` speaks of a log that agrees with this one as far as this one goes.
    fn raise_commit(&mut self, committed: Lsn) {
        let commit_lsn = committed.min(self.log.flush_lsn());
        if commit_lsn > self.state.commit_lsn {
            self.state.commit_lsn = commit_lsn;
            self.note_copies(Lsn::INVALID, Lsn::INVALID);
            self.out.push(AcceptorAction::CommitAdvanced { commit_lsn });
        }
    }

    /// What a quorum has flushed of the current term's log; only from the term's start on, because WAL of earlier terms is not
    /// committed by counting copies.
    fn quorum_flushed(&self) -> Lsn {
        let (durable, generation) = (self.promises.durable(), self.state.membership.generation());
        let term = durable.term;
        let unchecked = self.mutations.has(Mutation::SelfAdvanceUnchecked);
        if self.last_log_term() != term && !unchecked {
            return Lsn::INVALID;
        }
        let lsn = self.state.membership.quorum_lsn(|member| match self.peers.get(&member.node_id) {
            _ if member == self.me => self.log.flush_lsn(),
            Some(peer)
                if (peer.member == member || self.mutations.has(Mutation::AmnesiacVotes))
                    && peer.generation == generation
                    && (unchecked || (peer.term, peer.last_log_term()) == (term, term)) =>
            {
                peer.flush_lsn
            }
            _ => Lsn::INVALID,
        });
        let reached = unchecked || durable.history.start_of(term).is_some_and(|start| lsn >= start);
        if reached { lsn } else { Lsn::INVALID }
    }

    /// Looks for a peer that has what this log lacks, unless the proposer sends it.
    pub(super) fn plan_catch_up(&mut self) {
        let streaming = self.active.is_some_and(|active| active.streaming);
        if streaming || self.fetch.is_some() || self.install.is_some() || !self.log.is_idle() {
            return;
        }
        if !self.plan_term_prefix() {
            self.plan_committed();
        }
    }

    fn plan_term_prefix(&mut self) -> bool {
        let (flush_lsn, last) = (self.log.flush_lsn(), self.state.history.last());
        // Nothing is under way, so what lies behind flush_lsn was taken since Elected: the beginning of a record of this term's
        // log, which the fetch goes on with.
        if last.term != self.state.term || last.start <= flush_lsn || !self.log.tail_is_zero() {
            return false;
        }
        let peer = self.best_peer(|peer| peer.last_log_term() == last.term, |peer| peer.flush_lsn);
        match peer {
            Some((node, peer_term, _)) => self.begin_fetch(node, peer_term, last.start),
            None => return false,
        }
        true
    }

    fn plan_committed(&mut self) {
        let flush_lsn = self.log.flush_lsn();
        let best = self.best_peer(|peer| peer.commit_lsn > flush_lsn, |peer| peer.commit_lsn);
        let Some((node, peer_term, commit_lsn)) = best else { return };
        let Some(peer) = self.peers.get(&node) else { return };
        let committed = peer.history.written_below(commit_lsn);
        let cut = match self.state.history.common_end(flush_lsn, &committed, commit_lsn) {
            Ok(cut) if cut >= self.state.commit_lsn => cut,
            // Not this timeline's history, or one of the two is damaged: nothing is taken from it.
            _ => return,
        };
        let same_history = self.state.history.agrees_below(commit_lsn, &committed);
        if same_history && cut == self.log.write_lsn() && self.log.tail_is_zero() {
            self.known_commit = self.known_commit.max(commit_lsn);
            self.advance_commit();
            return self.begin_fetch(node, peer_term, commit_lsn);
        }
        if same_history {
            return self.begin_install(cut, self.state.history.clone(), None);
        }
        // An elected proposer's log has all that was committed in earlier terms. This one's has not, so its term is over.
        if peer_term > self.state.term {
            self.raise_term(peer_term);
        }
        self.active = None;
        self.begin_install(cut, committed, None);
    }

    /// The usable peer that has most by `lsn`: (node, its last_log_term, that LSN). One whose last fetch failed comes last.
    fn best_peer(
        &self,
        usable: impl Fn(&PeerStatus) -> bool,
        lsn: impl Fn(&PeerStatus) -> Lsn,
    ) -> Option<(NodeId, Term, Lsn)> {
        let usable = self.peers.values().filter(|peer| usable(peer));
        let best = usable.max_by_key(|peer| (Some(peer.member.node_id) != self.failed_peer, lsn(peer)))?;
        Some((best.member.node_id, best.last_log_term(), lsn(best)))
    }

    fn begin_fetch(&mut self, peer: NodeId, peer_term: Term, to: Lsn) {
        self.last_fetch.0 += 1;
        let (fetch, from) = (self.last_fetch, self.log.write_lsn());
        self.fetch = Some(Fetch { id: fetch, peer, to });
        self.out.push(AcceptorAction::FetchFromPeer { fetch, peer, peer_term, from, to });
    }

    /// What a fetch that was begun for another log still brings is ignored (H3).
    pub(super) fn cancel_fetch(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            self.out.push(AcceptorAction::CancelFetch { fetch: fetch.id });
        }
    }

    pub(super) fn on_peer_wal(&mut self, id: FetchId, begin: Lsn, mut wal: Bytes) {
        let Some(fetch) = self.fetch.as_ref().filter(|fetch| fetch.id == id) else { return };
        if begin != self.log.write_lsn() {
            self.failed_peer = Some(fetch.peer);
            return self.cancel_fetch();
        }
        wal.truncate(fetch.to.bytes_since(begin).min(wal.len() as u64) as usize);
        if begin.0 + wal.len() as u64 == fetch.to.0 {
            (self.fetch, self.failed_peer) = (None, None);
        }
        self.write(wal);
        if let Some(active) = &mut self.active {
            active.peer_filled_to = self.log.write_lsn();
        }
    }

    pub(super) fn on_fetch_ended(&mut self, id: FetchId) {
        if let Some(fetch) = self.fetch.take_if(|fetch| fetch.id == id) {
            self.failed_peer = Some(fetch.peer);
            self.plan_catch_up();
        }
    }
}
