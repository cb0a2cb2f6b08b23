//! The process: its data folder, its timelines, and what they share.
//!
//! The folder: `pageserver.json` (version, node), `lock`, `tenants/TENANT/timelines/TIMELINE/`. What is below `tenants` is a cache of the object
//! store and may be thrown away while the process does not run.
//!
//! - `compactor`: merges and the giving up of history.
//! - `activity`: which timelines are open.
//! - `attach`: timelines come from the object store and are made in it. `eviction`: the local disk stays within its limits.

mod activity;
mod attach;
mod compactor;
mod eviction;
mod stored;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use ogel_ids::{NodeId, TenantId, TimelineId};
use ogel_object_store::ObjectStore;
use ogel_pgwire::Endpoint;
use ogel_service::{Background, DataFolder, Inflow, Shutdown, StepBack, auth::Verifier, durable_file};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::JoinSet};

use self::{attach::Tenants, eviction::DiskLimits};
use crate::{
    config::Config,
    layer::file::{BlockCache, RemoteReader},
    metrics::Metrics,
    remote::layout,
    template::Template,
    tenant_config::TenantConfig,
    timeline::{CompactionLimits, Environment, FreezeLimits, PageCache, Retention, Timeline, run_ingest},
};

/// Version of the data folder, which is the only one known.
const FOLDER_VERSION: u32 = 1;
/// How long a stop waits for uploads; what is not uploaded is ingested again.
const UPLOAD_ON_STOP: Duration = Duration::from_secs(6);
const IDENTITY_FILE: &str = "pageserver.json";

#[derive(Debug, Serialize, Deserialize)]
struct FolderIdentity {
    version: u32,
    node_id: NodeId,
}

/// A timeline as this process has it.
#[derive(Clone)]
pub enum TimelineSlot {
    /// Open.
    Active(Arc<Timeline>),
    /// It could not be opened, and why; the others are not affected.
    Broken(Arc<str>),
}

/// A running pageserver.
pub struct Pageserver {
    /// This node.
    pub node_id: NodeId,
    /// Who is let in.
    pub verifier: Verifier,
    /// How long requests wait for WAL.
    pub wait_lsn_timeout: Duration,
    /// Set off when the process stops.
    pub shutdown: Shutdown,
    folder: DataFolder,
    environment: Arc<Environment>,
    safekeepers: Arc<[Endpoint]>,
    template_path: Option<PathBuf>,
    template: Mutex<Option<Arc<Template>>>,
    timelines: RwLock<BTreeMap<(TenantId, TimelineId), TimelineSlot>>,
    ingests: Mutex<JoinSet<()>>,
    store: ObjectStore,
    tenants: Tenants,
    disk_limits: DiskLimits,
    retention: Retention,
    /// Merges step back for reads and ingest.
    background: Background,
    /// A timeline that nothing happens to is closed after this.
    idle_timeout: Duration,
    /// Branches are made and timelines deleted one at a time.
    pub(crate) branching: Mutex<()>,
}

/// Why a timeline cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TimelineUnavailable {
    /// Not here.
    #[error("there is no timeline {1} of tenant {0} on this pageserver")]
    Unknown(TenantId, TimelineId),
    /// Here, but it could not be opened.
    #[error("timeline {0} cannot be opened: {1}")]
    Broken(TimelineId, Arc<str>),
    /// Another pageserver has it.
    #[error("timeline {0} is not here: {1}")]
    Elsewhere(TimelineId, Arc<str>),
    /// Perhaps later.
    #[error("timeline {0} cannot be opened now: {1}")]
    NotNow(TimelineId, Arc<str>),
}

impl Pageserver {
    /// Takes the data folder, opens its timelines and starts their ingest.
    pub async fn start(config: &Config, metrics: Metrics, shutdown: Shutdown) -> anyhow::Result<Arc<Pageserver>> {
        let folder = DataFolder::take(&config.data_dir)?;
        claim_folder(folder.path(), NodeId(config.node_id))?;
        let default_store = folder.path().join("remote");
        let store = ObjectStore::open(&config.remote, &default_store, metrics.object_store.clone())?;
        store.probe_at_start().await?;
        tracing::info!(store = store.url(), "object store");
        Self::start_in(folder, store, config, metrics, shutdown).await
    }

    /// Like [`Pageserver::start`], on a store that is open already.
    pub async fn start_on(
        store: ObjectStore,
        config: &Config,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> anyhow::Result<Arc<Pageserver>> {
        let folder = DataFolder::take(&config.data_dir)?;
        claim_folder(folder.path(), NodeId(config.node_id))?;
        Self::start_in(folder, store, config, metrics, shutdown).await
    }

    async fn start_in(
        folder: DataFolder,
        store: ObjectStore,
        config: &Config,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> anyhow::Result<Arc<Pageserver>> {
        let mib = |count: u64| count << 20;
        let environment = Arc::new(Environment {
            block_cache: Arc::new(BlockCache::counted(mib(config.block_cache_mb), metrics.clone())),
            remote_reader: RemoteReader::new(store.clone()),
            page_cache: PageCache::new(mib(config.page_cache_mb), metrics.clone()),
            freeze: FreezeLimits {
                size_bytes: mib(config.freeze_size_mb) as usize,
                wal_bytes: mib(config.freeze_wal_mb),
                age: Duration::from_secs(config.freeze_age_s),
                all_open_bytes: mib(config.open_layers_mb) as usize,
            },
            compaction: CompactionLimits::default(),
            compress: !config.no_compression,
            upload_queue_bytes: mib(config.upload_queue_mb),
            open_bytes: AtomicU64::new(0),
            inflow: Inflow::new(Instant::now()),
            metrics,
        });
        let pageserver = Arc::new(Pageserver {
            node_id: NodeId(config.node_id),
            verifier: config.auth.verifier()?,
            wait_lsn_timeout: config.wait_lsn_timeout(),
            shutdown,
            folder,
            environment,
            safekeepers: config.safekeeper_endpoints().into(),
            template_path: config.template.clone(),
            template: Mutex::new(None),
            timelines: RwLock::default(),
            ingests: Mutex::default(),
            store,
            tenants: Tenants::default(),
            idle_timeout: Duration::from_secs(config.idle_timeout_s),
            disk_limits: DiskLimits {
                archive_after: Duration::from_secs(config.archive_after_s),
                budget_bytes: mib(config.disk_budget_mb),
                free_bytes: mib(config.disk_free_mb),
            },
            retention: Retention { window: Duration::from_secs(config.retention_s), wal_bytes: config.retention_bytes },
            background: Background::start("merges", StepBack::Far)
                .context("the threads for merges cannot be started")?,
            branching: Mutex::default(),
        });
        durable_file::create_folders(&pageserver.folder.path().join(layout::TENANTS))?;
        tokio::spawn(pageserver.clone().run_activity());
        Ok(pageserver)
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.environment.metrics
    }

    /// Where WAL comes from.
    pub fn safekeepers(&self) -> &[Endpoint] {
        &self.safekeepers
    }

    /// Pages already made.
    pub fn page_cache(&self) -> &PageCache {
        &self.environment.page_cache
    }

    /// Blocks of layer files.
    pub fn block_cache(&self) -> &BlockCache {
        &self.environment.block_cache
    }

    /// Sets a tenant's share of the page cache, for now and after a restart.
    pub async fn set_tenant_page_cache(&self, tenant: TenantId, page_cache_mb: Option<u32>) -> anyhow::Result<()> {
        self.page_cache().set_budget(tenant, page_cache_mb.map(|mb| u64::from(mb) << 20))?;
        let folder = self.tenant_folder(tenant);
        let config = TenantConfig::new(page_cache_mb);
        tokio::task::spawn_blocking(move || config.store(&folder)).await?
    }

    /// Applies a tenant's stored settings. What cannot be applied is said and left out: a cache is no reason not to serve.
    pub(crate) fn apply_tenant_config(&self, tenant: TenantId) {
        let applied = TenantConfig::load(&self.tenant_folder(tenant)).and_then(|config| {
            let budget_bytes = config.page_cache_mb.map(|mb| u64::from(mb) << 20);
            if budget_bytes.is_some() { Ok(self.page_cache().set_budget(tenant, budget_bytes)?) } else { Ok(()) }
        });
        if let Err(error) = applied {
            tracing::warn!(%tenant, error = format!("{error:#}"), "the tenant's settings are not applied");
        }
    }

    /// All timelines.
    pub fn timelines(&self) -> BTreeMap<(TenantId, TimelineId), TimelineSlot> {
        self.timelines.read().clone()
    }

    /// An open timeline.
    pub fn timeline(&self, tenant: TenantId, id: TimelineId) -> Result<Arc<Timeline>, TimelineUnavailable> {
        match self.timelines.read().get(&(tenant, id)) {
            Some(TimelineSlot::Active(timeline)) => Ok(timeline.clone()),
            Some(TimelineSlot::Broken(error)) => Err(TimelineUnavailable::Broken(id, error.clone())),
            None => Err(TimelineUnavailable::Unknown(tenant, id)),
        }
    }

    /// Reads the template ahead of its first use.
    pub async fn warm_up(&self) {
        if self.template_path.is_none() {
            return;
        }
        if let Err(error) = self.template(&mut *self.template.lock().await).await {
            tracing::warn!(error = format!("{error:#}"), "timelines cannot be created from the template");
        }
    }

    /// Waits for the ingests to end, then writes everything in memory to files. Call it after shutdown has begun.
    pub async fn stop(&self) {
        let mut ingests = std::mem::take(&mut *self.ingests.lock().await);
        while ingests.join_next().await.is_some() {}
        let timelines = self.timelines().into_values().filter_map(|slot| match slot {
            TimelineSlot::Active(timeline) => Some(close(timeline)),
            TimelineSlot::Broken(_) => None,
        });
        futures::future::join_all(timelines).await;
    }

    async fn template(&self, cached: &mut Option<Arc<Template>>) -> anyhow::Result<Arc<Template>> {
        if let Some(template) = cached {
            return Ok(template.clone());
        }
        let path = self.template_path.clone().context(
            "this pageserver was started without a template: build one with `pgxn/pg template` and name it by --template",
        )?;
        let template = Arc::new(tokio::task::spawn_blocking(move || Template::load(&path)).await??);
        Ok(cached.insert(template).clone())
    }

    /// Lets an open timeline be used, and starts its ingest.
    pub(crate) async fn activate(&self, timeline: Arc<Timeline>) {
        self.timelines.write().insert((timeline.tenant, timeline.id), TimelineSlot::Active(timeline.clone()));
        let (safekeepers, shutdown) = (self.safekeepers.clone(), self.shutdown.clone());
        let mut ingests = self.ingests.lock().await;
        while ingests.try_join_next().is_some() {}
        ingests.spawn(async move {
            let closing = timeline.closing.clone();
            let _running = timeline.ingest_running.lock().await;
            tokio::select! {
                () = run_ingest(timeline.clone(), safekeepers, shutdown) => {}
                () = closing.wait() => {}
            }
        });
    }

    /// Nobody finds it any more.
    pub(crate) fn forget(&self, tenant: TenantId, id: TimelineId) {
        self.timelines.write().remove(&(tenant, id));
    }

    fn tenant_folder(&self, tenant: TenantId) -> PathBuf {
        self.folder.path().join("tenants").join(tenant.to_string())
    }

    pub(crate) fn timelines_folder(&self, tenant: TenantId) -> PathBuf {
        self.tenant_folder(tenant).join("timelines")
    }
}

/// Writes what is in memory to files and uploads those.
async fn close(timeline: Arc<Timeline>) {
    let (tenant, id, store) = (timeline.tenant, timeline.id, timeline.store().clone());
    let flushed = tokio::task::spawn_blocking(move || timeline.flush_all()).await;
    let lsn = match flushed.map_err(anyhow::Error::from).and_then(|result| result) {
        Ok(lsn) => lsn,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(%tenant, timeline = %id, error, "what was in memory is not stored; it will be ingested again");
            return;
        }
    };
    match tokio::time::timeout(UPLOAD_ON_STOP, store.drained().durable()).await {
        Ok(Ok(())) => tracing::info!(%tenant, timeline = %id, %lsn, "timeline closed"),
        Ok(Err(error)) => {
            tracing::warn!(%tenant, timeline = %id, %error, "the last changes are not in the object store")
        }
        Err(_) => {
            let lsn = store.remote_consistent_lsn();
            tracing::warn!(%tenant, timeline = %id, %lsn, "the object store is too slow: what is behind will be ingested again");
        }
    }
}

/// Marks an empty folder as ours, or checks that it is.
fn claim_folder(folder: &Path, node_id: NodeId) -> anyhow::Result<()> {
    let path = folder.join(IDENTITY_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            ensure!(
                !folder.join("tenants").exists(),
                "{} holds tenants but no {IDENTITY_FILE}: it is damaged, or not a pageserver's folder; give another OGEL_DATA_DIR (--data-dir)",
                folder.display()
            );
            let identity = FolderIdentity { version: FOLDER_VERSION, node_id };
            return Ok(durable_file::replace(&path, &serde_json::to_vec_pretty(&identity)?)?);
        }
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    let value: serde_json::Value = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged: restore it from a copy", path.display()))?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(FOLDER_VERSION) => {}
        Some(version) => bail!(
            "{} was written by another version of the pageserver: it has format {version}, this one knows {FOLDER_VERSION}; start that version again or give another OGEL_DATA_DIR (--data-dir)",
            folder.display()
        ),
        None => bail!("{} is damaged: it has no version", path.display()),
    }
    let identity: FolderIdentity = serde_json::from_value(value)?;
    ensure!(
        identity.node_id == node_id,
        "{} belongs to node {}, this is node {node_id}: correct OGEL_NODE_ID (--node-id), or OGEL_DATA_DIR (--data-dir) or the volume that is mounted there",
        folder.display(),
        identity.node_id
    );
    Ok(())
}
