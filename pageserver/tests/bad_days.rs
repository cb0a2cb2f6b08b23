//! Damaged objects, full disks and absurd requests: a clear error for whom it concerns, nothing for the others.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use bytes::BufMut;
use ogel_ids::{Lsn, TimelineId};
use ogel_service::Shutdown;
use pageserver::{
    branch::point::Point,
    layer::Io,
    pageserver::TimelineUnavailable,
    timeline::{ReadError, Retention},
};
use support::{
    FakeSafekeeper, Server, TENANT, TIMELINE, put_rel, template,
    wal_writer::{WalWriter, rel},
};

const OTHER: TimelineId = TimelineId::from_bytes([0xcc; 16]);
const NEWEST: Lsn = Lsn(u64::MAX);

async fn cluster(data: &Path, template: &str, extra: &[&str]) -> (Server, FakeSafekeeper, WalWriter) {
    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    let server = Server::start(data, template, &[&safekeeper.address], extra).await;
    let timeline = server.pageserver.create(TENANT, TIMELINE).await.unwrap().0;
    safekeeper.change(|wal| {
        wal.start = timeline.start_lsn;
        wal.terms = vec![(1, timeline.start_lsn)];
    });
    let writer = WalWriter::behind(&server);
    (server, safekeeper, writer)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Files of a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The same text with a right checksum.
fn resealed(text: &str) -> Vec<u8> {
    let body = text.rsplit_once("\ncrc32c ").map_or(text, |(body, _)| body);
    format!("{body}\ncrc32c {:08x}\n", crc32c::crc32c(body.as_bytes())).into_bytes()
}

/// What can be wrong with an object: how, its bytes given those that are right and those of another timeline, what the error says.
type Damage = (&'static str, fn(&[u8], &[u8]) -> Vec<u8>, &'static str);

const MANIFEST_DAMAGES: [Damage; 5] = [
    ("cut", |right, _| right[..right.len() / 2].to_vec(), "last line"),
    ("empty", |_, _| Vec::new(), "last line"),
    (
        "flipped",
        |right, _| {
            let mut bytes = right.to_vec();
            bytes[right.len() / 3] ^= 8;
            bytes
        },
        "checksum",
    ),
    (
        "future",
        |right, _| resealed(&String::from_utf8_lossy(right).replacen("\"version\":1", "\"version\":9", 1)),
        "version 9",
    ),
    ("not a manifest", |_, _| resealed("[1, 2]"), "version"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_costs_its_timeline_only_and_is_named() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, mut writer) = cluster(folder.path(), &template, &[]).await;
    server.pageserver.create(TENANT, OTHER).await.unwrap();
    let record = writer.create(rel(60_000));
    safekeeper.change(|wal| wal.bytes.extend(record));
    server.wait_for(writer.at.end, 1).await;
    server.stop().await; // an edit: what was flushed
    let manifests = |id| folder.path().join(format!("remote/tenants/{TENANT}/timelines/{id}/manifest"));
    let objects = files(&manifests(TIMELINE));
    let edit = objects.last().unwrap().clone();
    let base = objects.iter().rfind(|path| path.extension().unwrap() == "base").unwrap().clone();
    assert_eq!(edit.extension().unwrap(), "edit", "{objects:?}");
    let others = std::fs::read(files(&manifests(OTHER)).last().unwrap()).unwrap();
    let foreign: Damage = ("foreign", |_, others| others.to_vec(), "belongs to");
    let misfit: Damage = ("misfit", |_, _| resealed(r#"{"version":1,"edit":{"lease_removed":{"id":"none"}}}"#), "");
    let damages = MANIFEST_DAMAGES.iter().flat_map(|damage| [(&base, damage), (&edit, damage)]);
    for (object, (how, spoil, says)) in damages.chain([(&base, &foreign), (&edit, &misfit)]) {
        let right = std::fs::read(object).unwrap();
        std::fs::write(object, spoil(&right, &others)).unwrap();
        let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
        let refused = server.pageserver.attached(TENANT, TIMELINE).await;
        let error = refused.err().unwrap_or_else(|| panic!("{how}: {} was taken", object.display()));
        assert!(matches!(error, TimelineUnavailable::Broken(..)), "{how}: {error}");
        let (error, name) = (error.to_string(), object.file_name().unwrap().to_str().unwrap());
        assert!(error.contains(name) && error.contains(says), "{how} {name}: {error}");
        let other = server.pageserver.attached(TENANT, OTHER).await.unwrap();
        let at = other.last_record_lsn();
        assert!(!other.relations(1663, 5, at, Io::MayBlock).unwrap().is_empty(), "the other timeline serves");
        server.stop().await;
        // The other timeline's log has gone on; this one's has not.
        std::fs::write(object, right).unwrap();
    }
    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    let timeline = server.pageserver.attached(TENANT, TIMELINE).await.unwrap();
    assert_eq!(timeline.rel_size(rel(60_000), timeline.last_record_lsn(), Io::MayBlock).unwrap(), Some(0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_or_future_layer_is_named_and_costs_its_timeline_only() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, _) = cluster(folder.path(), &template, &[]).await;
    server.pageserver.create(TENANT, OTHER).await.unwrap();
    server.stop().await;
    let layers = |id| folder.path().join(format!("remote/tenants/{TENANT}/timelines/{id}/layers"));
    let layer = files(&layers(TIMELINE))[0].clone();
    let (right, others) = (std::fs::read(&layer).unwrap(), std::fs::read(&files(&layers(OTHER))[0]).unwrap());
    let damages: [Damage; 4] = [
        ("foreign", |_, others| others.to_vec(), "timeline"),
        (
            "future",
            |right, _| {
                let mut bytes = right.to_vec();
                bytes[9] = 9;
                let crc = crc32c::crc32c(&bytes[..124]);
                bytes[124..128].copy_from_slice(&crc.to_be_bytes());
                bytes
            },
            "version 9",
        ),
        ("cut", |right, _| right[..right.len() - 1000].to_vec(), ""),
        ("header", |right, _| [&[0; 128], &right[128..]].concat(), ""),
    ];
    for (how, spoil, says) in damages {
        std::fs::write(&layer, spoil(&right, &others)).unwrap();
        let _ = std::fs::remove_dir_all(folder.path().join("tenants"));
        let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
        let error = match server.pageserver.attached(TENANT, TIMELINE).await {
            Err(error) => error.to_string(),
            Ok(timeline) => {
                let found = timeline.relations(1663, 5, timeline.start_lsn, Io::MayBlock);
                found.err().unwrap_or_else(|| panic!("{how}: the layer was taken")).to_string()
            }
        };
        let name = layer.file_name().unwrap().to_str().unwrap();
        assert!(error.contains(name) && error.contains(says), "{how}: {error}");
        let other = server.pageserver.attached(TENANT, OTHER).await.unwrap();
        assert!(!other.relations(1663, 5, other.start_lsn, Io::MayBlock).unwrap().is_empty());
        server.stop().await;
    }
    std::fs::write(&layer, &right).unwrap();
    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    let timeline = server.pageserver.attached(TENANT, TIMELINE).await.unwrap();
    assert!(!timeline.relations(1663, 5, timeline.start_lsn, Io::MayBlock).unwrap().is_empty());
    server.stop().await;
}

struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(path).output().ok()?;
        mounted.status.success().then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_ingest_back_and_lets_it_go_on() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path()) else {
        println!("skipped: no right to mount a file system");
        return;
    };
    let store = ogel_object_store::ObjectStore::memory(Default::default());
    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    let limits = ["--freeze-wal-mb", "1", "--disk-free-mb", "0"];
    let server = Server::start_on(&store, folder.path(), &template, &[&safekeeper.address], &limits).await;
    let timeline = server.pageserver.create(TENANT, TIMELINE).await.unwrap().0;
    safekeeper.change(|wal| {
        wal.start = timeline.start_lsn;
        wal.terms = vec![(1, timeline.start_lsn)];
    });
    let mut writer = WalWriter::behind(&server);
    let before = writer.create(rel(60_000));
    safekeeper.change(|wal| wal.bytes.extend(before));
    server.wait_for(writer.at.end, 1).await;

    let filler = folder.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);
    for number in 1..8 {
        let bytes = [writer.create(rel(60_000 + number)), writer.noise(1 << 20)].concat();
        safekeeper.change(|wal| wal.bytes.extend(bytes));
    }
    let says = || timeline.ingest_status().error.unwrap_or_default();
    until("the full disk is named", || says().contains("No space left on device")).await;
    let stuck = timeline.disk_consistent_lsn();
    assert!(timeline.last_record_lsn() < writer.at.end, "memory is no way out of a full disk");
    assert!(!timeline.ingest_status().stopped);
    let at = timeline.last_record_lsn();
    tokio::task::block_in_place(|| {
        assert_eq!(timeline.rel_size(rel(60_000), at, Io::MayBlock).unwrap(), Some(0), "it is read all the same");
    });

    std::fs::remove_file(&filler).unwrap();
    server.wait_for(writer.at.end, 1).await;
    until("the flush", || timeline.disk_consistent_lsn() > stuck).await;
    let at = timeline.last_record_lsn();
    tokio::task::block_in_place(|| {
        for number in 0..8 {
            assert_eq!(timeline.rel_size(rel(60_000 + number), at, Io::MayBlock).unwrap(), Some(0));
        }
    });
    drop(timeline);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_requests_are_answered_and_the_next_good_one_too() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, mut writer) = cluster(folder.path(), &template, &[]).await;
    let mut ends = Vec::new();
    for number in 0..3 {
        let bytes = [writer.create(rel(60_000 + number)), writer.commit(1000 + number)].concat();
        safekeeper.change(|wal| wal.bytes.extend(bytes));
        ends.push(writer.at.end);
    }
    server.wait_for(writer.at.end, 1).await;
    let timeline = server.timeline();
    let now = ends[2];
    let mut pages = server.pagestream(1).await;

    let answer = pages.pages(rel(60_000), &[0, 1, u32::MAX - 1, u32::MAX], (NEWEST, now)).await;
    assert_eq!((answer.tag, answer.rest.len()), (103, 2 + 4 * 8192));
    assert!(answer.rest[2..].iter().all(|byte| *byte == 0), "what is out of range is zeros");
    let (code, text) = pages.block_count(rel(77_777), (NEWEST, now)).await.error();
    assert!(code == 1 && text.contains("77777"), "{text}");
    pages.ask(1, 1, (NEWEST, now), |out| put_rel(rel(77_777), out));
    let answer = pages.answer().await;
    assert_eq!((answer.tag, answer.rest[0]), (101, 0), "it does not exist");
    pages.ask(4, 1, (NEWEST, now), |out| {
        out.put_u32(u32::MAX);
        out.put_u32(u32::MAX)
    });
    let answer = pages.answer().await;
    assert_eq!((answer.tag, &answer.rest[..]), (104, &[0; 8][..]), "no such database");
    pages.ask(5, 1, (NEWEST, now), |out| {
        out.put_u8(0);
        out.put_u32(u32::MAX)
    });
    let answer = pages.answer().await;
    assert!(answer.tag == 199 || answer.rest[..4] == [0; 4], "{answer:?}");

    timeline.checkpoint(Duration::from_secs(60), &Shutdown::new()).await.unwrap();
    let kept = Retention { window: Duration::ZERO, wal_bytes: 0 };
    let collected = timeline.clone();
    let report = tokio::task::spawn_blocking(move || collected.collect_garbage(&kept, std::time::SystemTime::now()));
    assert_eq!(report.await.unwrap().unwrap().cutoff, now);
    let (code, text) = pages.block_count(rel(60_000), (ends[0], ends[0])).await.error();
    assert!(code == 3 && text.contains(&now.to_string()), "{text}");
    let refused = timeline.rel_size(rel(60_000), ends[0], Io::MayBlock);
    assert!(matches!(refused, Err(ReadError::BelowCutoff { .. })));
    let error = server.pageserver.create_branch(TENANT, OTHER, TIMELINE, Point::Lsn(ends[0])).await.err().unwrap();
    assert!(error.to_string().contains("before the history"), "{error}");

    for wrong in [0, 6, 77, 255] {
        let mut stream = server.pagestream(1).await;
        stream.ask(wrong, 1, (NEWEST, now), |out| put_rel(rel(60_000), out));
        assert_eq!(stream.answer().await.error().0, 5, "tag {wrong}");
    }
    assert_eq!(pages.block_count(rel(60_000), (NEWEST, now)).await.tag, 102);
    drop(timeline);
    server.stop().await;
}
