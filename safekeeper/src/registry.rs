//! All timelines of the node. One is opened when it is first asked for; one that cannot be opened is refused, the others go on.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use quorum::{AcceptorState, RefusalCode, Refused};
use tokio::sync::OnceCell;

use crate::{
    store::Store,
    timeline::{
        OpenError, Shared, Timeline, TimelineKey,
        creation::{self, CreationError},
    },
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

/// All timelines of the node.
pub struct Registry {
    store: Arc<Store>,
    shared: Shared,
    slots: Mutex<HashMap<TimelineKey, Arc<OnceCell<Slot>>>>,
    /// Held during a creation: two requests for one timeline must not build it twice.
    creating: tokio::sync::Mutex<()>,
}

impl Registry {
    /// None is open yet.
    pub fn new(store: Arc<Store>, shared: Shared) -> Self {
        Self { store, shared, slots: Mutex::default(), creating: tokio::sync::Mutex::new(()) }
    }

    /// Opens the timeline, or returns it when it is open.
    pub async fn get(&self, key: TimelineKey) -> Slot {
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
        cell.get_or_init(|| self.open(key)).await.clone()
    }

    async fn open(&self, key: TimelineKey) -> Slot {
        let path = self.store.timeline_path(key.tenant, key.timeline);
        let shared = self.shared.clone();
        let opened = tokio::task::spawn_blocking(move || Timeline::open(&path, key, shared)).await;
        let opened = opened.unwrap_or_else(|error| {
            Err(OpenError::from(crate::disk::recovery::RecoveryError::Io(io::Error::other(error))))
        });
        match opened {
            Ok(timeline) => {
                self.shared.metrics.open_timelines.inc();
                self.shared.peers.status_changed(&timeline);
                Ok(timeline)
            }
            Err(error) => {
                tracing::error!(timeline = %key, %error, "timeline refused");
                self.shared.metrics.refused_timelines.inc();
                Err(Refused {
                    code: RefusalCode::DamagedWal,
                    text: format!(
                        "timeline {key} on safekeeper {} cannot be served: {error}; the other safekeepers go on; \
                         repair this copy from one of them",
                        self.shared.me.node_id
                    ),
                })
            }
        }
    }

    /// Those that are open.
    pub fn open_timelines(&self) -> Vec<Arc<Timeline>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().filter_map(|cell| cell.get()?.as_ref().ok().cloned()).collect()
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
