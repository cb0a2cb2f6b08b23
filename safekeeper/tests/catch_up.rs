//! A node that is behind fetches what it lacks from its peers, without the proposer's help.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use node::{Node, Ports, three::three, timeline};

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
