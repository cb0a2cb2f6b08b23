//! A node that lost its store takes its place again with one request, and nothing that was acknowledged is lost (H4).
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::time::Duration;

use node::{Node, proposer::TestProposer, tenant, three::three, timeline};
use quorum::RefusalCode;
use serde_json::json;

async fn rejoin(node: &Node) -> serde_json::Value {
    assert_eq!(node.request("POST", "/v1/rejoin", None).await.0, 202);
    let done = async {
        loop {
            let (_, status) = node.request("GET", "/v1/rejoin", None).await;
            if status["running"] == false {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(node::LIMIT, done).await.expect("the job ends")
}

#[tokio::test]
async fn a_wiped_node_is_replaced_and_nothing_is_lost() {
    let mut three = three("wiped").await;
    three.push_to_two(1, 10).await;
    three.check(2).await;
    let third = three.nodes.pop().unwrap();
    let (pg, http, before) = (third.pg.clone(), third.http.clone(), third.member);
    third.stop().await;
    std::fs::remove_dir_all(&three.folders[2]).unwrap();
    three.push_to_two(2, 3).await;
    three.restart(2, &pg, &http).await;
    let third = &three.nodes[2];
    assert_ne!(third.member, before);
    let (code, _) = TestProposer::connect(third, timeline(1)).await.refusal().await;
    assert_eq!(code, RefusalCode::UnknownTimeline, "it has no vote");

    let status = rejoin(third).await;
    assert_eq!(status["complete"], true, "{status}");
    assert_eq!(status["timelines"][0]["state"], "joined", "{status}");
    for node in &three.nodes {
        let state = node.state(timeline(1)).await;
        assert_eq!(state["membership"]["generation"], 2, "{state}");
        assert_eq!(state["membership"]["members"][2]["store_uuid"], third.member.store_uuid.to_string());
    }
    three.check(2).await;
    let again = rejoin(&three.nodes[2]).await;
    assert_eq!((again["complete"].clone(), again["timelines"][0]["state"].clone()), (json!(true), json!("present")));

    // Another one dies: the new member and the survivor go on.
    let first = three.nodes.remove(0);
    let (pg, http) = (first.pg.clone(), first.http.clone());
    first.stop().await;
    three.push_to([0, 1], 3, 3).await;
    three.restart(0, &pg, &http).await;
    three.check(0).await;
}

#[tokio::test]
async fn an_interrupted_or_refused_replacement_is_gone_on_with() {
    let mut three = three("interrupted").await;
    three.push_to_two(1, 10).await;
    let third = three.nodes.pop().unwrap();
    let (pg3, http3) = (third.pg.clone(), third.http.clone());
    third.stop().await;
    std::fs::remove_dir_all(&three.folders[2]).unwrap();
    // One survivor is away: nothing may join, because it and the lost store could still be an old quorum.
    let second = three.nodes.pop().unwrap();
    let (pg2, http2) = (second.pg.clone(), second.http.clone());
    second.stop().await;
    let path = format!("/v1/tenant/{}/timeline/{}", tenant(), timeline(1));
    let ports = node::Ports::again(&pg3, &http3).await;
    let third = Node::start_with(&three.folders[2], 3, ports, &three.addresses).await;
    let (code, error) = third.request("POST", &format!("{path}/pull"), None).await;
    assert_eq!(code, 503, "{error}");
    assert!(error["error"].as_str().unwrap().contains("safekeeper 2"), "{error}");
    let (code, _) = TestProposer::connect(&third, timeline(1)).await.refusal().await;
    assert_eq!(code, RefusalCode::UnknownTimeline, "half done is not done");
    // What a crash in the middle of the copy leaves.
    third.stop().await;
    let left = three.folders[2].join(format!("tenants/{}/timelines/.making-copy-{}", tenant(), timeline(1)));
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("control"), b"half").unwrap();

    three.restart(1, &pg2, &http2).await;
    three.restart(2, &pg3, &http3).await;
    assert!(!left.exists());
    let status = rejoin(&three.nodes[2]).await;
    assert_eq!(status["complete"], true, "{status}");
    three.check(2).await;
    three.push_to([1, 2], 2, 3).await;
    three.check(0).await;
}

#[tokio::test]
async fn memberships_are_compared_before_they_are_taken() {
    let three = three("compared").await;
    let path = format!("/v1/tenant/{}/timeline/{}/membership", tenant(), timeline(1));
    let (code, report) = three.nodes[0].request("GET", &path, None).await;
    assert_eq!((code, report["generation"].as_u64()), (200, Some(1)), "{report}");
    let mut next = report["membership"].clone();
    next["generation"] = json!(3);
    next["members"][2]["store_uuid"] = json!("33333333333333333333333333333333");
    let (code, error) = three.nodes[0].request("PUT", &path, Some(&next)).await;
    assert!(code == 409 && error["error"].as_str().unwrap().contains("one after the other"), "{error}");
    next["generation"] = json!(2);
    for _ in 0..2 {
        let (code, report) = three.nodes[0].request("PUT", &path, Some(&next)).await;
        assert_eq!((code, report["generation"].as_u64()), (200, Some(2)), "{report}");
    }
    next["members"][2]["store_uuid"] = json!("44444444444444444444444444444444");
    let (code, error) = three.nodes[0].request("PUT", &path, Some(&next)).await;
    assert!(code == 409 && error["error"].as_str().unwrap().contains("made twice"), "{error}");
    assert_eq!(three.nodes[0].request("PUT", &path, Some(&json!({"x": 1}))).await.0, 400);
    let mut proposer = TestProposer::connect(&three.nodes[0], timeline(1)).await;
    proposer.greet().await;
    assert_eq!(proposer.generation.0, 2, "proposers learn it");
}
