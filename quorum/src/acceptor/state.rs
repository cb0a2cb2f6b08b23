//! What an acceptor keeps on disk.

use ogel_ids::{CandidateId, Lsn, TenantId, Term, TimelineId};

use crate::{Membership, TermHistory};

/// Which timeline this is; never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineIdentity {
    /// Customer.
    pub tenant: TenantId,
    /// Branch.
    pub timeline: TimelineId,
    /// PostgreSQL's system identifier.
    pub system_identifier: u64,
    /// Such as 170011.
    pub pg_version_num: u32,
    /// WAL segment size.
    pub wal_segment_size_bytes: u32,
    /// Where the timeline begins: a record boundary.
    pub start_lsn: Lsn,
}

/// The end of the log, from the start of its segment on, as an object of the object store. The name is unique for ever: what is
/// committed up to `end` is the same bytes on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivedTail {
    /// Last log term of the node that made the object.
    pub term: Term,
    /// End of the object's last record, and of the log.
    pub end: Lsn,
    /// CRC-32C of the object: what comes back is compared with it.
    pub crc32c: u32,
}

/// The content of the control file, always written as a whole.
///
/// Invariants: `history.last().term ≤ term`; `identity.start_lsn ≤ commit_lsn ≤ flush_lsn` (which the WAL on disk tells);
/// `backup_lsn` and `remote_consistent_lsn` ≤ commit_lsn; while there is an archived tail, `commit_lsn = flush_lsn = its end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptorState {
    /// Which timeline.
    pub identity: TimelineIdentity,
    /// Who forms the quorum.
    pub membership: Membership,
    /// Highest term voted for or accepted.
    pub term: Term,
    /// Who has this acceptor's vote in `term`.
    pub voted_for: Option<CandidateId>,
    /// May run ahead of the WAL: readers cut it at flush_lsn.
    pub history: TermHistory,
    /// Known to be committed when this was written; the truth may be higher.
    pub commit_lsn: Lsn,
    /// WAL below is in the object store.
    pub backup_lsn: Lsn,
    /// WAL below is durably ingested by the pageserver.
    pub remote_consistent_lsn: Lsn,
    /// There is no WAL here: it is in the object store, this its tail (H5).
    pub archived_tail: Option<ArchivedTail>,
}

impl AcceptorState {
    /// A timeline that was just created, which only an explicit request may do (H4). Its WAL up to `identity.start_lsn` is
    /// given with the request and the same on every member, so all of it is committed.
    pub fn new(identity: TimelineIdentity, membership: Membership) -> Self {
        let start = identity.start_lsn;
        Self {
            identity,
            membership,
            term: Term(0),
            voted_for: None,
            history: TermHistory::new(Term(0), start),
            commit_lsn: start,
            backup_lsn: start,
            remote_consistent_lsn: start,
            archived_tail: None,
        }
    }
}
