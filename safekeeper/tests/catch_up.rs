//! A node that is behind fetches what it lacks from its peers, without the proposer's help.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::path::PathBuf;

use node::{Node, Ports, proposer::TestProposer, reader::TestReader, timeline, wal::Wal};
use ogel_ids::Lsn;

struct Three {
    nodes: Vec<Node>,
    folders: Vec<PathBuf>,
    addresses: Vec<(u64, String)>,
    wal: Wal,
}

/// Three nodes that know each other, with a timeline.
async fn three(name: &str) -> Three {
    let folders: Vec<_> = (1..=3).map(|n| node::folder(&format!("{name}-{n}"))).collect();
    let ports = [Ports::take().await, Ports::take().await, Ports::take().await];
    let addresses: Vec<(u64, String)> = ports.iter().zip(1..).map(|(ports, id)| (id, ports.pg())).collect();
    let mut nodes = Vec::new();
    for (id, (folder, ports)) in (1..).zip(folders.iter().zip(ports)) {
        nodes.push(Node::start_with(folder, id, ports, &addresses).await);
    }
    let members: Vec<_> = nodes.iter().map(|node| node.member).collect();
    let wal = Wal::new();
    for node in &nodes {
        assert_eq!(node.create(timeline(1), &wal, &members).await.0, 201);
    }
    Three { nodes, folders, addresses, wal }
}

impl Three {
    /// A proposer that reaches only the first two.
    async fn push_to_two(&mut self, term: u64, records: usize) {
        let mut first = TestProposer::elect(&self.nodes[0], timeline(1), term).await;
        let mut second = TestProposer::elect(&self.nodes[1], timeline(1), term).await;
        for _ in 0..records {
            let at = self.wal.end();
            let bytes = self.wal.append(300_000);
            first.append(at, &bytes, Lsn(0)).await;
            second.append(at, &bytes, Lsn(0)).await;
        }
        first.flushed(self.wal.end()).await;
        second.flushed(self.wal.end()).await;
    }

    async fn check_third(&self) {
        let (third, end) = (&self.nodes[2], self.wal.end());
        third.wait_state(timeline(1), "flush_lsn", end).await;
        third.wait_state(timeline(1), "commit_lsn", end).await;
        let mut reader = TestReader::start(&third.options(timeline(1)), self.wal.start()).await.unwrap();
        reader.read_to(end).await;
        assert!(reader.wal == self.wal.range(self.wal.start(), end), "byte for byte the same log");
    }
}

#[tokio::test]
async fn a_node_that_the_proposer_does_not_reach_catches_up() {
    let mut three = three("unreached").await;
    three.push_to_two(1, 20).await;
    // Nobody said that it is committed: a quorum's own reports do (H5), and then the third may have it.
    three.check_third().await;
}

#[tokio::test]
async fn a_node_that_was_away_catches_up_across_terms() {
    let mut three = three("away").await;
    three.push_to_two(1, 3).await;
    three.check_third().await;
    let third = three.nodes.pop().unwrap();
    let (pg, http) = (third.pg.clone(), third.http.clone());
    third.stop().await;
    three.push_to_two(2, 3).await;
    three.push_to_two(5, 3).await;
    let ports = Ports::again(&pg, &http).await;
    three.nodes.push(Node::start_with(&three.folders[2], 3, ports, &three.addresses).await);
    three.check_third().await;
    assert_eq!(three.nodes[2].state(timeline(1)).await["last_log_term"], 5);
}
