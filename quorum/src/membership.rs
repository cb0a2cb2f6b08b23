//! Who forms the quorum of a timeline.

use ogel_ids::{Generation, Lsn, NodeId, StoreUuid};

/// Bound on the members of one set.
pub const MAX_MEMBERS: usize = 16;

/// A node with the store it had when it was named. A lost store is a new member (H4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// Configured number.
    pub node_id: NodeId,
    /// Identity of its store.
    pub store_uuid: StoreUuid,
}

/// A configuration: majorities of `members`, and of `new_members` too while two sets are joint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    generation: Generation,
    members: Vec<Member>,
    new_members: Option<Vec<Member>>,
}

/// Members that cannot form a quorum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// A set without members has no majority.
    #[error("a set of members is empty")]
    Empty,
    /// More than [`MAX_MEMBERS`].
    #[error("a set of members has more than {MAX_MEMBERS} entries")]
    TooMany,
    /// One node would be counted twice.
    #[error("node {0} is named twice in one set of members")]
    Twice(NodeId),
}

impl Membership {
    /// Checks and makes a configuration.
    pub fn new(
        generation: Generation,
        members: Vec<Member>,
        new_members: Option<Vec<Member>>,
    ) -> Result<Self, MembershipError> {
        for set in std::iter::once(&members).chain(&new_members) {
            if set.is_empty() {
                return Err(MembershipError::Empty);
            }
            if set.len() > MAX_MEMBERS {
                return Err(MembershipError::TooMany);
            }
            if let Some((_, twice)) =
                set.iter().enumerate().find(|(i, member)| set[..*i].iter().any(|m| m.node_id == member.node_id))
            {
                return Err(MembershipError::Twice(twice.node_id));
            }
        }
        Ok(Self { generation, members, new_members })
    }

    /// Grows with every change.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The (old) set.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The second set while two are joint.
    pub fn new_members(&self) -> Option<&[Member]> {
        self.new_members.as_deref()
    }

    /// Every member of either set, each once.
    pub fn all(&self) -> impl Iterator<Item = Member> + '_ {
        let added = self.new_members.iter().flatten().filter(|member| !self.members.contains(member));
        self.members.iter().chain(added).copied()
    }

    /// Whether this node with this store is a member.
    pub fn contains(&self, member: Member) -> bool {
        self.all().any(|m| m == member)
    }

    /// Whether the members for which `has` holds form a majority of each set.
    pub fn is_quorum(&self, has: impl Fn(Member) -> bool) -> bool {
        self.quorum_lsn(|member| if has(member) { Lsn(1) } else { Lsn(0) }) == Lsn(1)
    }

    /// Highest LSN that a majority of each set has reached; `of` is 0 for a member that does not count.
    pub fn quorum_lsn(&self, of: impl Fn(Member) -> Lsn) -> Lsn {
        let majority = |set: &Vec<Member>| {
            let mut lsns: Vec<Lsn> = set.iter().map(|&member| of(member)).collect();
            lsns.sort_unstable_by(|a, b| b.cmp(a));
            lsns[lsns.len() / 2]
        };
        let old = majority(&self.members);
        self.new_members.as_ref().map_or(old, |set| old.min(majority(set)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u64) -> Member {
        Member { node_id: NodeId(n), store_uuid: StoreUuid::from_bytes([n as u8; 16]) }
    }

    fn set(nodes: &[u64]) -> Vec<Member> {
        nodes.iter().map(|&n| member(n)).collect()
    }

    #[test]
    fn a_quorum_is_a_majority_of_every_set() {
        let three = Membership::new(Generation(1), set(&[1, 2, 3]), None).expect("valid");
        assert!(three.is_quorum(|m| m.node_id.0 != 2));
        assert!(!three.is_quorum(|m| m.node_id.0 == 2));
        let two = Membership::new(Generation(1), set(&[1, 2]), None).expect("valid");
        assert!(!two.is_quorum(|m| m.node_id.0 == 1), "half is not a majority");
        let joint = Membership::new(Generation(2), set(&[1, 2, 3]), Some(set(&[1, 4, 5]))).expect("valid");
        assert!(!joint.is_quorum(|m| m.node_id.0 <= 3), "the new set has no majority");
        assert!(joint.is_quorum(|m| [1, 2, 4].contains(&m.node_id.0)));
    }

    #[test]
    fn quorum_lsn_is_the_majoritys() {
        let three = Membership::new(Generation(1), set(&[1, 2, 3]), None).expect("valid");
        assert_eq!(three.quorum_lsn(|m| Lsn(m.node_id.0 * 10)), Lsn(20));
        let joint = Membership::new(Generation(2), set(&[1, 2, 3]), Some(set(&[1]))).expect("valid");
        assert_eq!(joint.quorum_lsn(|m| Lsn(m.node_id.0 * 10)), Lsn(10));
    }

    #[test]
    fn a_replaced_store_is_no_member() {
        let three = Membership::new(Generation(1), set(&[1, 2, 3]), None).expect("valid");
        assert!(!three.contains(Member { store_uuid: StoreUuid::from_bytes([9; 16]), ..member(1) }));
    }

    #[test]
    fn unusable_sets_are_errors() {
        assert_eq!(Membership::new(Generation(1), vec![], None), Err(MembershipError::Empty));
        assert_eq!(Membership::new(Generation(1), set(&[1, 1]), None), Err(MembershipError::Twice(NodeId(1))));
    }
}
