//! A timeline at rest costs no open file.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{path::Path, time::Duration};

use node::{LIMIT, Node, proposer::TestProposer, timeline, wal::Wal};
use ogel_ids::Lsn;

fn open_files_below(folder: &Path) -> Vec<String> {
    let links =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|path| path.starts_with(folder)).map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn timelines_at_rest_hold_no_files() {
    let folder = node::folder("timelines_at_rest_hold_no_files");
    let node = Node::start(&folder, 1).await;
    let mut wal = Wal::new();
    for n in 1..=5 {
        assert_eq!(node.create(timeline(n), &wal, &node::with_strangers(node.member)).await.0, 201);
    }
    let timelines = folder.join("tenants");
    assert_eq!(open_files_below(&timelines), Vec::<String>::new(), "timelines that were only made");

    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    let begin = wal.end();
    let bytes = wal.append(1000);
    proposer.append(begin, &bytes, Lsn(0)).await;
    proposer.flushed(wal.end()).await;
    assert!(!open_files_below(&timelines).is_empty());
    drop(proposer);
    let closed = async {
        while !open_files_below(&timelines).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, closed).await.expect("the files are closed when the proposer has gone");
}
