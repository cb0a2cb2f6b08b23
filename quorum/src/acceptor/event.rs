//! What the shell tells an acceptor, and what it must do in return.

use bytes::Bytes;
use ogel_ids::{Generation, Lsn, NodeId, Term};

use super::{AcceptorState, ArchivedTail};
use crate::{AcceptorMessage, Member, PageserverFeedback, ProposerMessage, TermHistory};

/// One connection of a proposer, numbered by the shell; a number is never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One fetch of WAL from a peer, numbered by the acceptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchId(pub u64);

/// The log that a disk operation was meant for. A completion whose token is no longer current is dropped: it speaks of bytes
/// that may have been cut since (H3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The acceptor's term when the operation was issued.
    pub term: Term,
    /// How often this process has cut the log.
    pub truncations: u64,
}

/// What happened. The core queues nothing but a few replies: a shell bounds what it takes off a connection by what its disk
/// queue holds (a proposer has at most `in_flight_bytes` on its way).
#[derive(Debug, Clone)]
pub enum AcceptorEvent {
    /// A proposer's message, already decoded.
    Message {
        /// Who said it.
        connection: ConnectionId,
        /// What it said.
        message: ProposerMessage,
    },
    /// A connection is gone; nothing more comes from it.
    Disconnected {
        /// Which.
        connection: ConnectionId,
    },
    /// The bytes of one `WriteWal` were handed to the operating system. Reported in the order of the actions.
    WalWritten {
        /// Of the action.
        token: Token,
        /// End of the bytes.
        end: Lsn,
        /// End of the last whole record at or before `end`, from the shell's stream decoder; for an `XLOG_SWITCH` only when
        /// its padding is there too (H7). It starts at a cut, which is always a record boundary.
        record_end: Lsn,
    },
    /// A `Flush` is complete. An error is not reported: a failed fsync ends the process.
    Flushed {
        /// Of the action.
        token: Token,
    },
    /// A `TruncateZero` is complete and synced.
    TailZeroed {
        /// Of the action.
        token: Token,
    },
    /// A `PersistState` is complete: file and folder are synced.
    StatePersisted {
        /// Of the action.
        version: u64,
    },
    /// A peer reported its progress.
    PeerStatus(PeerStatus),
    /// WAL that a `FetchFromPeer` asked for, in order and without gaps, in pieces of any size up to 1 MiB.
    PeerWal {
        /// Of the action.
        fetch: FetchId,
        /// Position of the first byte.
        begin: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// A fetch ended, whether it is complete or has failed. Another is planned at once, so a failure is reported only after a
    /// pause of about a second.
    FetchEnded {
        /// Of the action.
        fetch: FetchId,
    },
    /// The pageserver reported its progress.
    PageserverFeedback(PageserverFeedback),
    /// All WAL below is in the object store.
    BackedUp {
        /// First position that is not.
        backup_lsn: Lsn,
    },
    /// The object of this tail was read back, and is what this node has on disk from the start of the tail's segment to its end
    /// (H5). Local WAL may go if the log is still the same.
    TailArchived(ArchivedTail),
    /// Persist what is otherwise only persisted along with something else (commit_lsn, backup_lsn, remote_consistent_lsn). The
    /// shell sends it now and then, when a segment is finished, and before it lets a timeline go idle.
    Checkpoint,
}

/// Progress of one acceptor as told to its peers: everything in it is durable there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who reports.
    pub member: Member,
    /// Its membership generation.
    pub generation: Generation,
    /// Its term.
    pub term: Term,
    /// Its history, cut at flush_lsn.
    pub history: TermHistory,
    /// End of its last whole durable record.
    pub flush_lsn: Lsn,
    /// What it knows to be committed.
    pub commit_lsn: Lsn,
    /// What it knows to be in the object store; ≤ commit_lsn.
    pub backup_lsn: Lsn,
    /// What it knows the pageserver to have in the object store; ≤ commit_lsn.
    pub remote_consistent_lsn: Lsn,
}

impl PeerStatus {
    /// The term whose log the peer's log is a prefix of.
    pub fn last_log_term(&self) -> Term {
        self.history.last_log_term(self.flush_lsn)
    }
}

/// What the shell must do, in this order. Disk actions of one timeline are carried out one after the other, except that bytes
/// may be written while a `Flush` runs. Replies may leave at once, because an acceptor never issues a reply before what it
/// speaks of is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptorAction {
    /// Write bytes, then report `WalWritten`. No sync.
    WriteWal {
        /// To be reported back.
        token: Token,
        /// Position of the first byte: where the log ends.
        at: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// fdatasync everything written before, then report `Flushed`. At most one is under way.
    Flush {
        /// To be reported back.
        token: Token,
    },
    /// Cut the log: write zeros from `at` to the end of all that was ever written behind it (in later segments too, which may
    /// instead be removed or replaced by zeroed ones), fdatasync, restart the stream decoder at `at`, report `TailZeroed`.
    /// After a `DropWal`, and after a restart with an archived tail, the tail is brought back first.
    TruncateZero {
        /// To be reported back.
        token: Token,
        /// New end of the log.
        at: Lsn,
    },
    /// Remove all WAL: it is in the object store, which the control file that was written before this says. A crash in between is
    /// made good at the restart.
    DropWal(ArchivedTail),
    /// Write the control file in one step, sync file and folder, report `StatePersisted`.
    PersistState {
        /// To be reported back; grows.
        version: u64,
        /// What to write.
        state: Box<AcceptorState>,
    },
    /// Send a message. A connection that is gone is not an error.
    Reply {
        /// To whom.
        connection: ConnectionId,
        /// What.
        message: AcceptorMessage,
    },
    /// Close a connection, after what was sent before. `Disconnected` need not follow.
    Close {
        /// Which.
        connection: ConnectionId,
        /// For the log.
        reason: String,
    },
    /// commit_lsn has grown: readers may have WAL up to here.
    CommitAdvanced {
        /// The new commit_lsn.
        commit_lsn: Lsn,
    },
    /// [`super::Acceptor::status`] has changed: tell the peers (the shell may combine several).
    StatusChanged,
    /// Read WAL from a peer (`ogel.reader=peer`, `ogel.term=peer_term`), report `PeerWal` and at the end `FetchEnded`.
    FetchFromPeer {
        /// To be reported back.
        fetch: FetchId,
        /// Which peer.
        peer: NodeId,
        /// The stream is valid only while this is the peer's last_log_term.
        peer_term: Term,
        /// First byte.
        from: Lsn,
        /// End.
        to: Lsn,
    },
    /// Stop a fetch; anything that still comes of it is ignored. `FetchEnded` need not follow.
    CancelFetch {
        /// Which.
        fetch: FetchId,
    },
}
