//! Hostile bytes on both ports change nothing and harm nobody else.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use node::{Node, proposer::TestProposer, timeline, wal::Wal};
use ogel_ids::{CandidateId, Generation, Lsn, TenantId, Term};
use quorum::{ProposerGreeting, ProposerMessage, RefusalCode, VoteRequest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A small generator whose seed is printed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(seed);
        println!("SEED={seed}");
        Self(seed)
    }

    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next(256) as u8).collect()
    }
}

async fn send(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The node may close before it has read all: that is its right.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = timeout(node::LIMIT, stream.read_to_end(&mut answer)).await.expect("the node ends the connection");
}

#[tokio::test]
async fn hostile_bytes_change_nothing() {
    let node = Node::start(&node::folder("hostile_bytes_change_nothing"), 1).await;
    let mut wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    let begin = wal.end();
    let bytes = wal.append(5000);
    proposer.append(begin, &bytes, wal.end()).await;
    proposer.flushed(wal.end()).await;
    let before = node.state(timeline(1)).await;

    let mut random = Random::seeded();
    for round in 0..60 {
        let length = random.next(3000);
        let bytes = random.bytes(length);
        send(&node.pg, &bytes).await;
        send(&node.http, &bytes).await;
        send(&node.http, &[&b"PUT /v1/tenant/"[..], &bytes].concat()).await;

        // Behind a good start-up, and as messages of the quorum, the peers and the readers.
        let mut hostile = TestProposer::connect(&node, timeline(1)).await;
        if round % 2 == 0 {
            hostile.greet().await;
        }
        let tag = b"gveaxs"[random.next(6) as usize];
        hostile.send_raw(&[&[tag][..], &bytes].concat()).await;
        for command in ["PEER_STATUS 2", "START_REPLICATION PHYSICAL 0/1000000"] {
            let client = ogel_pgwire::Client::connect(&node.options(timeline(1))).await.unwrap();
            let (_reader, mut writer) = client.copy_both(command).await.unwrap();
            let tag = b"sprhx"[random.next(5) as usize];
            writer.write(|body| bytes::BufMut::put_slice(body, &[&[tag][..], &bytes].concat()));
            let _ = writer.flush().await;
        }
    }

    let after = node.state(timeline(1)).await;
    for field in ["term", "last_log_term", "term_history", "flush_lsn", "commit_lsn", "membership"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    let begin = wal.end();
    let bytes = wal.append(100);
    proposer.append(begin, &bytes, Lsn(0)).await;
    proposer.flushed(wal.end()).await;
}

#[tokio::test]
async fn well_formed_lies_change_nothing() {
    let node = Node::start(&node::folder("well_formed_lies_change_nothing"), 1).await;
    let mut wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let mut liar = TestProposer::connect(&node, timeline(1)).await;
    liar.greet().await;
    let begin = wal.end();
    let bytes = wal.append(100);
    liar.append(begin, &bytes, wal.end()).await;
    while liar.receive().await.is_some() {}
    let state = node.state(timeline(1)).await;
    assert_eq!(state["flush_lsn"], begin.to_string(), "WAL without an election is not taken");

    let mut gap = TestProposer::elect(&node, timeline(1), 1).await;
    gap.append(Lsn(begin.0 + 8192), &bytes, wal.end()).await;
    while gap.receive().await.is_some() {}
    assert_eq!(node.state(timeline(1)).await["flush_lsn"], begin.to_string(), "WAL behind a gap is not taken");
}

/// Each wrong word is answered with its own code, the connection is closed, and nothing has changed.
#[tokio::test]
async fn every_wrong_word_is_named() {
    let node = Node::start(&node::folder("every_wrong_word_is_named"), 1).await;
    let wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let before = node.state(timeline(1)).await;
    let good = ProposerGreeting {
        tenant: node::tenant(),
        timeline: timeline(1),
        system_identifier: node::wal::SYSTEM_ID,
        pg_major_version: 17,
        wal_segment_size_bytes: node::wal::SEGMENT_SIZE,
    };
    let wrong_greetings = [
        (ProposerGreeting { tenant: TenantId::from_bytes([9; 16]), ..good.clone() }, RefusalCode::UnknownTimeline),
        (ProposerGreeting { timeline: timeline(9), ..good.clone() }, RefusalCode::UnknownTimeline),
        (ProposerGreeting { system_identifier: 8, ..good.clone() }, RefusalCode::WrongSystemIdentifier),
        (ProposerGreeting { pg_major_version: 16, ..good.clone() }, RefusalCode::WrongVersion),
        (ProposerGreeting { wal_segment_size_bytes: 2 << 20, ..good.clone() }, RefusalCode::WrongVersion),
    ];
    for (greeting, code) in wrong_greetings {
        let mut proposer = TestProposer::connect(&node, timeline(1)).await;
        proposer.send(ProposerMessage::Greeting(greeting.clone())).await;
        let (got, text) = proposer.refusal().await;
        assert_eq!(got, code, "{greeting:?}: {text}");
        assert!(proposer.receive().await.is_none(), "the connection is closed");
    }

    let mut other_version = TestProposer::connect(&node, timeline(1)).await;
    let mut bytes = ProposerMessage::Greeting(good.clone()).encode().to_vec();
    bytes[1..5].copy_from_slice(&9_u32.to_be_bytes());
    other_version.send_raw(&bytes).await;
    let (code, text) = other_version.refusal().await;
    assert!(code == RefusalCode::WrongVersion && text.contains('9') && text.contains('1'), "{text}");

    let vote = |generation| {
        let candidate = CandidateId::from_bytes([1; 16]);
        ProposerMessage::VoteRequest(VoteRequest { generation: Generation(generation), term: Term(5), candidate })
    };
    let mut early = TestProposer::connect(&node, timeline(1)).await;
    early.send(vote(1)).await;
    assert_eq!(early.refusal().await.0, RefusalCode::ProtocolError, "a greeting must come first");
    let mut generation = TestProposer::connect(&node, timeline(1)).await;
    generation.greet().await;
    generation.send(vote(2)).await;
    assert_eq!(generation.refusal().await.0, RefusalCode::WrongGeneration);
    assert!(generation.receive().await.is_none());

    let mut long = TestProposer::connect(&node, timeline(1)).await;
    long.greet().await;
    long.send_raw(&vec![b'a'; 3 << 20]).await;
    assert!(long.receive().await.is_none(), "a frame that is too long ends the connection");

    for command in ["PEER_STATUS 9", "MEMBERSHIP x", "ADOPT_MEMBERSHIP {}", "LIST_TIMELINES x", "START_REPLICATION 0/0"]
    {
        let mut client = ogel_pgwire::Client::connect(&node.options(timeline(7))).await.unwrap();
        let error = client.simple_query(command).await.expect_err(command).to_string();
        assert!(!error.is_empty(), "{command}");
    }
    let (status, text) = node.create(timeline(2), &wal, &[]).await;
    assert_eq!(status, 400, "{text}");
    assert_eq!(node.state(timeline(1)).await, before, "nothing has changed");
}
