//! One event, the exact actions. Each test names what would be lost.

use bytes::Bytes;
use ogel_ids::{CandidateId, Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};
use quorum::*;

const X: Lsn = Lsn(1100);

fn member(n: u64) -> Member {
    Member { node_id: NodeId(n), store_uuid: StoreUuid::from_bytes([n as u8; 16]) }
}

fn candidate(n: u8) -> CandidateId {
    CandidateId::from_bytes([n; 16])
}

fn log() -> TermHistory {
    TermHistory::new(Term(0), Lsn(1000))
}

fn config() -> ProposerConfig {
    let ids = (TenantId::from_bytes([1; 16]), TimelineId::from_bytes([2; 16]));
    ProposerConfig { window_bytes: 100, in_flight_bytes: 60, ..ProposerConfig::new(ids.0, ids.1) }
}

fn greeting(n: u64, term: u64) -> AcceptorGreeting {
    AcceptorGreeting {
        node_id: NodeId(n),
        store_uuid: member(n).store_uuid,
        term: Term(term),
        system_identifier: 7,
        pg_version_num: 170_011,
        wal_segment_size_bytes: 16 << 20,
        timeline_start_lsn: Lsn(1000),
        membership: Membership::new(Generation(1), vec![member(1), member(2), member(3)], None).expect("valid"),
    }
}

fn greet(proposer: &mut Proposer, n: u64, term: u64) -> Vec<ProposerAction> {
    proposer.handle(ProposerEvent::Connected(NodeId(n)));
    proposer.handle(ProposerEvent::Message(NodeId(n), AcceptorMessage::Greeting(greeting(n, term))))
}

fn vote(proposer: &mut Proposer, n: u64, term: u64, by: u8, granted: bool, flush: u64) -> Vec<ProposerAction> {
    let vote = Vote {
        generation: Generation(1),
        term: Term(term),
        candidate: candidate(by),
        granted,
        flush_lsn: Lsn(flush),
        commit_lsn: Lsn(1000),
        history: log(),
    };
    proposer.handle(ProposerEvent::Message(NodeId(n), AcceptorMessage::Vote(vote)))
}

fn answer(proposer: &mut Proposer, n: u64, log_term: u64, flush: u64) -> Vec<ProposerAction> {
    answer_settled(proposer, n, 6, log_term, flush, flush)
}

fn answer_settled(p: &mut Proposer, n: u64, term: u64, log_term: u64, flush: u64, settled: u64) -> Vec<ProposerAction> {
    let answer = AppendAnswer {
        generation: Generation(1),
        term: Term(term),
        last_log_term: Term(log_term),
        flush_lsn: Lsn(flush),
        settled_lsn: Lsn(settled),
        commit_lsn: Lsn(1000),
        pageserver: PageserverFeedback::default(),
    };
    p.handle(ProposerEvent::Message(NodeId(n), AcceptorMessage::AppendAnswer(answer)))
}

fn requested(actions: &[ProposerAction]) -> Vec<(u64, Term, CandidateId)> {
    let request = |action: &ProposerAction| match action {
        ProposerAction::Send(node, ProposerMessage::VoteRequest(m)) => Some((node.0, m.term, m.candidate)),
        _ => None,
    };
    actions.iter().filter_map(request).collect()
}

/// (node, begin, length, commit_lsn) of every append.
fn appends(actions: &[ProposerAction]) -> Vec<(u64, u64, usize, u64)> {
    let append = |action: &ProposerAction| match action {
        ProposerAction::Send(node, ProposerMessage::Append(m)) => {
            Some((node.0, m.begin.0, m.wal.len(), m.commit_lsn.0))
        }
        _ => None,
    };
    actions.iter().filter_map(append).collect()
}

fn committed(actions: &[ProposerAction]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        ProposerAction::CommitAdvanced { commit_lsn } => Some(commit_lsn.0),
        _ => None,
    })
}

fn wal(proposer: &mut Proposer, begin: u64, length: usize) -> Vec<ProposerAction> {
    proposer.handle(ProposerEvent::Wal { begin: Lsn(begin), wal: Bytes::from(vec![5; length]) })
}

/// Elected in term 6 at X by nodes 1 (donor) and 2; node 3 was never seen.
fn elected() -> Proposer {
    let mut proposer = Proposer::new(config());
    greet(&mut proposer, 1, 5);
    assert!(greet(&mut proposer, 2, 3).contains(&ProposerAction::NeedCandidate), "a quorum is enough");
    proposer.handle(ProposerEvent::NewCandidate(candidate(1)));
    vote(&mut proposer, 1, 6, 1, true, 1100);
    let actions = vote(&mut proposer, 2, 6, 1, true, 1050);
    assert!(proposer.is_leading(), "{actions:?}");
    proposer
}

/// And both are there, with everything up to X committed.
fn leading() -> Proposer {
    let mut proposer = elected();
    answer(&mut proposer, 1, 6, 1100);
    assert_eq!(committed(&answer(&mut proposer, 2, 6, 1100)), Some(1100));
    proposer
}

#[test]
fn a_quorum_of_greetings_starts_a_campaign_above_every_term_seen() {
    let mut proposer = Proposer::new(config());
    assert!(!greet(&mut proposer, 1, 5).contains(&ProposerAction::NeedCandidate));
    assert!(greet(&mut proposer, 2, 3).contains(&ProposerAction::NeedCandidate));
    let actions = proposer.handle(ProposerEvent::NewCandidate(candidate(1)));
    assert_eq!(requested(&actions), [(1, Term(6), candidate(1)), (2, Term(6), candidate(1))]);
    assert_eq!(requested(&greet(&mut proposer, 3, 0)), [(3, Term(6), candidate(1))], "latecomers are asked as well");
}

#[test]
fn a_lost_reply_and_a_minority_refusal_do_not_end_a_campaign() {
    let mut proposer = Proposer::new(config());
    greet(&mut proposer, 1, 5);
    greet(&mut proposer, 2, 5);
    proposer.handle(ProposerEvent::NewCandidate(candidate(1)));
    greet(&mut proposer, 3, 0);
    assert_eq!(vote(&mut proposer, 3, 6, 1, false, 1000), [], "it voted for another candidate of term 6");
    vote(&mut proposer, 2, 6, 1, true, 1050);
    proposer.handle(ProposerEvent::Disconnected(NodeId(1)));
    assert_eq!(requested(&greet(&mut proposer, 1, 6)), [(1, Term(6), candidate(1))], "the same question again");
    let actions = vote(&mut proposer, 1, 6, 1, true, 1100);
    let ProposerAction::Elected(victory) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((victory.term, victory.start_lsn, victory.donor), (Term(6), X, NodeId(1)));
    assert_eq!(victory.history, log().continued(Term(6), X).expect("in order"));
    let told = |action: &ProposerAction| match action {
        ProposerAction::Send(node, ProposerMessage::Elected(m)) => Some((node.0, m.truncate_at.0)),
        _ => None,
    };
    let told: Vec<_> = actions.iter().filter_map(told).collect();
    assert_eq!(told, [(1, 1100), (2, 1050), (3, 1000)], "whoever it voted for");
}

#[test]
fn a_refused_candidate_tries_a_higher_term_after_a_pause() {
    let mut proposer = Proposer::new(config());
    greet(&mut proposer, 1, 5);
    greet(&mut proposer, 2, 5);
    proposer.handle(ProposerEvent::NewCandidate(candidate(1)));
    vote(&mut proposer, 1, 9, 1, false, 1100);
    assert_eq!(proposer.handle(ProposerEvent::Tick { now_ms: 49 }), []);
    assert_eq!(
        proposer.handle(ProposerEvent::Tick { now_ms: 101 }),
        [ProposerAction::NeedCandidate],
        "fresh bits (H1)"
    );
    let actions = proposer.handle(ProposerEvent::NewCandidate(candidate(2)));
    assert_eq!(requested(&actions)[0], (1, Term(10), candidate(2)));
    assert_eq!(vote(&mut proposer, 2, 6, 1, true, 1100), [], "a vote for the old campaign");
}

#[test]
fn a_higher_term_after_the_election_is_the_end() {
    for term_of in ["vote", "answer", "greeting"] {
        let mut proposer = leading();
        let actions = match term_of {
            "vote" => {
                greet(&mut proposer, 3, 0);
                vote(&mut proposer, 3, 7, 1, false, 1000)
            }
            "answer" => answer_settled(&mut proposer, 1, 7, 6, 1100, 1100),
            _ => greet(&mut proposer, 3, 7),
        };
        assert_eq!(actions, [ProposerAction::Fenced { by_term: Term(7) }], "{term_of}");
        for event in [ProposerEvent::Connected(NodeId(3)), ProposerEvent::NewCandidate(candidate(3))] {
            assert_eq!(proposer.handle(event), [], "it never campaigns again by itself (H18)");
        }
    }
}

#[test]
fn only_the_own_terms_log_counts_and_the_news_leaves_at_once() {
    let mut proposer = elected();
    assert_eq!(committed(&answer(&mut proposer, 1, 6, 1100)), None);
    let actions = answer(&mut proposer, 2, 0, 1050);
    assert_eq!((committed(&actions), appends(&actions)), (None, vec![(2, 0, 0, 1000)]), "it must ask its peers");
    let actions = answer(&mut proposer, 2, 6, 1100);
    assert_eq!(committed(&actions), Some(1100));
    assert_eq!(appends(&actions), [(1, 1100, 0, 1100), (2, 1100, 0, 1100)], "without any WAL to carry it (H8)");
}

#[test]
fn wal_goes_out_and_is_committed_by_two_of_three() {
    let mut proposer = leading();
    assert_eq!(appends(&wal(&mut proposer, 1100, 20)), [(1, 1100, 20, 1100), (2, 1100, 20, 1100)]);
    assert_eq!(committed(&answer(&mut proposer, 1, 6, 1120)), None);
    assert_eq!(committed(&answer(&mut proposer, 2, 6, 1110)), Some(1110));
    assert_eq!(
        appends(&wal(&mut proposer, 1116, 8)),
        [(1, 1120, 4, 1110), (2, 1120, 4, 1110)],
        "a repetition is skipped"
    );
    let actions = wal(&mut proposer, 1130, 8);
    assert!(matches!(actions[..], [ProposerAction::Failed { .. }]), "a gap would be committed as garbage: {actions:?}");
}

#[test]
fn a_slow_third_node_does_not_slow_the_fast_two() {
    let mut proposer = leading();
    greet(&mut proposer, 3, 6);
    vote(&mut proposer, 3, 6, 1, true, 1100);
    answer(&mut proposer, 3, 6, 1100);
    let mut at = 1100;
    for _ in 0..10 {
        let actions = wal(&mut proposer, at, 40);
        assert!(!actions.contains(&ProposerAction::BackPressure(true)), "{at}: {actions:?}");
        at += 40;
        answer(&mut proposer, 1, 6, at);
        assert_eq!(committed(&answer(&mut proposer, 2, 6, at)), Some(at));
    }
    let state = |proposer: &Proposer| proposer.nodes()[2].state;
    assert_eq!(state(&proposer), NodeState::Lagging, "its WAL is no longer held");
    let actions = proposer.handle(ProposerEvent::Tick { now_ms: 1_500 });
    assert!(appends(&actions).contains(&(3, 0, 0, at)), "it is sent to its peers: {actions:?}");
    let actions = answer(&mut proposer, 3, 6, at - 40);
    assert_eq!(appends(&actions)[0], (3, at - 40, 40, at), "and served again once it has come near");
    assert_eq!(state(&proposer), NodeState::Streaming);
}

#[test]
fn the_window_bounds_memory_but_not_the_length_of_a_record() {
    let mut proposer = leading();
    assert_eq!(appends(&wal(&mut proposer, 1100, 70)).len(), 2);
    assert_eq!(appends(&wal(&mut proposer, 1170, 20)), [], "70 bytes are on their way");
    let actions = wal(&mut proposer, 1190, 20);
    assert_eq!(actions, [ProposerAction::BackPressure(true)]);
    answer_settled(&mut proposer, 1, 6, 6, 1100, 1170);
    let actions = answer_settled(&mut proposer, 2, 6, 6, 1100, 1170);
    assert!(actions.contains(&ProposerAction::BackPressure(false)), "the rest of the record must come: {actions:?}");
    assert_eq!(proposer.commit_lsn(), X);
}

#[test]
fn a_silent_node_is_disconnected_and_an_idle_one_hears_heartbeats() {
    let mut proposer = leading();
    let actions = proposer.handle(ProposerEvent::Tick { now_ms: 1_000 });
    assert_eq!(appends(&actions), [(1, 1100, 0, 1100), (2, 1100, 0, 1100)]);
    answer(&mut proposer, 1, 6, 1100);
    let actions = proposer.handle(ProposerEvent::Tick { now_ms: 10_500 });
    let left = |action: &ProposerAction| matches!(action, ProposerAction::Disconnect { node: NodeId(2), .. });
    assert!(actions.iter().any(left), "{actions:?}");
    assert!(appends(&actions).contains(&(1, 1100, 0, 1100)));
}

#[test]
fn a_node_with_another_store_is_not_counted() {
    let mut proposer = Proposer::new(config());
    greet(&mut proposer, 1, 5);
    proposer.handle(ProposerEvent::Connected(NodeId(2)));
    let wiped = AcceptorGreeting { store_uuid: StoreUuid::from_bytes([99; 16]), ..greeting(2, 0) };
    let actions = proposer.handle(ProposerEvent::Message(NodeId(2), AcceptorMessage::Greeting(wiped)));
    assert!(matches!(actions[..], [ProposerAction::Disconnect { .. }, ProposerAction::Unusable { .. }]), "{actions:?}");
    assert_eq!(proposer.nodes()[1].state, NodeState::Unusable);
}

#[test]
fn acknowledged_wal_that_nobody_has_stops_everything() {
    let mut proposer = Proposer::new(config());
    greet(&mut proposer, 1, 5);
    greet(&mut proposer, 2, 5);
    proposer.handle(ProposerEvent::NewCandidate(candidate(1)));
    vote(&mut proposer, 1, 6, 1, true, 1100);
    let longer_term = Vote {
        generation: Generation(1),
        term: Term(6),
        candidate: candidate(1),
        granted: true,
        flush_lsn: Lsn(1200),
        commit_lsn: Lsn(1200),
        history: log(),
    };
    let best = Vote { flush_lsn: Lsn(1150), commit_lsn: X, ..longer_term.clone() };
    let best = Vote { history: log().continued(Term(2), Lsn(1040)).expect("in order"), ..best };
    proposer.handle(ProposerEvent::Message(NodeId(1), AcceptorMessage::Vote(longer_term)));
    let actions = proposer.handle(ProposerEvent::Message(NodeId(2), AcceptorMessage::Vote(best)));
    assert!(matches!(actions[..], [ProposerAction::Failed { .. }]), "{actions:?}");
}

#[test]
fn an_answer_to_an_older_campaign_does_not_hide_that_a_link_has_died() {
    let mut p = Proposer::new(config());
    greet(&mut p, 1, 5);
    greet(&mut p, 2, 5);
    p.handle(ProposerEvent::NewCandidate(candidate(1)));
    vote(&mut p, 1, 6, 9, false, 1100);
    let silence_ms = config().silence_ms;
    // The campaign was refused: the next asks both again.
    vote(&mut p, 1, 6, 1, false, 1100);
    p.handle(ProposerEvent::Tick { now_ms: 1_000 });
    let again = p.handle(ProposerEvent::NewCandidate(candidate(2)));
    assert_eq!(requested(&again), [(1, Term(7), candidate(2)), (2, Term(7), candidate(2))]);
    // Now node 2 answers the first, and is never heard of again.
    vote(&mut p, 2, 6, 1, false, 1100);
    let left = p.handle(ProposerEvent::Tick { now_ms: 1_000 + silence_ms });
    let is_left = |n: u64| left.iter().any(|a| matches!(a, ProposerAction::Disconnect { node, .. } if node.0 == n));
    assert!(is_left(1) && is_left(2), "{left:?}");
}
