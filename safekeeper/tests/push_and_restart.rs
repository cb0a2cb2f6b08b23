//! What was acknowledged is there after a restart; what was not may go; what is damaged is said.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use node::{Node, proposer::TestProposer, tenant, timeline, wal::Wal};
use ogel_ids::Lsn;
use quorum::RefusalCode;

fn segment(folder: &Path, at: Lsn) -> PathBuf {
    let timeline = folder.join(format!("tenants/{}/timelines/{}", tenant(), timeline(1)));
    timeline.join(at.segment_file_name(node::wal::SEGMENT_SIZE.into()))
}

fn overwrite(folder: &Path, at: Lsn, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(segment(folder, at)).unwrap();
    file.write_all_at(bytes, at.segment_offset(node::wal::SEGMENT_SIZE.into())).unwrap();
}

/// A node with a timeline whose WAL is flushed to the log's end, of which only the beginning is committed.
async fn node_with_wal(folder: &Path, records: usize, length: usize) -> (Node, Wal) {
    let node = Node::start(folder, 1).await;
    let mut wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    for _ in 0..records {
        let begin = wal.end();
        let bytes = wal.append(length);
        for (index, piece) in bytes.chunks(500_000).enumerate() {
            proposer.append(Lsn(begin.0 + index as u64 * 500_000), piece, Lsn(0)).await;
        }
    }
    let answer = proposer.flushed(wal.end()).await;
    assert_eq!((answer.flush_lsn, answer.last_log_term), (wal.end(), proposer.term));
    (node, wal)
}

#[tokio::test]
async fn acknowledged_wal_survives_a_restart() {
    let folder = node::folder("acknowledged_wal_survives_a_restart");
    let (node, mut wal) = node_with_wal(&folder, 10, 700_000).await;
    node.stop().await;
    let node = Node::start(&folder, 1).await;
    let state = node.state(timeline(1)).await;
    assert_eq!(state["flush_lsn"], wal.end().to_string());
    assert_eq!(state["term"], 1);

    // The next proposer goes on where the log ends, and its WAL follows.
    let mut proposer = TestProposer::elect(&node, timeline(1), 2).await;
    let begin = wal.end();
    let bytes = wal.append(100);
    proposer.append(begin, &bytes, Lsn(0)).await;
    proposer.flushed(wal.end()).await;
    let mut at = Wal::first();
    let mut files = Vec::new();
    while at < wal.end() {
        files.extend(std::fs::read(segment(&folder, at)).unwrap());
        at = Lsn(at.0 + u64::from(node::wal::SEGMENT_SIZE));
    }
    let expected = wal.range(Wal::first(), wal.end());
    assert!(files[..expected.len()] == *expected, "the files are byte for byte what was sent");
    assert!(files[expected.len()..].iter().all(|byte| *byte == 0), "and zeros behind it");
}

#[tokio::test]
async fn a_torn_tail_is_dropped() {
    let folder = node::folder("a_torn_tail_is_dropped");
    let (node, mut wal) = node_with_wal(&folder, 3, 5000).await;
    node.stop().await;
    let end = wal.end();
    let unacknowledged = wal.append(9000);
    overwrite(&folder, end, &unacknowledged[..4000]);

    let node = Node::start(&folder, 1).await;
    assert_eq!(node.state(timeline(1)).await["flush_lsn"], end.to_string());
    TestProposer::elect(&node, timeline(1), 2).await;
    let bytes = std::fs::read(segment(&folder, end)).unwrap();
    let offset = end.segment_offset(node::wal::SEGMENT_SIZE.into()) as usize;
    assert!(
        bytes[offset..].iter().all(|byte| *byte == 0),
        "an election leaves no stale bytes behind the log's end (H2)"
    );
}

#[tokio::test]
async fn rot_in_acknowledged_wal_takes_the_vote_of_one_timeline_only() {
    let folder = node::folder("rot_in_acknowledged_wal_takes_the_vote_of_one_timeline_only");
    let (node, wal) = node_with_wal(&folder, 3, 5000).await;
    assert_eq!(node.create(timeline(2), &Wal::new(), &node::with_strangers(node.member)).await.0, 201);
    node.stop().await;
    overwrite(&folder, Lsn(wal.start().0 + 6000), b"rot");

    let node = Node::start(&folder, 1).await;
    let mut proposer = TestProposer::connect(&node, timeline(1)).await;
    let (code, text) = proposer.refusal().await;
    assert_eq!(code, RefusalCode::DamagedWal);
    assert!(text.contains(&wal.end().to_string()), "{text}");
    let (status, text) = node.get(&format!("/v1/tenant/{}/timeline/{}", tenant(), timeline(1))).await;
    assert_eq!(status, 409, "{text}");
    TestProposer::elect(&node, timeline(2), 1).await;
}

#[tokio::test]
async fn a_damaged_control_file_takes_the_vote() {
    let folder = node::folder("a_damaged_control_file_takes_the_vote");
    let (node, _) = node_with_wal(&folder, 1, 100).await;
    node.stop().await;
    let control = segment(&folder, Lsn(0x100_0000)).with_file_name("control");
    let mut bytes = std::fs::read(&control).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&control, bytes).unwrap();
    let node = Node::start(&folder, 1).await;
    assert_eq!(TestProposer::connect(&node, timeline(1)).await.refusal().await.0, RefusalCode::DamagedWal);
}

#[tokio::test]
async fn a_term_that_departs_replaces_what_was_not_committed() {
    let folder = node::folder("a_term_that_departs_replaces_what_was_not_committed");
    let (node, mut wal) = node_with_wal(&folder, 2, 3000).await;
    let common = wal.end();
    let mut other = wal.fork(99);
    let mut first = TestProposer::elect(&node, timeline(1), 2).await;
    let lost = (0..20).flat_map(|_| wal.append(5000)).collect::<Vec<u8>>();
    first.append(common, &lost, Lsn(0)).await;
    first.flushed(wal.end()).await;

    let mut second = TestProposer::connect(&node, timeline(1)).await;
    second.greet().await;
    let vote = second.vote(3).await;
    assert!(vote.granted && vote.flush_lsn == wal.end());
    let history = vote.history.cut_at(Lsn(common.0 - 8)).continued(second.term, common).unwrap();
    let answer = second.install(history, common).await;
    assert_eq!(answer.flush_lsn, common);
    // One record of the same length as the first that was cut: were the next ones still there, they would follow it (H2).
    let bytes = other.append(5000);
    second.append(common, &bytes, other.end()).await;
    second.flushed(other.end()).await;
    node.stop().await;

    let node = Node::start(&folder, 1).await;
    assert_eq!(node.state(timeline(1)).await["flush_lsn"], other.end().to_string());
}

#[tokio::test]
async fn wal_that_does_not_decode_is_not_acknowledged() {
    let folder = node::folder("wal_that_does_not_decode_is_not_acknowledged");
    let (node, mut wal) = node_with_wal(&folder, 1, 100).await;
    let mut proposer = TestProposer::elect(&node, timeline(1), 2).await;
    let begin = wal.end();
    let mut bytes = wal.append(1000);
    bytes[500] ^= 1;
    proposer.append(begin, &bytes, wal.end()).await;
    assert_eq!(proposer.refusal().await.0, RefusalCode::ProtocolError);
    assert_eq!(node.state(timeline(1)).await["flush_lsn"], begin.to_string());
}
