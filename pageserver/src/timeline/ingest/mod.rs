//! Ingest: WAL from a safekeeper becomes versions in the open layer.
//!
//! One task per timeline follows one safekeeper at a time. When the connection breaks, or brings nothing although somebody waits for
//! more, it turns to the next one, from `last_record_lsn` again: nothing that was not a whole record is kept. WAL that cannot be
//! understood stops the ingest of this timeline, for good, with the reason in its status; reads up to there go on.

mod decode;
mod message;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BufMut;
use ogel_ids::Lsn;
use ogel_pgwire::{Client, ConnectOptions, CopyBothReader, CopyBothWriter, Endpoint, WireError};
use ogel_service::Shutdown;

use self::{
    decode::{Decoder, IngestError},
    message::{MessageError, SafekeeperMessage},
};
use super::{Timeline, WaitError, flush::MAX_FROZEN};

/// A safekeeper that says nothing for this long is left; an idle one says something every 10 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(25);
/// Somebody has waited this long for WAL that this safekeeper does not have: perhaps another one does.
const STALL_LIMIT: Duration = Duration::from_secs(3);
/// Feedback goes out at least this often.
const FEEDBACK_INTERVAL: Duration = Duration::from_secs(1);
/// WAL decoded in one go at most; positions are reported and readers woken in between.
const MAX_CHUNK_BYTES: usize = 1 << 20;
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Back-off while somebody waits for WAL.
const BACK_OFF_AWAITED: Duration = Duration::from_millis(200);
/// The status says after this that a branch waits for its ancestor.
const ANCESTOR_WAIT: Duration = Duration::from_secs(5);
/// Pause after a flush when merging lags behind as far as it may.
const MAX_COMPACTION_PAUSE: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// What the ingest of a timeline is doing.
#[derive(Debug, Default, Clone)]
pub struct IngestStatus {
    /// Followed now.
    pub safekeeper: Option<String>,
    /// The quorum's position as last heard.
    pub commit_lsn: Lsn,
    /// Why nothing is followed now.
    pub error: Option<String>,
    /// The error will not go away by itself: ingest has ended.
    pub stopped: bool,
}

/// Why following one safekeeper ended.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("it has said nothing for {} s", SILENCE_LIMIT.as_secs())]
    Silent,
    #[error("it has WAL up to {0} only, and somebody waits for more")]
    Stalled(Lsn),
    /// Only this kind ends ingest.
    #[error("{0}")]
    Ingest(#[from] IngestError),
    #[error("{0:#}")]
    Disk(anyhow::Error),
}

/// Follows the safekeepers until shutdown begins or the WAL cannot be understood.
pub async fn run(timeline: Arc<Timeline>, safekeepers: Arc<[Endpoint]>, shutdown: Shutdown) {
    // Ingest reads sizes, which for a branch may be its ancestors'.
    while let Err(error) = timeline.wait_for_ancestors(ANCESTOR_WAIT, &shutdown).await {
        if matches!(error, WaitError::ShuttingDown) {
            return;
        }
        timeline.ingest.lock().error = Some(format!("waiting for the timeline that it branched from: {error}"));
    }
    let mut back_off = BACK_OFF_MIN;
    let mut next = random_below(safekeepers.len());
    loop {
        let address = &safekeepers[next];
        let before = timeline.last_record_lsn();
        let result = tokio::select! {
            result = follow(&timeline, address) => result,
            () = shutdown.wait() => return,
        };
        let error = match result {
            Ok(()) => "it ended the stream".to_owned(),
            Err(FollowError::Ingest(error)) if error.is_final() => {
                tracing::error!(
                    tenant = %timeline.tenant, timeline = %timeline.id, lsn = %timeline.last_record_lsn(), %error,
                    "ingest of the timeline has stopped"
                );
                timeline.environment.metrics.stopped_timelines.inc();
                let mut status = timeline.ingest.lock();
                (status.safekeeper, status.error, status.stopped) = (None, Some(error.to_string()), true);
                return;
            }
            Err(error) => match timeline.store.failure() {
                None => error.to_string(),
                Some(failure) => {
                    let mut status = timeline.ingest.lock();
                    (status.safekeeper, status.error, status.stopped) = (None, Some(failure.to_string()), true);
                    return;
                }
            },
        };
        tracing::debug!(tenant = %timeline.tenant, timeline = %timeline.id, safekeeper = %address, error, "left a safekeeper");
        {
            let mut status = timeline.ingest.lock();
            status.safekeeper = None;
            status.error = Some(format!("safekeeper {address}: {error}"));
        }
        back_off = if timeline.last_record_lsn() > before { BACK_OFF_MIN } else { (back_off * 2).min(BACK_OFF_MAX) };
        next = (next + 1) % safekeepers.len();
        let jitter = back_off.mul_f64(0.5 + random_below(1000) as f64 / 1000.0);
        tokio::select! {
            () = tokio::time::sleep(jitter) => {}
            () = soon_when_awaited(&timeline) => {}
            () = shutdown.wait() => return,
        }
    }
}

/// A timeline that somebody waits for is not left to the long back-off.
async fn soon_when_awaited(timeline: &Timeline) {
    timeline.waiters.somebody().await;
    tokio::time::sleep(BACK_OFF_AWAITED).await;
}

async fn follow(timeline: &Arc<Timeline>, address: &Endpoint) -> Result<(), FollowError> {
    if timeline.frozen_layers() >= MAX_FROZEN {
        // A full disk must not be answered with more memory.
        let timeline = timeline.clone();
        flushed(tokio::task::spawn_blocking(move || timeline.flush_frozen()).await)?;
    }
    let start = timeline.last_record_lsn();
    let options = ConnectOptions::new(address.clone())
        .parameter("replication", "true")
        .parameter("application_name", "pageserver")
        .setting("ogel.tenant", timeline.tenant)
        .setting("ogel.timeline", timeline.id)
        .setting("ogel.reader", "pageserver");
    let client = Client::connect(&options).await?;
    let (reader, writer) = client.copy_both(&format!("START_REPLICATION PHYSICAL {start} TIMELINE 1")).await?;
    {
        let mut status = timeline.ingest.lock();
        status.safekeeper = Some(address.to_string());
        status.error = None;
    }
    tracing::info!(tenant = %timeline.tenant, timeline = %timeline.id, safekeeper = %address, lsn = %start, "following");
    let decoder = Decoder::new(timeline.clone(), start)?;
    let last_heard = Instant::now();
    Follower { timeline, reader, writer, decoder, last_heard, needed: start, waited_since: None, flusher: None }
        .run()
        .await
}

/// One connection to one safekeeper.
struct Follower<'a> {
    timeline: &'a Arc<Timeline>,
    reader: CopyBothReader,
    writer: CopyBothWriter,
    decoder: Decoder,
    last_heard: Instant,
    /// What somebody waits for, as the safekeeper was told.
    needed: Lsn,
    /// Since when somebody waits for more than has come.
    waited_since: Option<Instant>,
    flusher: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Follower<'_> {
    async fn run(mut self) -> Result<(), FollowError> {
        let mut tick = tokio::time::interval(FEEDBACK_INTERVAL);
        loop {
            tokio::select! {
                // While the object store is away, the WAL stays with the safekeepers rather than filling this disk.
                piece = self.reader.receive(), if !self.timeline.uploads_are_behind() => {
                    let Some(piece) = piece? else { return Ok(()) };
                    self.last_heard = Instant::now();
                    self.take_all(SafekeeperMessage::parse(piece)?)?;
                    self.send_feedback().await?;
                }
                lsn = self.timeline.waiters.beyond(self.needed) => {
                    self.needed = lsn;
                    self.writer.write(|body| {
                        body.put_u8(b'n');
                        body.put_u64(lsn.0);
                    });
                    self.writer.flush().await?;
                }
                () = self.timeline.checkpoint_request.asked() => {}
                _ = tick.tick() => {
                    self.check_progress()?;
                    self.send_feedback().await?;
                }
            }
            self.freeze_and_flush().await?;
        }
    }

    /// Takes a message and those that have already arrived behind it, WAL in one go.
    fn take_all(&mut self, first: SafekeeperMessage) -> Result<(), FollowError> {
        let mut message = Some(first);
        let mut fed_bytes = 0;
        while let Some(current) = message.take() {
            match current {
                SafekeeperMessage::Wal { start, commit_lsn, data } => {
                    fed_bytes += data.len();
                    self.timeline.environment.inflow.took(data.len() as u64);
                    self.timeline.ingest.lock().commit_lsn = commit_lsn;
                    self.decoder.feed(start, data)?;
                }
                SafekeeperMessage::Keepalive { commit_lsn } => self.timeline.ingest.lock().commit_lsn = commit_lsn,
                SafekeeperMessage::Terms(history) => {
                    // What was fed before belongs to terms already known.
                    self.decode()?;
                    tokio::task::block_in_place(|| self.timeline.learn_terms(history)).map_err(FollowError::Disk)?;
                }
            }
            if fed_bytes < MAX_CHUNK_BYTES {
                message = self.reader.receive_buffered()?.map(SafekeeperMessage::parse).transpose()?;
            }
        }
        self.decode()
    }

    fn decode(&mut self) -> Result<(), FollowError> {
        Ok(tokio::task::block_in_place(|| self.decoder.decode())?)
    }

    fn check_progress(&mut self) -> Result<(), FollowError> {
        if let Some(failure) = self.timeline.store.failure() {
            return Err(FollowError::Disk(failure.into()));
        }
        if self.timeline.uploads_are_behind() {
            (self.last_heard, self.waited_since) = (Instant::now(), None); // nobody was listened to
            return Ok(());
        }
        if self.last_heard.elapsed() > SILENCE_LIMIT {
            return Err(FollowError::Silent);
        }
        let reached = self.timeline.last_record_lsn();
        match (self.timeline.waiters.farthest(), self.waited_since) {
            (None, _) => self.waited_since = None,
            (Some(_), None) => self.waited_since = Some(Instant::now()),
            (Some(_), Some(since)) if since.elapsed() > STALL_LIMIT && self.decoder.idle_for() > STALL_LIMIT => {
                return Err(FollowError::Stalled(reached));
            }
            _ => {}
        }
        Ok(())
    }

    async fn send_feedback(&mut self) -> Result<(), WireError> {
        let timeline = self.timeline;
        let disk_consistent = timeline.disk_consistent_lsn();
        self.writer.write(|body| {
            body.put_u8(b'p');
            body.put_u64(timeline.last_record_lsn().0);
            body.put_u64(disk_consistent.0);
            body.put_u64(timeline.remote_consistent_lsn().0);
        });
        self.writer.flush().await
    }

    async fn freeze_and_flush(&mut self) -> Result<(), FollowError> {
        if self.timeline.should_freeze() {
            self.timeline.freeze();
        }
        let finished = self.flusher.take_if(|flusher| flusher.is_finished());
        if let Some(flusher) = finished {
            flushed(flusher.await)?;
            // The more merging lags behind, the slower WAL is taken; it is never refused.
            let debt = self.timeline.compaction_debt().min(1.0);
            tokio::time::sleep(MAX_COMPACTION_PAUSE.mul_f64(debt)).await;
        }
        if self.timeline.frozen_layers() > 0 && self.flusher.is_none() {
            let timeline = self.timeline.clone();
            self.flusher = Some(tokio::task::spawn_blocking(move || timeline.flush_frozen()));
        }
        self.wait_for_place().await
    }

    /// Waits until few enough frozen layers are left. WAL goes into the open layer while the last of them is written.
    async fn wait_for_place(&mut self) -> Result<(), FollowError> {
        let timeline = self.timeline.clone();
        loop {
            let place = timeline.layer_flushed.notified();
            tokio::pin!(place);
            place.as_mut().enable();
            let Some(flusher) = self.flusher.as_mut().filter(|_| timeline.frozen_layers() > MAX_FROZEN) else {
                return Ok(());
            };
            tokio::select! {
                () = place => {}
                result = flusher => {
                    self.flusher = None;
                    return flushed(result);
                }
            }
        }
    }
}

fn flushed(result: Result<anyhow::Result<()>, tokio::task::JoinError>) -> Result<(), FollowError> {
    result.unwrap_or_else(|join| Err(anyhow::anyhow!("the flush failed: {join}"))).map_err(FollowError::Disk)
}

/// A random number below `limit`, to spread timelines over safekeepers and retries over time.
fn random_below(limit: usize) -> usize {
    getrandom::u32().map_or(0, |number| number as usize % limit.max(1))
}
