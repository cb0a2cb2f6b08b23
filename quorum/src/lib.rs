//! The consensus core: how a commit becomes durable on 2 of 3 safekeepers and is never lost.
//!
//! Two pure state machines. [`Acceptor`] is one safekeeper's side of one timeline, [`Proposer`] is the side of the compute's
//! supervisor. Both take an event and return the actions that follow; a thin shell (safekeeper, compute, simulator) carries
//! the actions out **in the order given** and reports completions as further events. Nothing here does I/O, reads a clock or
//! draws randomness, so one seed of the simulator replays one run bit for bit.
//!
//! # Protocol
//! 1. The proposer greets every acceptor. As soon as a quorum has greeted back it campaigns with the highest term seen + 1 and
//!    128 fresh random bits as candidate id (H1). A vote is granted to a higher term, and again to the same (term, candidate).
//! 2. The voter with the highest (last log term, flush_lsn) is the donor. The new term starts at the donor's flush_lsn; the
//!    proposer's [`TermHistory`] is the donor's plus (own term, start).
//! 3. `Elected` brings that history to each acceptor, which cuts its log at the highest common point: it zeroes the tail and
//!    syncs, persists term and history in one control-file write, and only then answers (H2).
//! 4. `Append` streams WAL without gaps. An acceptor answers with its flush_lsn, always the end of a whole record.
//! 5. `commit_lsn` is what a quorum has flushed, counting only answers whose last_log_term is the proposer's own term.
//!    Advances are broadcast at once (H8).
//! 6. A higher term seen anywhere fences an elected proposer for good (H18).
//!
//! A member that lost its store is replaced by the next membership generation: [`Acceptor::adopt`], then [`Join::plan`].
//!
//! An acceptor that is behind fetches WAL from its peers under the two conditions of H3, see [`acceptor`].
//! `docs/protocols.md` §2 is the wire format, in [`wire`]. `quorum/sim` runs this code through its worst days, seed by seed;
//! `quorum/model` is the same protocol as a model of which every reachable state is checked.

pub mod acceptor;
mod history;
mod membership;
mod message;
mod mutation;
pub mod proposer;
pub mod wire;

pub use acceptor::{
    Acceptor, AcceptorAction, AcceptorEvent, AcceptorState, AdoptError, ArchivedTail, ConnectionId, FetchId, Join,
    JoinError, PeerStatus, Repair, RestoreError, TimelineIdentity, Token,
};
pub use history::{HistoryEntry, HistoryError, MAX_HISTORY_ENTRIES, TermHistory};
pub use membership::{MAX_MEMBERS, Member, Membership, MembershipError};
pub use message::{
    AcceptorGreeting, AcceptorMessage, Append, AppendAnswer, Elected, PageserverFeedback, ProposerGreeting,
    ProposerMessage, RefusalCode, Refused, Vote, VoteRequest,
};
#[cfg(feature = "mutations")]
pub use mutation::Mutation;
pub use proposer::{NodeState, NodeStatus, Proposer, ProposerAction, ProposerConfig, ProposerEvent, Victory};
pub use wire::{MAX_APPEND_BYTES, PROTOCOL_VERSION, WireError};
