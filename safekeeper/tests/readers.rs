//! Readers get what is committed, at once and nothing else; pageservers are told of terms first (H10).
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use bytes::BufMut;
use node::{LIMIT, Node, proposer::TestProposer, reader::TestReader, timeline, wal::Wal};
use ogel_ids::{Lsn, Term};
use ogel_pgwire::{Client, WireError};
use tokio::time::timeout;

async fn start(name: &str) -> (Node, Wal, TestProposer) {
    let node = Node::start(&node::folder(name), 1).await;
    let wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let proposer = TestProposer::elect(&node, timeline(1), 1).await;
    (node, wal, proposer)
}

#[tokio::test]
async fn only_committed_wal_is_read() {
    let (node, mut wal, mut proposer) = start("only_committed_wal_is_read").await;
    let begin = wal.end();
    let first = wal.append(300_000);
    let committed = wal.end();
    let second = wal.append(200_000);
    proposer.append(begin, &[first, second].concat(), Lsn(0)).await;
    proposer.flushed(wal.end()).await;

    let mut reader = TestReader::start(&node.options(timeline(1)), Wal::first()).await.unwrap();
    reader.read_to(wal.start()).await;
    assert_eq!(reader.ask().await, wal.start(), "nothing beyond the commit position is offered");
    // An empty append brings the commit; the reader is woken by it.
    proposer.append(wal.end(), &[], committed).await;
    reader.read_to(committed).await;
    assert_eq!(reader.ask().await, committed);
    assert_eq!(reader.end(), committed);
    assert!(reader.wal == wal.range(Wal::first(), committed), "byte for byte what was sent");
}

#[tokio::test]
async fn recent_and_old_wal_read_the_same() {
    let (node, mut wal, mut proposer) = start("recent_and_old_wal_read_the_same").await;
    for _ in 0..30 {
        let begin = wal.end();
        let bytes = wal.append(500_000);
        proposer.append(begin, &bytes, wal.end()).await;
    }
    proposer.flushed(wal.end()).await;
    let mut reader = TestReader::start(&node.options(timeline(1)), wal.start()).await.unwrap();
    reader.read_to(wal.end()).await;
    assert!(reader.wal == wal.range(wal.start(), wal.end()));
}

#[tokio::test]
async fn terms_are_announced_before_their_wal() {
    let (node, mut wal, mut proposer) = start("terms_are_announced_before_their_wal").await;
    let begin = wal.end();
    let bytes = wal.append(1000);
    proposer.append(begin, &bytes, wal.end()).await;
    proposer.flushed(wal.end()).await;

    let options = node.options(timeline(1)).setting("ogel.reader", "pageserver");
    let mut reader = TestReader::start(&options, wal.start()).await.unwrap();
    reader.read_to(wal.end()).await;
    let first_terms = [(Term(0), wal.start()), (Term(1), wal.start())];
    assert_eq!((reader.history.as_slice(), reader.announced_at[0]), (&first_terms[..], wal.start()));

    // A term that starts exactly at the commit position is announced although no WAL of it exists.
    let term_start = wal.end();
    let mut second = TestProposer::elect(&node, timeline(1), 2).await;
    while reader.history.len() < 3 {
        reader.receive().await.unwrap();
    }
    assert_eq!((reader.history[2], reader.end()), ((Term(2), term_start), term_start));

    // The reader's progress reaches the proposer.
    reader.writer.write(|body| {
        body.put_u8(b'p');
        [3, 2, 1].iter().for_each(|n| body.put_u64(term_start.0 - 100 + n));
    });
    reader.writer.flush().await.unwrap();
    let answer = second.answer(|answer| answer.pageserver.last_record_lsn.is_valid()).await;
    assert_eq!(answer.pageserver.last_record_lsn, Lsn(term_start.0 - 97));
    assert_eq!(answer.pageserver.remote_consistent_lsn, Lsn(term_start.0 - 99));
}

#[tokio::test]
async fn peers_read_flushed_wal_of_the_term_they_name_only() {
    let (node, mut wal, mut proposer) = start("peers_read_flushed_wal_of_the_term_they_name_only").await;
    let begin = wal.end();
    let bytes = wal.append(1000);
    proposer.append(begin, &bytes, Lsn(0)).await;
    proposer.flushed(wal.end()).await;

    let options = node.options(timeline(1)).setting("ogel.reader", "peer");
    let mut reader = TestReader::start(&options.clone().setting("ogel.term", 1), wal.start()).await.unwrap();
    reader.read_to(wal.end()).await;
    assert!(reader.wal == wal.range(wal.start(), wal.end()));
    TestProposer::elect(&node, timeline(1), 2).await;
    let ended = async {
        loop {
            if let Err(error) = reader.receive().await {
                return error;
            }
        }
    };
    let error = timeout(LIMIT, ended).await.unwrap();
    assert!(matches!(error, WireError::Server(_)), "{error}");

    let mut stranger = TestReader::start(&options.setting("ogel.term", 7), wal.start()).await.unwrap();
    assert!(matches!(stranger.receive().await, Err(WireError::Server(_))), "another term's log is not here");
}

#[tokio::test]
async fn stock_clients_find_their_commands() {
    let (node, wal, _proposer) = start("stock_clients_find_their_commands").await;
    let mut client = Client::connect(&node.options(timeline(1))).await.unwrap();
    let system = client.simple_query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(system.value(0, "systemid"), Some(node::wal::SYSTEM_ID.to_string().as_str()));
    assert_eq!(system.value(0, "timeline"), Some("1"));
    assert_eq!(system.value(0, "xlogpos"), Some(wal.start().to_string().as_str()));
    let size = client.simple_query("SHOW wal_segment_size").await.unwrap();
    assert_eq!(size.value(0, "wal_segment_size"), Some("1MB"));
    assert!(matches!(client.simple_query("SELECT 1").await, Err(WireError::Server(_))));
    assert!(client.simple_query("IDENTIFY_SYSTEM").await.is_ok(), "an error leaves the session usable");
    let error = client.simple_query("START_REPLICATION PHYSICAL 0/28").await.unwrap_err();
    assert!(error.to_string().contains("begins at"), "{error}");
}
