//! Many idle tenants on one pageserver (`make bench-density`): how long it takes to start, what a tenant costs at rest.
//!
//! The store is a local folder with OGEL_BENCH_TENANTS tenants (10,000) of one small timeline each. A pageserver in a process of its own starts
//! on it; each timeline is asked for once, which attaches it, and left alone until it is at rest; then the process is started again.
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use ogel_ids::{Generation, Lsn, NodeId, TenantId, TimelineId};
use pageserver::{
    keyspace::{Key, KeyRange},
    layer::{
        LsnRange, VersionKind,
        desc::{LayerDesc, LayerName},
        file::{LayerHeader, LayerKind, Packing, write_file},
        partitions::Partitions,
    },
    manifest::{Manifest, TimelineState},
    remote::{
        claim::Claim,
        layout::{self, LogPlace},
    },
    timeline::state::RunningState,
};
use support::FakeSafekeeper;
use wal_decoder::checkpoint_state::CheckpointState;

/// The design's bound.
const MAX_TENANT_BYTES: u64 = 64 << 10;
const START: Lsn = Lsn(0x100_0028);
const AT_ONCE: usize = 16;

fn ids(number: u64) -> (TenantId, TimelineId) {
    let bytes = u128::from(number + 1) << 64 | 7;
    (TenantId::from_bytes(bytes.to_be_bytes()), TimelineId::from_bytes((bytes | 1 << 32).to_be_bytes()))
}

fn put(store: &Path, key: &str, bytes: &[u8]) {
    let path = store.join(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Everything in the store that makes up a tenant with one timeline.
fn make_tenant(store: &Path, number: u64) {
    let (tenant, timeline) = ids(number);
    let state = RunningState {
        prev_record_lsn: Lsn(START.0 - 40),
        clean_shutdown: true,
        newest_commit: None,
        logical_size_bytes: Some(0),
        checkpoint: CheckpointState::default(),
    };
    let (kind, lsns) = (LayerKind::Image, LsnRange { start: START, end: START });
    let header = LayerHeader { kind, tenant, timeline, lsns, keys: KeyRange::ALL };
    let name = LayerName { end_lsn: START, generation: Generation(1), sequence: 0 };
    let path = store.join(layout::layer(tenant, timeline, name));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fill = |writer: &mut pageserver::layer::file::LayerWriter<_>| {
        writer.version(Key::checkpoint(), START, VersionKind::Image, &state.encode())
    };
    let written = write_file(&path, &header, Packing::Dense, fill).unwrap();
    let desc = LayerDesc {
        name,
        kind,
        lsns,
        keys: KeyRange::ALL,
        size_bytes: written.size_bytes,
        index_offset: written.index_offset,
        history_bytes: 0,
        tombstones: 0,
    };
    let manifest = Manifest {
        tenant,
        timeline,
        system_identifier: number + 1,
        pg_version_num: 170_011,
        wal_segment_size: support::SEGMENT,
        start_lsn: START,
        prev_record_lsn: state.prev_record_lsn,
        ancestor: None,
        start_state: None,
        disk_consistent_lsn: START,
        logical_size_bytes: 0,
        term_history: Vec::new(),
        gc_cutoff: START,
        branches: BTreeMap::new(),
        leases: BTreeMap::new(),
        state: TimelineState::Active,
        partitions: Partitions::single(vec![name]),
        layers: BTreeMap::from([(name, desc)]),
    };
    let place = LogPlace { generation: Generation(1), sequence: 0 };
    put(store, &layout::manifest(tenant, timeline, place), &manifest.encode());
    put(store, &layout::claim(tenant, Generation(1)), &Claim::new(NodeId(1), "bench".into(), 0).encode());
}

struct Process {
    child: Child,
    base: String,
    client: reqwest::Client,
}

impl Process {
    /// Starts one; returns when it answers, and how long that took.
    async fn start(folder: &Path, safekeeper: &str) -> (Process, Duration) {
        let address = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (pg, http) = (address(), address());
        let began = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_pageserver"))
            .args(["--data-dir", folder.to_str().unwrap(), "--safekeepers", safekeeper])
            .args(["--listen-pg", &pg, "--listen-http", &http, "--idle-timeout-s", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process { child, base: format!("http://{http}"), client: reqwest::Client::new() };
        while process.get("/v1/status").await.is_none() {
            assert!(began.elapsed() < Duration::from_secs(120), "the pageserver does not start");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = began.elapsed();
        (process, took)
    }

    async fn get(&self, path: &str) -> Option<serde_json::Value> {
        let response = self.client.get(format!("{}{path}", self.base)).send().await.ok()?;
        response.error_for_status().ok()?.json().await.ok()
    }

    async fn open_timelines(&self) -> usize {
        self.get("/v1/status").await.map_or(usize::MAX, |status| status["timelines"].as_array().unwrap().len())
    }

    /// A line of /proc/PID/status, as a number.
    fn measure(&self, label: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn resident_bytes(&self) -> u64 {
        self.measure("VmRSS:") << 10
    }

    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() {
    let count = std::env::var("OGEL_BENCH_TENANTS").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000);
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run(count));
}

async fn run(count: u64) {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("remote");
    let began = Instant::now();
    (0..count).for_each(|number| make_tenant(&store, number));
    println!("{count} tenants made in {:.1} s", began.elapsed().as_secs_f64());

    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    let (process, took) = Process::start(folder.path(), &safekeeper.address).await;
    let (empty, files) = (process.resident_bytes(), process.open_files());
    println!("start: {} ms, {:.1} MiB resident, {files} open files", took.as_millis(), mib(empty));

    let began = Instant::now();
    let attached = stream::iter(0..count).map(|number| {
        let (tenant, timeline) = ids(number);
        let process = &process;
        async move { process.get(&format!("/v1/tenant/{tenant}/timeline/{timeline}")).await.is_some() }
    });
    let attached = attached.buffer_unordered(AT_ONCE).filter(|is_there| std::future::ready(*is_there)).count().await;
    assert_eq!(attached as u64, count, "not all timelines could be attached");
    let took = began.elapsed();
    let rate = count as f64 / took.as_secs_f64();
    println!(
        "attached one by one: {:.1} s ({rate:.0} a second), {:.1} MiB resident",
        took.as_secs_f64(),
        mib(process.resident_bytes())
    );

    let began = Instant::now();
    while process.open_timelines().await > 0 {
        assert!(began.elapsed() < Duration::from_secs(600), "not all timelines come to rest");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let resident = process.resident_bytes();
    let each = resident.saturating_sub(empty) / count;
    println!(
        "at rest after {:.1} s: {:.1} MiB resident, {:.1} KiB per tenant (bound: {} KiB), {} threads, {} open files",
        began.elapsed().as_secs_f64(),
        mib(resident),
        each as f64 / 1024.0,
        MAX_TENANT_BYTES >> 10,
        process.measure("Threads:"),
        process.open_files()
    );
    let left = process.open_files();
    drop(process);

    let (process, took) = Process::start(folder.path(), &safekeeper.address).await;
    println!("start again: {} ms, {:.1} MiB resident", took.as_millis(), mib(process.resident_bytes()));
    assert!(took < Duration::from_secs(5), "the start takes time for each tenant");
    assert!(each <= MAX_TENANT_BYTES, "a tenant at rest takes {each} bytes");
    assert!(left < files + 64, "{left} files and sockets stay open");
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
