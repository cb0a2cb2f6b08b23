//! What arrives while a flush runs shares the next one.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use node::{Node, proposer::TestProposer, timeline, wal::Wal};
use ogel_ids::Lsn;

async fn flushes(node: &Node) -> u64 {
    let (_, text) = node.get("/metrics").await;
    let line = text.lines().find(|line| line.starts_with("safekeeper_wal_flush_seconds_count")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_in_a_row_share_flushes() {
    let node = Node::start(&node::folder("appends_in_a_row_share_flushes"), 1).await;
    let mut wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    for _ in 0..50 {
        let begin = wal.end();
        let bytes = wal.append(100);
        proposer.append(begin, &bytes, Lsn(0)).await;
        proposer.flushed(wal.end()).await;
    }
    assert_eq!(flushes(&node).await, 50, "one at a time: one flush each, not more");

    for _ in 0..2000 {
        let begin = wal.end();
        let bytes = wal.append(100);
        proposer.append(begin, &bytes, Lsn(0)).await;
    }
    proposer.flushed(wal.end()).await;
    let shared = flushes(&node).await - 50;
    println!("2000 appends, {shared} flushes");
    assert!(shared < 1000, "{shared} flushes for 2000 appends");
    node.stop().await;
}
