//! Background merges and the giving up of history, for all timelines of a process.
//!
//! One timeline after another, on a thread that steps back for readers and ingest, and that rests while much WAL comes in
//! ([`Timeline::merges_rest`]): what it does can wait until the load is over. It does not wait for ever, nor for stacks that have grown half-way
//! to their bound; and a flush that finds a stack at its bound stops the merge under way and merges by itself, on a thread that does not step back.
//! A timeline without news costs nothing but a look at a flag; its cutoff is moved a hundred times per retention window at most.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ogel_ids::{TenantId, TimelineId};
use ogel_service::freed_memory;

use super::{Pageserver, TimelineSlot};
use crate::timeline::{Retention, Timeline};

/// How often timelines are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// Free memory is given back this long after merges that left it, at most as often.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(60);
/// The cutoff of a timeline is moved at most this often, and at least, if the window is long, a hundred times while it passes.
const GC_INTERVAL_MIN: Duration = Duration::from_secs(20);
/// How often merges that rest look up.
const REST_PIECE: Duration = Duration::from_millis(20);

impl Pageserver {
    /// Merges layers and gives up history until shutdown begins.
    pub async fn run_compaction(self: Arc<Self>) {
        let mut next_gc: HashMap<(TenantId, TimelineId), Instant> = HashMap::new();
        let mut give_back: Option<Instant> = None;
        while !self.shutdown.has_begun() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.shutdown.wait() => return,
            }
            let timelines = self.timelines();
            next_gc.retain(|key, _| timelines.contains_key(key));
            for (key, slot) in timelines {
                let TimelineSlot::Active(timeline) = slot else { continue };
                let now = Instant::now();
                let gc = now >= *next_gc.entry(key).or_insert(now);
                if gc {
                    next_gc.insert(key, now + GC_INTERVAL_MIN.max(self.retention.window / 100));
                }
                let has_history = timeline.cutoff() < timeline.disk_consistent_lsn();
                let is_due = timeline.is_compaction_due() || gc && (has_history || !timeline.image_requests.is_empty());
                if is_due {
                    self.maintain(timeline, gc).await;
                    give_back.get_or_insert_with(|| Instant::now() + GIVE_BACK_INTERVAL);
                }
            }
            if give_back.take_if(|at| *at <= Instant::now()).is_some() {
                let _ = tokio::task::spawn_blocking(freed_memory::give_back).await;
            }
        }
    }

    async fn maintain(&self, timeline: Arc<Timeline>, gc: bool) {
        let (retention, shutdown, worked_on) = (self.retention, self.shutdown.clone(), timeline.clone());
        let work = move || {
            let must_stop = || shutdown.has_begun() || worked_on.closing.has_begun() || worked_on.is_room_wanted();
            let rest = || {
                while worked_on.merges_rest() && !must_stop() {
                    std::thread::sleep(REST_PIECE);
                }
                must_stop()
            };
            rest();
            if gc {
                worked_on.collect_garbage(&retention, SystemTime::now())?;
            }
            worked_on.compact_in_background(&rest)
        };
        let result = self.background.run_blocking(work).await;
        if let Err(error) = result.map_err(anyhow::Error::from).and_then(|result| result)
            && !timeline.closing.has_begun()
        {
            let (tenant, error) = (timeline.tenant, format!("{error:#}"));
            tracing::warn!(%tenant, timeline = %timeline.id, error, "layers are not merged; trying again with the next flush");
        }
    }

    /// How much history is kept.
    pub fn retention(&self) -> Retention {
        self.retention
    }
}
