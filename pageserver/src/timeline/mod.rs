//! Timelines: one branch's history each.
//!
//! - [`Timeline`]: its layers, positions and state; opened from its manifest.
//! - `ingest`: follows a safekeeper, decodes, hands effects to `effects`, which turns them into versions of keys.
//! - `compaction`: merges layers and gives up history.
//! - `gc`: which history is kept.
//! - `flush`: freezes the open layer and writes frozen ones to files.
//! - `read`: pages, sizes, segments at an LSN; `pages`: pages, many at once; `page_cache`: those already made, `doorkeeper`: which of them
//!   are worth keeping;
//!   `lineage`: the layers of a timeline and of those it branched from, one behind the other.
//! - `publish`: changes of the manifest, which is what survives a restart. [`state`]: the running state that decoding resumes from.
//!
//! Positions: `start_lsn ≤ disk_consistent_lsn ≤ last_record_lsn`. Readers read at or below `last_record_lsn`, which advances only after
//! everything of the record is in the open layer.

pub mod aux_file;
mod checkpoint;
mod compaction;
mod doorkeeper;
mod effects;
mod flush;
mod gc;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod history_bench;
mod image_requests;
mod ingest;
mod lineage;
mod page_cache;
mod pages;
mod publish;
mod read;
pub mod state;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod store_model;
mod terms;
mod waiters;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use ogel_service::Shutdown;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

pub use checkpoint::CheckpointError;
use checkpoint::CheckpointRequest;
pub use compaction::{CompactionLimits, CompactionReport};
pub use effects::EffectWriter;
pub use gc::{GcReport, Retention};
pub use image_requests::ImageRequests;
pub use ingest::{IngestStatus, run as run_ingest};
use lineage::Lineage;
use page_cache::TimelinePages;
pub use page_cache::{BudgetError, PageCache};
pub use pages::{PageBatch, PageId, PageMaker};
pub(crate) use publish::remove_leftovers;
pub use read::ReadError;
use state::RunningState;
use waiters::Waiters;

use crate::{
    keyspace::Key,
    layer::{
        Io,
        desc::LayerName,
        file::{BlockCache, LayerKind, RemoteReader},
        map::LayerMap,
        memory::MemoryLayer,
        stored::StoredLayer,
    },
    manifest::{Edit, Lease, Manifest, TermStart, TimelineState},
    remote::TimelineStore,
};

/// Folder of the layer files within a timeline's folder.
pub const LAYERS_FOLDER: &str = "layers";
/// File with the WAL from the start of `start_lsn`'s segment up to `start_lsn`.
pub const WAL_PREFIX_FILE: &str = "wal_prefix";
/// File with the `pg_control` that the timeline was created with.
pub const CONTROL_FILE: &str = "pg_control";
/// Damaged pages that are remembered by name; beyond it they are only counted.
const MAX_DAMAGED_NAMED: usize = 1000;

/// When the open layer is frozen.
#[derive(Debug, Clone, Copy)]
pub struct FreezeLimits {
    /// Memory that it takes.
    pub size_bytes: usize,
    /// WAL that it covers.
    pub wal_bytes: u64,
    /// Time since it was opened.
    pub age: Duration,
    /// Memory of all open layers together: above it the layer that grows is frozen.
    pub all_open_bytes: usize,
}

/// What all timelines of a process share.
pub struct Environment {
    /// Blocks of layer files.
    pub block_cache: Arc<BlockCache>,
    /// The object store as layers read it.
    pub remote_reader: Arc<RemoteReader>,
    /// Rebuilt pages.
    pub page_cache: PageCache,
    /// When to freeze.
    pub freeze: FreezeLimits,
    /// When to merge.
    pub compaction: CompactionLimits,
    /// Whether blocks of layer files are compressed.
    pub compress: bool,
    /// Bytes of a timeline's layers that may wait for the object store.
    pub upload_queue_bytes: u64,
    /// Memory of all open and frozen layers.
    pub open_bytes: AtomicU64,
    /// WAL that comes in, of all timelines.
    pub inflow: ogel_service::Inflow,
    /// What is counted.
    pub metrics: crate::metrics::Metrics,
}

/// The newest record ingested.
#[derive(Debug, Clone)]
pub struct Head {
    /// Its end: `last_record_lsn`.
    pub lsn: Lsn,
    /// State there.
    pub state: RunningState,
}

/// Where a branch comes from: what its own layers do not say, the ancestor's say as of `lsn`.
#[derive(Clone)]
pub struct Ancestor {
    /// The timeline that it branched from.
    pub timeline: Arc<Timeline>,
    /// Where: the branch's own WAL begins here.
    pub lsn: Lsn,
}

/// An open timeline.
pub struct Timeline {
    /// Owner.
    pub tenant: TenantId,
    /// Itself.
    pub id: TimelineId,
    /// PostgreSQL's `system_identifier`.
    pub system_identifier: u64,
    /// Such as 170011.
    pub pg_version_num: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// Where its WAL begins.
    pub start_lsn: Lsn,
    /// Where it branched off; `None` for a root.
    pub ancestor: Option<Ancestor>,
    folder: PathBuf,
    environment: Arc<Environment>,
    /// Its pages in the page cache.
    pages: TimelinePages,
    checkpoint_request: CheckpointRequest,
    /// Pages that were dear to read.
    pub image_requests: ImageRequests,
    layers: RwLock<Arc<LayerMap>>,
    head: Mutex<Head>,
    last_record_lsn: AtomicU64,
    waiters: Waiters,
    terms: watch::Sender<Arc<[TermStart]>>,
    /// See [`Timeline::history_lock`].
    history: Mutex<()>,
    gc_cutoff: AtomicU64,
    /// Something has happened since layers were last merged.
    compaction_due: AtomicBool,
    /// Held while layers are merged, one merge at a time.
    compaction: Mutex<()>,
    /// A frozen layer is on disk.
    layer_flushed: Notify,
    /// A flush waits until a merge has made room for it.
    room_wanted: AtomicBool,
    /// As readers see it; the object store follows.
    manifest: Mutex<Manifest>,
    /// Its place in the object store.
    store: TimelineStore,
    disk_consistent_lsn: AtomicU64,
    logical_size_bytes: AtomicU64,
    /// Held while frozen layers are written, one at a time.
    flush: Mutex<()>,
    ingest: Mutex<IngestStatus>,
    damaged: Mutex<DamagedPages>,
    /// Set off when nothing of this process works on it any more: it is deleted, or the process stops.
    pub closing: Shutdown,
    /// Held by its ingest.
    pub(crate) ingest_running: tokio::sync::Mutex<()>,
}

/// Pages that could not be rebuilt.
#[derive(Debug, Default, Clone)]
pub struct DamagedPages {
    /// Which, and why; the first [`MAX_DAMAGED_NAMED`].
    pub named: BTreeMap<String, String>,
    /// How many beyond those.
    pub unnamed: u64,
}

/// Why a wait for an LSN ended without it.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// It lies beyond the start of a later term: this compute has been replaced.
    #[error("term {term} has ended at {fence}, where a later one began: {asked} will never be this compute's")]
    Fenced {
        /// The compute's.
        term: Term,
        /// Start of the next.
        fence: Lsn,
        /// What was asked for.
        asked: Lsn,
    },
    /// It has not come in time; asking again may help.
    #[error("the WAL up to {asked} has not arrived within {seconds} s (it is here up to {reached}){because}")]
    TimedOut {
        /// What was asked for.
        asked: Lsn,
        /// Where ingest stands.
        reached: Lsn,
        /// How long was waited.
        seconds: u64,
        /// Why ingest stands, when known.
        because: String,
    },
    /// The server stops.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Timeline {
    /// Opens the timeline that this manifest describes; `folder` is its cache on the local disk. Blocks.
    pub fn open(
        folder: &Path,
        manifest: Manifest,
        store: TimelineStore,
        ancestor: Option<Ancestor>,
        environment: Arc<Environment>,
    ) -> anyhow::Result<Arc<Timeline>> {
        let at = manifest.disk_consistent_lsn;
        let partitions = publish::open_layers(folder, &manifest, &store, &environment)?;
        let layers = LayerMap::new(MemoryLayer::new(at), partitions);
        let start_state = manifest.start_state.clone().filter(|_| at == manifest.start_lsn);
        let state = match start_state {
            Some(state) => state,
            None => match newest_state(Lineage::new(&layers, ancestor.as_ref()), at)? {
                Some((lsn, state)) if lsn == at => state,
                _ => bail!("the running state at {at}, where its layers end, is missing: a layer file is damaged"),
            },
        };
        let (terms, _) = watch::channel(manifest.term_history.clone().into());
        Ok(Arc::new(Timeline {
            tenant: manifest.tenant,
            id: manifest.timeline,
            system_identifier: manifest.system_identifier,
            pg_version_num: manifest.pg_version_num,
            wal_segment_size: manifest.wal_segment_size,
            start_lsn: manifest.start_lsn,
            ancestor,
            folder: folder.to_owned(),
            pages: environment.page_cache.timeline(manifest.tenant),
            checkpoint_request: CheckpointRequest::default(),
            image_requests: ImageRequests::default(),
            environment,
            layers: RwLock::new(Arc::new(layers)),
            head: Mutex::new(Head { lsn: at, state }),
            last_record_lsn: AtomicU64::new(at.0),
            waiters: Waiters::new(at),
            terms,
            disk_consistent_lsn: AtomicU64::new(at.0),
            logical_size_bytes: AtomicU64::new(manifest.logical_size_bytes),
            history: Mutex::new(()),
            gc_cutoff: AtomicU64::new(manifest.gc_cutoff.0),
            compaction_due: AtomicBool::new(false),
            compaction: Mutex::new(()),
            layer_flushed: Notify::new(),
            room_wanted: AtomicBool::new(false),
            manifest: Mutex::new(manifest),
            store,
            flush: Mutex::new(()),
            ingest: Mutex::default(),
            damaged: Mutex::default(),
            closing: Shutdown::new(),
            ingest_running: tokio::sync::Mutex::default(),
        }))
    }

    /// How far WAL has been ingested.
    pub fn last_record_lsn(&self) -> Lsn {
        Lsn(self.last_record_lsn.load(Ordering::Acquire))
    }

    /// How far it is in files; a restart resumes here.
    pub fn disk_consistent_lsn(&self) -> Lsn {
        Lsn(self.disk_consistent_lsn.load(Ordering::Acquire))
    }

    /// History below it is not kept, but for branch points and leases.
    pub fn cutoff(&self) -> Lsn {
        Lsn(self.gc_cutoff.load(Ordering::Acquire))
    }

    /// How far it is in the object store; safekeepers may drop WAL below.
    pub fn remote_consistent_lsn(&self) -> Lsn {
        self.store.remote_consistent_lsn()
    }

    /// Its place in the object store.
    pub fn store(&self) -> &TimelineStore {
        &self.store
    }

    /// Sum of all relation sizes at `last_record_lsn`.
    pub fn logical_size_bytes(&self) -> u64 {
        self.logical_size_bytes.load(Ordering::Relaxed)
    }

    /// The newest record and the state after it.
    pub fn head(&self) -> Head {
        self.head.lock().clone()
    }

    /// The running state at the end of exactly this record, when it is known.
    pub fn state_at(&self, lsn: Lsn) -> anyhow::Result<RunningState> {
        match self.newest_state(lsn)? {
            Some((found, state)) if found == lsn => Ok(state),
            Some((found, _)) => bail!(
                "the state at {lsn} is not known: it is kept behind commits, of which the last one before ends at {found}"
            ),
            None => bail!("the state at {lsn} is not known: the history that is kept begins later"),
        }
    }

    /// The newest known running state at or below `at`, and the end of its record. Blocks.
    pub fn newest_state(&self, at: Lsn) -> anyhow::Result<Option<(Lsn, RunningState)>> {
        let head = self.head();
        if head.lsn <= at {
            return Ok(Some((head.lsn, head.state)));
        }
        newest_state(Lineage::new(&self.pin_layers(), self.ancestor.as_ref()), at)
    }

    /// Where the history begins that can be read, that of its ancestors included.
    pub fn history_start(&self) -> Lsn {
        let cutoff = self.manifest.lock().gc_cutoff.max(self.start_lsn);
        match &self.ancestor {
            Some(ancestor) if cutoff == self.start_lsn => {
                // Of what the ancestor has given up, the branch point stays.
                Some(ancestor.timeline.history_start()).filter(|begins| *begins <= ancestor.lsn).unwrap_or(cutoff)
            }
            _ => cutoff,
        }
    }

    /// All known terms.
    pub fn term_history(&self) -> Arc<[TermStart]> {
        self.terms.borrow().clone()
    }

    /// Start of the first term later than this one.
    pub fn fence(&self, term: Term) -> Option<Lsn> {
        terms::fence(&self.terms.borrow(), term)
    }

    /// What ingest is doing.
    pub fn ingest_status(&self) -> IngestStatus {
        self.ingest.lock().clone()
    }

    /// Pages that could not be rebuilt so far.
    pub fn damaged_pages(&self) -> DamagedPages {
        self.damaged.lock().clone()
    }

    /// WAL from the start of `start_lsn`'s segment up to `start_lsn`, of a timeline that is no branch. Blocks.
    pub fn wal_prefix(&self) -> std::io::Result<Vec<u8>> {
        self.creation_file(WAL_PREFIX_FILE)
    }

    fn creation_file(&self, name: &str) -> std::io::Result<Vec<u8>> {
        match std::fs::read(self.folder.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let bytes = self.store.creation_file(name).map_err(std::io::Error::other)?;
                // Only a cache: whoever cannot write it asks again.
                let _ = ogel_service::durable_file::replace(&self.folder.join(name), &bytes);
                Ok(bytes.into())
            }
            other => other,
        }
    }

    /// The `pg_control` that the timeline, or the oldest of its ancestors, was created with. Blocks.
    pub fn original_control_file(&self) -> std::io::Result<Vec<u8>> {
        match &self.ancestor {
            Some(ancestor) => ancestor.timeline.original_control_file(),
            None => self.creation_file(CONTROL_FILE),
        }
    }

    /// Whether a flush is under way is settled: none begins any more. Blocks.
    pub(crate) fn end_flushes(&self) {
        drop(self.flush.lock());
    }

    /// Waits until `lsn` is ingested, for a compute of `term`, and the ancestors are as far as this branch needs them.
    pub async fn wait_for(
        &self,
        lsn: Lsn,
        term: Term,
        timeout: Duration,
        shutdown: &Shutdown,
    ) -> Result<(), WaitError> {
        self.wait_for_own(lsn, term, timeout, shutdown).await?;
        self.wait_for_ancestors(timeout, shutdown).await
    }

    /// Changes branches, leases or the lifecycle. Durable when this returns (H24). One lock orders this with whatever gives history up (H27).
    pub async fn record(&self, edit: &Edit) -> anyhow::Result<()> {
        let ticket = self.publish(edit, &[], None)?;
        Ok(ticket.durable().await?)
    }

    /// Its branches, and where each begins.
    pub fn branches(&self) -> BTreeMap<TimelineId, Lsn> {
        self.manifest.lock().branches.clone()
    }

    /// What is leased.
    pub fn leases(&self) -> BTreeMap<String, Lease> {
        self.manifest.lock().leases.clone()
    }

    /// What it is for now.
    pub fn lifecycle(&self) -> TimelineState {
        self.manifest.lock().state
    }

    /// Waits until all ancestors are as far as this branch needs them: always, but after a restart.
    pub async fn wait_for_ancestors(&self, timeout: Duration, shutdown: &Shutdown) -> Result<(), WaitError> {
        let mut next = self.ancestor.as_ref();
        while let Some(Ancestor { timeline, lsn }) = next {
            if *lsn > timeline.last_record_lsn() {
                timeline.wait_for_own(*lsn, Term(u64::MAX), timeout, shutdown).await?;
            }
            next = timeline.ancestor.as_ref();
        }
        Ok(())
    }

    async fn wait_for_own(
        &self,
        lsn: Lsn,
        term: Term,
        timeout: Duration,
        shutdown: &Shutdown,
    ) -> Result<(), WaitError> {
        let lsn = lsn.record_end(u64::from(self.wal_segment_size));
        let fenced = || match self.fence(term) {
            Some(fence) if lsn > fence => Err(WaitError::Fenced { term, fence, asked: lsn }),
            _ => Ok(()),
        };
        if lsn <= self.last_record_lsn() {
            return fenced();
        }
        let mut terms = self.terms.subscribe();
        fenced()?;
        let Some(mut ticket) = self.waiters.queue(lsn) else { return Ok(()) };
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = ticket.reached() => return fenced(),
                _ = terms.changed() => fenced()?,
                () = shutdown.wait() => return Err(WaitError::ShuttingDown),
                () = &mut deadline => {
                    let because = self.ingest.lock().error.as_ref().map_or(String::new(), |error| format!(": {error}"));
                    let (reached, seconds) = (self.last_record_lsn(), timeout.as_secs());
                    return Err(WaitError::TimedOut { asked: lsn, reached, seconds, because });
                }
            }
        }
    }

    fn pin_layers(&self) -> Arc<LayerMap> {
        self.layers.read().clone()
    }

    /// Everything up to the end of the head's record is in the open layer: readers may see it.
    fn advance(&self, head: Head) {
        let lsn = head.lsn;
        *self.head.lock() = head;
        self.last_record_lsn.store(lsn.0, Ordering::Release);
        self.waiters.advance(lsn);
    }

    /// Takes a term history that a safekeeper announced. WAL of its terms is ingested after this: so whatever of it becomes durable does so
    /// behind the history.
    fn learn_terms(&self, history: Vec<TermStart>) -> anyhow::Result<()> {
        if !terms::is_ordered(&history) {
            bail!("the safekeeper announced a term history that is not in order: {history:?}");
        }
        let known = self.manifest.lock().term_history.clone();
        // A safekeeper that lags behind knows less; forgetting a term would let its predecessor read too far.
        if known == history || history.last().map(|last| last.term) < known.last().map(|last| last.term) {
            return Ok(());
        }
        self.publish(&Edit::Terms { history: history.clone() }, &[], None)
            .context("the term history cannot be stored")?;
        self.terms.send_replace(history.into());
        Ok(())
    }

    fn remember_damaged(&self, what: &ReadError, page: String) {
        let mut damaged = self.damaged.lock();
        if damaged.named.contains_key(&page) {
            return;
        }
        tracing::error!(tenant = %self.tenant, timeline = %self.id, page, error = %what, "page cannot be served");
        self.environment.metrics.damaged_pages.inc();
        if damaged.named.len() < MAX_DAMAGED_NAMED {
            damaged.named.insert(page, what.to_string());
        } else {
            damaged.unnamed += 1;
        }
    }
}

/// The newest state that is stored for an LSN at or below `at`.
fn newest_state(lineage: Lineage<'_>, at: Lsn) -> anyhow::Result<Option<(Lsn, RunningState)>> {
    let Some((lsn, bytes)) = lineage.newest_image(&Key::checkpoint(), at, Io::MayBlock)? else { return Ok(None) };
    match RunningState::decode(&bytes) {
        Ok(state) => Ok(Some((lsn, state))),
        Err(error) => bail!("running state at {lsn}: {error}"),
    }
}

/// One layer.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LayerInfo {
    /// `memory`, `local` (a file here) or `remote` (in the object store only).
    pub place: &'static str,
    /// Of the file.
    pub name: Option<LayerName>,
    /// Of the file.
    pub kind: Option<LayerKind>,
    /// Its LSN range.
    pub start_lsn: Lsn,
    /// `None` while it grows.
    pub end_lsn: Option<Lsn>,
    /// Its key range, hexadecimal; layers in memory hold all keys.
    pub start_key: Option<String>,
    /// Its key range, hexadecimal.
    pub end_key: Option<String>,
    /// Of the file, or memory.
    pub size_bytes: u64,
}

/// Layers in numbers.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct LayerSummary {
    /// On disk.
    pub files: usize,
    /// Bytes of those.
    pub file_bytes: u64,
    /// Pieces of the key space.
    pub partitions: usize,
    /// Files in the longest stack: those that one key can need.
    pub depth: usize,
    /// Waiting to be written.
    pub frozen: usize,
    /// Memory of the open one.
    pub open_bytes: usize,
}

impl Timeline {
    /// All layers that the manifest names.
    pub fn stored_layers(&self) -> Vec<Arc<StoredLayer>> {
        self.pin_layers().files()
    }

    /// What layers there are.
    pub fn layer_summary(&self) -> LayerSummary {
        let layers = self.pin_layers();
        let files = layers.files();
        LayerSummary {
            files: files.len(),
            file_bytes: files.iter().map(|file| file.desc.size_bytes).sum(),
            partitions: layers.partitions.count(),
            depth: layers.partitions.depth(),
            frozen: layers.frozen.len(),
            open_bytes: layers.open.size_bytes(),
        }
    }

    /// Every layer, newest first.
    pub fn layer_list(&self) -> Vec<LayerInfo> {
        let layers = self.pin_layers();
        let memory = std::iter::once(&layers.open).chain(&layers.frozen).map(|layer| LayerInfo {
            place: "memory",
            name: None,
            kind: None,
            start_lsn: layer.start,
            end_lsn: layer.sealed().map(|sealed| sealed.end),
            start_key: None,
            end_key: None,
            size_bytes: layer.size_bytes() as u64,
        });
        let files = layers.files().into_iter().map(|file| LayerInfo {
            place: if file.file.is_local() { "local" } else { "remote" },
            name: Some(file.desc.name),
            kind: Some(file.desc.kind),
            start_lsn: file.desc.lsns.start,
            end_lsn: Some(file.desc.lsns.end),
            start_key: Some(file.desc.keys.start.to_string()),
            end_key: Some(file.desc.keys.end.to_string()),
            size_bytes: file.desc.size_bytes,
        });
        memory.chain(files).collect()
    }
}
