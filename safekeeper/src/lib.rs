//! The safekeeper: the quorum's acceptor as a service.
//!
//! ```text
//! main.rs        settings, logging, signals
//! lib.rs         puts the parts together: Safekeeper::start
//! settings.rs    flags, environment, file
//! store.rs       the data folder and the node's identity
//! tombstones.rs  what was deleted and must not come back
//! registry.rs    all timelines; opening and creating them
//! timeline/      one timeline: the shell around quorum::Acceptor, its disk queue, recent WAL in memory, its creation
//! disk/          its files: segments, control file, side file of acknowledged ends, recovery
//! wire/          PostgreSQL-wire port: proposers, readers, peers
//! rejoin/        a node that lost its store takes its place again
//! repair.rs      damaged WAL is repaired from a peer
//! peers/         connections to the other safekeepers: news of progress, catching up
//! archive/       the object store: finished WAL goes there, what is not needed here is removed
//! http.rs        HTTP port
//! metrics.rs     what is counted
//! ```
//!
//! What must never be: an answer to a proposer about something that is not durable; a byte beyond commit_lsn to a reader that
//! is not a peer; a decision about terms, votes or commits outside `quorum`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod archive;
mod disk;
mod http;
mod metrics;
mod peers;
mod registry;
mod rejoin;
mod repair;
mod settings;
mod store;
mod timeline;
mod tombstones;
mod wire;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use ogel_service::{
    Shutdown, auth,
    http::{Readiness, base_routes, serve},
    metrics::registry::Registry as MetricsRegistry,
};
use quorum::Member;
use tokio::{net::TcpListener, task::JoinHandle};

use archive::{Archive, ArchiveMetrics};
use disk::space::SpaceLimits;
use metrics::Metrics;
use ogel_object_store::{ObjectStore, StoreMetrics};
use peers::Peers;
use registry::Registry;
use rejoin::Rejoin;
pub use settings::{Peer, Settings};
use store::Store;
use timeline::Shared;

/// Timelines must have gone to rest by then at a shutdown; what is missing is read from the WAL at the next start.
const REST_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection to the object store, if one is configured.
async fn open_archive(
    settings: &Settings,
    registry: &mut MetricsRegistry,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Arc<Archive>>> {
    if settings.remote.remote.is_none() {
        tracing::warn!("no --remote: WAL is not archived, all of it is kept here");
        return Ok(None);
    }
    let store = ObjectStore::open(&settings.remote, &settings.data_dir, StoreMetrics::register(registry))?;
    store.probe_at_start().await?;
    tracing::info!(url = store.url(), "finished WAL goes to the object store");
    let idle_after = Duration::from_secs(settings.idle_after_s);
    let metrics = Arc::new(ArchiveMetrics::register(registry));
    Ok(Some(Archive::new(store, idle_after, metrics, shutdown.clone())?))
}

async fn open_unarchived(registry: Arc<Registry>, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.wait() => {}
        opened = registry.open_unarchived() => if let Err(error) = opened {
            tracing::error!(%error, "the data folder cannot be listed: what is not archived waits until its timeline is used");
        }
    }
}

/// A running node.
pub struct Safekeeper {
    me: Member,
    registry: Arc<Registry>,
    archive: Option<Arc<Archive>>,
    shutdown: Shutdown,
    servers: Vec<JoinHandle<()>>,
}

impl Safekeeper {
    /// Opens the store and serves on both listeners until shutdown.
    pub async fn start(
        settings: &Settings,
        pg: TcpListener,
        http: TcpListener,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let (path, node_id) = (settings.data_dir.clone(), settings.node_id);
        let open = move || -> anyhow::Result<Store> {
            let store = Store::open(&path, node_id)?;
            store.sweep().context("what interrupted creations have left cannot be removed")?;
            Ok(store)
        };
        let verifier = settings.auth.verifier()?;
        let store = tokio::task::spawn_blocking(open).await.context("the thread that opens the store ended")??;
        let me = Member { node_id, store_uuid: store.store_uuid() };
        tracing::info!(node_id = %me.node_id, store_uuid = %me.store_uuid, "store opened");
        if settings.no_sync {
            tracing::warn!("--no-sync: nothing is flushed to disk, a crash of the machine loses commits");
        }
        let mut metrics_registry = MetricsRegistry::default();
        let metrics = Arc::new(Metrics::register(&mut metrics_registry));
        let shared = Shared {
            me,
            peers: Arc::new(Peers::new(settings.peers_by_id()?, &settings.auth.token.source())),
            metrics: metrics.clone(),
            sync: !settings.no_sync,
            wal_tail_bytes: settings.wal_tail_bytes,
            limits: SpaceLimits {
                quota_bytes: settings.timeline_quota_bytes,
                floor_bytes: settings.free_space_floor_bytes,
            },
            archive: open_archive(settings, &mut metrics_registry, &shutdown).await?,
        };
        let store = Arc::new(store);
        let registry = Arc::new(Registry::new(store.clone(), shared.clone()));
        let deleted = store.tombstones().len();
        let timelines = registry.list().await.context("the data folder cannot be listed")?.len();
        shared.peers.start(&registry, &shutdown);
        if shared.archive.is_some() {
            tokio::spawn(open_unarchived(registry.clone(), shutdown.clone()));
        }

        let readiness = Readiness::starting();
        tokio::spawn(repair::run(registry.clone(), shutdown.clone()));
        let rejoin = Rejoin::new(registry.clone(), shutdown.clone());
        let router = base_routes(readiness.clone(), Arc::new(metrics_registry)).merge(http::routes(
            registry.clone(),
            me,
            rejoin,
        ));
        let router = auth::protect(router, verifier.clone());
        let http_shutdown = shutdown.clone();
        let http_server = async move {
            if let Err(error) = serve(http, router, http_shutdown).await {
                tracing::error!(%error, "the HTTP server ended");
            }
        };
        let servers = vec![
            tokio::spawn(http_server),
            tokio::spawn(wire::serve(pg, registry.clone(), metrics, verifier, shutdown.clone())),
        ];
        readiness.set_ready();
        tracing::info!(timelines, deleted, "serving");
        Ok(Self { me, registry, archive: shared.archive, shutdown, servers })
    }

    /// Node number and store uuid.
    pub fn member(&self) -> Member {
        self.me
    }

    /// Waits for the shutdown, then brings all timelines to rest.
    pub async fn run_to_end(self) {
        self.shutdown.wait().await;
        let rest = async {
            for server in self.servers {
                let _ended = server.await; // a server that panicked has been logged
            }
            if let Some(archive) = self.archive {
                archive.ended().await;
            }
            for timeline in self.registry.open_timelines() {
                timeline.rest();
                timeline.settled().await;
            }
        };
        if tokio::time::timeout(REST_TIMEOUT, rest).await.is_err() {
            tracing::warn!("not all timelines came to rest in time; the next start reads the ends of their WAL");
        }
        tracing::info!("stopped");
    }
}
