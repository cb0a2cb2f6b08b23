//! The tools find what is wrong with files and stores, and their exit codes say so.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use ogel_object_store::{ObjectStore, RemoteArgs, StoreMetrics, faults::Faults};
use ogel_service::Shutdown;
use pageserver::tools::check;
use serde_json::Value;
use support::{
    FakeSafekeeper, Server, TENANT, TIMELINE, template,
    wal_writer::{WalWriter, rel},
};

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pageserver")).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Kinds and objects of the problems that a check finds.
fn problems(store: &Path, more: &[&str]) -> Vec<(String, String)> {
    let url = format!("file://{}", store.display());
    let output = tool(&[&["check", "--json", "--remote", &url], more].concat());
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |problem: &Value, field: &str| problem[field].as_str().unwrap().to_owned();
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(code(&output), i32::from(!problems.is_empty()), "{report}");
    problems.iter().map(|problem| (text(problem, "kind"), text(problem, "object"))).collect()
}

/// The store of a pageserver that has one timeline, and one of its layer files.
async fn store(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let template = template()?;
    let safekeeper = FakeSafekeeper::start(Default::default()).await;
    let server = Server::start(folder, &template, &[&safekeeper.address], &[]).await;
    server.pageserver.create(TENANT, TIMELINE).await.unwrap();
    server.stop().await;
    let store = folder.join("remote");
    let layers = store.join(format!("tenants/{TENANT}/timelines/{TIMELINE}/layers"));
    let layer = std::fs::read_dir(layers).unwrap().next().unwrap().unwrap().path();
    Some((store, layer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let Some((store, layer)) = store(folder.path()).await else { return };
    assert_eq!(problems(&store, &["--deep"]), []);
    assert_eq!(problems(&store, &["--deep", "--tenant", &TENANT.to_string()]), []);
    let object = layer.strip_prefix(&store).unwrap().to_str().unwrap().to_owned();
    let found = |kind: &str| [(kind.to_owned(), object.clone())];
    let whole = std::fs::read(&layer).unwrap();

    let mut rotten = whole.clone();
    rotten[whole.len() / 2] ^= 1;
    std::fs::write(&layer, &rotten).unwrap();
    assert_eq!(problems(&store, &[]), [], "its size is right");
    assert_eq!(problems(&store, &["--deep"]), found("damaged"));
    std::fs::write(&layer, &whole[1..]).unwrap();
    assert_eq!(problems(&store, &[]), found("size"));
    std::fs::remove_file(&layer).unwrap();
    assert_eq!(problems(&store, &[]), found("missing"));

    let orphan = layer.with_file_name("0000000000000008-00000001-00ffffff.layer");
    std::fs::rename(
        folder.path().join(format!("tenants/{TENANT}/timelines/{TIMELINE}/layers")).join(layer.file_name().unwrap()),
        &layer,
    )
    .unwrap();
    std::fs::write(&orphan, b"left behind").unwrap();
    assert_eq!(problems(&store, &["--deep"]), [], "an upload may be under way");
    let file = std::fs::File::options().write(true).open(&orphan).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600)).unwrap();
    let orphan_object = orphan.strip_prefix(&store).unwrap().to_str().unwrap().to_owned();
    assert_eq!(problems(&store, &[]), [("orphan".to_owned(), orphan_object)]);
    std::fs::remove_file(&orphan).unwrap();

    let manifests = store.join(format!("tenants/{TENANT}/timelines/{TIMELINE}/manifest"));
    let base = std::fs::read_dir(manifests).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mut bytes = std::fs::read(&base).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&base, bytes).unwrap();
    assert_eq!(problems(&store, &[])[0].0, "damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_is_not_blamed_for_what_was_replaced_meanwhile() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let safekeeper = FakeSafekeeper::start(Default::default()).await;
    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    let timeline = server.pageserver.create(TENANT, TIMELINE).await.unwrap().0;
    safekeeper.change(|wal| {
        wal.start = timeline.start_lsn;
        wal.terms = vec![(1, timeline.start_lsn)];
    });
    let mut writer = WalWriter::behind(&server);
    let (now, before) = (folder.path().join("remote"), folder.path().join("before"));
    for number in 0..2 {
        if number == 1 {
            copy(&now, &before);
        }
        let bytes = [writer.create(rel(60_000 + number)), writer.commit(1000 + number)].concat();
        safekeeper.change(|wal| wal.bytes.extend(bytes));
        server.wait_for(writer.at.end, 1).await;
        timeline.checkpoint(Duration::from_secs(60), &Shutdown::new()).await.unwrap();
    }
    let worked_on = timeline.clone();
    tokio::task::spawn_blocking(move || worked_on.compact_fully(&|| false)).await.unwrap().unwrap();
    timeline.store().drained().durable().await.unwrap();
    let named: BTreeSet<String> = timeline.manifest().layers.keys().map(ToString::to_string).collect();
    drop(timeline);
    server.stop().await;
    let layers = before.join(format!("tenants/{TENANT}/timelines/{TIMELINE}/layers"));
    let old = std::fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap());
    let replaced: Vec<_> = old.filter(|file| !named.contains(file.file_name().to_str().unwrap())).collect();
    assert!(!replaced.is_empty());
    replaced.iter().for_each(|file| std::fs::remove_file(file.path()).unwrap());

    // The check has read the old manifest when the store moves on.
    let args = RemoteArgs { remote: Some(format!("file://{}", before.display())), ..RemoteArgs::default() };
    let store = ObjectStore::open(&args, folder.path(), StoreMetrics::default()).unwrap();
    let unmoved = check(&store, None, true, 0, false).await.unwrap().problems;
    assert!(!unmoved.is_empty() && unmoved.iter().all(|problem| problem.kind == "missing"), "{unmoved:?}");
    let faults = Faults::new(move |operation, key| {
        if operation == "head" && key.contains("/layers/") {
            copy(&now, &before);
        }
        None
    });
    let report = check(&store.with_faults_for_tests(faults), None, true, 0, false).await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-rT").args([from, to]).status().unwrap();
    assert!(done.success());
}

#[test]
fn what_cannot_be_checked_is_told_from_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let empty = format!("file://{}", folder.path().display());
    for arguments in [
        &["check"][..],
        &["check", "--remote", "file:///nowhere/at/all"],
        &["check", "--remote", "ftp://x"],
        &["check", "--remote", &empty],
        &["check", "--remote", &empty, "--tenant", "x"],
        &["layer", "check", "/nowhere/x.layer"],
        &["layer"],
        &["layer", "dump", "--key", "zz", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/delta-v1.layer")],
    ] {
        let output = tool(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_layer_file_is_shown_and_checked() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/delta-v1.layer");
    let sound = tool(&["layer", "check", fixture]);
    assert_eq!(code(&sound), 0, "{}", String::from_utf8_lossy(&sound.stdout));
    let dump = tool(&["layer", "dump", fixture]);
    let text = String::from_utf8(dump.stdout).unwrap();
    assert!(
        text.contains("image") && text.contains("block 1 of relation 1663/5/16384") && text.contains("tombstone"),
        "{text}"
    );
    let json = tool(&["layer", "dump", "--json", fixture]);
    let lines: Vec<Value> =
        String::from_utf8(json.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5, "three versions, a tombstone, a summary: {lines:?}");
    let key = lines[0]["key"].as_str().unwrap();
    let one = tool(&["layer", "dump", "--json", "--key", key, fixture]);
    assert_eq!(String::from_utf8(one.stdout).unwrap().lines().filter(|line| line.contains("value_bytes")).count(), 2);

    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("x.layer");
    let whole = std::fs::read(fixture).unwrap();
    let mut future = whole.clone();
    future[9] = 9;
    for (bytes, said) in [(&whole[..whole.len() - 1], "cut short"), (b"text", "shorter"), (&future, "version 9")] {
        std::fs::write(&damaged, bytes).unwrap();
        let output = tool(&["layer", "check", damaged.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((code(&output), text.contains(said)), (1, true), "{text}");
    }
}
