//! Whose WAL a node with rotten acknowledged WAL may put in place of its own (H6).
//!
//! Until that is done the node has no vote, because it does not hold what it has acknowledged. Its term, vote and history are
//! sound: they are in the control file. So a peer's bytes are taken for the same log, in one of two cases:
//! 1. The peer's log is this one's up to the acknowledged end: then the whole of it is restored.
//! 2. The peer's **committed** log departs from this one: what this one has behind that place cannot be committed, and nobody
//!    misses it. The log is restored up to there.

use ogel_ids::{Lsn, NodeId, Term};

use super::{AcceptorState, PeerStatus};

/// What must be on disk before the node may vote again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// Who has the WAL.
    pub source: NodeId,
    /// The WAL is valid only while this is the source's last_log_term; otherwise plan anew.
    pub source_term: Term,
    /// New end of the log, at most the acknowledged one: what lies behind is to be zeroed.
    pub end: Lsn,
}

impl Repair {
    /// By the control file, the acknowledged end, and what the peers report; `None` while no peer has enough.
    pub fn plan(state: &AcceptorState, acknowledged: Lsn, others: &[PeerStatus]) -> Option<Self> {
        let members = others.iter().filter(|peer| state.membership.contains(peer.member));
        let ends = members.filter_map(|peer| Some((peer, restorable(state, acknowledged, peer)?)));
        let (peer, end) = ends.max_by_key(|(_, end)| *end)?;
        Some(Self { source: peer.member.node_id, source_term: peer.last_log_term(), end })
    }
}

fn restorable(state: &AcceptorState, acknowledged: Lsn, peer: &PeerStatus) -> Option<Lsn> {
    let same = state.history.common_end(acknowledged, &peer.history, peer.flush_lsn).ok()?;
    if same >= acknowledged {
        return Some(acknowledged);
    }
    let committed = peer.history.written_below(peer.commit_lsn);
    let cut = state.history.common_end(acknowledged, &committed, peer.commit_lsn).ok()?;
    (cut < peer.commit_lsn && cut < acknowledged && cut >= state.commit_lsn).then_some(cut)
}
