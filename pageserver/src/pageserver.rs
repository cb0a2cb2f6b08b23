//! The process: its data folder, its timelines, and what they share.
//!
//! The folder: `pageserver.json` (version, node), `lock`, `tenants/TENANT/timelines/TIMELINE/` (see [`crate::timeline`]). A timeline's folder
//! whose name begins with a dot is an unfinished creation and is cleared away.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use ogel_ids::{NodeId, TenantId, TimelineId};
use ogel_pgwire::Address;
use ogel_service::{DataFolder, Shutdown, durable_file};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    config::Config,
    layer::file::BlockCache,
    metrics::Metrics,
    template::Template,
    timeline::{Environment, FreezeLimits, PageCache, Timeline, run_ingest},
};

/// Version of the data folder, which is the only one known.
const FOLDER_VERSION: u32 = 1;
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
    /// How long requests wait for WAL.
    pub wait_lsn_timeout: Duration,
    /// Set off when the process stops.
    pub shutdown: Shutdown,
    folder: DataFolder,
    environment: Arc<Environment>,
    safekeepers: Arc<[Address]>,
    template_path: Option<PathBuf>,
    template: Mutex<Option<Arc<Template>>>,
    timelines: RwLock<BTreeMap<(TenantId, TimelineId), TimelineSlot>>,
    ingests: Mutex<JoinSet<()>>,
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
}

impl Pageserver {
    /// Takes the data folder, opens its timelines and starts their ingest.
    pub async fn start(config: &Config, metrics: Metrics, shutdown: Shutdown) -> anyhow::Result<Arc<Pageserver>> {
        let folder = DataFolder::take(&config.data_dir)?;
        claim_folder(folder.path(), NodeId(config.node_id))?;
        let mib = |count: u64| count << 20;
        let environment = Arc::new(Environment {
            block_cache: Arc::new(BlockCache::counted(mib(config.block_cache_mb), metrics.clone())),
            page_cache: PageCache::new(mib(config.page_cache_mb), metrics.clone()),
            freeze: FreezeLimits {
                size_bytes: mib(config.freeze_size_mb) as usize,
                wal_bytes: mib(config.freeze_wal_mb),
                age: Duration::from_secs(config.freeze_age_s),
                all_open_bytes: mib(config.open_layers_mb) as usize,
            },
            compress: !config.no_compression,
            open_bytes: AtomicU64::new(0),
            metrics,
        });
        let pageserver = Arc::new(Pageserver {
            node_id: NodeId(config.node_id),
            wait_lsn_timeout: config.wait_lsn_timeout(),
            shutdown,
            folder,
            environment,
            safekeepers: config.safekeeper_addresses().into(),
            template_path: config.template.clone(),
            template: Mutex::new(None),
            timelines: RwLock::default(),
            ingests: Mutex::default(),
        });
        pageserver.open_all().await?;
        Ok(pageserver)
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.environment.metrics
    }

    /// Where WAL comes from.
    pub fn safekeepers(&self) -> &[Address] {
        &self.safekeepers
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

    /// Creates a timeline from the template; `false` when it was there already. It is durable when this returns.
    pub async fn create(&self, tenant: TenantId, id: TimelineId) -> anyhow::Result<(Arc<Timeline>, bool)> {
        let mut cached = self.template.lock().await; // also: one creation at a time
        match self.timeline(tenant, id) {
            Ok(timeline) => return Ok((timeline, false)),
            Err(error @ TimelineUnavailable::Broken(..)) => return Err(error.into()),
            Err(TimelineUnavailable::Unknown(..)) => {}
        }
        let template = self.template(&mut cached).await?;
        let folder = self.timelines_folder(tenant).join(id.to_string());
        let environment = self.environment.clone();
        let timeline = tokio::task::spawn_blocking(move || {
            template.instantiate(&folder, tenant, id)?;
            Timeline::open(&folder, tenant, id, None, environment)
        })
        .await??;
        tracing::info!(%tenant, timeline = %id, lsn = %timeline.start_lsn, "timeline created");
        self.activate(timeline.clone()).await;
        Ok((timeline, true))
    }

    /// Waits for the ingests to end, then writes everything in memory to files. Call it after shutdown has begun.
    pub async fn stop(&self) {
        let mut ingests = std::mem::take(&mut *self.ingests.lock().await);
        while ingests.join_next().await.is_some() {}
        for (_, slot) in self.timelines() {
            let TimelineSlot::Active(timeline) = slot else { continue };
            let (tenant, id) = (timeline.tenant, timeline.id);
            match tokio::task::spawn_blocking(move || timeline.flush_all()).await {
                Ok(Ok(lsn)) => tracing::info!(%tenant, timeline = %id, %lsn, "timeline closed"),
                Ok(Err(error)) => {
                    let error = format!("{error:#}");
                    tracing::error!(%tenant, timeline = %id, error, "what was in memory is not on disk; it will be ingested again");
                }
                Err(join) => tracing::error!(%tenant, timeline = %id, error = %join, "closing failed"),
            }
        }
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

    async fn activate(&self, timeline: Arc<Timeline>) {
        self.timelines.write().insert((timeline.tenant, timeline.id), TimelineSlot::Active(timeline.clone()));
        let ingest = run_ingest(timeline, self.safekeepers.clone(), self.shutdown.clone());
        self.ingests.lock().await.spawn(ingest);
    }

    async fn open_all(&self) -> anyhow::Result<()> {
        let tenants = self.folder.path().join("tenants");
        durable_file::create_folders(&tenants)?;
        for tenant in ids_in(&tenants)? {
            for id in ids_in(&self.timelines_folder(tenant))? {
                self.open_timeline(tenant, id).await;
            }
        }
        Ok(())
    }

    async fn open_timeline(&self, tenant: TenantId, id: TimelineId) {
        let folder = self.timelines_folder(tenant).join(id.to_string());
        let environment = self.environment.clone();
        let opened = tokio::task::spawn_blocking(move || Timeline::open(&folder, tenant, id, None, environment)).await;
        match opened.map_err(anyhow::Error::from).and_then(|result| result) {
            Ok(timeline) => self.activate(timeline).await,
            Err(error) => {
                let error: Arc<str> = format!("{error:#}").into();
                tracing::error!(%tenant, timeline = %id, %error, "timeline cannot be opened; the others go on");
                self.timelines.write().insert((tenant, id), TimelineSlot::Broken(error));
            }
        }
    }

    fn timelines_folder(&self, tenant: TenantId) -> PathBuf {
        self.folder.path().join("tenants").join(tenant.to_string()).join("timelines")
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
                "{} holds tenants but no {IDENTITY_FILE}: it is damaged, or not a pageserver's folder; give another --data-dir",
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
            "{} was written by another version of the pageserver: it has format {version}, this one knows {FOLDER_VERSION}; start that version again or give another --data-dir",
            folder.display()
        ),
        None => bail!("{} is damaged: it has no version", path.display()),
    }
    let identity: FolderIdentity = serde_json::from_value(value)?;
    ensure!(
        identity.node_id == node_id,
        "{} belongs to node {}, this is node {node_id}: give the right --node-id or --data-dir",
        folder.display(),
        identity.node_id
    );
    Ok(())
}

/// Names in a folder that are ids. Unfinished creations are removed, other names are left alone.
fn ids_in<T: std::str::FromStr>(folder: &Path) -> anyhow::Result<Vec<T>> {
    let mut ids = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ids),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", folder.display())),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".creating-") {
            tracing::info!(folder = %entry.path().display(), "removing a timeline whose creation was not finished");
            std::fs::remove_dir_all(entry.path())?;
        } else if let Ok(id) = name.parse() {
            ids.push(id);
        }
    }
    Ok(ids)
}
