//! A full disk stops acknowledgements, not readers; when space returns, so do they.
//!
//! Needs to mount a small file system: without that right it is skipped.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{path::Path, process::Command, time::Duration};

use node::{Node, Ports, proposer::TestProposer, reader::TestReader, timeline, wal::Wal};
use ogel_ids::Lsn;
use quorum::{AcceptorMessage, RefusalCode};

struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(path).output().ok()?;
        mounted.status.success().then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Sends about so many, 800,000 bytes each.
async fn append_megabytes(proposer: &mut TestProposer, wal: &mut Wal, count: usize) {
    for _ in 0..count {
        let begin = wal.end();
        let bytes = wal.append(800_000);
        proposer.append(begin, &bytes, begin).await;
    }
}

async fn lack_of_space(proposer: &mut TestProposer) -> String {
    loop {
        match proposer.receive().await {
            Some(AcceptorMessage::Refused(refused)) => {
                assert_eq!(refused.code, RefusalCode::OutOfSpace);
                return refused.text;
            }
            Some(_) => {}
            None => panic!("the connection must stay"),
        }
    }
}

/// What a quota refuses waits, on the same connection, until older segments are gone.
#[tokio::test]
async fn a_used_up_quota_is_back_pressure() {
    let folder = node::folder("quota");
    let flags = ["--timeline-quota-bytes=4194304"];
    let node = Node::start_flags(&folder, 1, Ports::take().await, &[], &flags).await;
    let mut wal = Wal::new();
    for id in [1, 2] {
        assert_eq!(node.create(timeline(id), &wal, &node::with_strangers(node.member)).await.0, 201);
    }
    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    append_megabytes(&mut proposer, &mut wal, 6).await;
    let text = lack_of_space(&mut proposer).await;
    assert!(text.contains("quota of 4194304"), "{text}");
    let state = node.state(timeline(1)).await;
    assert!(state["waits_for_space"].as_str().is_some_and(|text| text.contains("quota")), "{state}");
    assert!(node.get("/metrics").await.1.contains("safekeeper_timelines_out_of_space 1"));
    let mut other = TestProposer::elect(&node, timeline(2), 1).await;
    let mut others_wal = Wal::new();
    let begin = others_wal.end();
    let bytes = others_wal.append(1000);
    other.append(begin, &bytes, begin).await;
    other.flushed(others_wal.end()).await;

    let timeline_folder = folder.join(format!("tenants/{}/timelines/{}", node::tenant(), timeline(1)));
    let mut segments: Vec<_> =
        std::fs::read_dir(&timeline_folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.file_name().unwrap().len() == 24);
    segments.sort();
    segments.iter().take(3).for_each(|path| std::fs::remove_file(path).unwrap());
    proposer.flushed(wal.end()).await;
    assert!(node.state(timeline(1)).await["waits_for_space"].is_null());
    assert!(node.get("/metrics").await.1.contains("safekeeper_timelines_out_of_space 0"));
    node.stop().await;
}

/// The free-space floor keeps room for what must always be possible.
#[tokio::test]
async fn the_floor_leaves_room_for_votes() {
    let folder = node::folder("floor");
    let Some(_disk) = SmallDisk::mount(&folder) else {
        println!("skipped: no right to mount a file system");
        return;
    };
    let flags = ["--free-space-floor-bytes=3000000"];
    let node = Node::start_flags(&folder.join("store"), 1, Ports::take().await, &[], &flags).await;
    let mut wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    append_megabytes(&mut proposer, &mut wal, 9).await;
    let text = lack_of_space(&mut proposer).await;
    assert!(text.contains("must stay free"), "{text}");
    TestProposer::elect(&node, timeline(1), 2).await;
    node.stop().await;
}

#[tokio::test]
async fn a_full_disk_stops_acknowledgements_until_there_is_space() {
    let folder = node::folder("disk_full");
    let Some(_disk) = SmallDisk::mount(&folder) else {
        println!("skipped: no right to mount a file system");
        return;
    };
    let flags = ["--free-space-floor-bytes=0"];
    let node = Node::start_flags(&folder.join("store"), 1, Ports::take().await, &[], &flags).await;
    let mut wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let filler = folder.join("filler");
    std::fs::write(&filler, vec![1; 4 << 20]).unwrap();

    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    append_megabytes(&mut proposer, &mut wal, 6).await;
    let text = lack_of_space(&mut proposer).await;
    assert!(text.contains("free disk space"), "{text}");
    let state = node.state(timeline(1)).await;
    let flushed: Lsn = state["flush_lsn"].as_str().unwrap().parse().unwrap();
    assert!(flushed < wal.end(), "what has no place is not acknowledged");
    let committed: Lsn = state["commit_lsn"].as_str().unwrap().parse().unwrap();
    assert!(committed > wal.start(), "something was committed before");
    let mut reader = TestReader::start(&node.options(timeline(1)), wal.start()).await.unwrap();
    reader.read_to(committed).await;

    std::fs::remove_file(&filler).unwrap();
    proposer.flushed(wal.end()).await;
    tokio::time::timeout(Duration::from_secs(5), node.stop()).await.unwrap();
}
