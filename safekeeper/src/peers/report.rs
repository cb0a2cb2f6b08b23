//! What a node durably holds of a timeline, as JSON: told to peers (`MEMBERSHIP`) and over HTTP.

use ogel_ids::{Generation, Lsn, NodeId, StoreUuid, Term};
use quorum::{
    HistoryEntry, HistoryError, Member, Membership, MembershipError, PeerStatus, TermHistory,
    acceptor::TimelineIdentity,
};
use serde::{Deserialize, Serialize};

use crate::timeline::{Timeline, TimelineKey};

/// A report that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Its history.
    #[error("a peer's report: {0}")]
    History(#[from] HistoryError),
    /// Its members.
    #[error("a peer's report: {0}")]
    Membership(#[from] MembershipError),
    /// A number.
    #[error("a peer's report: the system identifier is {0:?}")]
    SystemIdentifier(String),
}

/// A member.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberJson {
    node_id: NodeId,
    store_uuid: StoreUuid,
}

/// A membership.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipJson {
    generation: Generation,
    members: Vec<MemberJson>,
    #[serde(default)]
    new_members: Option<Vec<MemberJson>>,
}

impl From<&Membership> for MembershipJson {
    fn from(membership: &Membership) -> Self {
        let list = |members: &[Member]| members.iter().map(|&m| m.into()).collect();
        Self {
            generation: membership.generation(),
            members: list(membership.members()),
            new_members: membership.new_members().map(list),
        }
    }
}

impl From<Member> for MemberJson {
    fn from(Member { node_id, store_uuid }: Member) -> Self {
        Self { node_id, store_uuid }
    }
}

impl TryFrom<MembershipJson> for Membership {
    type Error = MembershipError;

    fn try_from(json: MembershipJson) -> Result<Self, MembershipError> {
        let list = |members: Vec<MemberJson>| members.into_iter().map(|m| m.member()).collect();
        Membership::new(json.generation, list(json.members), json.new_members.map(list))
    }
}

impl MemberJson {
    fn member(&self) -> Member {
        Member { node_id: self.node_id, store_uuid: self.store_uuid }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct TermJson {
    term: Term,
    lsn: Lsn,
}

/// What a node holds of one timeline. `membership` may be ahead of `generation`, which is the durable one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    #[serde(flatten)]
    member: MemberJson,
    generation: Generation,
    membership: MembershipJson,
    term: Term,
    term_history: Vec<TermJson>,
    flush_lsn: Lsn,
    commit_lsn: Lsn,
    backup_lsn: Lsn,
    remote_consistent_lsn: Lsn,
    /// WAL below is needed by no safekeeper: it is in the object store, and durably ingested.
    pub first_needed_lsn: Lsn,
    system_identifier: String,
    pg_version_num: u32,
    wal_segment_size: u32,
    timeline_start_lsn: Lsn,
}

impl Report {
    /// Of this node's copy.
    pub fn of(timeline: &Timeline) -> Self {
        let (status, state) = timeline.snapshot();
        let identity = state.identity;
        Self {
            member: status.member.into(),
            generation: status.generation,
            membership: (&state.membership).into(),
            term: status.term,
            term_history: status.history.entries().iter().map(|e| TermJson { term: e.term, lsn: e.start }).collect(),
            flush_lsn: status.flush_lsn,
            commit_lsn: status.commit_lsn,
            backup_lsn: status.backup_lsn,
            remote_consistent_lsn: status.remote_consistent_lsn,
            first_needed_lsn: {
                let needed = state.backup_lsn.min(state.remote_consistent_lsn).min(status.commit_lsn);
                needed.segment_start(identity.wal_segment_size_bytes.into()).max(timeline.first_available())
            },
            system_identifier: identity.system_identifier.to_string(),
            pg_version_num: identity.pg_version_num,
            wal_segment_size: identity.wal_segment_size_bytes,
            timeline_start_lsn: identity.start_lsn,
        }
    }

    /// For the core.
    pub fn status(&self) -> Result<(PeerStatus, Membership), ReportError> {
        let entries = self.term_history.iter().map(|e| HistoryEntry { term: e.term, start: e.lsn }).collect();
        let status = PeerStatus {
            member: self.member.member(),
            generation: self.generation,
            term: self.term,
            history: TermHistory::from_entries(entries)?,
            flush_lsn: self.flush_lsn,
            commit_lsn: self.commit_lsn,
            backup_lsn: self.backup_lsn,
            remote_consistent_lsn: self.remote_consistent_lsn,
        };
        Ok((status, self.membership.clone().try_into()?))
    }

    /// Of the timeline.
    pub fn identity(&self, key: TimelineKey) -> Result<TimelineIdentity, ReportError> {
        let system_identifier = self
            .system_identifier
            .parse()
            .map_err(|_| ReportError::SystemIdentifier(self.system_identifier.chars().take(32).collect()))?;
        Ok(TimelineIdentity {
            tenant: key.tenant,
            timeline: key.timeline,
            system_identifier,
            pg_version_num: self.pg_version_num,
            wal_segment_size_bytes: self.wal_segment_size,
            start_lsn: self.timeline_start_lsn,
        })
    }
}
