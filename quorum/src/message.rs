//! What proposers and acceptors say to each other. The byte layout is in [`crate::wire`].

use bytes::Bytes;
use ogel_ids::{CandidateId, Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};

use crate::{Membership, TermHistory};

/// From a proposer to an acceptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposerMessage {
    /// Opens every connection.
    Greeting(ProposerGreeting),
    /// Asks for a vote. Also asked of a node that joins after the election, for its history and flush_lsn.
    VoteRequest(VoteRequest),
    /// The sender has won `term`.
    Elected(Elected),
    /// WAL, or news of commit_lsn, or a heartbeat.
    Append(Append),
}

/// Opens a connection and names what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposerGreeting {
    /// Customer.
    pub tenant: TenantId,
    /// Branch.
    pub timeline: TimelineId,
    /// PostgreSQL's system identifier; 0 = not known yet.
    pub system_identifier: u64,
    /// PostgreSQL major version, 17.
    pub pg_major_version: u32,
    /// WAL segment size; 0 = not known yet.
    pub wal_segment_size_bytes: u32,
}

/// Asks for a vote in `term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoteRequest {
    /// Membership the candidate counts by.
    pub generation: Generation,
    /// Term asked for.
    pub term: Term,
    /// Random per campaign: (term, candidate) names exactly one proposer (H1).
    pub candidate: CandidateId,
}

/// A won election, brought to one acceptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elected {
    /// Membership the proposer counts by.
    pub generation: Generation,
    /// The term won.
    pub term: Term,
    /// The winner.
    pub candidate: CandidateId,
    /// Highest common point of the proposer's history and this acceptor's, by the acceptor's last vote. The acceptor computes
    /// the point itself; one below this means that the vote is out of date, and the handshake starts over.
    pub truncate_at: Lsn,
    /// The proposer's history; its last entry is (term, start of the term).
    pub history: TermHistory,
}

/// WAL of `begin..end()`; without bytes a heartbeat or commit advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Membership the proposer counts by.
    pub generation: Generation,
    /// The proposer's term.
    pub term: Term,
    /// Position of the first byte, which is where the acceptor's log ends. Without bytes: the position up to which this
    /// proposer has sent, or 0 when it no longer holds the WAL that this acceptor needs: it must fetch from its peers.
    pub begin: Lsn,
    /// What a quorum has.
    pub commit_lsn: Lsn,
    /// All members have flushed up to here: WAL below is not needed by a lagging peer.
    pub truncate_lsn: Lsn,
    /// At most [`crate::MAX_APPEND_BYTES`].
    pub wal: Bytes,
}

impl Append {
    /// End of the bytes.
    pub fn end(&self) -> Lsn {
        Lsn(self.begin.0 + self.wal.len() as u64)
    }
}

/// From an acceptor to a proposer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptorMessage {
    /// Answer to a greeting.
    Greeting(AcceptorGreeting),
    /// Answer to a vote request.
    Vote(Vote),
    /// After Elected was carried out, after each flush, for each empty append, and when a field changed.
    AppendAnswer(AppendAnswer),
    /// Why the acceptor cannot serve; the connection is closed after it, except for [`RefusalCode::OutOfSpace`].
    Refused(Refused),
}

/// Who the acceptor is and which timeline it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptorGreeting {
    /// Configured number.
    pub node_id: NodeId,
    /// Identity of its store (H4).
    pub store_uuid: StoreUuid,
    /// Highest term it has accepted.
    pub term: Term,
    /// PostgreSQL's system identifier.
    pub system_identifier: u64,
    /// Such as 170011.
    pub pg_version_num: u32,
    /// WAL segment size.
    pub wal_segment_size_bytes: u32,
    /// Where the timeline begins.
    pub timeline_start_lsn: Lsn,
    /// Who forms the quorum, as this acceptor knows it.
    pub membership: Membership,
}

/// An acceptor's durable answer to a [`VoteRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// The acceptor's membership generation.
    pub generation: Generation,
    /// The acceptor's term after deciding.
    pub term: Term,
    /// The candidate that asked.
    pub candidate: CandidateId,
    /// Whether (term, candidate) has this acceptor's vote.
    pub granted: bool,
    /// End of its last whole durable record.
    pub flush_lsn: Lsn,
    /// What it knows to be committed.
    pub commit_lsn: Lsn,
    /// Its history, cut at flush_lsn.
    pub history: TermHistory,
}

/// Progress of an acceptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendAnswer {
    /// The acceptor's membership generation.
    pub generation: Generation,
    /// The acceptor's term: a higher one than the proposer's fences the proposer.
    pub term: Term,
    /// Term of the last history entry that starts at or before flush_lsn. Only answers in which this is the proposer's own
    /// term count toward a commit (H2).
    pub last_log_term: Term,
    /// End of the last whole durable record.
    pub flush_lsn: Lsn,
    /// Flow control: ≥ flush_lsn; beyond it lie only bytes of a record that is not whole yet, so waiting for flush_lsn to
    /// move without sending more would be waiting for ever.
    pub settled_lsn: Lsn,
    /// What the acceptor knows to be committed.
    pub commit_lsn: Lsn,
    /// What the acceptor has heard from the pageserver.
    pub pageserver: PageserverFeedback,
}

/// How far the pageserver is; 0 = none heard of. remote_consistent ≤ disk_consistent ≤ last_record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageserverFeedback {
    /// Ingested.
    pub last_record_lsn: Lsn,
    /// Ingested and in fsynced layer files.
    pub disk_consistent_lsn: Lsn,
    /// In the object store.
    pub remote_consistent_lsn: Lsn,
}

impl PageserverFeedback {
    /// The furthest of both, field by field: every one of these positions only grows.
    pub fn max(self, other: Self) -> Self {
        Self {
            last_record_lsn: self.last_record_lsn.max(other.last_record_lsn),
            disk_consistent_lsn: self.disk_consistent_lsn.max(other.disk_consistent_lsn),
            remote_consistent_lsn: self.remote_consistent_lsn.max(other.remote_consistent_lsn),
        }
    }
}

/// Why an acceptor cannot serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The kind, for programs.
    pub code: RefusalCode,
    /// Cause, consequence and next step, for people.
    pub text: String,
}

/// Kinds of [`Refused`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalCode {
    /// No such timeline on this node.
    UnknownTimeline = 1,
    /// The WAL is another database's.
    WrongSystemIdentifier = 2,
    /// Protocol or PostgreSQL version, or WAL segment size.
    WrongVersion = 3,
    /// The acceptor's (node id, store uuid) is not in the membership (H4).
    NotAMember = 4,
    /// The proposer counts by another membership.
    WrongGeneration = 5,
    /// Acknowledged WAL of this node is damaged (H6).
    DamagedWal = 6,
    /// The proposer broke a rule of the protocol.
    ProtocolError = 7,
    /// Nothing is acknowledged until space returns; the connection stays.
    OutOfSpace = 8,
}
