//! WAL from the elected proposer, and group commit.

use bytes::{Buf, Bytes};
use ogel_ids::Lsn;

use super::{Acceptor, AcceptorAction, ConnectionId, Reply, Token};
use crate::{Append, mutation::Mutation};

impl Acceptor {
    pub(super) fn on_append(&mut self, connection: ConnectionId, append: Append) {
        if append.term < self.state.term {
            return self.reply_when_durable(Reply::Answer(connection));
        }
        let is_active = self.active.is_some_and(|active| active.connection == connection);
        if append.term > self.state.term || !is_active || self.install.is_some() {
            return self.close(connection, "WAL came before the election was carried out here".into());
        }
        if append.begin > self.log.write_lsn() {
            let reason = format!("WAL at {} leaves a gap behind {}", append.begin, self.log.write_lsn());
            return self.close(connection, reason);
        }
        self.peer_horizon_lsn = self.peer_horizon_lsn.max(append.truncate_lsn);
        let advances = append.commit_lsn > self.known_commit;
        self.known_commit = self.known_commit.max(append.commit_lsn);
        self.advance_commit();
        if append.wal.is_empty() {
            if let Some(active) = self.active.as_mut().filter(|_| append.begin == Lsn::INVALID) {
                active.streaming = false;
            }
            // A commit advance tells the proposer nothing new; heartbeats, and what is sent to a laggard, are answered.
            if !advances || append.begin == Lsn::INVALID {
                self.reply(Reply::Answer(connection));
            }
            self.plan_catch_up();
        } else {
            self.take_proposers_wal(connection, append);
        }
    }

    fn take_proposers_wal(&mut self, connection: ConnectionId, append: Append) {
        let repeated = self.log.write_lsn().bytes_since(append.begin);
        if let Some(active) = &mut self.active {
            // Both this log and what the peers gave are prefixes of the proposer's log, so a repetition is the same bytes.
            if repeated > 0 && append.begin >= active.peer_filled_to {
                let reason = format!("WAL at {} overlaps with what is there", append.begin);
                return self.close(connection, reason);
            }
            active.streaming = true;
        }
        self.cancel_fetch();
        let mut wal = append.wal;
        wal.advance(wal.len().min(repeated as usize));
        self.write(wal);
    }

    /// Takes bytes at the end of the log.
    pub(super) fn write(&mut self, wal: Bytes) {
        if wal.is_empty() {
            return;
        }
        let at = self.log.write_lsn();
        self.log.append(Lsn(at.0 + wal.len() as u64));
        self.out.push(AcceptorAction::WriteWal { token: self.token(), at, wal });
    }

    pub(super) fn on_wal_written(&mut self, token: Token, end: Lsn, record_end: Lsn) {
        if token != self.token() {
            return;
        }
        self.log.wrote(end, record_end);
        if self.log.begin_flush() {
            self.out.push(AcceptorAction::Flush { token });
        } else if self.log.is_idle() {
            // Part of a long record: the proposer must learn that waiting for flush_lsn is no use.
            self.answer_active();
        }
    }

    pub(super) fn on_flushed(&mut self, token: Token) {
        if token != self.token() {
            if let Some(flushed) = self.stale_flush.take().filter(|_| self.mutations.has(Mutation::StaleCompletion)) {
                self.log.believe(flushed);
            }
            return;
        }
        self.log.flushed();
        if self.log.begin_flush() {
            self.out.push(AcceptorAction::Flush { token });
        }
        self.advance_commit();
        self.answer_active();
        self.plan_catch_up();
    }
}
