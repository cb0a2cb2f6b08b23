//! A node that is behind fetches what it lacks from its peers, without the proposer's help.

mod node;

use node::{Node, Ports, proposer::TestProposer, timeline, wal::Wal};
use ogel_ids::Lsn;

#[tokio::test]
async fn a_laggard_catches_up_from_its_peers() {
    let folders = [1, 2, 3].map(|n| node::folder(&format!("laggard-{n}")));
    let ports = [Ports::take().await, Ports::take().await, Ports::take().await];
    let addresses: Vec<(u64, String)> = ports.iter().zip(1..).map(|(ports, id)| (id, ports.pg())).collect();
    let mut nodes = Vec::new();
    for (id, (folder, ports)) in (1..).zip(folders.iter().zip(ports)) {
        nodes.push(Node::start_with(folder, id, ports, &addresses).await);
    }
    let members: Vec<_> = nodes.iter().map(|node| node.member).collect();
    let mut wal = Wal::new();
    for node in &nodes {
        assert_eq!(node.create(timeline(1), &wal, &members).await.0, 201);
    }

    // The third node is not reached by the proposer.
    let mut first = TestProposer::elect(&nodes[0], timeline(1), 1).await;
    let mut second = TestProposer::elect(&nodes[1], timeline(1), 1).await;
    let begin = wal.end();
    for _ in 0..20 {
        let at = wal.end();
        let bytes = wal.append(300_000);
        first.append(at, &bytes, Lsn(0)).await;
        second.append(at, &bytes, Lsn(0)).await;
    }
    first.flushed(wal.end()).await;
    second.flushed(wal.end()).await;
    for node in &nodes {
        // Nobody said that it is committed: a quorum's own reports do (H5), and then the third may have it.
        node.wait_state(timeline(1), "commit_lsn", wal.end()).await;
    }
    assert_eq!(nodes[2].state(timeline(1)).await["flush_lsn"], wal.end().to_string());
    let mut reader = node::reader::TestReader::start(&nodes[2].options(timeline(1)), begin).await.unwrap();
    reader.read_to(wal.end()).await;
    assert!(reader.wal == wal.range(begin, wal.end()), "byte for byte the same log");
}
