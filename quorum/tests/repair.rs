//! Repairing rotten WAL: each case names what would be lost, or come back, if it were decided otherwise.

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

fn member(node: u64) -> Member {
    Member { node_id: NodeId(node), store_uuid: StoreUuid::from_bytes([node as u8; 16]) }
}

fn history(terms: &[(u64, u64)]) -> TermHistory {
    let entries =
        [(0, 1000)].iter().chain(terms).map(|&(term, start)| HistoryEntry { term: Term(term), start: Lsn(start) });
    TermHistory::from_entries(entries.collect()).expect("in order")
}

fn damaged(terms: &[(u64, u64)], commit: u64) -> AcceptorState {
    let membership = Membership::new(Generation(1), (1..=3).map(member).collect(), None).expect("three nodes");
    let mut state = AcceptorState::new(IDENTITY, membership);
    (state.history, state.commit_lsn) = (history(terms), Lsn(commit));
    state.term = state.history.last().term;
    state
}

fn peer(node: u64, terms: &[(u64, u64)], flush: u64, commit: u64) -> PeerStatus {
    PeerStatus {
        member: member(node),
        generation: Generation(1),
        term: history(terms).last().term,
        history: history(terms),
        flush_lsn: Lsn(flush),
        commit_lsn: Lsn(commit),
        backup_lsn: Lsn(1000),
        remote_consistent_lsn: Lsn(1000),
    }
}

fn plan(state: &AcceptorState, acknowledged: u64, others: &[PeerStatus]) -> Option<(u64, u64)> {
    Repair::plan(state, Lsn(acknowledged), others).map(|repair| (repair.source.0, repair.end.0))
}

#[test]
fn the_same_log_is_restored_whole() {
    let state = damaged(&[(3, 1000)], 1500);
    assert_eq!(plan(&state, 2000, &[peer(2, &[(3, 1000)], 2000, 1500)]), Some((2, 2000)));
    assert_eq!(plan(&state, 2000, &[peer(2, &[(3, 1000)], 2500, 2400)]), Some((2, 2000)));
    let newer = peer(2, &[(3, 1000), (5, 2100)], 2500, 2400);
    assert_eq!(plan(&state, 2000, &[newer]), Some((2, 2000)), "a later term went on from this log");
}

#[test]
fn a_shorter_copy_is_not_enough() {
    let state = damaged(&[(3, 1000)], 1500);
    // 1900..2000 may be committed by this node and the third: it must not forget that it has acknowledged it.
    assert_eq!(plan(&state, 2000, &[peer(2, &[(3, 1000)], 1900, 1900)]), None);
    let both = [peer(2, &[(3, 1000)], 1900, 1900), peer(3, &[(3, 1000)], 2000, 1900)];
    assert_eq!(plan(&state, 2000, &both), Some((3, 2000)));
}

#[test]
fn what_a_later_term_has_replaced_is_given_up_only_once_that_is_committed() {
    let state = damaged(&[(3, 1000)], 1500);
    let elected = peer(2, &[(3, 1000), (5, 1800)], 1900, 1800);
    assert_eq!(plan(&state, 2000, &[elected]), None, "term 5 may come to nothing, and this log be committed yet");
    let committed = peer(2, &[(3, 1000), (5, 1800)], 1900, 1850);
    assert_eq!(plan(&state, 2000, &[committed]), Some((2, 1800)));
}

#[test]
fn strangers_and_contradictions_are_not_sources() {
    let state = damaged(&[(3, 1000)], 1500);
    assert_eq!(plan(&state, 2000, &[peer(9, &[(3, 1000)], 2000, 2000)]), None, "not a member");
    assert_eq!(plan(&state, 2000, &[peer(2, &[(3, 1100)], 2000, 2000)]), None, "another log of the same term");
    assert_eq!(plan(&state, 2000, &[peer(2, &[(5, 1200)], 2000, 1900)]), None, "committed WAL here would be cut");
}
