//! One safekeeper's side of one timeline: votes, takes WAL, and never speaks of what is not durable.
//!
//! [`Acceptor`] mirrors what the disk holds. Every method changes the mirror first and returns the actions that bring the disk
//! after it; a reply that depends on a disk action is returned only when the action's completion has come back.
//!
//! | file | what it decides |
//! |---|---|
//! | `election.rs` | votes; cutting the log for an elected proposer, in the order of H2 |
//! | `append.rs` | WAL from the proposer; group commit |
//! | `catch_up.rs` | WAL from peers (H3); when a commit may be believed (H3, H5) |
//! | `log_end.rs` | taken, written, whole and durable positions |
//! | `replacement.rs` | a new membership generation, and what its new member must have first (H4) |
//! | `archive.rs` | what is safe elsewhere, and when local WAL may go (H5) |
//! | `repair.rs` | whose WAL may replace rotten WAL (H6) |
//! | `promise.rs` | which version of the control file is durable |

mod append;
mod archive;
mod catch_up;
mod election;
mod event;
mod log_end;
mod promise;
mod repair;
mod replacement;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use catch_up::Fetch;
use election::Install;
pub use event::{AcceptorAction, AcceptorEvent, ConnectionId, FetchId, PeerStatus, Token};
use log_end::LogEnd;
use ogel_ids::{Generation, Lsn, NodeId, Term};
use promise::Promises;
pub use repair::Repair;
pub use replacement::{AdoptError, Join, JoinError};
pub use state::{AcceptorState, ArchivedTail, TimelineIdentity};

use crate::{
    AcceptorGreeting, AcceptorMessage, AppendAnswer, Member, PageserverFeedback, ProposerGreeting, ProposerMessage,
    RefusalCode, Refused, Vote, VoteRequest,
    mutation::{Mutation, Mutations},
};

/// The pageserver's ingest alone is worth an answer when it has come so far; else the next answer, at most a heartbeat later,
/// carries it along.
const INGEST_NEWS_BYTES: u64 = 1 << 20;

/// The timeline cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Committed WAL is missing or unreadable.
    #[error(
        "WAL is readable up to {flush_lsn} only, but {commit_lsn} was committed: acknowledged WAL of this node is \
         damaged; it must not vote until it is repaired from a peer"
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

/// One safekeeper's side of one timeline.
///
/// Invariants: `commit_lsn ≤ flush_lsn ≤ write_lsn`; `last log term ≤ term`; the log up to flush_lsn was written by the terms
/// of the history cut there; while a proposer is active, the log is a prefix of that proposer's log.
#[derive(Debug)]
pub struct Acceptor {
    me: Member,
    /// Newest decisions; ahead of the disk until [`Promises`] says otherwise.
    state: AcceptorState,
    promises: Promises,
    log: LogEnd,
    truncations: u64,
    /// A cut of the log that is being carried out.
    install: Option<Install>,
    greeted: BTreeSet<ConnectionId>,
    /// The connection whose Elected was carried out last, while its term is the current one.
    active: Option<Active>,
    /// Replies that wait for a version of the control file. At most one of each kind per connection.
    waiting: Vec<(u64, Reply)>,
    peers: BTreeMap<NodeId, PeerStatus>,
    fetch: Option<Fetch>,
    last_fetch: FetchId,
    failed_peer: Option<NodeId>,
    /// A quorum has everything up to here, of which this log, as far as it goes, is a prefix.
    known_commit: Lsn,
    peer_horizon_lsn: Lsn,
    pageserver: PageserverFeedback,
    /// backup_lsn and remote_consistent_lsn as somebody has reported them; they may lie beyond what is committed here.
    known_copies: [Lsn; 2],
    /// As the proposer was told last.
    pageserver_told: PageserverFeedback,
    /// Lazily kept fields as last issued: commit, backup, remote consistent.
    lazy_issued: [Lsn; 3],
    announced: Progress,
    mutations: Mutations,
    /// For a mutation: what a sync across a cut would have acknowledged.
    stale_flush: Option<Lsn>,
    out: Vec<AcceptorAction>,
}

/// The elected proposer's connection.
#[derive(Debug, Clone, Copy)]
struct Active {
    connection: ConnectionId,
    /// WAL comes from it, so none is fetched from peers.
    streaming: bool,
    /// Peers gave WAL up to here since the election: what the proposer sends below is a repetition.
    peer_filled_to: Lsn,
}

/// As last told to the peers: generation, term, last log term; flush, commit, backup and remote consistent LSN.
type Progress = (Generation, Term, Term, [Lsn; 4]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Greeting(ConnectionId),
    Vote(ConnectionId, VoteRequest),
    Answer(ConnectionId),
}

impl Reply {
    fn connection(&self) -> ConnectionId {
        match *self {
            Reply::Greeting(connection) | Reply::Vote(connection, _) | Reply::Answer(connection) => connection,
        }
    }
}

impl Acceptor {
    /// After a process start or a creation: the control file's state, and the end of the last valid record that a scan of the
    /// WAL from `state.commit_lsn` found.
    pub fn restore(me: Member, state: AcceptorState, flush_lsn: Lsn) -> Result<Self, RestoreError> {
        if flush_lsn < state.commit_lsn {
            return Err(RestoreError::Damaged { flush_lsn, commit_lsn: state.commit_lsn });
        }
        if state.term < state.history.last().term {
            return Err(RestoreError::TermBehindHistory { term: state.term, last: state.history.last().term });
        }
        Ok(Self {
            me,
            promises: Promises::read_from_disk(&state),
            log: LogEnd::after_restart(flush_lsn),
            truncations: 0,
            install: None,
            greeted: BTreeSet::new(),
            active: None,
            waiting: Vec::new(),
            peers: BTreeMap::new(),
            fetch: None,
            last_fetch: FetchId(0),
            failed_peer: None,
            known_commit: state.commit_lsn,
            peer_horizon_lsn: state.identity.start_lsn,
            pageserver: PageserverFeedback::default(),
            known_copies: [state.backup_lsn, state.remote_consistent_lsn],
            pageserver_told: PageserverFeedback::default(),
            lazy_issued: [state.commit_lsn, state.backup_lsn, state.remote_consistent_lsn],
            announced: Progress::default(),
            mutations: Mutations::default(),
            stale_flush: None,
            out: Vec::new(),
            state,
        })
    }

    /// Puts a known bug back in.
    #[cfg(feature = "mutations")]
    pub fn set_mutation(&mut self, mutation: Option<Mutation>) {
        self.mutations.set(mutation);
    }

    /// Takes one event and says what must be done, in this order.
    pub fn handle(&mut self, event: AcceptorEvent) -> Vec<AcceptorAction> {
        match event {
            AcceptorEvent::Message { connection, message } => self.on_message(connection, message),
            AcceptorEvent::Disconnected { connection } => {
                self.forget(connection);
                self.plan_catch_up();
            }
            AcceptorEvent::WalWritten { token, end, record_end } => self.on_wal_written(token, end, record_end),
            AcceptorEvent::Flushed { token } => self.on_flushed(token),
            AcceptorEvent::TailZeroed { token } => self.on_tail_zeroed(token),
            AcceptorEvent::StatePersisted { version } => self.on_state_persisted(version),
            AcceptorEvent::PeerStatus(status) => self.on_peer_status(status),
            AcceptorEvent::PeerWal { fetch, begin, wal } => self.on_peer_wal(fetch, begin, wal),
            AcceptorEvent::FetchEnded { fetch } => self.on_fetch_ended(fetch),
            AcceptorEvent::PageserverFeedback(feedback) => self.on_pageserver_feedback(feedback),
            AcceptorEvent::BackedUp { backup_lsn } => {
                self.note_copies(backup_lsn, Lsn::INVALID);
            }
            AcceptorEvent::TailArchived(tail) => self.on_tail_archived(tail),
            AcceptorEvent::Checkpoint => {
                if self.lazy_fields() != self.lazy_issued {
                    self.persist();
                }
            }
        }
        self.announce();
        std::mem::take(&mut self.out)
    }

    /// The newest state. Parts of it may not be durable yet: tell nobody but [`Acceptor::status`].
    pub fn state(&self) -> &AcceptorState {
        &self.state
    }

    /// End of the last whole durable record.
    pub fn flush_lsn(&self) -> Lsn {
        self.log.flush_lsn()
    }

    /// What a quorum is known to have; readers get WAL up to here.
    pub fn commit_lsn(&self) -> Lsn {
        self.state.commit_lsn
    }

    /// The term whose log this acceptor's log is durably a prefix of.
    pub fn last_log_term(&self) -> Term {
        self.promises.durable().history.last_log_term(self.log.flush_lsn())
    }

    /// For the peers and the status page: durable facts only.
    pub fn status(&self) -> PeerStatus {
        let durable = self.promises.durable();
        PeerStatus {
            member: self.me,
            generation: durable.generation,
            term: durable.term,
            history: durable.history.cut_at(self.log.flush_lsn()),
            flush_lsn: self.log.flush_lsn(),
            commit_lsn: self.state.commit_lsn,
            backup_lsn: self.state.backup_lsn,
            remote_consistent_lsn: self.state.remote_consistent_lsn,
        }
    }

    /// All members have flushed up to here, by the proposer's word: peers need no WAL below.
    pub fn peer_horizon_lsn(&self) -> Lsn {
        self.peer_horizon_lsn
    }

    /// What the pageserver has reported to this node.
    pub fn pageserver_feedback(&self) -> PageserverFeedback {
        self.pageserver
    }

    /// Whether an elected proposer of the current term is connected.
    pub fn proposer_connected(&self) -> bool {
        self.active.is_some()
    }

    /// Whether nothing is under way and nobody is connected, so that the shell may unload the timeline after a `Checkpoint`.
    pub fn is_idle(&self) -> bool {
        self.greeted.is_empty() && self.install.is_none() && self.fetch.is_none() && self.log.is_idle()
    }

    fn on_message(&mut self, connection: ConnectionId, message: ProposerMessage) {
        if let ProposerMessage::Greeting(greeting) = message {
            return self.on_greeting(connection, &greeting);
        }
        if !self.greeted.contains(&connection) {
            return self.refuse(connection, RefusalCode::ProtocolError, "a greeting must come first".into());
        }
        let generation = match &message {
            ProposerMessage::VoteRequest(m) => m.generation,
            ProposerMessage::Elected(m) => m.generation,
            ProposerMessage::Append(m) => m.generation,
            ProposerMessage::Greeting(_) => return,
        };
        if !self.check_generation(connection, generation) {
            return;
        }
        match message {
            ProposerMessage::VoteRequest(request) => self.on_vote_request(connection, request),
            ProposerMessage::Elected(elected) => self.on_elected(connection, elected),
            ProposerMessage::Append(append) => self.on_append(connection, append),
            ProposerMessage::Greeting(_) => {}
        }
    }

    fn on_greeting(&mut self, connection: ConnectionId, greeting: &ProposerGreeting) {
        let id = &self.state.identity;
        let refusal = if (greeting.tenant, greeting.timeline) != (id.tenant, id.timeline) {
            Some((RefusalCode::UnknownTimeline, "the connection belongs to another timeline".to_string()))
        } else if ![0, id.system_identifier].contains(&greeting.system_identifier) {
            let text = format!(
                "the proposer's system identifier is {}, this timeline's is {}: it would mix two databases' WAL",
                greeting.system_identifier, id.system_identifier
            );
            Some((RefusalCode::WrongSystemIdentifier, text))
        } else if greeting.pg_major_version != id.pg_version_num / 10_000
            || ![0, id.wal_segment_size_bytes].contains(&greeting.wal_segment_size_bytes)
        {
            let text = format!(
                "the proposer runs PostgreSQL {} with WAL segments of {} bytes, this timeline was made by {} with {}",
                greeting.pg_major_version,
                greeting.wal_segment_size_bytes,
                id.pg_version_num,
                id.wal_segment_size_bytes
            );
            Some((RefusalCode::WrongVersion, text))
        } else if !self.state.membership.contains(self.me) && !self.mutations.has(Mutation::AmnesiacVotes) {
            let text = format!(
                "node {} with store {} is not a member of this timeline: name it in a new membership generation first",
                self.me.node_id, self.me.store_uuid
            );
            Some((RefusalCode::NotAMember, text))
        } else {
            None
        };
        match refusal {
            Some((code, text)) => self.refuse(connection, code, text),
            None => {
                self.greeted.insert(connection);
                self.reply_when_durable(Reply::Greeting(connection));
            }
        }
    }

    fn check_generation(&mut self, connection: ConnectionId, theirs: Generation) -> bool {
        let ours = self.state.membership.generation();
        if ours != theirs {
            let text = format!("the proposer counts by membership generation {theirs}, this node is at {ours}");
            self.refuse(connection, RefusalCode::WrongGeneration, text);
        }
        ours == theirs
    }

    fn on_pageserver_feedback(&mut self, feedback: PageserverFeedback) {
        let newest = self.pageserver.max(feedback);
        if newest != self.pageserver {
            self.pageserver = newest;
            self.note_copies(Lsn::INVALID, newest.remote_consistent_lsn);
            let told = self.pageserver_told;
            let moved = PageserverFeedback { last_record_lsn: told.last_record_lsn, ..newest } != told;
            if moved || newest.last_record_lsn.bytes_since(told.last_record_lsn) >= INGEST_NEWS_BYTES {
                self.answer_active();
            }
        }
    }

    /// The present log: disk work that was issued for another one may be dropped as long as it has not begun.
    pub fn token(&self) -> Token {
        Token { term: self.state.term, truncations: self.truncations }
    }

    fn lazy_fields(&self) -> [Lsn; 3] {
        [self.state.commit_lsn, self.state.backup_lsn, self.state.remote_consistent_lsn]
    }

    fn persist(&mut self) -> u64 {
        let version = self.promises.issue(&self.state);
        self.lazy_issued = self.lazy_fields();
        self.out.push(AcceptorAction::PersistState { version, state: Box::new(self.state.clone()) });
        version
    }

    fn on_state_persisted(&mut self, version: u64) {
        self.promises.persisted(version);
        self.continue_install();
        let durable = self.promises.durable_version();
        let (due, later) = std::mem::take(&mut self.waiting).into_iter().partition(|(needed, _)| *needed <= durable);
        self.waiting = later;
        for (_, reply) in due {
            self.reply(reply);
        }
    }

    /// Sends a reply once everything decided so far is durable.
    fn reply_when_durable(&mut self, reply: Reply) {
        let version = self.promises.version_of(&self.state);
        if version <= self.promises.durable_version() {
            return self.reply(reply);
        }
        let same = |other: &Reply| {
            other.connection() == reply.connection() && std::mem::discriminant(other) == std::mem::discriminant(&reply)
        };
        self.waiting.retain(|(_, other)| !same(other));
        self.waiting.push((version, reply));
    }

    fn reply(&mut self, reply: Reply) {
        let connection = reply.connection();
        let message = match reply {
            Reply::Greeting(_) => AcceptorMessage::Greeting(AcceptorGreeting {
                node_id: self.me.node_id,
                store_uuid: self.me.store_uuid,
                term: self.promises.durable().term,
                system_identifier: self.state.identity.system_identifier,
                pg_version_num: self.state.identity.pg_version_num,
                wal_segment_size_bytes: self.state.identity.wal_segment_size_bytes,
                timeline_start_lsn: self.state.identity.start_lsn,
                membership: self.state.membership.clone(),
            }),
            Reply::Vote(_, request) => {
                let durable = self.promises.durable();
                AcceptorMessage::Vote(Vote {
                    generation: durable.generation,
                    term: durable.term,
                    candidate: request.candidate,
                    granted: durable.term == request.term && durable.voted_for == Some(request.candidate),
                    flush_lsn: self.log.flush_lsn(),
                    commit_lsn: self.state.commit_lsn,
                    history: durable.history.cut_at(self.log.flush_lsn()),
                })
            }
            Reply::Answer(_) => {
                self.pageserver_told = self.pageserver;
                AcceptorMessage::AppendAnswer(AppendAnswer {
                    generation: self.promises.durable().generation,
                    term: self.promises.durable().term,
                    last_log_term: self.last_log_term(),
                    flush_lsn: self.log.flush_lsn(),
                    settled_lsn: self.log.settled_lsn(),
                    commit_lsn: self.state.commit_lsn,
                    pageserver: self.pageserver,
                })
            }
        };
        self.out.push(AcceptorAction::Reply { connection, message });
    }

    fn answer_active(&mut self) {
        if let Some(active) = self.active {
            self.reply(Reply::Answer(active.connection));
        }
    }

    fn refuse(&mut self, connection: ConnectionId, code: RefusalCode, text: String) {
        let reason = text.clone();
        self.out.push(AcceptorAction::Reply { connection, message: AcceptorMessage::Refused(Refused { code, text }) });
        self.close(connection, reason);
    }

    fn close(&mut self, connection: ConnectionId, reason: String) {
        self.forget(connection);
        self.out.push(AcceptorAction::Close { connection, reason });
    }

    fn forget(&mut self, connection: ConnectionId) {
        self.greeted.remove(&connection);
        self.waiting.retain(|(_, reply)| reply.connection() != connection);
        self.active = self.active.filter(|active| active.connection != connection);
    }

    fn announce(&mut self) {
        let durable = self.promises.durable();
        let [commit_lsn, backup_lsn, remote_consistent_lsn] = self.lazy_fields();
        let lsns = [self.log.flush_lsn(), commit_lsn, backup_lsn, remote_consistent_lsn];
        let progress = (durable.generation, durable.term, self.last_log_term(), lsns);
        if progress != self.announced {
            self.announced = progress;
            self.out.push(AcceptorAction::StatusChanged);
        }
    }
}
