//! Three nodes with one timeline.

use std::path::PathBuf;

use ogel_ids::Lsn;

use super::{Node, Ports, proposer::TestProposer, reader::TestReader, timeline, wal::Wal};

pub struct Three {
    pub nodes: Vec<Node>,
    pub folders: Vec<PathBuf>,
    pub addresses: Vec<(u64, String)>,
    pub wal: Wal,
}

/// Three nodes that know each other, with a timeline.
pub async fn three(name: &str) -> Three {
    let folders: Vec<_> = (1..=3).map(|n| super::folder(&format!("{name}-{n}"))).collect();
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
    pub async fn push_to_two(&mut self, term: u64, records: usize) {
        self.push_to([0, 1], term, records).await;
    }

    /// A proposer that reaches only these two.
    pub async fn push_to(&mut self, two: [usize; 2], term: u64, records: usize) {
        let mut first = TestProposer::elect(&self.nodes[two[0]], timeline(1), term).await;
        let mut second = TestProposer::elect(&self.nodes[two[1]], timeline(1), term).await;
        for _ in 0..records {
            let at = self.wal.end();
            let bytes = self.wal.append(300_000);
            first.append(at, &bytes, Lsn(0)).await;
            second.append(at, &bytes, Lsn(0)).await;
        }
        first.flushed(self.wal.end()).await;
        second.flushed(self.wal.end()).await;
    }

    pub async fn check_third(&self) {
        self.check(2).await;
    }

    /// The node has all of the log.
    pub async fn check(&self, node: usize) {
        let (third, end) = (&self.nodes[node], self.wal.end());
        third.wait_state(timeline(1), "flush_lsn", end).await;
        third.wait_state(timeline(1), "commit_lsn", end).await;
        let mut reader = TestReader::start(&third.options(timeline(1)), self.wal.start()).await.unwrap();
        reader.read_to(end).await;
        assert!(reader.wal == self.wal.range(self.wal.start(), end), "byte for byte the same log");
    }

    /// Starts a node that was taken out of `nodes` at its old place.
    pub async fn restart(&mut self, node: usize, pg: &str, http: &str) {
        let ports = Ports::again(pg, http).await;
        let started = Node::start_with(&self.folders[node], node as u64 + 1, ports, &self.addresses).await;
        self.nodes.insert(node, started);
    }
}
