//! The process dies at each step of attach, flush, upload, manifest, merge, garbage collection, branch and deletion. What it had acknowledged is
//! there when the next one runs, on the disk that the first one left.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use ogel_ids::{Lsn, TimelineId};
use pageserver::failpoints;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use support::{
    FakeSafekeeper, SEGMENT, TENANT, TIMELINE, template,
    wal_writer::{WalWriter, rel},
};
use wal_decoder::writer::AppendAt;

/// How many processes live and die at once.
const AT_ONCE: usize = 4;
const ROUNDS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// A pageserver in a process of its own.
struct Process {
    child: Child,
    base: String,
    client: reqwest::Client,
}

impl Process {
    async fn start(folder: &Path, safekeeper: &str, settings: &[&str], failpoint: Option<&str>) -> Process {
        let free_port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let http = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pageserver"));
        command.args(["--data-dir", folder.to_str().unwrap(), "--safekeepers", safekeeper]).args(settings);
        command.args(["--listen-pg", &free_port(), "--listen-http", &http, "--retention-s", "0"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env("OGEL_FAILPOINT", failpoint);
        }
        let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        let mut process = Process { child: command.spawn().unwrap(), base: format!("http://{http}"), client };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while process.is_alive() && process.send(Method::GET, "/v1/status", None).await.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "the pageserver does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        process
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `None`: no answer came.
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Option<(StatusCode, Value)> {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.ok()?;
        let status = response.status();
        Some((status, response.json().await.ok()?))
    }

    async fn timeline(&self, method: Method, more: &str, body: Option<Value>) -> Option<(StatusCode, Value)> {
        self.send(method, &path(TIMELINE, more), body).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.send(Method::GET, path, None).await.expect("an answer");
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        value
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path(timeline: TimelineId, more: &str) -> String {
    format!("/v1/tenant/{TENANT}/timeline/{timeline}{more}")
}

fn branch(round: u32) -> TimelineId {
    TimelineId::from_bytes([round as u8 + 1; 16])
}

fn lsn(value: &Value, field: &str) -> Lsn {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).parse().unwrap()
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    relations: u32,
    leases: BTreeSet<String>,
    /// Branches that exist (with the number of relations in them), or do not any more. Those whose answer never came are in neither.
    branches: BTreeMap<TimelineId, u32>,
    deleted: BTreeSet<TimelineId>,
}

struct Life {
    folder: tempfile::TempDir,
    safekeeper: FakeSafekeeper,
    writer: WalWriter,
    told: Acknowledged,
    rounds: u32,
}

impl Life {
    /// A timeline with some history, whose pageserver has been killed.
    async fn begin(template: &str) -> Life {
        let folder = tempfile::tempdir().unwrap();
        let safekeeper = FakeSafekeeper::start(Default::default()).await;
        let first = Process::start(folder.path(), &safekeeper.address, &["--template", template], None).await;
        let (status, made) = first.timeline(Method::PUT, "", Some(json!({"source": "template"}))).await.unwrap();
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let at = first.get(&path(TIMELINE, "")).await;
        safekeeper.change(|wal| {
            wal.start = lsn(&made, "start_lsn");
            wal.terms = vec![(1, wal.start)];
        });
        let at = AppendAt {
            end: lsn(&at, "last_record_lsn"),
            prev: lsn(&at, "prev_record_lsn"),
            system_id: at["system_identifier"].as_str().unwrap().parse().unwrap(),
            segment_size: SEGMENT,
            timeline_id: 1,
        };
        let mut life = Life { folder, safekeeper, writer: WalWriter { at }, told: Acknowledged::default(), rounds: 0 };
        life.write(2);
        life.ingested(&first).await;
        first.timeline(Method::POST, "/checkpoint", None).await.unwrap();
        life
    }

    async fn process(&self, failpoint: Option<&str>) -> Process {
        Process::start(self.folder.path(), &self.safekeeper.address, &[], failpoint).await
    }

    /// Committed WAL that creates relations.
    fn write(&mut self, relations: u32) {
        for _ in 0..relations {
            let record = self.writer.create(rel(60_000 + self.told.relations));
            let commit = self.writer.commit(1000 + self.told.relations);
            let noise = self.writer.noise(100_000);
            self.safekeeper.change(|wal| wal.bytes.extend([record, commit, noise].concat()));
            self.told.relations += 1;
        }
    }

    async fn ingested(&self, process: &Process) {
        let end = self.writer.at.end;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Some((_, now)) = process.timeline(Method::GET, "", None).await {
            if now["last_record_lsn"].is_string() && lsn(&now, "last_record_lsn") >= end {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{end} is not ingested: {now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything that has a step at which to die, again and again until it has happened.
    async fn live(&mut self, process: &mut Process) {
        for _ in 0..ROUNDS {
            let round = self.rounds;
            self.rounds += 1;
            self.write(1);
            self.ingested(process).await;
            for request in ["/checkpoint", "/gc", "/compact?full=true"] {
                process.timeline(Method::POST, request, None).await;
            }
            for number in 0..25 {
                let id = format!("lease-{round}-{number}");
                let body = json!({"id": id, "ttl_s": 100_000});
                if let Some((StatusCode::OK, _)) = process.timeline(Method::POST, "/lease", Some(body)).await {
                    self.told.leases.insert(id);
                }
            }
            let (body, id) = (json!({"source": {"branch": {"ancestor": TIMELINE}}}), branch(round));
            if let Some((StatusCode::CREATED, _)) = process.send(Method::PUT, &path(id, ""), Some(body)).await {
                self.told.branches.insert(id, self.told.relations);
            }
            if let Some((gone, _)) =
                self.told.branches.iter().next().map(|(id, at)| (*id, *at)).filter(|_| round % 2 == 1)
            {
                self.told.branches.remove(&gone); // until it is known whether it is
                if let Some((StatusCode::OK, _)) = process.send(Method::DELETE, &path(gone, ""), None).await {
                    self.told.deleted.insert(gone);
                }
            }
            if !process.is_alive() {
                return;
            }
        }
    }

    async fn relations(&self, process: &Process, timeline: TimelineId) -> BTreeSet<String> {
        let answer = process.get(&path(timeline, "/relations")).await;
        let names = answer["relations"].as_array().unwrap().iter();
        names.map(|relation| relation["rel"].as_str().unwrap().to_owned()).collect()
    }

    async fn check(&self, process: &Process) {
        let advertised = self.safekeeper.wal.lock().feedback[2];
        let now = process.get(&path(TIMELINE, "")).await;
        assert!(lsn(&now, "disk_consistent_lsn") >= advertised, "{advertised} was advertised: {now}");
        let held: BTreeSet<String> = now["leases"].as_object().unwrap().keys().cloned().collect();
        assert!(held.is_superset(&self.told.leases), "lost leases: {:?}", &self.told.leases - &held);
        self.ingested(process).await;
        let all = |relations| (0..relations).map(|number| format!("1663/5/{}", 60_000 + number));
        let found = self.relations(process, TIMELINE).await;
        assert!(all(self.told.relations).all(|name| found.contains(&name)), "lost relations: {found:?}");
        for (id, relations) in &self.told.branches {
            let found = self.relations(process, *id).await;
            assert!(all(*relations).all(|name| found.contains(&name)), "lost in branch {id}: {found:?}");
        }
        for id in &self.told.deleted {
            let (status, answer) = process.send(Method::GET, &path(*id, ""), None).await.unwrap();
            assert_eq!(status, StatusCode::NOT_FOUND, "deleted, and back: {answer}");
        }
    }
}

/// Dies at the failpoint, and comes back.
async fn die_at(failpoint: &str, template: String) {
    let mut life = Life::begin(&template).await;
    let mut process = life.process(Some(failpoint)).await;
    life.live(&mut process).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while process.is_alive() {
        assert!(tokio::time::Instant::now() < deadline, "{failpoint} was never reached");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(process);
    let mut next = life.process(None).await;
    life.check(&next).await;
    // And it works on: everything again, and once more from the store alone.
    life.live(&mut next).await;
    assert!(next.is_alive(), "{failpoint}: the next process does not live");
    drop(next);
    std::fs::remove_dir_all(life.folder.path().join("tenants")).unwrap();
    let last = life.process(None).await;
    life.check(&last).await;
    drop(last);
    let store = format!("file://{}/remote", life.folder.path().display());
    let found = Command::new(env!("CARGO_BIN_EXE_pageserver")).args(["check", "--deep", "--remote", &store]).output();
    let found = found.unwrap();
    assert!(found.status.success(), "{failpoint}: {}", String::from_utf8_lossy(&found.stdout));
    println!("{failpoint}: survived, {} leases and {} branches told", life.told.leases.len(), life.told.branches.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_at_any_step() {
    let Some(template) = template() else { return };
    let only = std::env::var("OGEL_FAILPOINTS").unwrap_or_default();
    let merges = [failpoints::LAYER_HALF_WRITTEN, failpoints::LAYER_NOT_SYNCED].map(|name| format!("{name}:2"));
    let names = failpoints::ALL.iter().map(|name| (*name).to_owned()).chain(merges);
    let deaths = names.filter(|name| name.contains(&only)).map(|name| {
        let template = template.clone();
        async move { tokio::spawn(async move { die_at(&name, template).await }).await }
    });
    stream::iter(deaths).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.unwrap();
}
