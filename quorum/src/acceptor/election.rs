//! Votes, and cutting the log for an elected proposer.

use ogel_ids::{Lsn, Term};

use super::{Acceptor, AcceptorAction, Active, ConnectionId, Reply, Token};
use crate::{Elected, RefusalCode, TermHistory, VoteRequest, mutation::Mutation};

/// A new end and history of the log that are being put on disk, in the order of H2: zeros behind the cut first, because a
/// restart scan would otherwise run past the end into stale records that fit; then term and history in one write; only then
/// may anything be said about it.
#[derive(Debug)]
pub(super) struct Install {
    history: TermHistory,
    /// The elected proposer, unless this is done for a peer's committed WAL.
    connection: Option<ConnectionId>,
    /// The control-file write that ends it; `None` while zeros are written.
    version: Option<u64>,
}

impl Acceptor {
    /// A vote goes to a higher term, and again to the same (term, candidate), so that a lost reply costs nothing.
    pub(super) fn on_vote_request(&mut self, connection: ConnectionId, request: VoteRequest) {
        if request.term > self.state.term {
            self.raise_term(request.term);
            self.state.voted_for = Some(request.candidate);
            self.persist();
        }
        self.reply_when_durable(Reply::Vote(connection, request));
        self.plan_catch_up();
    }

    /// Leaves the old term behind: what it has under way is no longer believed, and its proposer is told.
    pub(super) fn raise_term(&mut self, term: Term) {
        self.stale_flush = self.log.flushing().or(self.stale_flush);
        self.state.term = term;
        self.state.voted_for = None;
        self.install = None;
        self.cancel_fetch();
        self.log.abandon();
        if let Some(deposed) = self.active.take() {
            self.reply_when_durable(Reply::Answer(deposed.connection));
        }
    }

    pub(super) fn on_elected(&mut self, connection: ConnectionId, elected: Elected) {
        if elected.term < self.state.term {
            return self.reply_when_durable(Reply::Answer(connection));
        }
        let protocol_error = RefusalCode::ProtocolError;
        if elected.history.last().term != elected.term {
            let text = "the history of an elected proposer must end with its own term".to_string();
            return self.refuse(connection, protocol_error, text);
        }
        let cut = match elected.history.common_end(Lsn::MAX, &self.state.history, self.log.flush_lsn()) {
            Ok(cut) => cut,
            Err(error) => return self.refuse(connection, protocol_error, error.to_string()),
        };
        if elected.truncate_at > cut {
            return self.close(connection, "the log has changed since the vote; the handshake starts over".into());
        }
        if cut < self.state.commit_lsn {
            let text = format!(
                "term {} would cut the log at {cut}, but {} is committed here: refused, nothing was changed",
                elected.term, self.state.commit_lsn
            );
            return self.refuse(connection, protocol_error, text);
        }
        if elected.term > self.state.term {
            self.raise_term(elected.term);
        }
        self.state.voted_for = Some(elected.candidate);
        self.active = None;
        self.begin_install(cut, elected.history, Some(connection));
    }

    /// Cuts the log at `cut` and makes `history` its history.
    pub(super) fn begin_install(&mut self, cut: Lsn, history: TermHistory, connection: Option<ConnectionId>) {
        assert!(cut >= self.state.commit_lsn, "committed WAL is never cut");
        self.stale_flush = self.log.flushing().or(self.stale_flush);
        self.cancel_fetch();
        self.truncations += 1;
        let must_zero = self.log.cut(cut);
        self.install = Some(Install { history, connection, version: None });
        if must_zero && !self.mutations.has(Mutation::NoZeroing) {
            self.out.push(AcceptorAction::TruncateZero { token: self.token(), at: cut });
        } else {
            self.persist_install();
        }
    }

    pub(super) fn on_tail_zeroed(&mut self, token: Token) {
        if token == self.token() && self.install.is_some() {
            self.persist_install();
        }
    }

    fn persist_install(&mut self) {
        let Some(install) = &mut self.install else { return };
        self.log.zeroed();
        self.state.archived_tail = None; // the cut has brought it back
        self.state.history.clone_from(&install.history);
        let mut version = self.promises.version_of(&self.state);
        if version > self.promises.durable_version() {
            version = self.persist();
        }
        if let Some(install) = &mut self.install {
            install.version = Some(version);
        }
        self.continue_install();
    }

    /// Ends the cut once its control-file write is durable.
    pub(super) fn continue_install(&mut self) {
        let durable = self.promises.durable_version();
        let Some(install) = self.install.take_if(|install| install.version.is_some_and(|v| v <= durable)) else {
            return;
        };
        if let Some(connection) = install.connection.filter(|connection| self.greeted.contains(connection)) {
            self.active = Some(Active { connection, streaming: false, peer_filled_to: Lsn::INVALID });
            self.answer_active();
        }
        self.advance_commit();
        self.plan_catch_up();
    }
}
