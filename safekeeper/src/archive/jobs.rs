//! A task per timeline, while it has something to do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quorum::AcceptorEvent;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use wal_decoder::stream::StreamDecoder;

use super::{
    Archive, ArchiveError,
    plan::{self, Past, Step, View},
};
use crate::timeline::{Timeline, TimelineKey};

/// Pause after the first failure; each further one doubles it, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// What is persisted is on disk by then, unless there is no space.
const PERSIST_TIMEOUT: Duration = Duration::from_secs(5);

/// The timelines that have something to do.
#[derive(Default)]
pub(super) struct Jobs {
    running: Mutex<HashMap<TimelineKey, Arc<Job>>>,
    /// One has ended.
    ended: Notify,
}

/// One of them.
#[derive(Default)]
struct Job {
    news: Notify,
    stop: Notify,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<TimelineKey, Arc<Job>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Archive {
    /// Something about the timeline has changed: looks whether there is something to do, soon. Does not block.
    pub fn wake(self: &Arc<Self>, timeline: &Arc<Timeline>) {
        let mut running = self.jobs.lock();
        if let Some(job) = running.get(&timeline.key()) {
            return job.news.notify_one();
        }
        let job = Arc::new(Job::default());
        running.insert(timeline.key(), job.clone());
        drop(running);
        let (archive, timeline) = (self.clone(), timeline.clone());
        tokio::spawn(async move {
            let mut worker = Worker::new(&archive, &timeline, &job);
            tokio::select! {
                () = worker.work() => {}
                () = job.stop.notified() => drop(archive.jobs.lock().remove(&timeline.key())),
                () = archive.shutdown.wait() => drop(archive.jobs.lock().remove(&timeline.key())),
            }
            drop(worker);
            archive.jobs.ended.notify_waiters();
        });
    }

    /// Waits until no task is left, after a shutdown has begun.
    pub async fn ended(&self) {
        self.wait_until(HashMap::is_empty).await;
    }

    /// Ends a timeline's task; its WAL is about to go.
    pub(super) async fn stop(&self, key: TimelineKey) {
        if let Some(job) = self.jobs.lock().get(&key) {
            job.stop.notify_one();
        }
        self.wait_until(|running| !running.contains_key(&key)).await;
    }

    async fn wait_until(&self, done: impl Fn(&HashMap<TimelineKey, Arc<Job>>) -> bool) {
        loop {
            let ended = self.jobs.ended.notified();
            if done(&self.jobs.lock()) {
                return;
            }
            ended.await;
        }
    }
}

struct Worker<'a> {
    archive: &'a Archive,
    timeline: &'a Arc<Timeline>,
    job: &'a Arc<Job>,
    began: Instant,
    past: Past,
    failures: u32,
    /// Behind the last segment that was uploaded.
    decoder: Option<StreamDecoder>,
    /// The segment that waits, as last seen.
    waiting: Option<u64>,
    /// As counted in the metric.
    counted: i64,
}

impl<'a> Worker<'a> {
    fn new(archive: &'a Archive, timeline: &'a Arc<Timeline>, job: &'a Arc<Job>) -> Self {
        let past = Past { idle_after: archive.idle_after, ..Past::default() };
        Self {
            archive,
            timeline,
            job,
            began: Instant::now(),
            past,
            failures: 0,
            decoder: None,
            waiting: None,
            counted: 0,
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns when nothing is left to do.
    async fn work(&mut self) {
        loop {
            let Some(view) = self.look().await else { return self.end_unless_news().await };
            match plan::next(&view, &self.past, self.now()) {
                Step::Upload(number) => {
                    let uploaded = self.archive.upload_segment(self.timeline, number, &mut self.decoder).await;
                    let done = uploaded.map(|()| self.uploaded(&view, number));
                    self.note("a WAL segment is not archived", done);
                }
                Step::Checkpoint => {
                    self.timeline.handle(AcceptorEvent::Checkpoint);
                    let _retried_later =
                        timeout(PERSIST_TIMEOUT, self.timeline.horizon_moves_from(view.horizon_lsn)).await;
                }
                Step::Remove(below) => {
                    let removed = self.timeline.remove_segments(below).await;
                    let removed = removed.map(|count| {
                        self.archive.metrics.removed_segments.inc_by(count);
                    });
                    let failed = removed.is_err();
                    self.note("archived WAL segments are not removed", removed.map_err(ArchiveError::from));
                    if failed {
                        tokio::time::sleep(FIRST_PAUSE).await;
                    }
                }
                Step::ArchiveTail => {
                    let dropped = self.drop_tail(&view).await;
                    self.note("the WAL of an idle timeline is not dropped", dropped);
                }
                Step::Wait(until) => {
                    let until = self.began + until;
                    tokio::select! {
                        () = self.job.news.notified() => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                Step::Done => {
                    if self.ends() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes in how things are; `None` if the disk cannot be read.
    async fn look(&mut self) -> Option<View> {
        let (view, quiet) = match self.timeline.archive_view().await {
            Ok(view) => view,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None, // it was deleted
            Err(error) => {
                tracing::warn!(timeline = %self.timeline.key(), %error, "the timeline's folder cannot be read");
                return None;
            }
        };
        self.past.quiet_since = quiet.map(|quiet| self.now().saturating_sub(quiet));
        let waiting = plan::waiting_segment(&view);
        if waiting != self.waiting {
            (self.waiting, self.past.waiting_since, self.past.mine) = (waiting, self.now(), false);
        }
        self.count(&view);
        Some(view)
    }

    fn count(&mut self, view: &View) {
        let segment = |lsn: ogel_ids::Lsn| lsn.segment_number(view.segment_size_bytes);
        let waiting = segment(view.commit_lsn).saturating_sub(segment(view.backup_lsn)) as i64;
        self.archive.metrics.waiting_segments.inc_by(waiting - self.counted);
        self.counted = waiting;
    }

    fn uploaded(&mut self, view: &View, number: u64) {
        let backup_lsn = ogel_ids::Lsn((number + 1) * view.segment_size_bytes);
        self.timeline.handle(AcceptorEvent::BackedUp { backup_lsn });
        let now = self.now();
        let lag = now.saturating_sub(self.past.waiting_since);
        self.archive.metrics.lag_seconds.observe(lag.as_secs_f64());
        tracing::info!(timeline = %self.timeline.key(), %backup_lsn, lag_ms = lag.as_millis() as u64, "WAL segment archived");
        let next = (backup_lsn.segment_number(view.segment_size_bytes)
            < view.commit_lsn.segment_number(view.segment_size_bytes))
        .then_some(number + 1);
        (self.waiting, self.past.waiting_since, self.past.mine) = (next, now, true);
    }

    async fn drop_tail(&mut self, view: &View) -> Result<(), ArchiveError> {
        let term = self.timeline.watch().borrow().last_log_term;
        let tail = self.archive.upload_tail(self.timeline, term, view.commit_lsn).await?;
        self.timeline.handle(AcceptorEvent::TailArchived(tail));
        let _retried_later = timeout(PERSIST_TIMEOUT, self.timeline.settled()).await;
        if self.timeline.state().archived_tail == Some(tail) {
            self.archive.metrics.dropped_tails.inc();
            let before = ogel_ids::Lsn(tail.end.0 - 1);
            if view.rank == Some(0) {
                self.archive.delete_tails(self.timeline, before).await;
            }
        } else {
            // Somebody came meanwhile, or the log is not at rest after all.
            self.past.retry_at = self.now() + MAX_PAUSE;
        }
        Ok(())
    }

    fn note(&mut self, what: &str, result: Result<(), ArchiveError>) {
        let timeline = self.timeline.key();
        match result {
            Ok(()) => self.failures = 0,
            Err(error) => {
                let pause = (FIRST_PAUSE * 2_u32.saturating_pow(self.failures.min(8))).min(MAX_PAUSE);
                self.failures += 1;
                self.past.retry_at = self.now() + pause;
                self.archive.metrics.failures.inc();
                if let ArchiveError::Differs { .. } | ArchiveError::Rotten(_) = error {
                    self.past.retry_at = self.now() + MAX_PAUSE;
                    self.archive.metrics.differences.inc();
                    tracing::error!(%timeline, %error, "{what}");
                } else {
                    tracing::warn!(%timeline, %error, "{what}; it is tried again, WAL is kept here meanwhile");
                }
            }
        }
    }

    /// Takes itself off the list, unless there was news meanwhile.
    fn ends(&self) -> bool {
        let mut running = self.archive.jobs.lock();
        let mut news = std::pin::pin!(self.job.news.notified());
        if news.as_mut().enable() {
            return false;
        }
        running.remove(&self.timeline.key());
        true
    }

    async fn end_unless_news(&self) {
        while !self.ends() {
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.archive.metrics.waiting_segments.dec_by(self.counted);
    }
}
