//! One event, the exact actions. Each test names what would be lost.

use bytes::Bytes;
use ogel_ids::{CandidateId, Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};
use quorum::*;

const ONE: ConnectionId = ConnectionId(1);
const TWO: ConnectionId = ConnectionId(2);
const START: Lsn = Lsn(1000);

fn member(n: u8) -> Member {
    Member { node_id: NodeId(n.into()), store_uuid: StoreUuid::from_bytes([n; 16]) }
}

fn candidate(n: u8) -> CandidateId {
    CandidateId::from_bytes([n; 16])
}

fn history(entries: &[(u64, u64)]) -> TermHistory {
    let entry = |&(term, start): &(u64, u64)| HistoryEntry { term: Term(term), start: Lsn(start) };
    TermHistory::from_entries(entries.iter().map(entry).collect()).expect("in order")
}

fn state(term: u64, entries: &[(u64, u64)], commit: u64) -> AcceptorState {
    let identity = TimelineIdentity {
        tenant: TenantId::from_bytes([1; 16]),
        timeline: TimelineId::from_bytes([2; 16]),
        system_identifier: 7,
        pg_version_num: 170_011,
        wal_segment_size_bytes: 16 << 20,
        start_lsn: START,
    };
    let membership = Membership::new(Generation(1), vec![member(1), member(2), member(3)], None).expect("valid");
    let fresh = AcceptorState::new(identity, membership);
    AcceptorState { term: Term(term), history: history(entries), commit_lsn: Lsn(commit), ..fresh }
}

/// Node 1 with this log, greeted by connections 1 and 2.
fn acceptor(term: u64, entries: &[(u64, u64)], flush: u64, commit: u64) -> Acceptor {
    let mut acceptor = Acceptor::restore(member(1), state(term, entries, commit), Lsn(flush)).expect("sound");
    for connection in [ONE, TWO] {
        greet(&mut acceptor, connection);
    }
    acceptor
}

fn greet(acceptor: &mut Acceptor, connection: ConnectionId) {
    let greeting = ProposerGreeting {
        tenant: TenantId::from_bytes([1; 16]),
        timeline: TimelineId::from_bytes([2; 16]),
        system_identifier: 0,
        pg_major_version: 17,
        wal_segment_size_bytes: 0,
    };
    say(acceptor, connection, ProposerMessage::Greeting(greeting));
}

fn say(acceptor: &mut Acceptor, connection: ConnectionId, message: ProposerMessage) -> Vec<AcceptorAction> {
    acceptor.handle(AcceptorEvent::Message { connection, message })
}

fn ask_vote(acceptor: &mut Acceptor, connection: ConnectionId, term: u64, by: u8) -> Vec<AcceptorAction> {
    let request = VoteRequest { generation: Generation(1), term: Term(term), candidate: candidate(by) };
    say(acceptor, connection, ProposerMessage::VoteRequest(request))
}

fn elect(acceptor: &mut Acceptor, term: u64, cut: u64, entries: &[(u64, u64)]) -> Vec<AcceptorAction> {
    let elected = Elected {
        generation: Generation(1),
        term: Term(term),
        candidate: candidate(1),
        truncate_at: Lsn(cut),
        history: history(entries),
    };
    say(acceptor, ONE, ProposerMessage::Elected(elected))
}

fn append(acceptor: &mut Acceptor, term: u64, begin: u64, wal: &'static [u8], commit: u64) -> Vec<AcceptorAction> {
    let append = Append {
        generation: Generation(1),
        term: Term(term),
        begin: Lsn(begin),
        commit_lsn: Lsn(commit),
        truncate_lsn: Lsn(0),
        wal: Bytes::from_static(wal),
    };
    say(acceptor, ONE, ProposerMessage::Append(append))
}

fn token(term: u64, truncations: u64) -> Token {
    Token { term: Term(term), truncations }
}

fn answer(term: u64, log_term: u64, flush: u64, settled: u64, commit: u64) -> AcceptorAction {
    let answer = AppendAnswer {
        generation: Generation(1),
        term: Term(term),
        last_log_term: Term(log_term),
        flush_lsn: Lsn(flush),
        settled_lsn: Lsn(settled),
        commit_lsn: Lsn(commit),
        pageserver: PageserverFeedback::default(),
    };
    AcceptorAction::Reply { connection: ONE, message: AcceptorMessage::AppendAnswer(answer) }
}

fn granted(actions: &[AcceptorAction]) -> Vec<(ConnectionId, bool)> {
    let vote = |action: &AcceptorAction| match action {
        AcceptorAction::Reply { connection, message: AcceptorMessage::Vote(vote) } => Some((*connection, vote.granted)),
        _ => None,
    };
    actions.iter().filter_map(vote).collect()
}

/// Elected in term 2 at 1,100, with a zeroed tail.
fn follower() -> Acceptor {
    let mut acceptor = acceptor(1, &[(0, 1000), (1, 1000)], 1100, 1000);
    elect(&mut acceptor, 2, 1100, &[(0, 1000), (1, 1000), (2, 1100)]);
    acceptor.handle(AcceptorEvent::TailZeroed { token: token(2, 1) });
    acceptor.handle(AcceptorEvent::StatePersisted { version: 1 });
    assert!(acceptor.proposer_connected());
    acceptor
}

fn peer(n: u8, term: u64, entries: &[(u64, u64)], flush: u64, commit: u64) -> AcceptorEvent {
    AcceptorEvent::PeerStatus(PeerStatus {
        member: member(n),
        generation: Generation(1),
        term: Term(term),
        history: history(entries),
        flush_lsn: Lsn(flush),
        commit_lsn: Lsn(commit),
        backup_lsn: Lsn(0),
        remote_consistent_lsn: Lsn(0),
    })
}

#[test]
fn a_vote_is_durable_before_it_is_spoken_and_can_be_repeated() {
    let mut acceptor = acceptor(1, &[(0, 1000)], 1000, 1000);
    let actions = ask_vote(&mut acceptor, ONE, 2, 1);
    let AcceptorAction::PersistState { version, state } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((state.term, state.voted_for), (Term(2), Some(candidate(1))));
    assert_eq!(actions.len(), 1, "nothing is said before the disk has it");
    assert_eq!(granted(&ask_vote(&mut acceptor, TWO, 2, 2)), [], "a refusal speaks of the term too");
    let replies = acceptor.handle(AcceptorEvent::StatePersisted { version: *version });
    assert_eq!(granted(&replies), [(ONE, true), (TWO, false)]);
    assert_eq!(granted(&ask_vote(&mut acceptor, TWO, 2, 1)), [(TWO, true)], "a lost reply costs nothing");
    assert_eq!(granted(&ask_vote(&mut acceptor, ONE, 1, 1)), [(ONE, false)]);
}

#[test]
fn elected_zeroes_then_persists_then_answers() {
    let mut acceptor = acceptor(4, &[(0, 1000), (3, 1050), (4, 1100)], 1200, 1050);
    let new = [(0, 1000), (3, 1050), (5, 1100)];
    let actions = elect(&mut acceptor, 5, 1100, &new);
    assert_eq!(actions[0], AcceptorAction::TruncateZero { token: token(5, 1), at: Lsn(1100) });
    assert_eq!(actions[1..], [AcceptorAction::StatusChanged], "no control file and no answer before the zeros (H2)");
    let actions = acceptor.handle(AcceptorEvent::TailZeroed { token: token(5, 1) });
    let [AcceptorAction::PersistState { version, state }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((state.term, &state.history), (Term(5), &history(&new)), "one write");
    let actions = acceptor.handle(AcceptorEvent::StatePersisted { version: *version });
    assert_eq!(actions, [answer(5, 5, 1100, 1100, 1050), AcceptorAction::StatusChanged]);
}

#[test]
fn committed_wal_is_never_cut() {
    let mut acceptor = acceptor(4, &[(0, 1000), (4, 1050)], 1200, 1150);
    let actions = elect(&mut acceptor, 5, 1050, &[(0, 1000), (5, 1050)]);
    let [AcceptorAction::Reply { message: AcceptorMessage::Refused(refused), .. }, AcceptorAction::Close { .. }] =
        &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(refused.code, RefusalCode::ProtocolError);
    assert_eq!((acceptor.flush_lsn(), acceptor.state().term), (Lsn(1200), Term(4)), "nothing was changed");
}

#[test]
fn one_sync_acknowledges_what_was_written_before_it_began() {
    let mut acceptor = follower();
    let t = token(2, 1);
    let wal = Bytes::from_static(&[1; 8]);
    assert_eq!(
        append(&mut acceptor, 2, 1100, &[1; 8], 1000),
        [AcceptorAction::WriteWal { token: t, at: Lsn(1100), wal }]
    );
    let written = |end, record_end| AcceptorEvent::WalWritten { token: t, end: Lsn(end), record_end: Lsn(record_end) };
    assert_eq!(acceptor.handle(written(1108, 1108)), [AcceptorAction::Flush { token: t }]);
    for begin in [1108, 1116] {
        append(&mut acceptor, 2, begin, &[2; 8], 1000);
        assert_eq!(acceptor.handle(written(begin + 8, begin + 8)), [], "the sync under way is not disturbed");
    }
    let flushed = AcceptorEvent::Flushed { token: t };
    assert_eq!(
        acceptor.handle(flushed.clone()),
        [AcceptorAction::Flush { token: t }, answer(2, 2, 1108, 1108, 1000), AcceptorAction::StatusChanged]
    );
    assert_eq!(acceptor.handle(flushed), [answer(2, 2, 1124, 1124, 1000), AcceptorAction::StatusChanged]);
}

#[test]
fn half_a_record_is_taken_but_not_acknowledged() {
    let mut acceptor = follower();
    append(&mut acceptor, 2, 1100, &[1; 5], 1000);
    let written = AcceptorEvent::WalWritten { token: token(2, 1), end: Lsn(1105), record_end: Lsn(1100) };
    assert_eq!(acceptor.handle(written), [answer(2, 2, 1100, 1105, 1000)]);
}

#[test]
fn completions_from_before_a_cut_are_dropped() {
    let mut acceptor = follower();
    let old = token(2, 1);
    append(&mut acceptor, 2, 1100, &[1; 8], 1000);
    acceptor.handle(AcceptorEvent::WalWritten { token: old, end: Lsn(1108), record_end: Lsn(1108) });
    elect(&mut acceptor, 3, 1100, &[(0, 1000), (1, 1000), (3, 1100)]);
    assert_eq!(acceptor.handle(AcceptorEvent::Flushed { token: old }), []);
    assert_eq!(acceptor.flush_lsn(), Lsn(1100), "bytes that are being cut must not be acknowledged (H3)");
}

#[test]
fn gaps_and_wal_of_the_wrong_connection_close_it() {
    let mut acceptor = follower();
    for (begin, wal) in [(1108, &[1_u8; 8][..]), (1092, &[1; 8]), (1108, &[])] {
        let actions = append(&mut acceptor, 2, begin, wal, 1000);
        assert!(matches!(actions[..], [AcceptorAction::Close { connection: ONE, .. }]), "{begin}: {actions:?}");
        acceptor = follower();
    }
    let old = append(&mut acceptor, 1, 1100, &[1; 8], 1000);
    assert_eq!(old, [answer(2, 2, 1100, 1100, 1000)], "a proposer of an old term learns that it is over");
}

#[test]
fn a_higher_vote_tells_the_deposed_proposer() {
    let mut acceptor = follower();
    ask_vote(&mut acceptor, TWO, 3, 9);
    let actions = acceptor.handle(AcceptorEvent::StatePersisted { version: 2 });
    assert_eq!(actions[0], answer(3, 2, 1100, 1100, 1000));
    assert_eq!(granted(&actions), [(TWO, true)]);
    assert!(!acceptor.proposer_connected());
}

#[test]
fn a_peers_commit_counts_only_for_the_same_last_log_term() {
    let log = [(0, 1000), (1, 1000), (2, 1100)];
    let mut diverged = acceptor(2, &log, 1200, 1000);
    diverged.handle(peer(2, 3, &[(0, 1000), (1, 1000), (3, 1100)], 1300, 1150));
    assert_eq!(diverged.commit_lsn(), Lsn(1000), "its bytes at 1100..1150 are others (H3)");
    let mut same = acceptor(2, &log, 1200, 1000);
    let actions = same.handle(peer(2, 2, &log, 1300, 1150));
    assert_eq!(actions[0], AcceptorAction::CommitAdvanced { commit_lsn: Lsn(1150) });
}

#[test]
fn a_quorum_of_one_term_commits_without_the_proposer() {
    let log = [(0, 1000), (2, 1100)];
    let mut short = acceptor(2, &[(0, 1000)], 1090, 1000);
    short.handle(peer(2, 2, &[(0, 1000)], 1090, 1000));
    assert_eq!(short.commit_lsn(), Lsn(1000), "copies of an older term's log are not committed by counting");
    let mut acceptor = acceptor(2, &log, 1200, 1000);
    acceptor.handle(peer(2, 2, &log, 1150, 1000));
    assert_eq!(acceptor.commit_lsn(), Lsn(1150));
}

#[test]
fn a_laggard_fetches_up_to_the_terms_start_from_a_peer_of_that_term() {
    let mut acceptor = acceptor(1, &[(0, 1000), (1, 1000)], 1040, 1000);
    let log = [(0, 1000), (1, 1000), (2, 1100)];
    elect(&mut acceptor, 2, 1040, &log);
    acceptor.handle(AcceptorEvent::TailZeroed { token: token(2, 1) });
    let actions = acceptor.handle(AcceptorEvent::StatePersisted { version: 1 });
    assert_eq!(actions[0], answer(2, 1, 1040, 1040, 1000), "it does not count before it has the term's start");
    assert_eq!(
        acceptor.handle(peer(2, 2, &[(0, 1000), (1, 1000)], 1060, 1000)),
        [],
        "that peer's tail may be another's"
    );
    let fetch = FetchId(1);
    assert_eq!(
        acceptor.handle(peer(3, 2, &log, 1180, 1000)),
        [AcceptorAction::FetchFromPeer { fetch, peer: NodeId(3), peer_term: Term(2), from: Lsn(1040), to: Lsn(1100) }]
    );
    let event = |fetch| AcceptorEvent::PeerWal { fetch, begin: Lsn(1040), wal: Bytes::from_static(&[3; 100]) };
    assert_eq!(acceptor.handle(event(FetchId(9))), [], "a fetch for another log");
    let wal = Bytes::from_static(&[3; 60]);
    assert_eq!(
        acceptor.handle(event(fetch)),
        [AcceptorAction::WriteWal { token: token(2, 1), at: Lsn(1040), wal }],
        "not a byte behind the start"
    );
}

#[test]
fn divergent_wal_is_cut_before_a_peers_committed_wal_is_taken() {
    let mut acceptor = acceptor(2, &[(0, 1000), (2, 1100)], 1200, 1000);
    let committed = [(0, 1000), (3, 1100)];
    let actions = acceptor.handle(peer(2, 3, &committed, 1300, 1250));
    assert_eq!(actions[0], AcceptorAction::TruncateZero { token: token(3, 1), at: Lsn(1100) });
    let actions = acceptor.handle(AcceptorEvent::TailZeroed { token: token(3, 1) });
    let [AcceptorAction::PersistState { version, state }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((state.term, &state.history), (Term(3), &history(&committed)));
    let actions = acceptor.handle(AcceptorEvent::StatePersisted { version: *version });
    let fetches = |action: &AcceptorAction| {
        matches!(action, AcceptorAction::FetchFromPeer { from: Lsn(1100), to: Lsn(1250), .. })
    };
    assert!(actions.iter().any(fetches), "{actions:?}");
}

/// Found by the simulator: a term that has written nothing below the commit is not part of what is committed.
#[test]
fn an_empty_term_of_a_peer_does_not_enter_the_history() {
    let mut acceptor = acceptor(3, &[(0, 1000), (3, 1100)], 1050, 1000);
    acceptor.handle(peer(2, 2, &[(0, 1000), (2, 1100)], 1100, 1100));
    acceptor.handle(AcceptorEvent::TailZeroed { token: token(3, 1) });
    assert_eq!(acceptor.state().history, history(&[(0, 1000), (3, 1100)]));
}

/// Found by the simulator: a term that this node accepted, but that was never committed, must not claim another term's WAL.
#[test]
fn an_own_term_below_a_peers_commit_leaves_the_history() {
    let mut acceptor = acceptor(3, &[(0, 1000), (2, 1050), (3, 1100)], 1100, 1000);
    acceptor.handle(peer(2, 4, &[(0, 1000), (2, 1050)], 1200, 1200));
    acceptor.handle(AcceptorEvent::TailZeroed { token: token(3, 1) });
    assert_eq!(acceptor.state().history, history(&[(0, 1000), (2, 1050)]));
}

#[test]
fn a_node_that_lost_its_store_neither_votes_nor_counts() {
    let stranger = Member { store_uuid: StoreUuid::from_bytes([99; 16]), ..member(1) };
    let mut acceptor = Acceptor::restore(stranger, state(0, &[(0, 1000)], 1000), START).expect("sound");
    let greeting = ProposerGreeting {
        tenant: TenantId::from_bytes([1; 16]),
        timeline: TimelineId::from_bytes([2; 16]),
        system_identifier: 0,
        pg_major_version: 17,
        wal_segment_size_bytes: 0,
    };
    let actions = say(&mut acceptor, ONE, ProposerMessage::Greeting(greeting));
    let AcceptorAction::Reply { message: AcceptorMessage::Refused(refused), .. } = &actions[0] else {
        panic!("{actions:?}")
    };
    assert_eq!(refused.code, RefusalCode::NotAMember);
}

#[test]
fn missing_committed_wal_stops_the_timeline() {
    let error = Acceptor::restore(member(1), state(2, &[(0, 1000)], 1200), Lsn(1100)).err();
    assert_eq!(error, Some(RestoreError::Damaged { flush_lsn: Lsn(1100), commit_lsn: Lsn(1200) }));
}

/// H5: what a quorum may have acknowledged stays, even if everything that this node knows to be committed is in the object store.
#[test]
fn local_wal_is_dropped_only_when_the_archived_tail_is_all_of_it() {
    let tail = |term, end| ArchivedTail { term: Term(term), end: Lsn(end), crc32c: 0 };
    let resting = |commit| {
        let state = state(1, &[(0, 1000), (1, 1000)], commit);
        Acceptor::restore(member(1), state, Lsn(1100)).expect("sound")
    };
    let mut behind = resting(1050);
    behind.handle(AcceptorEvent::Checkpoint); // whatever is said after a start
    assert_eq!(behind.handle(AcceptorEvent::TailArchived(tail(1, 1050))), []);
    assert_eq!(behind.handle(AcceptorEvent::TailArchived(tail(1, 1100))), [], "not known to be committed");
    let mut idle = resting(1100);
    idle.handle(AcceptorEvent::Checkpoint);
    assert_eq!(idle.handle(AcceptorEvent::TailArchived(tail(0, 1100))), [], "another term's object");
    let actions = idle.handle(AcceptorEvent::TailArchived(tail(1, 1100)));
    let [AcceptorAction::PersistState { state, .. }, AcceptorAction::DropWal(_)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(state.archived_tail, Some(tail(1, 1100)), "a restart knows where the WAL is");
    idle.handle(AcceptorEvent::StatePersisted { version: 1 });
    greet(&mut idle, ONE);
    // What comes next brings it back first, and says so in the write that installs the new term.
    let actions = elect(&mut idle, 2, 1100, &[(0, 1000), (1, 1000), (2, 1100)]);
    assert!(actions.iter().any(|action| matches!(action, AcceptorAction::TruncateZero { .. })), "{actions:?}");
    let actions = idle.handle(AcceptorEvent::TailZeroed { token: token(2, 1) });
    let [AcceptorAction::PersistState { state, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(state.archived_tail, None);
}
