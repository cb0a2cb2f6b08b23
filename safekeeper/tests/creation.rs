//! Timelines come only from explicit creation, bound to the node's store (H4).
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use node::{Node, proposer::TestProposer, reader::TestReader, tenant, timeline, wal::Wal};
use quorum::RefusalCode;

#[tokio::test]
async fn creation_is_idempotent_and_refuses_what_differs() {
    let folder = node::folder("creation_is_idempotent_and_refuses_what_differs");
    let node = Node::start(&folder, 1).await;
    let wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &[node.member]).await.0, 201);
    assert_eq!(node.create(timeline(1), &wal, &[node.member]).await.0, 200);
    let mut longer = Wal::new();
    longer.append(10);
    let (status, error) = node.create(timeline(1), &longer.restarted(), &[node.member]).await;
    assert_eq!(status, 409, "{error}");
    let state = node.state(timeline(1)).await;
    assert_eq!(state["timeline_start_lsn"], wal.start().to_string());
    assert_eq!(state["commit_lsn"], wal.start().to_string());
    assert_eq!(state["system_identifier"], node::wal::SYSTEM_ID.to_string());
    assert_eq!(node.get("/v1/tenant/xyz/timeline/1").await.0, 400);
    assert_eq!(node.get(&format!("/v1/tenant/{}/timeline/{}", tenant(), timeline(9))).await.0, 404);
}

#[tokio::test]
async fn a_prefix_that_is_not_the_timelines_wal_is_refused() {
    let folder = node::folder("a_prefix_that_is_not_the_timelines_wal_is_refused");
    let node = Node::start(&folder, 1).await;
    for damage in [100, 5000, 9000] {
        let mut wal = Wal::new();
        wal.damage_prefix(damage);
        let (status, error) = node.create(timeline(1), &wal, &[node.member]).await;
        assert_eq!(status, 400, "byte {damage}: {error}");
    }
    assert_eq!(node.get("/v1/status").await.1.matches("\"timeline\"").count(), 0, "nothing is left of them");
}

#[tokio::test]
async fn a_wiped_store_does_not_vote() {
    let folder = node::folder("a_wiped_store_does_not_vote");
    let path = folder.join("store");
    let node = Node::start(&path, 1).await;
    let (wal, before) = (Wal::new(), node.member);
    assert_eq!(node.create(timeline(1), &wal, &[before]).await.0, 201);
    node.stop().await;
    std::fs::remove_dir_all(&path).unwrap();

    let node = Node::start(&path, 1).await;
    assert_ne!(node.member, before, "a new store is a new member");
    let mut proposer = TestProposer::connect(&node, timeline(1)).await;
    assert_eq!(proposer.refusal().await.0, RefusalCode::UnknownTimeline);
    let (status, error) = node.create(timeline(1), &wal, &[before]).await;
    assert_eq!(status, 400, "{error}");
    assert!(error["error"].as_str().unwrap().contains("not among the members"), "{error}");
}

#[tokio::test]
async fn what_is_deleted_does_not_come_back() {
    let folder = node::folder("what_is_deleted_does_not_come_back");
    let store = folder.join("store");
    let node = Node::start(&store, 1).await;
    let mut wal = Wal::new();
    let members = node::with_strangers(node.member);
    assert_eq!(node.create(timeline(1), &wal, &members).await.0, 201);
    assert_eq!(node.create(timeline(2), &wal, &members).await.0, 201);
    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    let begin = wal.end();
    let bytes = wal.append(5000);
    proposer.append(begin, &bytes, wal.end()).await;
    proposer.flushed(wal.end()).await;
    let mut reader = TestReader::start(&node.options(timeline(1)), begin).await.unwrap();

    let path = format!("/v1/tenant/{}/timeline/{}", tenant(), timeline(1));
    let (status, first) = node.delete(&path).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(node.delete(&path).await, (200, first), "repeating it changes nothing");
    let (code, text) = proposer.refusal().await;
    assert!(code == RefusalCode::UnknownTimeline && text.contains("was deleted"), "{text}");
    let error = loop {
        if let Err(error) = reader.receive().await {
            break error.to_string();
        }
    };
    assert!(error.contains("was deleted"), "{error}");
    assert!(!store.join(format!("tenants/{}/timelines/{}", tenant(), timeline(1))).exists());

    let (status, text) = node.get(&path).await;
    assert!(status == 404 && text.contains("was deleted"), "{text}");
    let (status, error) = node.create(timeline(1), &Wal::new(), &members).await;
    assert!(status == 409 && error["error"].as_str().unwrap().contains("was deleted"), "{error}");
    assert_eq!(node.state(timeline(2)).await["flush_lsn"], begin.to_string(), "others are not touched");
    node.stop().await;

    // As a crash right after the tombstone was written would leave it.
    std::fs::create_dir_all(store.join(format!("tenants/{}/timelines/{}", tenant(), timeline(1)))).unwrap();
    let node = Node::start(&store, 1).await;
    assert!(!store.join(format!("tenants/{}/timelines/{}", tenant(), timeline(1))).exists(), "swept");
    let (status, error) = node.create(timeline(1), &Wal::new(), &members).await;
    assert!(status == 409 && error["error"].as_str().unwrap().contains("was deleted"), "{error}");
    let (code, _) = TestProposer::connect(&node, timeline(1)).await.refusal().await;
    assert_eq!(code, RefusalCode::UnknownTimeline);

    assert_eq!(node.delete(&format!("/v1/tenant/{}", tenant())).await.0, 200, "a whole tenant");
    let (code, text) = TestProposer::connect(&node, timeline(2)).await.refusal().await;
    assert!(code == RefusalCode::UnknownTimeline && text.contains("was deleted"), "{text}");
    assert_eq!(node.create(timeline(3), &Wal::new(), &members).await.0, 409, "nor any other of its timelines");
    node.stop().await;
}
