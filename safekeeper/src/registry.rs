//! All timelines of the node. One is opened when it is first asked for; one that cannot be opened is refused, the others go on.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use ogel_ids::{Lsn, TenantId, TimelineId};
use ogel_object_store::StoreError;
use quorum::{AcceptorState, RefusalCode, Refused};
use tokio::sync::OnceCell;

use crate::{
    disk::{
        control_file,
        recovery::{Checks, RecoveryError},
    },
    store::{MAKING_PREFIX, Store},
    timeline::{
        OpenError, Shared, Timeline, TimelineKey,
        creation::{self, CreationError},
    },
    tombstones::TombstoneError,
};

/// A timeline on disk: open, or refused with a reason.
type Slot = Result<Arc<Timeline>, Refused>;

/// How a creation ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    /// It was made now.
    New,
    /// It was there already, with the same parameters.
    Present,
    /// It was there with other parameters; which.
    Differs(String),
}

/// A deletion that is not complete; repeat it.
#[derive(Debug, thiserror::Error)]
pub enum DeletionError {
    /// Nothing was deleted.
    #[error(transparent)]
    Tombstone(#[from] TombstoneError),
    /// It is deleted here, but its WAL is still in the object store, until it is deleted again.
    #[error("deleted, but its WAL is still in the object store: {0}")]
    Archive(#[from] StoreError),
    /// It is deleted, but its files may still be there; they go at the next start, or when it is deleted again.
    #[error("the files cannot be removed: {0}")]
    Io(#[from] io::Error),
}

/// A timeline that was built is not taken.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is there, or must not come back.
    #[error("{0}")]
    Refused(String),
    /// The disk.
    #[error("the timeline's folder cannot be put in its place: {0}")]
    Io(#[from] io::Error),
}

/// All timelines of the node.
pub struct Registry {
    store: Arc<Store>,
    shared: Shared,
    slots: Mutex<HashMap<TimelineKey, Arc<OnceCell<Slot>>>>,
    /// Held during a creation: two requests for one timeline must not build it twice.
    creating: tokio::sync::Mutex<()>,
    damaged: Mutex<HashMap<TimelineKey, Damage>>,
}

/// A timeline with damaged WAL.
#[derive(Debug)]
struct Damage {
    /// End of the last valid record before the damage.
    readable: Lsn,
    /// Why it is not repaired yet, as last logged.
    said: Option<String>,
}

impl Registry {
    /// None is open yet.
    pub fn new(store: Arc<Store>, shared: Shared) -> Self {
        Self {
            store,
            shared,
            slots: Mutex::default(),
            creating: tokio::sync::Mutex::new(()),
            damaged: Mutex::default(),
        }
    }

    /// Opens the timeline, or returns it when it is open.
    pub async fn get(&self, key: TimelineKey) -> Slot {
        if let Some(time) = self.store.tombstones().find(key) {
            return Err(self.deleted(key, time));
        }
        let known = self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let cell = match known {
            Some(cell) => cell,
            // Only timelines on disk get a slot: the map does not grow with what strangers ask for.
            None if !self.store.timeline_path(key.tenant, key.timeline).is_dir() => {
                return Err(Refused {
                    code: RefusalCode::UnknownTimeline,
                    text: format!(
                        "timeline {key} is not on safekeeper {}; it is made by PUT /v1/tenant/T/timeline/TL, never by connecting",
                        self.shared.me.node_id
                    ),
                });
            }
            None => self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone(),
        };
        cell.get_or_init(|| self.open(key, Checks::LookBack)).await.clone()
    }

    async fn open(&self, key: TimelineKey, checks: Checks) -> Slot {
        let path = self.store.timeline_path(key.tenant, key.timeline);
        let shared = self.shared.clone();
        let opened = tokio::task::spawn_blocking(move || Timeline::open(&path, key, shared, checks)).await;
        let opened = opened.unwrap_or_else(|error| {
            Err(OpenError::from(crate::disk::recovery::RecoveryError::Io(io::Error::other(error))))
        });
        match opened {
            Ok(timeline) => {
                self.shared.metrics.open_timelines.inc();
                self.shared.peers.status_changed(&timeline, true);
                timeline.wake_archive();
                Ok(timeline)
            }
            Err(error) => {
                tracing::error!(timeline = %key, %error, "timeline refused");
                if let OpenError::Recovery(RecoveryError::Rot { readable, .. }) = &error {
                    self.lock_damaged().insert(key, Damage { readable: *readable, said: None });
                }
                self.shared.metrics.refused_timelines.inc();
                Err(Refused {
                    code: RefusalCode::DamagedWal,
                    text: format!(
                        "timeline {key} on safekeeper {} cannot be served: {error}; the other safekeepers go on; \
                         damaged WAL is repaired from them as soon as one has it, see this node's log",
                        self.shared.me.node_id
                    ),
                })
            }
        }
    }

    fn lock_damaged(&self) -> MutexGuard<'_, HashMap<TimelineKey, Damage>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Timelines whose WAL is to be repaired, and up to where it is readable.
    pub fn damaged(&self) -> Vec<(TimelineKey, Lsn)> {
        let mut damaged = self.lock_damaged();
        damaged.retain(|&key, _| !self.is_deleted(key) && self.is_here(key));
        damaged.iter().map(|(&key, damage)| (key, damage.readable)).collect()
    }

    /// A damaged timeline's WAL is whole again: it is opened, and takes part again.
    pub async fn repaired(&self, key: TimelineKey, written_bytes: u64) {
        self.lock_damaged().remove(&key);
        let cell = Arc::new(OnceCell::new());
        // What look-back complains of although it is the peers' own content does not keep it closed.
        let slot = cell.get_or_init(|| self.open(key, Checks::End)).await.clone();
        if slot.is_ok() {
            self.shared.metrics.refused_timelines.dec();
            self.shared.metrics.repaired_timelines.inc();
            self.shared.metrics.repaired_wal_bytes.inc_by(written_bytes);
            tracing::info!(timeline = %key, written_bytes, "damaged WAL repaired from a peer: the timeline is served again");
        }
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(key, cell);
    }

    /// It is tried again; each reason is said once.
    pub fn not_repaired(&self, key: TimelineKey, reason: &str) {
        if let Some(damage) = self.lock_damaged().get_mut(&key)
            && damage.said.as_deref() != Some(reason)
        {
            tracing::warn!(timeline = %key, reason, "damaged WAL is not repaired yet");
            damage.said = Some(reason.to_owned());
        }
    }

    /// Where a timeline is.
    pub fn path(&self, key: TimelineKey) -> PathBuf {
        self.store.timeline_path(key.tenant, key.timeline)
    }

    fn deleted(&self, key: TimelineKey, time: u64) -> Refused {
        Refused {
            code: RefusalCode::UnknownTimeline,
            text: format!(
                "timeline {key} was deleted on safekeeper {} (at {time} seconds since 1970) and cannot come back; \
                 a new one needs a new id",
                self.shared.me.node_id
            ),
        }
    }

    /// Deletes a timeline, or all of a tenant, for good; repeating it is harmless. What uses them is ended. Says when it was
    /// deleted first, in seconds since 1970.
    pub async fn delete(&self, tenant: TenantId, timeline: Option<TimelineId>) -> Result<u64, DeletionError> {
        let creating = self.creating.lock().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let store = self.store.clone();
        let time = tokio::task::spawn_blocking(move || store.tombstones().bury(tenant, timeline, now))
            .await
            .map_err(io::Error::other)??;
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.timelines()).await.map_err(io::Error::other)??;
        let doomed = |(of, id): &(TenantId, TimelineId)| *of == tenant && timeline.is_none_or(|wanted| wanted == *id);
        let mut doomed: Vec<_> = found.into_iter().filter(doomed).collect();
        for &(tenant, timeline) in &doomed {
            let key = TimelineKey { tenant, timeline };
            self.end(key, time).await;
            let store = self.store.clone();
            tokio::task::spawn_blocking(move || store.remove(key)).await.map_err(io::Error::other)??;
            tracing::info!(timeline = %key, "timeline deleted");
        }
        drop(creating);
        // An attempt before may have left its objects.
        doomed.extend(timeline.map(|timeline| (tenant, timeline)).filter(|key| !doomed.contains(key)));
        if let Some(archive) = &self.shared.archive {
            for (tenant, timeline) in doomed {
                archive.delete(TimelineKey { tenant, timeline }).await?;
            }
        }
        Ok(time)
    }

    /// Ends a timeline's use; an opening that is under way is waited for.
    async fn end(&self, key: TimelineKey, time: u64) {
        let cell = self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let Some(cell) = cell else { return };
        let refused = self.deleted(key, time);
        match cell.get_or_init(|| async { Err(refused.clone()) }).await {
            Ok(timeline) => {
                timeline.end(refused.clone()).await;
                self.shared.metrics.open_timelines.dec();
            }
            Err(before) if *before != refused => {
                self.shared.metrics.refused_timelines.dec();
            }
            Err(_) => {}
        }
    }

    /// Opens every timeline that has WAL here, so that what is not in the object store goes there, and what is idle is dropped.
    /// Those whose WAL is there already stay closed.
    pub async fn open_unarchived(&self) -> io::Result<()> {
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.timelines()).await.map_err(io::Error::other)??;
        for (tenant, timeline) in found {
            let path = self.store.timeline_path(tenant, timeline);
            let state = tokio::task::spawn_blocking(move || control_file::read(&path)).await;
            if !matches!(state, Ok(Ok(state)) if state.archived_tail.is_some()) {
                let _refused_with_a_reason = self.get(TimelineKey { tenant, timeline }).await;
            }
        }
        Ok(())
    }

    /// Gives a timeline whose folder was built beside its place to this node, and opens it.
    pub async fn install(&self, key: TimelineKey, built: PathBuf) -> Result<Arc<Timeline>, InstallError> {
        {
            let _creating = self.creating.lock().await;
            if let Some(time) = self.store.tombstones().find(key) {
                return Err(InstallError::Refused(self.deleted(key, time).text));
            }
            let path = self.store.timeline_path(key.tenant, key.timeline);
            if path.exists() {
                return Err(InstallError::Refused(format!("timeline {key} is there already")));
            }
            let rename = move || -> io::Result<()> {
                std::fs::rename(built, &path)?;
                ogel_service::durable_file::sync_parent(&path)
            };
            tokio::task::spawn_blocking(rename).await.map_err(io::Error::other)??;
        }
        self.get(key).await.map_err(|refused| InstallError::Refused(refused.text))
    }

    /// Whether it was deleted here.
    pub fn is_deleted(&self, key: TimelineKey) -> bool {
        self.store.tombstones().find(key).is_some()
    }

    /// Whether the timeline has a folder here.
    pub fn is_here(&self, key: TimelineKey) -> bool {
        self.store.timeline_path(key.tenant, key.timeline).is_dir()
    }

    /// Where a timeline's folder is built before it is installed.
    pub fn building_path(&self, key: TimelineKey) -> PathBuf {
        self.store.timelines_path(key.tenant).join(format!("{MAKING_PREFIX}copy-{}", key.timeline))
    }

    /// What the timelines share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Those that are open.
    pub fn open_timelines(&self) -> Vec<Arc<Timeline>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().filter_map(|cell| cell.get()?.as_ref().ok().cloned()).collect()
    }

    /// All that have a folder.
    pub async fn keys(&self) -> io::Result<Vec<TimelineKey>> {
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.timelines()).await.map_err(io::Error::other)??;
        Ok(found.into_iter().map(|(tenant, timeline)| TimelineKey { tenant, timeline }).collect())
    }

    /// All that have a folder, with the state of those that were asked for: `open`, `idle` (not opened yet) or the refusal.
    pub async fn list(&self) -> io::Result<Vec<(TimelineKey, String)>> {
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.timelines()).await.map_err(io::Error::other)??;
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(found
            .into_iter()
            .map(|(tenant, timeline)| {
                let key = TimelineKey { tenant, timeline };
                let state = match slots.get(&key).and_then(|cell| cell.get()) {
                    None => "idle".into(),
                    Some(Ok(_)) => "open".into(),
                    Some(Err(refused)) => refused.text.clone(),
                };
                (key, state)
            })
            .collect())
    }

    /// Makes a timeline with the WAL of its first segment up to its start; see [`Created`].
    pub async fn create(
        &self,
        key: TimelineKey,
        state: AcceptorState,
        prefix: Bytes,
    ) -> Result<Created, CreationError> {
        creation::check(&state, &prefix, self.shared.me)?;
        let _creating = self.creating.lock().await;
        if let Some(time) = self.store.tombstones().find(key) {
            return Ok(Created::Differs(self.deleted(key, time).text));
        }
        let path = self.store.timeline_path(key.tenant, key.timeline);
        if !path.is_dir() {
            let sync = self.shared.sync;
            tokio::task::spawn_blocking(move || creation::make(&path, &state, &prefix, sync))
                .await
                .map_err(io::Error::other)??;
            tracing::info!(timeline = %key, "timeline made");
            return Ok(Created::New);
        }
        Ok(match self.get(key).await {
            Err(refused) => Created::Differs(refused.text),
            Ok(timeline) if *timeline.identity() != state.identity => {
                Created::Differs(format!("it has {:?}", timeline.identity()))
            }
            Ok(timeline) if timeline.state().membership != state.membership => {
                Created::Differs(format!("it has {:?}", timeline.state().membership))
            }
            Ok(_) => Created::Present,
        })
    }
}
