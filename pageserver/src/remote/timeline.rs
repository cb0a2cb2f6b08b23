//! The upload queue of a timeline.

use std::{
    collections::VecDeque,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use ogel_ids::{Generation, Lsn, NodeId, TenantId, TimelineId};
use ogel_object_store::{ObjectStore, StoreError};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    AttachError, TenantStore,
    layout::{self, LogPlace},
    manifest_log::{self, Loaded},
    tenant::ConfirmError,
};
use crate::{
    failpoints,
    layer::{desc::LayerName, stored::StoredLayer},
    manifest::{Edit, Manifest},
};

/// Layers of one timeline that are uploaded at once.
const PARALLEL_UPLOADS: usize = 4;
/// Edits that share one look at the newest generation.
const MAX_BATCH: usize = 32;
/// A WAL prefix is shorter than a segment, which has at most 1 GiB.
const MAX_CREATION_FILE_BYTES: u64 = 1 << 30;
/// How often, and how long, the readers of a layer that is no longer needed are waited for.
const READERS_POLL: Duration = Duration::from_millis(200);
const READERS_PATIENCE: Duration = Duration::from_secs(3600);
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// Another process has taken the tenant over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "tenant {tenant} was taken over by pageserver {owner} (generation {generation}, ours was {ours}): this one acknowledges nothing any more; ask that one"
)]
pub struct Fenced {
    /// The tenant.
    pub tenant: TenantId,
    /// Who has it now, or had it after us.
    pub owner: NodeId,
    /// Our generation.
    pub ours: Generation,
    /// Theirs.
    pub generation: Generation,
}

/// Why something will never be durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UploadError {
    /// Taken over.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// An object of our generation was written by somebody else.
    #[error("{0}: two processes work with one generation; stop one of them and restart the other")]
    Foreign(StoreError),
    /// The process stops.
    #[error("the server is shutting down; whether it is durable is not known")]
    Stopped,
}

/// A layer file that an edit adds.
pub struct NewLayer {
    /// Its name.
    pub name: LayerName,
    /// The local file.
    pub path: PathBuf,
    /// Its length.
    pub size_bytes: u64,
    /// Keeps the local file in place until it is uploaded, and is told when it is.
    pub layer: Arc<StoredLayer>,
}

/// A layer that no manifest will name again.
pub struct GoneLayer {
    /// Its name.
    pub name: LayerName,
    /// Those who still read it, in an older snapshot.
    pub readers: Weak<StoredLayer>,
}

/// How the uploads of a timeline stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadStatus {
    /// Edits and bases that are not durable yet.
    pub queued: usize,
    /// Bytes of layers that are not durable yet.
    pub queued_bytes: u64,
    /// What the last attempt failed with.
    pub error: Option<String>,
}

/// A timeline in the object store, for its only writer. Clones share everything.
///
/// Invariants: objects of the log become durable in the order of their places, each after the layers that it adds; `remote_consistent_lsn`
/// is the `disk_consistent_lsn` of a durable edit behind which the newest generation was ours.
#[derive(Clone)]
pub struct TimelineStore(Arc<Shared>);

struct Shared {
    tenant: Arc<TenantStore>,
    timeline: TimelineId,
    queue: Mutex<Queue>,
    progress: watch::Sender<Progress>,
    queued_bytes: AtomicU64,
    remote_consistent: AtomicU64,
    runtime: tokio::runtime::Handle,
}

struct Queue {
    last: LogPlace,
    items: VecDeque<Arc<Item>>,
    pushed: u64,
    running: bool,
    error: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    /// Items that are durable and confirmed.
    done: u64,
    failed: Option<UploadError>,
}

struct Item {
    place: LogPlace,
    bytes: Bytes,
    layers: Vec<NewLayer>,
    /// Layers that no reader comes to any more; once this is durable, no restart either.
    gone: Vec<GoneLayer>,
    disk_consistent: Lsn,
}

/// Waits for an edit to be durable. Dropping it changes nothing.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    progress: watch::Receiver<Progress>,
}

impl Ticket {
    /// Returns when the edit is durable and the tenant was still ours after that: now it may be acknowledged. During an outage of the store
    /// this waits.
    pub async fn durable(mut self) -> Result<(), UploadError> {
        let number = self.number;
        match self.progress.wait_for(|progress| progress.done >= number || progress.failed.is_some()).await {
            Ok(progress) if progress.done >= number => Ok(()),
            Ok(progress) => Err(progress.failed.clone().unwrap_or(UploadError::Stopped)),
            Err(_) => Err(UploadError::Stopped),
        }
    }
}

impl fmt::Debug for TimelineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimelineStore").field("timeline", &self.0.timeline).finish_non_exhaustive()
    }
}

impl TimelineStore {
    /// Takes over a timeline: what the log of an earlier generation ended with becomes the base of ours. `None`: it does not exist.
    pub async fn open(
        tenant: &Arc<TenantStore>,
        timeline: TimelineId,
    ) -> Result<Option<(Self, Manifest)>, AttachError> {
        let loaded = manifest_log::load(&tenant.store, tenant.tenant, timeline, tenant.generation).await?;
        let Some(Loaded { manifest, last }) = loaded else { return Ok(None) };
        if last.generation == tenant.generation {
            return Ok(Some((Self::new(tenant, timeline, last, manifest.disk_consistent_lsn), manifest)));
        }
        Self::write_first_base(tenant, timeline, manifest).await.map(Some)
    }

    /// Makes a new timeline of what was uploaded for it: durable, and the tenant confirmed to be ours, when this returns.
    pub async fn create(tenant: &Arc<TenantStore>, manifest: Manifest) -> Result<(Self, Manifest), AttachError> {
        Self::write_first_base(tenant, manifest.timeline, manifest).await
    }

    async fn write_first_base(
        tenant: &Arc<TenantStore>,
        timeline: TimelineId,
        manifest: Manifest,
    ) -> Result<(Self, Manifest), AttachError> {
        let place = LogPlace { generation: tenant.generation, sequence: 0 };
        tenant.store.put_new(&layout::manifest(tenant.tenant, timeline, place), manifest.encode()).await?;
        failpoints::reach(failpoints::ATTACH_BASE_WRITTEN);
        tenant.confirm().await.map_err(|error| match error {
            ConfirmError::Fenced(fenced) => fenced.into(),
            ConfirmError::Unknown(error) => error,
        })?;
        let this = Self::new(tenant, timeline, place, manifest.disk_consistent_lsn);
        this.clear_log(place).await;
        Ok((this, manifest))
    }

    fn new(tenant: &Arc<TenantStore>, timeline: TimelineId, last: LogPlace, remote_consistent: Lsn) -> Self {
        let queue = Queue { last, items: VecDeque::new(), pushed: 0, running: false, error: None };
        Self(Arc::new(Shared {
            tenant: tenant.clone(),
            timeline,
            queue: Mutex::new(queue),
            progress: watch::Sender::new(Progress::default()),
            queued_bytes: AtomicU64::new(0),
            remote_consistent: AtomicU64::new(remote_consistent.0),
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    /// The claimed tenant.
    pub fn tenant(&self) -> &Arc<TenantStore> {
        &self.0.tenant
    }

    /// The store itself.
    pub fn store(&self) -> &ObjectStore {
        &self.0.tenant.store
    }

    /// Safekeepers may drop WAL below.
    pub fn remote_consistent_lsn(&self) -> Lsn {
        Lsn(self.0.remote_consistent.load(Ordering::Acquire))
    }

    /// A file that the timeline was created with. Blocks.
    pub fn creation_file(&self, name: &str) -> Result<Bytes, StoreError> {
        let key = layout::creation_file(self.0.tenant.tenant, self.0.timeline, name);
        let get = self.store().get(&key, MAX_CREATION_FILE_BYTES);
        tokio::task::block_in_place(|| self.0.runtime.block_on(get))
    }

    /// Name of a layer's object.
    pub fn layer_key(&self, name: LayerName) -> String {
        layout::layer(self.0.tenant.tenant, self.0.timeline, name)
    }

    /// Bytes of layers that are not durable yet.
    pub fn queued_bytes(&self) -> u64 {
        self.0.queued_bytes.load(Ordering::Relaxed)
    }

    /// How the uploads stand.
    pub fn status(&self) -> UploadStatus {
        let queue = self.0.queue.lock();
        let queued_bytes = self.0.queued_bytes.load(Ordering::Relaxed);
        UploadStatus { queued: queue.items.len(), queued_bytes, error: queue.error.clone() }
    }

    /// Why nothing will be durable any more, if that is so.
    pub fn failure(&self) -> Option<UploadError> {
        let failed = self.0.progress.borrow().failed.clone();
        failed.or_else(|| self.0.tenant.fenced().cloned().map(UploadError::from))
    }

    /// Queues an edit that has just been applied to the manifest in memory. `after`: that manifest; `gone`: the layers that it does not need
    /// any more. The caller holds the lock under which it applied the edit, so that the order is the same here.
    pub fn publish(&self, edit: &Edit, after: &Manifest, layers: Vec<NewLayer>, gone: Vec<GoneLayer>) -> Ticket {
        let bytes: u64 = layers.iter().map(|layer| layer.size_bytes).sum();
        self.0.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut queue = self.0.queue.lock();
        let disk_consistent = after.disk_consistent_lsn;
        queue.push(|place| Item { place, bytes: edit.encode().into(), layers, gone, disk_consistent });
        let number = queue.pushed;
        if queue.last.next().is_base() {
            let (bytes, layers, gone) = (after.encode().into(), Vec::new(), Vec::new());
            queue.push(|place| Item { place, bytes, layers, gone, disk_consistent });
        }
        if !std::mem::replace(&mut queue.running, true) {
            self.0.runtime.spawn(self.clone().upload_all());
        }
        Ticket { number, progress: self.0.progress.subscribe() }
    }

    /// A ticket for everything queued so far.
    pub fn drained(&self) -> Ticket {
        Ticket { number: self.0.queue.lock().pushed, progress: self.0.progress.subscribe() }
    }

    /// Works until the queue is empty, or for good: no task exists while there is nothing to do.
    async fn upload_all(self) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            let batch: Vec<Arc<Item>> = {
                let mut queue = self.0.queue.lock();
                if queue.items.is_empty() {
                    (queue.running, queue.error) = (false, None);
                    return;
                }
                queue.items.iter().take(MAX_BATCH).cloned().collect()
            };
            match self.upload(&batch).await {
                Ok(()) => {
                    back_off = BACK_OFF_MIN;
                    self.settle(&batch).await;
                }
                Err(Failure::Final(error)) => {
                    tracing::error!(tenant = %self.0.tenant.tenant, timeline = %self.0.timeline, %error, "uploads have ended");
                    let mut queue = self.0.queue.lock();
                    queue.items.clear();
                    queue.error = Some(error.to_string());
                    self.0.queued_bytes.store(0, Ordering::Relaxed);
                    // `running` stays set: nothing is uploaded any more.
                    self.0.progress.send_modify(|progress| progress.failed = Some(error));
                    return;
                }
                Err(Failure::Passing(error)) => {
                    if self.0.queue.lock().error.replace(error.clone()).is_none() {
                        tracing::warn!(
                            tenant = %self.0.tenant.tenant, timeline = %self.0.timeline, error, "an upload failed; trying again"
                        );
                    }
                    let random = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
                    tokio::time::sleep(back_off.mul_f64(0.5 + random / 2.0)).await;
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                }
            }
        }
    }

    async fn upload(&self, batch: &[Arc<Item>]) -> Result<(), Failure> {
        let (store, tenant, timeline) = (self.store(), self.0.tenant.tenant, self.0.timeline);
        let mut layers = Vec::new();
        for layer in batch.iter().flat_map(|item| &item.layers) {
            layers.push((self.layer_key(layer.name), layer.path.clone(), store.clone()));
        }
        let uploads = layers.into_iter().map(|(key, path, store)| async move { store.upload(&key, &path).await });
        stream::iter(uploads).buffer_unordered(PARALLEL_UPLOADS).try_collect::<()>().await?;
        failpoints::reach(failpoints::UPLOAD_LAYERS_DONE);
        for item in batch {
            store.put_new(&layout::manifest(tenant, timeline, item.place), item.bytes.clone()).await?;
        }
        failpoints::reach(failpoints::UPLOAD_EDITS_DONE);
        self.0.tenant.confirm().await.map_err(|error| match error {
            ConfirmError::Fenced(fenced) => Failure::Final(fenced.into()),
            ConfirmError::Unknown(error) => Failure::Passing(error.to_string()),
        })
    }

    /// What a durable and confirmed batch allows.
    async fn settle(&self, batch: &[Arc<Item>]) {
        let Some(last) = batch.last() else { return };
        failpoints::reach(failpoints::UPLOAD_CONFIRMED);
        self.0.remote_consistent.fetch_max(last.disk_consistent.0, Ordering::AcqRel);
        failpoints::reach(failpoints::UPLOAD_ADVERTISED);
        let layers = || batch.iter().flat_map(|item| &item.layers);
        layers().for_each(|layer| layer.layer.file.mark_uploaded());
        let bytes: u64 = layers().map(|layer| layer.size_bytes).sum();
        self.0.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        {
            let mut queue = self.0.queue.lock();
            queue.items.drain(..batch.len());
            queue.error = None;
        }
        self.0.progress.send_modify(|progress| progress.done += batch.len() as u64);
        let gone: Vec<(String, Weak<StoredLayer>)> = batch
            .iter()
            .flat_map(|item| &item.gone)
            .map(|gone| (self.layer_key(gone.name), gone.readers.clone()))
            .collect();
        if !gone.is_empty() {
            self.0.runtime.spawn(delete_unread(self.store().clone(), gone));
        }
        if let Some(base) = batch.iter().rev().find(|item| item.place.is_base()) {
            failpoints::reach(failpoints::MANIFEST_BASE_DURABLE);
            self.clear_log(base.place).await;
        }
    }

    /// Removes what a durable base makes superfluous. What it misses, the next one removes.
    async fn clear_log(&self, base: LogPlace) {
        let (tenant, timeline) = (self.0.tenant.tenant, self.0.timeline);
        let cleared = async {
            let listed = self.store().list_all(&layout::manifests(tenant, timeline)).await?;
            let places = listed.iter().filter_map(|info| LogPlace::parse(info.key.rsplit('/').next()?));
            let keys = manifest_log::superfluous(places, base).into_iter();
            failpoints::reach(failpoints::MANIFEST_LOG_LISTED);
            self.store().delete_all(keys.map(|place| layout::manifest(tenant, timeline, place))).await
        };
        if let Err(error) = cleared.await {
            tracing::debug!(%timeline, %error, "old manifests stay in the object store until the next base");
        }
    }
}

/// Deletes layers when the last reader of an older snapshot has let them go. What a crash leaves is found by a check of the store.
async fn delete_unread(store: ObjectStore, gone: Vec<(String, Weak<StoredLayer>)>) {
    let mut tick = tokio::time::interval(READERS_POLL);
    let patience = tokio::time::Instant::now() + READERS_PATIENCE;
    while gone.iter().any(|(_, readers)| readers.strong_count() > 0) && tokio::time::Instant::now() < patience {
        tick.tick().await;
    }
    let unread = gone.into_iter().filter(|(_, readers)| readers.strong_count() == 0).map(|(key, _)| key);
    failpoints::reach(failpoints::LAYERS_BEFORE_DELETION);
    if let Err(error) = store.delete_all(unread).await {
        tracing::warn!(%error, "layers that are not needed stay in the object store; a check finds them");
    }
    failpoints::reach(failpoints::LAYERS_DELETED);
}

impl Queue {
    fn push(&mut self, item: impl FnOnce(LogPlace) -> Item) {
        self.last = self.last.next();
        self.items.push_back(Arc::new(item(self.last)));
        self.pushed += 1;
    }
}

enum Failure {
    /// Worth another attempt, for as long as it takes.
    Passing(String),
    Final(UploadError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::AlreadyExists { .. } => Failure::Final(UploadError::Foreign(error)),
            other => Failure::Passing(other.to_string()),
        }
    }
}
