//! A safekeeper in this process, and the other ends that talk to it.
#![allow(dead_code)] // each test file uses a part

pub mod archiving;
pub mod proposer;
pub mod reader;
pub mod three;
pub mod wal;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use ogel_ids::{Lsn, NodeId, StoreUuid, TenantId, TimelineId};
use ogel_pgwire::{Address, ConnectOptions};
use ogel_service::Shutdown;
use quorum::Member;
use safekeeper::{Safekeeper, Settings};
use tokio::{net::TcpListener, task::JoinHandle};
use wal::Wal;

/// Nothing in these tests takes longer than this unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(20);

pub fn tenant() -> TenantId {
    TenantId::from_bytes([0xaa; 16])
}

pub fn timeline(n: u8) -> TimelineId {
    TimelineId::from_bytes([n; 16])
}

/// An empty folder of this name. It outlives the test, because a node whose folder vanishes ends the process.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{}: {error}", path.display()),
        _ => {}
    }
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A running safekeeper.
pub struct Node {
    pub member: Member,
    pub pg: String,
    pub http: String,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

/// The node and two that are not there: nothing is committed unless the test's proposer says so.
pub fn with_strangers(member: Member) -> [Member; 3] {
    let stranger = |n: u8| Member { node_id: NodeId(n.into()), store_uuid: StoreUuid::from_bytes([n; 16]) };
    [member, stranger(102), stranger(103)]
}

/// Ports taken before the nodes start, so that each can be told of the others.
pub struct Ports {
    pg: TcpListener,
    http: TcpListener,
}

impl Ports {
    pub async fn take() -> Self {
        let take = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
        Self { pg: take().await, http: take().await }
    }

    /// Those of a node that has stopped.
    pub async fn again(pg: &str, http: &str) -> Self {
        Self { pg: TcpListener::bind(pg).await.unwrap(), http: TcpListener::bind(http).await.unwrap() }
    }

    pub fn pg(&self) -> String {
        self.pg.local_addr().unwrap().to_string()
    }
}

impl Node {
    pub async fn start(folder: &Path, node_id: u64) -> Self {
        Self::start_with(folder, node_id, Ports::take().await, &[]).await
    }

    pub async fn start_with(folder: &Path, node_id: u64, ports: Ports, peers: &[(u64, String)]) -> Self {
        Self::start_flags(folder, node_id, ports, peers, &[]).await
    }

    pub async fn start_flags(
        folder: &Path,
        node_id: u64,
        ports: Ports,
        peers: &[(u64, String)],
        flags: &[&str],
    ) -> Self {
        ogel_service::logging::init(ogel_service::logging::LogFormat::Text);
        let peers: Vec<String> = peers.iter().map(|(id, address)| format!("{id}={address}")).collect();
        let mut arguments =
            vec!["safekeeper".into(), format!("--data-dir={}", folder.display()), format!("--node-id={node_id}")];
        if !peers.is_empty() {
            arguments.push(format!("--peers={}", peers.join(",")));
        }
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        let settings = Settings::try_parse_from(arguments).unwrap();
        settings.check().unwrap();
        let (pg, http) = (ports.pg(), ports.http.local_addr().unwrap().to_string());
        let shutdown = Shutdown::new();
        let safekeeper = Safekeeper::start(&settings, ports.pg, ports.http, shutdown.clone()).await.unwrap();
        let member = safekeeper.member();
        let task = tokio::spawn(safekeeper.run_to_end());
        Self { member, pg, http, shutdown, task }
    }

    pub async fn stop(self) {
        self.shutdown.begin();
        self.task.await.unwrap();
    }

    pub async fn create(&self, timeline: TimelineId, wal: &Wal, members: &[Member]) -> (u16, serde_json::Value) {
        let parameters = (wal::SYSTEM_ID, wal::SEGMENT_SIZE, wal.start());
        self.create_from(timeline, parameters, wal.prefix(), members).await
    }

    pub async fn create_from(
        &self,
        timeline: TimelineId,
        (system_id, segment_size, start): (u64, u32, Lsn),
        prefix: &[u8],
        members: &[Member],
    ) -> (u16, serde_json::Value) {
        let members: Vec<String> = members.iter().map(|m| format!("{}:{}", m.node_id, m.store_uuid)).collect();
        let url = format!(
            "http://{}/v1/tenant/{}/timeline/{timeline}?system_identifier={system_id}&pg_version_num=170011\
             &wal_segment_size={segment_size}&start_lsn={start}&generation=1&members={}",
            self.http,
            tenant(),
            members.join(",")
        );
        let answer = reqwest::Client::new().put(url).body(prefix.to_vec()).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.http)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub async fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> (u16, serde_json::Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = reqwest::Client::new().request(method, format!("http://{}{path}", self.http));
        let request = if let Some(body) = body { request.json(body) } else { request };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn delete(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.http);
        let answer = reqwest::Client::new().delete(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub async fn state(&self, timeline: TimelineId) -> serde_json::Value {
        let (_, text) = self.get(&format!("/v1/tenant/{}/timeline/{timeline}", tenant())).await;
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until a field of the timeline's state has this value.
    pub async fn wait_state(&self, timeline: TimelineId, field: &str, value: impl ToString) {
        let value = value.to_string();
        let reached = async {
            loop {
                let state = self.state(timeline).await;
                if state[field].as_str().map_or(state[field].to_string(), str::to_owned) == value {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LIMIT, reached).await.is_err() {
            panic!("{field} never became {value}: {}", self.state(timeline).await);
        }
    }

    pub fn options(&self, timeline: TimelineId) -> ConnectOptions {
        ConnectOptions::new(Address::Tcp(self.pg.clone()))
            .parameter("replication", "true")
            .setting("ogel.tenant", tenant())
            .setting("ogel.timeline", timeline)
    }
}
