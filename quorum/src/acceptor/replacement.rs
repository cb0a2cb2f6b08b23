//! Replacing a member whose store is lost (H4), without two quorums that miss each other.
//!
//! Generation g + 1 names one new member instead of one old one. A survivor that has adopted it refuses generation g, so an
//! old quorum of the replaced member and a survivor exists only until that survivor adopts. The new member takes part only
//! after **every** survivor has adopted g + 1 durably ([`Join::plan`]): from then on no old quorum is left, and what old ones
//! had acknowledged is with a survivor, of which the new member takes the longest log of the newest term first.
//!
//! One generation must mean one membership: whoever makes it (an operator's command) makes it once and repeats it unchanged.
//! `Join::plan` refuses survivors that adopted something else.

use ogel_ids::{Generation, Lsn, NodeId, Term};

use super::{Acceptor, AcceptorAction, AcceptorState, ConnectionId, PeerStatus, TimelineIdentity};
use crate::{Member, Membership};

/// A membership that cannot follow the acceptor's own. Nothing was changed; none of these is worth repeating.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// Not the next generation.
    #[error("membership generation {theirs} cannot follow {ours}: generations are adopted one after the other")]
    Generation {
        /// The acceptor's.
        ours: Generation,
        /// The one offered.
        theirs: Generation,
    },
    /// The same generation with other members.
    #[error("membership generation {0} has other members here: it was made twice; ask every node which one it has")]
    MadeTwice(Generation),
    /// More or less than one member would be replaced.
    #[error(
        "a membership must replace exactly one member of the one before, or quorums of the two could miss each other"
    )]
    NotOneReplaced,
}

/// A new member cannot take part yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The membership does not name this node and store.
    #[error("the membership does not name node {0} with its present store")]
    NotNamed(NodeId),
    /// Ask again when it has.
    #[error("node {0} has not adopted the membership durably yet: offer it there, then try again")]
    NotAdopted(NodeId),
}

/// What a new member must have on disk before it takes part for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Who has the WAL.
    pub source: NodeId,
    /// The WAL is valid only while this is the source's last_log_term; otherwise plan anew.
    pub source_term: Term,
    /// WAL is to be copied and synced up to here.
    pub flush_lsn: Lsn,
    /// The control file, to be written after that.
    pub state: AcceptorState,
}

impl Join {
    /// What `me` needs in order to join `membership`, by what the others report (status and membership of each).
    pub fn plan(
        me: Member,
        membership: &Membership,
        identity: TimelineIdentity,
        others: &[(PeerStatus, Membership)],
    ) -> Result<Self, JoinError> {
        if !membership.contains(me) {
            return Err(JoinError::NotNamed(me.node_id));
        }
        let mut survivors = Vec::new();
        for member in membership.all().filter(|&member| member != me) {
            let adopted = |(status, theirs): &&(PeerStatus, Membership)| {
                status.member == member && status.generation == membership.generation() && theirs == membership
            };
            let (status, _) = others.iter().find(adopted).ok_or(JoinError::NotAdopted(member.node_id))?;
            survivors.push(status);
        }
        let term = survivors.iter().map(|status| status.term).max().unwrap_or_default();
        let source = survivors.into_iter().max_by_key(|status| (status.last_log_term(), status.flush_lsn));
        let source = source.ok_or(JoinError::NotNamed(me.node_id))?;
        let mut state = AcceptorState::new(identity, membership.clone());
        (state.term, state.history, state.commit_lsn) = (term, source.history.clone(), source.commit_lsn);
        // What the source needs no local WAL for, the new member does not need either.
        state.backup_lsn = state.backup_lsn.max(source.backup_lsn.min(source.commit_lsn));
        state.remote_consistent_lsn =
            state.remote_consistent_lsn.max(source.remote_consistent_lsn.min(source.commit_lsn));
        let source_term = source.last_log_term();
        Ok(Self { source: source.member.node_id, source_term, flush_lsn: source.flush_lsn, state })
    }
}

impl Acceptor {
    /// Adopts the next membership. It is in force at once, and durable before anybody hears of it; proposers must greet again
    /// to learn it. Offering the present one again changes nothing.
    pub fn adopt(&mut self, membership: Membership) -> Result<Vec<AcceptorAction>, AdoptError> {
        let ours = &self.state.membership;
        let (generation, theirs) = (ours.generation(), membership.generation());
        if theirs == generation {
            return if *ours == membership { Ok(Vec::new()) } else { Err(AdoptError::MadeTwice(theirs)) };
        }
        if generation.0.checked_add(1) != Some(theirs.0) {
            return Err(AdoptError::Generation { ours: generation, theirs });
        }
        let kept = ours.members().iter().filter(|member| membership.members().contains(member)).count();
        let joint = ours.new_members().is_some() || membership.new_members().is_some();
        if joint || membership.members().len() != ours.members().len() || kept + 1 != ours.members().len() {
            return Err(AdoptError::NotOneReplaced);
        }
        self.state.membership = membership;
        self.peers.retain(|_, peer| self.state.membership.contains(peer.member));
        let greeted: Vec<ConnectionId> = self.greeted.iter().copied().collect();
        for connection in greeted {
            self.close(connection, format!("membership generation {theirs} is in force: greet again to learn it"));
        }
        self.persist();
        Ok(std::mem::take(&mut self.out))
    }
}
