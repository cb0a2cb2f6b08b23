//! A node that lost its store takes its place again (H4): for every timeline of which an earlier store of this node was a
//! member, the others adopt a membership that names the present store, then their WAL is copied, and only then does this node
//! vote and count.
//!
//! One job at a time does all timelines ([`Rejoin::start`]); every step may be repeated, so after a crash or a failure the job
//! is simply started again. The rules are `quorum`'s: [`quorum::Acceptor::adopt`] and [`quorum::Join::plan`].

mod pull;
mod timeline;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ogel_service::Shutdown;
use serde::Serialize;

use crate::{peers::ask, registry::Registry, timeline::TimelineKey};

/// A source that changed its term, or a peer that restarts, is tried again.
const TRIES: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Where one timeline stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Step {
    /// Not begun.
    Waiting,
    /// The others are asked to adopt the membership.
    Adopting,
    /// WAL is copied.
    Pulling {
        /// So far.
        done_bytes: u64,
        /// In all.
        total_bytes: u64,
    },
    /// It votes and counts again.
    Joined {
        /// Of the membership that names it.
        generation: u32,
    },
    /// It was there already.
    Present,
    /// This node has no place in it.
    NotAMember,
    /// It was deleted here.
    Deleted,
    /// What to do is in the text; then start again.
    Failed {
        /// Cause and next step.
        error: String,
    },
}

/// The job as a whole.
#[derive(Debug, Clone, Default)]
struct Progress {
    running: bool,
    /// Peers that could not be asked for their timelines.
    errors: Vec<String>,
    timelines: BTreeMap<TimelineKey, Step>,
}

/// The job of this node; at most one runs.
pub struct Rejoin {
    registry: Arc<Registry>,
    shutdown: Shutdown,
    progress: Mutex<Progress>,
    /// Held for one timeline: two copies must not be built in one place.
    one: tokio::sync::Mutex<()>,
}

/// A timeline in the answer.
#[derive(Debug, Serialize)]
struct TimelineJson {
    timeline: String,
    #[serde(flatten)]
    step: Step,
}

/// What [`Rejoin::status`] answers.
#[derive(Debug, Serialize)]
pub struct Status {
    running: bool,
    /// Whether the last run left nothing to do. False before the first.
    complete: bool,
    errors: Vec<String>,
    timelines: Vec<TimelineJson>,
}

impl Rejoin {
    /// Nothing runs yet.
    pub fn new(registry: Arc<Registry>, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self { registry, shutdown, progress: Mutex::default(), one: tokio::sync::Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the job unless it runs.
    pub fn start(self: &Arc<Self>) {
        {
            let mut progress = self.lock();
            if progress.running {
                return;
            }
            *progress = Progress { running: true, ..Progress::default() };
        }
        let rejoin = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = rejoin.run() => {}
                () = rejoin.shutdown.wait() => {}
            }
            rejoin.lock().running = false;
        });
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        let Progress { running, errors, timelines } = self.lock().clone();
        let unfinished =
            |step: &Step| matches!(step, Step::Waiting | Step::Adopting | Step::Pulling { .. } | Step::Failed { .. });
        let asked = !timelines.is_empty() || !errors.is_empty();
        let complete = !running && asked && errors.is_empty() && !timelines.values().any(unfinished);
        let timelines = timelines.into_iter().map(|(key, step)| TimelineJson { timeline: key.to_string(), step });
        Status { running, complete, errors, timelines: timelines.collect() }
    }

    /// Does one timeline.
    pub async fn pull(&self, key: TimelineKey) -> Step {
        self.attempt(key).await
    }

    async fn run(&self) {
        let mut found = BTreeSet::new();
        for (peer, address) in self.registry.shared().peers.addresses() {
            match ask::timelines(&address).await {
                Ok(keys) => found.extend(keys),
                Err(error) => self.lock().errors.push(format!(
                    "safekeeper {peer} at {address} cannot be asked for its timelines ({error}): start it, then try again"
                )),
            }
        }
        self.lock().timelines = found.iter().map(|&key| (key, Step::Waiting)).collect();
        for key in found {
            let step = self.attempt(key).await;
            if let Step::Failed { error } = &step {
                tracing::warn!(timeline = %key, error, "the timeline was not taken over");
            }
            self.set(key, step);
        }
    }

    async fn attempt(&self, key: TimelineKey) -> Step {
        let _one_at_a_time = self.one.lock().await;
        let mut last = Step::Waiting;
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            last = timeline::rejoin(&self.registry, key, &|step| self.set(key, step)).await;
            if !matches!(last, Step::Failed { .. }) {
                break;
            }
        }
        last
    }

    fn set(&self, key: TimelineKey, step: Step) {
        if let Some(entry) = self.lock().timelines.get_mut(&key) {
            *entry = step;
        }
    }
}
