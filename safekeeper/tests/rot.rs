//! A node that finds acknowledged WAL damaged has no vote (H6), takes the peers' bytes by itself, and then takes part again.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{fs, path::PathBuf};

use node::{
    Node, Ports,
    proposer::TestProposer,
    tenant,
    three::{Three, three},
    timeline,
    wal::SEGMENT_SIZE,
};
use ogel_ids::Lsn;
use quorum::RefusalCode;

fn segment(three: &Three, node: usize, at: Lsn) -> PathBuf {
    let folder = three.folders[node].join(format!("tenants/{}/timelines/{}", tenant(), timeline(1)));
    folder.join(Lsn(at.0).segment_start(SEGMENT_SIZE.into()).segment_file_name(SEGMENT_SIZE.into()))
}

fn flip(three: &Three, node: usize, at: Lsn) {
    let path = segment(three, node, at);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at.segment_offset(SEGMENT_SIZE.into()) as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Stops node 3, damages it, starts it while nobody else runs, and then the others.
async fn damaged(name: &str, damage: impl Fn(&Three)) -> Three {
    let mut three = three(name).await;
    three.push_to_two(1, 12).await;
    three.check(2).await;
    let mut places = Vec::new();
    for node in three.nodes.drain(..) {
        places.push((node.pg.clone(), node.http.clone()));
        node.stop().await;
    }
    damage(&three);
    let ports = Ports::again(&places[2].0, &places[2].1).await;
    let third = Node::start_with(&three.folders[2], 3, ports, &three.addresses).await;
    let (code, text) = TestProposer::connect(&third, timeline(1)).await.refusal().await;
    assert!(code == RefusalCode::DamagedWal && text.contains("must not vote"), "{text}");
    for (node, (pg, http)) in places[..2].iter().enumerate() {
        three.restart(node, pg, http).await;
    }
    three.nodes.push(third);
    three
}

async fn is_repaired(mut three: Three) {
    three.check(2).await;
    let metrics = three.nodes[2].get("/metrics").await.1;
    assert!(metrics.contains("safekeeper_repaired_timelines_total 1"), "{metrics}");
    assert!(metrics.contains("safekeeper_refused_timelines 0"), "{metrics}");
    let first = three.nodes.remove(0);
    let (pg, http) = (first.pg.clone(), first.http.clone());
    first.stop().await;
    three.push_to([0, 1], 2, 2).await;
    three.restart(0, &pg, &http).await;
    three.check(0).await;
}

#[tokio::test]
async fn a_flipped_byte_is_repaired() {
    is_repaired(damaged("flipped", |three| flip(three, 2, Lsn(three.wal.end().0 - 1000))).await).await;
}

#[tokio::test]
async fn several_damaged_places_and_a_lost_segment_are_repaired() {
    let damage = |three: &Three| {
        let end = three.wal.end().0;
        flip(three, 2, Lsn(end - 1000));
        flip(three, 2, Lsn(end - 700_000));
        fs::remove_file(segment(three, 2, Lsn(end - 1_500_000))).unwrap();
        flip(three, 2, Lsn(end - 2_700_000));
    };
    is_repaired(damaged("several", damage).await).await;
}
