//! A full disk stops acknowledgements, not readers; when space returns, so do they.
//!
//! Needs to mount a small file system: without that right it is skipped.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{path::Path, process::Command, time::Duration};

use node::{Node, proposer::TestProposer, reader::TestReader, timeline, wal::Wal};
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

#[tokio::test]
async fn a_full_disk_stops_acknowledgements_until_there_is_space() {
    let folder = node::folder("disk_full");
    let Some(_disk) = SmallDisk::mount(&folder) else {
        println!("skipped: no right to mount a file system");
        return;
    };
    let node = Node::start(&folder.join("store"), 1).await;
    let mut wal = Wal::new();
    assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
    let filler = folder.join("filler");
    std::fs::write(&filler, vec![1; 4 << 20]).unwrap();

    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    for _ in 0..6 {
        let begin = wal.end();
        let bytes = wal.append(800_000);
        proposer.append(begin, &bytes, begin).await;
    }
    let text = loop {
        match proposer.receive().await {
            Some(AcceptorMessage::Refused(refused)) => {
                assert_eq!(refused.code, RefusalCode::OutOfSpace);
                break refused.text;
            }
            Some(_) => {}
            None => panic!("the connection must stay"),
        }
    };
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
