//! Finished WAL goes to the object store; what is not needed here goes away, and whoever reads it notices nothing.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use node::{
    Node, Ports,
    archiving::{Archiving, SIZE, remote_flag, unpacked, wait_until},
    proposer::TestProposer,
    reader::TestReader,
    tenant, timeline,
    wal::Wal,
};
use ogel_ids::Lsn;
use ogel_pgwire::WireError;

#[tokio::test]
async fn segments_are_archived_and_go_when_the_pageserver_has_them() {
    let mut it = Archiving::start("segments_are_archived").await;
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 20).await;
    it.node.wait_state(timeline(1), "backup_lsn", it.finished()).await;
    let mut at = Wal::first();
    while at < it.finished() {
        let end = Lsn(at.0 + SIZE);
        assert!(unpacked(&it.object(at)) == it.wal.range(at, end), "{at}");
        at = end;
    }
    let first = Wal::first().segment_file_name(SIZE);
    assert!(it.local().contains(&first), "the pageserver does not have it");

    let ingested = Lsn(Wal::first().0 + 3 * SIZE + 5);
    it.ingested(ingested).await;
    let oldest = ingested.segment_file_name(SIZE);
    let folder = it.folder.clone();
    let gone = || it.local()[0] == oldest;
    wait_until("segments below remote_consistent_lsn stay", gone).await;
    it.check_reader().await;
    drop(proposer);
    let mut it = it.restart().await;
    assert_eq!(it.folder, folder);
    it.check_reader().await;
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 2).await;
    it.push(&mut proposer, 5).await;
    it.node.wait_state(timeline(1), "backup_lsn", it.finished()).await;
    it.check_reader().await;
    assert!(it.metric("safekeeper_archive_fetched_bytes_total").await >= 3 * SIZE);
    let uploaded = it.metric("safekeeper_archive_uploaded_bytes_total").await;
    assert!(uploaded >= SIZE && uploaded % SIZE == 0, "{uploaded} bytes: whole segments, since the restart");
    assert!(it.metric("safekeeper_archive_stored_bytes_total").await > 0);
}

/// H5, and what an idle timeline costs.
#[tokio::test]
async fn an_idle_timeline_is_a_control_file_until_somebody_writes() {
    let mut it = Archiving::start("an_idle_timeline").await;
    for term in [1, 11, 21] {
        let mut proposer = TestProposer::elect(&it.node, timeline(1), term).await;
        it.push(&mut proposer, 7).await;
        // A record that nobody has committed: it must not be dropped.
        let (committed, begin) = (it.wal.end(), it.wal.end());
        let bytes = it.wal.append(1000);
        proposer.append(begin, &bytes, committed).await;
        proposer.flushed(it.wal.end()).await;
        it.ingested(committed).await;
        drop(proposer);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let state = it.node.state(timeline(1)).await;
        assert_eq!(state["wal_dropped"], false, "uncommitted WAL is only here");

        let mut proposer = TestProposer::elect(&it.node, timeline(1), term + 1).await;
        proposer.append(it.wal.end(), &[], it.wal.end()).await;
        it.node.wait_state(timeline(1), "commit_lsn", it.wal.end()).await;
        drop(proposer);
        it.node.wait_state(timeline(1), "wal_dropped", true).await;
        wait_until("an idle timeline is a control file", || it.local() == ["control"]).await;
        it.check_reader().await;
        it = it.restart().await;
        assert_eq!(it.local(), ["control"]);
        it.check_reader().await;
        assert_eq!(it.local(), ["control"], "reading brings nothing back");
        let state = it.node.state(timeline(1)).await;
        assert_eq!(state["flush_lsn"], it.wal.end().to_string());
        assert_eq!(state["last_log_term"], term + 1);
        let mut proposer = TestProposer::elect(&it.node, timeline(1), term + 2).await;
        it.push(&mut proposer, 1).await;
        assert_eq!(it.node.state(timeline(1)).await["wal_dropped"], false);
        it.check_reader().await;
        drop(proposer);
        it = it.restart().await;
        it.check_reader().await;
    }
    let tails = fs::read_dir(it.objects("tails")).unwrap().count();
    assert!(tails <= 1, "{tails} tails: superseded ones are deleted");
}

#[tokio::test]
async fn an_outage_of_the_store_stops_nothing_but_the_archive() {
    let mut it = Archiving::start("an_outage").await;
    let away = it.remote.with_file_name("an_outage-away");
    let _none_from_an_earlier_run = fs::remove_dir_all(&away);
    fs::remove_dir_all(&it.remote).unwrap();
    fs::write(&it.remote, b"not a folder").unwrap();
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 10).await;
    it.ingested(it.wal.end()).await;
    while it.metric("safekeeper_archive_failures_total").await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(it.local().contains(&Wal::first().segment_file_name(SIZE)), "nothing is removed");
    fs::remove_file(&it.remote).unwrap();
    fs::create_dir(&it.remote).unwrap();
    it.node.wait_state(timeline(1), "backup_lsn", it.finished()).await;
    drop(proposer);
    it.node.wait_state(timeline(1), "wal_dropped", true).await;

    // What was dropped cannot come back now: no vote is lost by that, but WAL waits.
    fs::rename(&it.remote, &away).unwrap();
    let mut proposer = TestProposer::connect(&it.node, timeline(1)).await;
    proposer.greet().await;
    let vote = proposer.vote(2).await;
    assert!(vote.granted && vote.flush_lsn == it.wal.end(), "{vote:?}");
    let mut reader = TestReader::start(&it.node.options(timeline(1)), Wal::first()).await.unwrap();
    assert!(matches!(reader.receive().await, Err(WireError::Server(_))), "an error, not silence");
    fs::rename(&away, &it.remote).unwrap();
    let history = vote.history.continued(proposer.term, vote.flush_lsn).unwrap();
    proposer.install(history, vote.flush_lsn).await;
    it.push(&mut proposer, 5).await;
    it.check_reader().await;
}

#[tokio::test]
async fn an_object_with_other_bytes_is_found_and_nothing_is_removed() {
    let mut it = Archiving::start("an_object_with_other_bytes").await;
    let second = Lsn(Wal::first().0 + SIZE);
    fs::create_dir_all(it.objects("wal")).unwrap();
    fs::write(it.object(second), vec![7; SIZE as usize]).unwrap();
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 10).await;
    it.ingested(it.wal.end()).await;
    while it.metric("safekeeper_archive_differences_total").await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(it.node.state(timeline(1)).await["backup_lsn"], second.to_string());
    assert!(it.local().contains(&second.segment_file_name(SIZE)));
    it.check_reader().await;
    fs::remove_file(it.object(second)).unwrap();
    let it = it.restart().await; // or in 30 s
    it.node.wait_state(timeline(1), "backup_lsn", it.finished()).await;
    it.check_reader().await;
}

/// The node that comes first in the timeline's order is down.
#[tokio::test]
async fn another_node_takes_over() {
    let remote = node::folder("takes_over-remote");
    let ports = [Ports::take().await, Ports::take().await, Ports::take().await];
    let addresses: Vec<(u64, String)> = ports.iter().zip(1..).map(|(ports, id)| (id, ports.pg())).collect();
    let folders: Vec<PathBuf> = (1..=3).map(|id| node::folder(&format!("takes_over-{id}"))).collect();
    let mut nodes = Vec::new();
    for (id, (ports, folder)) in (1..).zip(ports.into_iter().zip(&folders)) {
        nodes
            .push(Node::start_flags(folder, id, ports, &addresses, &[&remote_flag(&remote), "--idle-after-s=1"]).await);
    }
    let members: Vec<_> = nodes.iter().map(|node| node.member).collect();
    // With each of them down in turn, one of the runs lacks the first.
    for (down, folder) in folders.iter().enumerate() {
        let mut wal = Wal::new();
        let id = timeline(10 + down as u8);
        let mut proposers = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            assert_eq!(node.create(id, &wal, &members).await.0, 201);
            if index != down {
                proposers.push(TestProposer::elect(node, id, 1).await);
            }
        }
        let stopped = nodes.remove(down);
        let (pg, http) = (stopped.pg.clone(), stopped.http.clone());
        stopped.stop().await;
        for _ in 0..10 {
            let begin = wal.end();
            let bytes = wal.append(300_000);
            for proposer in &mut proposers {
                proposer.append(begin, &bytes, wal.end()).await;
            }
        }
        for proposer in &mut proposers {
            proposer.flushed(wal.end()).await;
        }
        let began = Instant::now();
        for node in &nodes {
            node.wait_state(id, "backup_lsn", wal.end().segment_start(SIZE)).await;
        }
        let lag = began.elapsed();
        assert!(lag < Duration::from_secs(5), "node {} down: archived after {lag:?}", down + 1);
        drop(proposers);
        let ports = Ports::again(&pg, &http).await;
        let node =
            Node::start_flags(folder, down as u64 + 1, ports, &addresses, &[&remote_flag(&remote), "--idle-after-s=1"])
                .await;
        nodes.insert(down, node);
    }
}

/// What a customer deletes is gone, in the object store too.
#[tokio::test]
async fn deleted_wal_is_deleted_everywhere() {
    let mut it = Archiving::start("deleted_wal").await;
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 10).await;
    it.node.wait_state(timeline(1), "backup_lsn", it.finished()).await;
    let url = format!("http://{}/v1/tenant/{}/timeline/{}", it.node.http, tenant(), timeline(1));
    let deleted = reqwest::Client::new().delete(url).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    assert_eq!(fs::read_dir(it.objects("wal")).map_or(0, Iterator::count), 0);
}

/// Others remove their copies of what is archived: damaged WAL must not count as that.
#[tokio::test]
async fn damaged_wal_is_not_uploaded() {
    let mut it = Archiving::start("damaged_wal").await;
    fs::remove_dir_all(&it.remote).unwrap();
    fs::write(&it.remote, b"not a folder").unwrap();
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 10).await;
    let second = Lsn(Wal::first().0 + SIZE);
    let timeline_folder = it.folder.join(format!("tenants/{}/timelines/{}", tenant(), timeline(1)));
    let segment = timeline_folder.join(second.segment_file_name(SIZE));
    let mut bytes = fs::read(&segment).unwrap();
    bytes[500_000] ^= 1;
    fs::write(&segment, bytes).unwrap();
    fs::remove_file(&it.remote).unwrap();
    fs::create_dir(&it.remote).unwrap();
    while it.metric("safekeeper_archive_differences_total").await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(it.node.state(timeline(1)).await["backup_lsn"], second.to_string());
    assert!(!it.object(second).exists());
}
