//! A timeline from its creation over ingest, fences, restarts and broken safekeepers, with WAL that the test writes itself.
#![allow(clippy::unwrap_used)]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use ogel_ids::Lsn;
use parking_lot::Mutex;
use support::{
    FakeSafekeeper, SEGMENT, Server, TENANT, TIMELINE, Wal, template,
    wal_writer::{WalWriter, rel},
};
use wal_decoder::key::Fork;

/// A pageserver with one new timeline, and a safekeeper that has nothing behind its start yet.
async fn cluster(data: &Path, template: &str) -> (Server, FakeSafekeeper, WalWriter) {
    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    let server = Server::start(data, template, &[&safekeeper.address], &[]).await;
    let (timeline, created) = server.pageserver.create(TENANT, TIMELINE).await.unwrap();
    assert!(created);
    safekeeper.change(|wal| {
        wal.start = timeline.start_lsn;
        wal.terms = vec![(1, timeline.start_lsn)];
    });
    let writer = WalWriter::behind(&server);
    (server, safekeeper, writer)
}

const NEWEST: Lsn = Lsn::MAX;

#[tokio::test(flavor = "multi_thread")]
async fn a_template_becomes_a_timeline_of_its_own() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, _safekeeper, _) = cluster(folder.path(), &template).await;
    let timeline = server.timeline();
    let (again, created) = server.pageserver.create(TENANT, TIMELINE).await.unwrap();
    assert!(!created && again.system_identifier == timeline.system_identifier);
    let other = server.pageserver.create(TENANT, ogel_ids::TimelineId::from_bytes([0xcc; 16])).await.unwrap().0;
    assert_ne!(other.system_identifier, timeline.system_identifier);
    let prefix = timeline.wal_prefix().unwrap();
    assert_eq!(prefix.len() as u64, timeline.start_lsn.segment_offset(u64::from(SEGMENT)));
    assert_eq!(prefix[24..32], timeline.system_identifier.to_le_bytes());

    let mut pages = server.pagestream(1).await;
    let pg_class = rel(1259);
    let count = pages.block_count(pg_class, (NEWEST, timeline.start_lsn)).await;
    assert_eq!(count.tag, 102);
    let answer = pages.pages(pg_class, &[0, 1, 4_000_000], (NEWEST, timeline.start_lsn)).await;
    assert_eq!((answer.tag, answer.rest.len()), (103, 2 + 3 * 8192));
    assert!(answer.rest[2..8194].iter().any(|byte| *byte != 0), "pg_class has a first page");
    assert!(answer.rest[2 + 2 * 8192..].iter().all(|byte| *byte == 0), "out of range reads as zeros");
    assert_eq!(pages.block_count(rel(99_999), (NEWEST, Lsn(0))).await.error().0, 1);
    assert_eq!(pages.block_count(pg_class, (Lsn(8), Lsn(8))).await.error().0, 3, "below the start");
    pages.ask(77, 9, (NEWEST, Lsn(0)), |_| ());
    let refused = pages.answer().await;
    assert_eq!((refused.id, refused.error().0), (9, 5));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_wal_and_restarts_lose_nothing() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, mut writer) = cluster(folder.path(), &template).await;
    let start = server.timeline().start_lsn;
    assert_eq!(server.timeline().state_at(start).unwrap().prev_record_lsn, writer.at.prev);

    // The request is there before the WAL.
    let mut pages = server.pagestream(1).await;
    let record = writer.create(rel(20_000));
    let end = writer.at.end;
    pages.ask(2, 5, (NEWEST, end), |out| support::put_rel(rel(20_000), out));
    let waiting = tokio::spawn(async move { pages.answer().await });
    safekeeper.change(|wal| wal.bytes.extend(record));
    let answer = waiting.await.unwrap();
    assert_eq!((answer.tag, answer.id, answer.lsn), (102, 5, end));
    let mut pages = server.pagestream(1).await;
    assert_eq!(pages.block_count(rel(20_000), (start, start)).await.error().0, 1, "not there before its record");

    // Across page and segment boundaries, then a clean stop.
    while writer.at.end.segment_number(u64::from(SEGMENT)) < 4 {
        let record = writer.noise(900_001);
        safekeeper.change(|wal| wal.bytes.extend(record));
    }
    let record = writer.create(rel(20_001));
    safekeeper.change(|wal| wal.bytes.extend(record));
    server.wait_for(writer.at.end, 1).await;
    server.stop().await;

    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    let timeline = server.timeline();
    assert_eq!(timeline.disk_consistent_lsn(), writer.at.end, "a clean stop writes everything");
    assert_eq!(timeline.term_history().len(), 1);
    // More WAL is ingested but not written: as after kill -9, only what was on disk counts, and the rest comes again.
    let record = writer.create(rel(20_002));
    safekeeper.change(|wal| wal.bytes.extend(record));
    server.wait_for(writer.at.end, 1).await;
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), copy.path());
    let after_crash = Server::start(copy.path(), &template, &[&safekeeper.address], &[]).await;
    after_crash.wait_for(writer.at.end, 1).await;
    let mut pages = after_crash.pagestream(1).await;
    for number in [20_000, 20_001, 20_002] {
        assert_eq!(pages.block_count(rel(number), (NEWEST, writer.at.end)).await.tag, 102, "relation {number}");
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while safekeeper.wal.lock().feedback[0] != writer.at.end {
        assert!(tokio::time::Instant::now() < deadline, "the safekeeper is told how far the pageserver is");
        tokio::task::yield_now().await;
    }
    after_crash.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_compute_is_fenced() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, mut writer) = cluster(folder.path(), &template).await;
    let record = writer.create(rel(30_000));
    let switch = writer.at.end;
    safekeeper.change(|wal| wal.bytes.extend(record));
    server.wait_for(switch, 1).await;
    let mut old = server.pagestream(1).await;
    // It waits for WAL that it believes it has written.
    old.ask(2, 1, (NEWEST, Lsn(switch.0 + 4096)), |out| support::put_rel(rel(30_000), out));
    let waiting = tokio::spawn(async move { (old.answer().await, old) });
    let record = writer.create(rel(30_001));
    safekeeper.change(|wal| {
        wal.terms.push((2, switch));
        wal.bytes.extend(record);
    });
    let (answer, mut old) = waiting.await.unwrap();
    assert_eq!(answer.error().0, 2, "fenced");
    server.wait_for(writer.at.end, 2).await;
    let answer = old.block_count(rel(30_001), (NEWEST, switch)).await;
    assert_eq!(answer.error().0, 1, "the old compute does not see what the new one made");
    assert_eq!(old.block_count(rel(30_000), (NEWEST, switch)).await.lsn, switch);
    let mut new = server.pagestream(2).await;
    assert_eq!(new.block_count(rel(30_001), (NEWEST, writer.at.end)).await.tag, 102);
    server.stop().await;

    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    assert_eq!(server.timeline().term_history().len(), 2, "terms survive a restart");
    let mut old = server.pagestream(1).await;
    assert_eq!(old.block_count(rel(30_001), (NEWEST, switch)).await.error().0, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_safekeeper_is_followed_when_one_dies_or_lags() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (FakeSafekeeper::start(Arc::default()).await, FakeSafekeeper::start(Arc::default()).await);
    let server = Server::start(folder.path(), &template, &[&one.address, &two.address], &[]).await;
    let (timeline, _) = server.pageserver.create(TENANT, TIMELINE).await.unwrap();
    let mut writer = WalWriter::behind(&server);
    let give = |safekeeper: &FakeSafekeeper, bytes: &[u8]| {
        safekeeper.change(|wal| {
            wal.start = timeline.start_lsn;
            wal.terms = vec![(1, timeline.start_lsn)];
            wal.bytes.extend(bytes);
        });
    };
    let record = writer.create(rel(40_000));
    give(&one, &record);
    give(&two, &record);
    server.wait_for(writer.at.end, 1).await;
    // Only one of them gets the next record; the pageserver may be following the other, which is alive but has nothing.
    let record = writer.create(rel(40_001));
    give(&two, &record);
    server.wait_for(writer.at.end, 1).await;
    // Now that one dies.
    give(&one, &record);
    two.kill().await;
    let record = writer.create(rel(40_002));
    give(&one, &record);
    server.wait_for(writer.at.end, 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_cannot_be_understood_stops_its_timeline_only() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, mut writer) = cluster(folder.path(), &template).await;
    let record = writer.create(rel(50_000));
    let good = writer.at.end;
    let bad = writer.unknown();
    safekeeper.change(|wal| {
        wal.bytes.extend(record);
        wal.bytes.extend(bad);
    });
    server.wait_for(good, 1).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !server.timeline().ingest_status().stopped {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", server.timeline().ingest_status());
        tokio::task::yield_now().await;
    }
    assert!(server.timeline().ingest_status().error.is_some_and(|error| error.contains("130")), "the manager is named");
    let mut pages = server.pagestream(1).await;
    assert_eq!(pages.block_count(rel(50_000), (NEWEST, good)).await.lsn, good, "what came before is served");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basebackup_names_the_record_that_it_follows() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, mut writer) = cluster(folder.path(), &template).await;
    let record = writer.create(rel(60_000).rel.fork(Fork::Init));
    safekeeper.change(|wal| wal.bytes.extend(record));
    let running = writer.at.end;
    let (description, control) = description(&basebackup(&server, running).await);
    assert_eq!(description["prev_record_lsn"], writer.at.prev.to_string());
    assert_eq!(description["clean_shutdown"], false);
    assert_eq!(control.checkpoint, Lsn::INVALID);

    let state = server.timeline().head().state.checkpoint;
    let record = writer.checkpoint(&state);
    safekeeper.change(|wal| wal.bytes.extend(record));
    let clean = writer.at.end;
    let tar = basebackup(&server, clean).await;
    let (description, control) = self::description(&tar);
    assert_eq!(description["clean_shutdown"], true);
    assert_eq!(description["system_identifier"], server.timeline().system_identifier.to_string());
    assert_eq!((control.checkpoint, control.checkpoint_copy.redo), (writer.at.prev, writer.at.prev));
    assert_eq!(control.checkpoint_copy.next_xid, state.checkpoint.next_xid);
    let names = names(&tar);
    for name in [
        "PG_VERSION",
        "base/5/60000_init",
        "base/5/60000",
        "pg_xact/0000",
        "global/pg_filenode.map",
        "base/1/pg_filenode.map",
    ] {
        assert!(names.iter().any(|entry| entry == name), "{name} is missing from {names:?}");
    }
    assert_eq!(names.first().map(String::as_str), Some("ogel_basebackup.json"));
    assert_eq!(names.last().map(String::as_str), Some("global/pg_control"));

    // The end of a clean shutdown stays usable when more WAL has come.
    let record = writer.create(rel(60_001));
    safekeeper.change(|wal| wal.bytes.extend(record));
    server.wait_for(writer.at.end, 1).await;
    basebackup(&server, clean).await;
    let refused = server.client().await.copy_out(&format!("basebackup 1 {TENANT} {TIMELINE} {running} 1")).await;
    assert!(refused.is_err(), "the state there is not known any more");
    server.stop().await;
}

async fn basebackup(server: &Server, lsn: Lsn) -> Vec<u8> {
    let mut copy = server.client().await.copy_out(&format!("basebackup 1 {TENANT} {TIMELINE} {lsn} 1")).await.unwrap();
    let mut tar = Vec::new();
    while let Some(piece) = copy.receive().await.unwrap() {
        tar.extend_from_slice(&piece);
    }
    tar
}

fn description(tar: &[u8]) -> (serde_json::Value, wal_decoder::control_file::ControlFile) {
    use std::io::Read;
    let (mut json, mut control) = (None, None);
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        match entry.path().unwrap().to_str().unwrap() {
            "ogel_basebackup.json" => json = Some(serde_json::from_slice(&content).unwrap()),
            "global/pg_control" => control = Some(wal_decoder::control_file::ControlFile::parse(&content).unwrap()),
            _ => {}
        }
    }
    (json.unwrap(), control.unwrap())
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries.map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned()).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_others_are_refused() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let wal: Arc<Mutex<Wal>> = Arc::default();
    let safekeeper = FakeSafekeeper::start(wal).await;
    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    server.stop().await;
    let identity = folder.path().join("pageserver.json");
    for (text, part) in [
        (r#"{"version": 9, "node_id": 1}"#, "format 9"),
        (r#"{"version": 1, "node_id": 5}"#, "belongs to node 5"),
        ("rot", "damaged"),
    ] {
        std::fs::write(&identity, text).unwrap();
        let config = ogel_service::config::parse_from([
            "pageserver",
            "--data-dir",
            folder.path().to_str().unwrap(),
            "--safekeepers",
            "localhost:1",
        ])
        .unwrap();
        let started = pageserver::pageserver::Pageserver::start(
            &config,
            pageserver::metrics::Metrics::registered().0,
            ogel_service::Shutdown::new(),
        )
        .await;
        let error = format!("{:#}", started.err().expect("refused"));
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_costs_its_pages_only() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, _) = cluster(folder.path(), &template).await;
    let start = server.timeline().start_lsn;
    server.stop().await;
    let local = folder.path().join(format!("tenants/{TENANT}/timelines/{TIMELINE}/layers"));
    damage_only_file(&local);
    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    let (served, damaged) = read_all(&server, start).await;
    assert!(damaged == 0 && served > 2000, "the object store has what rotted here: {damaged} damaged, {served} served");
    server.stop().await;
    let remote = folder.path().join("remote").join(local.strip_prefix(folder.path()).unwrap());
    damage_only_file(&remote);
    std::fs::remove_dir_all(&local).unwrap();

    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    let (served, damaged) = read_all(&server, start).await;
    // One block of the layer file has a few pages; the cluster has thousands.
    assert!((1..=8).contains(&damaged) && served > 2000, "{damaged} damaged, {served} served");
    let status = server.timeline().damaged_pages();
    assert!(!status.named.is_empty(), "{status:?}");
    server.stop().await;
}

/// Flips a bit in the middle of the only layer file of a folder.
fn damage_only_file(folder: &Path) {
    let layer = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&layer).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&layer, bytes).unwrap();
}

/// Reads every page of the template's databases: how many came, and how many were damaged.
async fn read_all(server: &Server, at: Lsn) -> (usize, usize) {
    let mut pages = server.pagestream(1).await;
    let (mut served, mut damaged) = (0, 0);
    for db in [1, 4, 5] {
        for (rel, blocks) in server.timeline().relations(1663, db, at, pageserver::layer::Io::MayBlock).unwrap() {
            for block in 0..blocks {
                let answer = pages.pages(rel, &[block], (NEWEST, at)).await;
                if answer.tag == 103 {
                    served += 1;
                } else {
                    let (code, text) = answer.error();
                    assert!(code == 4 && text.contains("checksum"), "{text}");
                    damaged += 1;
                }
            }
        }
    }
    (served, damaged)
}
