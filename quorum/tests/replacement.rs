//! Replacing a lost member: each test names the two quorums that would miss each other, or the WAL that would be lost.

use ogel_ids::{Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};
use quorum::*;

const IDENTITY: TimelineIdentity = TimelineIdentity {
    tenant: TenantId::from_bytes([1; 16]),
    timeline: TimelineId::from_bytes([2; 16]),
    system_identifier: 7,
    pg_version_num: 170_011,
    wal_segment_size_bytes: 16 << 20,
    start_lsn: Lsn(1000),
};

fn member(node: u64, store: u8) -> Member {
    Member { node_id: NodeId(node), store_uuid: StoreUuid::from_bytes([store; 16]) }
}

fn membership(generation: u32, stores: [u8; 3]) -> Membership {
    let members = (1..).zip(stores).map(|(node, store)| member(node, store)).collect();
    Membership::new(Generation(generation), members, None).expect("three different nodes")
}

/// Node 1 or 2 of the first membership, with a log of term 3 or 4 up to `flush`.
fn survivor(node: u64, term: u64, flush: u64) -> Acceptor {
    let mut state = AcceptorState::new(IDENTITY, membership(1, [1, 2, 3]));
    state.term = Term(term);
    state.history = state.history.continued(Term(term), Lsn(1000)).expect("in order");
    Acceptor::restore(member(node, node as u8), state, Lsn(flush)).expect("sound")
}

fn adopt_durably(acceptor: &mut Acceptor, next: &Membership) {
    let actions = acceptor.adopt(next.clone()).expect("it follows");
    let version = actions.iter().find_map(|action| match action {
        AcceptorAction::PersistState { version, .. } => Some(*version),
        _ => None,
    });
    acceptor.handle(AcceptorEvent::StatePersisted { version: version.expect("it is persisted") });
}

fn report(acceptor: &Acceptor) -> (PeerStatus, Membership) {
    (acceptor.status(), acceptor.state().membership.clone())
}

#[test]
fn only_the_next_generation_with_one_member_replaced_is_adopted() {
    let mut node = survivor(1, 3, 2000);
    let before = node.state().clone();
    let refused = |node: &mut Acceptor, next| node.adopt(next).expect_err("quorums could miss each other");
    assert_eq!(refused(&mut node, membership(2, [1, 8, 9])), AdoptError::NotOneReplaced);
    assert_eq!(refused(&mut node, membership(2, [1, 2, 3])), AdoptError::NotOneReplaced);
    assert!(matches!(refused(&mut node, membership(3, [1, 2, 9])), AdoptError::Generation { .. }));
    assert_eq!(refused(&mut node, membership(1, [1, 2, 9])), AdoptError::MadeTwice(Generation(1)));
    assert_eq!(*node.state(), before, "a refusal changes nothing");
    adopt_durably(&mut node, &membership(2, [1, 2, 9]));
    assert_eq!(node.adopt(membership(2, [1, 2, 9])), Ok(Vec::new()), "repeating it is harmless");
    assert_eq!(refused(&mut node, membership(2, [1, 9, 3])), AdoptError::MadeTwice(Generation(2)));
}

#[test]
fn a_generation_is_spoken_of_only_once_it_is_durable() {
    let mut node = survivor(1, 3, 2000);
    let actions = node.adopt(membership(2, [1, 2, 9])).expect("it follows");
    assert!(matches!(actions[..], [AcceptorAction::PersistState { version: 1, .. }]));
    assert_eq!(node.status().generation, Generation(1), "a crash may still take it back");
    let actions = node.handle(AcceptorEvent::StatePersisted { version: 1 });
    assert!(actions.contains(&AcceptorAction::StatusChanged));
    assert_eq!(node.status().generation, Generation(2));
}

#[test]
fn a_new_member_joins_after_all_others_with_the_best_log() {
    let next = membership(2, [1, 2, 9]);
    let (mut first, mut second) = (survivor(1, 4, 1500), survivor(2, 3, 2000));
    let plan = |first: &Acceptor, second: &Acceptor| {
        Join::plan(member(3, 9), &next, IDENTITY, &[report(first), report(second)])
    };
    adopt_durably(&mut first, &next);
    assert_eq!(plan(&first, &second), Err(JoinError::NotAdopted(NodeId(2))), "2 and the old 3 are still a quorum");
    adopt_durably(&mut second, &next);
    let join = plan(&first, &second).expect("all have adopted");
    assert_eq!((join.source, join.source_term, join.flush_lsn), (NodeId(1), Term(4), Lsn(1500)));
    assert_eq!((join.state.term, join.state.history.last().term), (Term(4), Term(4)));
    assert_eq!(
        Join::plan(member(3, 3), &next, IDENTITY, &[report(&first), report(&second)]),
        Err(JoinError::NotNamed(NodeId(3))),
        "the lost store is no member any more"
    );
    let mut conflicting = survivor(2, 3, 2000);
    adopt_durably(&mut conflicting, &membership(2, [8, 2, 3]));
    assert_eq!(plan(&first, &conflicting), Err(JoinError::NotAdopted(NodeId(2))), "one generation, two memberships");
}
