//! The bytes of `docs/protocols.md` §2.

use bytes::Bytes;
use ogel_ids::{CandidateId, Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};
use quorum::*;

fn history() -> TermHistory {
    TermHistory::new(Term(0), Lsn(0x1000)).continued(Term(3), Lsn(0x2000)).expect("in order")
}

fn membership() -> Membership {
    let member = |n: u8| Member { node_id: NodeId(n.into()), store_uuid: StoreUuid::from_bytes([n; 16]) };
    Membership::new(Generation(4), vec![member(1), member(2)], Some(vec![member(2), member(3)])).expect("valid")
}

fn proposer_messages() -> Vec<ProposerMessage> {
    let candidate = CandidateId::from_bytes([9; 16]);
    let append = |wal: &'static [u8]| {
        ProposerMessage::Append(Append {
            generation: Generation(4),
            term: Term(3),
            begin: Lsn(0x2000),
            commit_lsn: Lsn(0x1800),
            truncate_lsn: Lsn(0x1700),
            wal: Bytes::from_static(wal),
        })
    };
    vec![
        ProposerMessage::Greeting(ProposerGreeting {
            tenant: TenantId::from_bytes([1; 16]),
            timeline: TimelineId::from_bytes([2; 16]),
            system_identifier: 7,
            pg_major_version: 17,
            wal_segment_size_bytes: 16 << 20,
        }),
        ProposerMessage::VoteRequest(VoteRequest { generation: Generation(4), term: Term(3), candidate }),
        ProposerMessage::Elected(Elected {
            generation: Generation(4),
            term: Term(3),
            candidate,
            truncate_at: Lsn(0x1900),
            history: history(),
        }),
        append(b"some WAL"),
        append(b""),
    ]
}

fn acceptor_messages() -> Vec<AcceptorMessage> {
    vec![
        AcceptorMessage::Greeting(AcceptorGreeting {
            node_id: NodeId(1),
            store_uuid: StoreUuid::from_bytes([1; 16]),
            term: Term(3),
            system_identifier: 7,
            pg_version_num: 170_011,
            wal_segment_size_bytes: 16 << 20,
            timeline_start_lsn: Lsn(0x1000),
            membership: membership(),
        }),
        AcceptorMessage::Vote(Vote {
            generation: Generation(4),
            term: Term(3),
            candidate: CandidateId::from_bytes([9; 16]),
            granted: true,
            flush_lsn: Lsn(0x2100),
            commit_lsn: Lsn(0x2000),
            history: history(),
        }),
        AcceptorMessage::AppendAnswer(AppendAnswer {
            generation: Generation(4),
            term: Term(3),
            last_log_term: Term(2),
            flush_lsn: Lsn(0x2100),
            settled_lsn: Lsn(0x2108),
            commit_lsn: Lsn(0x2000),
            pageserver: PageserverFeedback {
                last_record_lsn: Lsn(3),
                disk_consistent_lsn: Lsn(2),
                remote_consistent_lsn: Lsn(1),
            },
        }),
        AcceptorMessage::Refused(Refused { code: RefusalCode::OutOfSpace, text: "voll: ä".into() }),
    ]
}

#[test]
fn every_message_comes_back_as_it_was_sent() {
    for message in proposer_messages() {
        assert_eq!(ProposerMessage::decode(message.encode()), Ok(message));
    }
    for message in acceptor_messages() {
        assert_eq!(AcceptorMessage::decode(message.encode()), Ok(message));
    }
}

/// A safekeeper and a compute of different builds must understand each other: the layout is fixed byte by byte.
#[test]
fn the_layout_is_the_documented_one() {
    let encoded = proposer_messages()[3].encode();
    let mut expected = b"a\0\0\0\x04".to_vec();
    for number in [3_u64, 0x2000, 0x2008, 0x1800, 0x1700] {
        expected.extend(number.to_be_bytes());
    }
    expected.extend(b"some WAL");
    assert_eq!(encoded, expected);

    let encoded = acceptor_messages()[2].encode();
    let mut expected = b"A\0\0\0\x04".to_vec();
    for number in [3_u64, 2, 0x2100, 0x2108, 0x2000, 3, 2, 1] {
        expected.extend(number.to_be_bytes());
    }
    assert_eq!(encoded, expected);
}

#[test]
fn every_truncation_and_every_extra_byte_is_an_error() {
    let frames: Vec<Bytes> = proposer_messages().iter().map(ProposerMessage::encode).collect();
    for frame in frames {
        for length in 0..frame.len() {
            assert!(ProposerMessage::decode(frame.slice(..length)).is_err(), "{frame:?} cut at {length}");
        }
        let longer = [frame.as_ref(), b"x"].concat();
        assert_eq!(ProposerMessage::decode(longer.into()), Err(WireError::Trailing { extra: 1 }));
    }
    let frames: Vec<Bytes> = acceptor_messages().iter().map(AcceptorMessage::encode).collect();
    for frame in frames {
        for length in 0..frame.len() {
            assert!(AcceptorMessage::decode(frame.slice(..length)).is_err(), "{frame:?} cut at {length}");
        }
    }
}

#[test]
fn another_version_is_refused_with_both_versions() {
    let mut frame = proposer_messages()[0].encode().to_vec();
    frame[4] = 2;
    let error = ProposerMessage::decode(frame.into()).expect_err("version 2");
    assert_eq!(error, WireError::Version { theirs: 2 });
    let refusal = error.refusal();
    assert_eq!(refusal.code, RefusalCode::WrongVersion);
    assert!(refusal.text.contains("version 2") && refusal.text.contains("speaks 1"), "{}", refusal.text);
}

#[test]
fn claimed_sizes_are_checked_before_memory_is_taken() {
    let mut frame = proposer_messages()[2].encode().to_vec();
    frame[37..41].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(ProposerMessage::decode(frame.into()), Err(WireError::BadValue { .. })));
    let mut frame = proposer_messages()[3].encode().to_vec();
    frame[21..29].copy_from_slice(&(0x2000 + MAX_APPEND_BYTES as u64 + 1).to_be_bytes());
    assert!(matches!(ProposerMessage::decode(frame.into()), Err(WireError::BadValue { field: "end", .. })));
}

#[test]
fn hostile_bytes_never_panic() {
    let mut bits = 0x1234_5678_9abc_def1_u64;
    let mut random = || {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        bits
    };
    let frames: Vec<Bytes> = (proposer_messages().iter().map(ProposerMessage::encode))
        .chain(acceptor_messages().iter().map(AcceptorMessage::encode))
        .collect();
    for _ in 0..20_000 {
        let mut frame = frames[random() as usize % frames.len()].to_vec();
        for _ in 0..random() % 4 {
            let at = random() as usize % frame.len();
            frame[at] = random() as u8;
        }
        frame.truncate(1 + random() as usize % frame.len());
        let frame = Bytes::from(frame);
        if let Ok(message) = ProposerMessage::decode(frame.clone()) {
            assert_eq!(message.encode(), frame);
        }
        if let Ok(message) = AcceptorMessage::decode(frame.clone()) {
            assert_eq!(message.encode(), frame);
        }
    }
}
