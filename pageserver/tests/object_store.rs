//! The object store as the truth: lost disks, crashes between any two of its requests, outages, and two pageservers that want one tenant.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ogel_ids::{Lsn, TimelineId};
use ogel_object_store::{
    ObjectStore, StoreMetrics,
    faults::{Fault, Faults},
};
use pageserver::{layer::Io, pageserver::TimelineUnavailable};
use support::{
    FakeSafekeeper, Server, TENANT, TIMELINE, template,
    wal_writer::{WalWriter, rel},
};

/// A layer file for every MiB of WAL.
const SMALL_LAYERS: [&str; 2] = ["--freeze-wal-mb", "1"];

/// A flush for every MiB of WAL, that each creates one relation.
async fn write(server: &Server, safekeeper: &FakeSafekeeper, writer: &mut WalWriter, rels: std::ops::Range<u32>) {
    for number in rels {
        let record = writer.create(rel(60_000 + number));
        let noise = writer.noise(1 << 20);
        safekeeper.change(|wal| wal.bytes.extend([record, noise].concat()));
        server.wait_for(writer.at.end, 1).await;
    }
}

async fn create(server: &Server, safekeeper: &FakeSafekeeper) -> WalWriter {
    let (timeline, _) = server.pageserver.create(TENANT, TIMELINE).await.unwrap();
    safekeeper.change(|wal| {
        wal.start = timeline.start_lsn;
        wal.terms = vec![(1, timeline.start_lsn)];
    });
    WalWriter::behind(server)
}

/// All relations and all pages of the template are there at the newest LSN.
async fn check(server: &Server, relations: u32) {
    let timeline = server.pageserver.attached(TENANT, TIMELINE).await.unwrap();
    let at = timeline.last_record_lsn();
    tokio::task::block_in_place(|| {
        for number in 0..relations {
            let size = timeline.rel_size(rel(60_000 + number), at, Io::MayBlock).unwrap();
            assert_eq!(size, Some(0), "relation {number} is lost");
        }
        let mut page = [0; 8192];
        for (rel, blocks) in timeline.relations(1663, 5, at, Io::MayBlock).unwrap() {
            for block in 0..blocks {
                timeline.read_page(rel, block, at, &mut page, Io::MayBlock).unwrap();
            }
        }
    });
}

/// Everything that was written is in files and in the store.
async fn settled(server: &Server) {
    let timeline = server.timeline();
    until("the flush", || timeline.disk_consistent_lsn() == timeline.last_record_lsn()).await;
    timeline.store().drained().durable().await.unwrap();
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_loses_nothing_and_comes_back_in_constant_time() {
    let Some(template) = template() else { return };
    let mut requests = Vec::new();
    for layers in [3, 20] {
        let folder = tempfile::tempdir().unwrap();
        let store = ObjectStore::memory(StoreMetrics::default());
        let safekeeper = FakeSafekeeper::start(Arc::default()).await;
        let server =
            Server::start_on(&store, &folder.path().join("a"), &template, &[&safekeeper.address], &SMALL_LAYERS).await;
        let mut writer = create(&server, &safekeeper).await;
        write(&server, &safekeeper, &mut writer, 0..layers).await;
        settled(&server).await;
        let uploads = store.metrics().requests("put");
        assert!(uploads >= u64::from(layers), "{uploads} uploads for {layers} layers");
        let end = writer.at.end;
        server.stop().await;
        assert_eq!(safekeeper.wal.lock().feedback[2].0 & 7, 0);

        let before =
            store.metrics().requests("get") + store.metrics().requests("list") + store.metrics().requests("put");
        let server =
            Server::start_on(&store, &folder.path().join("b"), &template, &[&safekeeper.address], &SMALL_LAYERS).await;
        let after =
            store.metrics().requests("get") + store.metrics().requests("list") + store.metrics().requests("put");
        requests.push((layers, after - before));
        server.wait_for(end, 1).await;
        check(&server, layers).await;
        server.stop().await;
    }
    let [(_, few), (_, many)] = requests[..] else { unreachable!() };
    // Two edits per flush at most are read one by one, up to the next base; layers are not.
    assert!(many <= few + 2 * 17 + 4, "{requests:?}");
}

/// A server with four relations, whose layers are in the store, and on the disk no more.
async fn evicted(store: &ObjectStore, folder: &Path, template: &str) -> (Server, FakeSafekeeper, WalWriter) {
    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    let limits =
        [&SMALL_LAYERS[..], &["--disk-budget-mb", "1", "--disk-free-mb", "0", "--block-cache-mb", "1"]].concat();
    let server = Server::start_on(store, folder, template, &[&safekeeper.address], &limits).await;
    let mut writer = create(&server, &safekeeper).await;
    write(&server, &safekeeper, &mut writer, 0..4).await;
    settled(&server).await;
    let pageserver = server.pageserver.clone();
    let freed = tokio::task::spawn_blocking(move || pageserver.evict_now()).await.unwrap();
    assert!(freed > 1 << 20, "{freed} bytes were freed");
    (server, safekeeper, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_layers_are_read_from_the_store() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::memory(StoreMetrics::default());
    let (server, _safekeeper, _) = evicted(&store, folder.path(), &template).await;
    let local = || server.timeline().stored_layers().iter().filter(|layer| layer.file.is_local()).count();
    let before = local();
    check(&server, 4).await;
    // Reading all of it brings the large layer back, in the background.
    until("the download", || local() > before).await;
    check(&server, 4).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_needs_a_store_that_is_away_says_so_and_others_go_on() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults::new(|_, _| None);
    let store = ObjectStore::memory(StoreMetrics::default()).with_faults_for_tests(faults.clone());
    let (server, safekeeper, mut writer) = evicted(&store, folder.path(), &template).await;

    faults.set_outage(true);
    let pg_proc = rel(1255);
    let at = (Lsn::MAX, writer.at.end);
    let mut pages = server.pagestream(1).await;
    let (_, text) = pages.pages(pg_proc, &[0, 50, 90], at).await.error();
    assert!(text.contains("injected outage"), "{text}");
    // Ingest goes on, and what is in memory is read, on the same connection.
    let record = writer.create(rel(60_004));
    safekeeper.change(|wal| wal.bytes.extend(record));
    server.wait_for(writer.at.end, 1).await;
    assert_eq!(pages.block_count(rel(60_004), (Lsn::MAX, writer.at.end)).await.tag, 102);
    assert!(!server.timeline().ingest_status().stopped);

    faults.set_outage(false);
    let answer = pages.pages(pg_proc, &[0, 50, 90], at).await;
    assert!(answer.tag == 103 && answer.rest[2..].iter().any(|byte| *byte != 0), "{}", answer.tag);
    check(&server, 5).await;
    drop(pages);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_pageservers_is_fenced_and_says_so() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::memory(StoreMetrics::default());
    let (ours, theirs) = (FakeSafekeeper::start(Arc::default()).await, FakeSafekeeper::start(Arc::default()).await);
    let older = Server::start_on(&store, &folder.path().join("a"), &template, &[&ours.address], &SMALL_LAYERS).await;
    let mut writer = create(&older, &ours).await;
    write(&older, &ours, &mut writer, 0..2).await;
    settled(&older).await;
    let advertised = older.timeline().remote_consistent_lsn();
    assert!(advertised > older.timeline().start_lsn);

    theirs.change(|wal| {
        let source = ours.wal.lock();
        (wal.start, wal.bytes, wal.terms) = (source.start, source.bytes.clone(), source.terms.clone());
    });
    let second = [&SMALL_LAYERS[..], &["--node-id", "2"]].concat();
    let newer = Server::start_on(&store, &folder.path().join("b"), &template, &[&theirs.address], &second).await;
    let refused = newer.pageserver.attached(TENANT, TIMELINE).await.err().unwrap();
    assert!(matches!(refused, TimelineUnavailable::Elsewhere(..)), "{refused}");
    assert!(refused.to_string().contains("pageserver 1"), "{refused}");
    newer.pageserver.take_over(TENANT).await.unwrap();
    newer.pageserver.attached(TENANT, TIMELINE).await.unwrap();
    check(&newer, 2).await;

    // The older one ingests on until it has something to acknowledge.
    let record = writer.create(rel(60_002));
    let noise = writer.noise(2 << 20);
    ours.change(|wal| wal.bytes.extend([record, noise].concat()));
    until("the fence", || older.timeline().ingest_status().stopped).await;
    let status = older.timeline().ingest_status();
    assert!(status.error.as_ref().is_some_and(|error| error.contains("taken over by pageserver 2")), "{status:?}");
    assert_eq!(older.timeline().remote_consistent_lsn(), advertised, "nothing was advertised after the takeover");
    let other = TimelineId::from_bytes([0xcc; 16]);
    assert!(older.pageserver.create(TENANT, other).await.is_err(), "a creation was acknowledged after the takeover");
    assert!(matches!(newer.pageserver.attached(TENANT, other).await, Err(TimelineUnavailable::Unknown(..))));
    older.stop().await;
    check(&newer, 2).await;

    // After a restart it does not take the tenant back by itself.
    let older = Server::start_on(&store, &folder.path().join("a"), &template, &[&ours.address], &SMALL_LAYERS).await;
    let refused = older.pageserver.attached(TENANT, TIMELINE).await.err().unwrap();
    assert!(matches!(refused, TimelineUnavailable::Elsewhere(..)), "{refused}");
    older.stop().await;
    newer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_delays_uploads_and_holds_ingest_back_within_bounds() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults::new(|_, _| None);
    let store = ObjectStore::memory(StoreMetrics::default()).with_faults_for_tests(faults.clone());
    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    // Noise compresses well: without compression the queue fills.
    let limits = [&SMALL_LAYERS[..], &["--upload-queue-mb", "4", "--no-compression"]].concat();
    let server = Server::start_on(&store, folder.path(), &template, &[&safekeeper.address], &limits).await;
    let mut writer = create(&server, &safekeeper).await;
    write(&server, &safekeeper, &mut writer, 0..2).await;
    settled(&server).await;
    let durable = server.timeline().remote_consistent_lsn();

    faults.set_outage(true);
    write(&server, &safekeeper, &mut writer, 2..4).await; // served all the same
    check(&server, 4).await;
    until("an error in the status", || server.timeline().store().status().error.is_some()).await;
    assert_eq!(server.timeline().remote_consistent_lsn(), durable);
    faults.set_outage(false);
    until("the uploads", || server.timeline().remote_consistent_lsn() > durable).await;
    server.timeline().store().drained().durable().await.unwrap();
    assert_eq!(server.timeline().store().status().error, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_at_rest_is_closed_and_comes_back_when_it_is_asked_for() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::memory(StoreMetrics::default());
    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    let settings = ["--idle-timeout-s", "1", "--archive-after-s", "0"];
    let server = Server::start_on(&store, folder.path(), &template, &[&safekeeper.address], &settings).await;
    let mut writer = create(&server, &safekeeper).await;
    let record = writer.create(rel(60_000));
    safekeeper.change(|wal| wal.bytes.extend(record));
    server.wait_for(writer.at.end, 1).await;
    until("the rest", || server.pageserver.timelines().is_empty()).await;
    assert_eq!(safekeeper.wal.lock().feedback, [writer.at.end; 3], "the safekeeper knows that it may drop everything");
    let layers = folder.path().join(format!("tenants/{TENANT}/timelines/{TIMELINE}/layers"));
    let local = || std::fs::read_dir(&layers).unwrap().count();
    assert!(local() > 0);
    let archiving = server.pageserver.clone();
    assert!(tokio::task::spawn_blocking(move || archiving.archive_now()).await.unwrap() > 0);
    assert_eq!(local(), 0, "it is in the object store only");

    // A page service connection keeps it open, and finds everything.
    let mut pages = server.pagestream(1).await;
    assert_eq!(pages.block_count(rel(60_000), (Lsn::MAX, writer.at.end)).await.tag, 102);
    tokio::time::sleep(Duration::from_secs(3)).await; // longer than rest takes
    assert_eq!(server.pageserver.timelines().len(), 1);
    drop(pages);
    until("the second rest", || server.pageserver.timelines().is_empty()).await;
    server.stop().await;
}

/// Every request from number `last` on fails, as for a process that has died after it.
fn dying(store: &ObjectStore, last: u64) -> ObjectStore {
    let count = AtomicU64::new(0);
    store.with_faults_for_tests(Faults::new(move |_, _| {
        (count.fetch_add(1, Ordering::SeqCst) >= last).then_some(Fault::ServerError)
    }))
}

/// A pageserver whose store dies after `last` requests: whether its creation was acknowledged, and how many relations were durable by
/// what it told the safekeeper.
async fn live_and_die(
    store: &ObjectStore,
    folder: &Path,
    template: &str,
    safekeeper: &FakeSafekeeper,
    last: u64,
) -> (bool, bool) {
    let store = dying(store, last);
    let safekeepers = [&safekeeper.address[..]];
    let server = Server::start_on(&store, folder, template, &safekeepers, &SMALL_LAYERS);
    let Ok(server) = tokio::time::timeout(Duration::from_secs(1), server).await else { return (false, false) };
    let Ok((timeline, _)) = server.pageserver.create(TENANT, TIMELINE).await else {
        server.crash().await;
        return (false, false);
    };
    safekeeper.change(|wal| {
        wal.start = timeline.start_lsn;
        wal.terms = vec![(1, timeline.start_lsn)];
    });
    let mut writer = WalWriter::behind(&server);
    write(&server, safekeeper, &mut writer, 0..3).await;
    let survived = tokio::time::timeout(Duration::from_millis(300), timeline.store().drained().durable()).await.is_ok();
    server.crash().await;
    (true, survived)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_requests_loses_nothing_that_was_acknowledged() {
    let Some(template) = template() else { return };
    let mut outcomes = Vec::new();
    for last in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let store = ObjectStore::memory(StoreMetrics::default());
        let safekeeper = FakeSafekeeper::start(Arc::default()).await;
        let (created, survived) = live_and_die(&store, &folder.path().join("a"), &template, &safekeeper, last).await;
        let advertised = safekeeper.wal.lock().feedback[2];

        let server =
            Server::start_on(&store, &folder.path().join("b"), &template, &[&safekeeper.address], &SMALL_LAYERS).await;
        if created {
            let timeline = server.pageserver.attached(TENANT, TIMELINE).await;
            let timeline =
                timeline.unwrap_or_else(|error| panic!("acknowledged, then lost at request {last}: {error}"));
            let restored = timeline.manifest().disk_consistent_lsn;
            assert!(restored >= advertised, "{advertised} was advertised, {restored} is there (request {last})");
            let end = safekeeper.wal.lock().end();
            server.wait_for(end, 1).await;
            check(&server, 3).await;
        } else {
            let (timeline, _) = server.pageserver.create(TENANT, TIMELINE).await.unwrap();
            assert!(timeline.start_lsn > Lsn(0));
            check(&server, 0).await;
        }
        server.stop().await;
        outcomes.push((created, survived));
        if survived {
            break;
        }
    }
    let unacknowledged = outcomes.iter().filter(|(created, _)| !created).count();
    println!("{} crash points, {unacknowledged} of them before the creation was acknowledged", outcomes.len());
    assert!(unacknowledged >= 10 && outcomes.len() >= unacknowledged + 5, "{outcomes:?}");
}
