//! Writing everything to files on demand.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ogel_ids::Lsn;
use ogel_service::Shutdown;
use tokio::sync::Notify;

use super::Timeline;

/// Why a checkpoint was not made.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Ingest has ended for good.
    #[error("ingest of the timeline has stopped: {0}")]
    Stopped(String),
    /// Nobody made it in time.
    #[error("not everything up to {asked} is in files after {seconds} s (it is up to {reached}){because}")]
    TimedOut {
        /// Where ingest stood.
        asked: Lsn,
        /// How far the files go.
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

/// Somebody wants the open layer written; only ingest may freeze it, between two batches.
#[derive(Debug, Default)]
pub(super) struct CheckpointRequest {
    wanted: AtomicBool,
    asked: Notify,
    flushed: Notify,
}

impl CheckpointRequest {
    /// Waits until somebody wants one.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether one is wanted; the caller makes it.
    pub fn take(&self) -> bool {
        self.wanted.swap(false, Ordering::AcqRel)
    }

    /// A layer has been written.
    pub fn flushed(&self) {
        self.flushed.notify_waiters();
    }
}

impl Timeline {
    /// Has everything that is ingested now written to files, soon.
    pub(crate) fn ask_for_checkpoint(&self) {
        self.checkpoint_request.wanted.store(true, Ordering::Release);
        self.checkpoint_request.asked.notify_one();
    }

    /// Has everything that is ingested now written to files; returns how far they go.
    pub async fn checkpoint(&self, timeout: Duration, shutdown: &Shutdown) -> Result<Lsn, CheckpointError> {
        let asked = self.last_record_lsn();
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        loop {
            let flushed = self.checkpoint_request.flushed.notified();
            let reached = self.disk_consistent_lsn();
            if reached >= asked {
                return Ok(reached);
            }
            let status = self.ingest_status();
            if status.stopped {
                return Err(CheckpointError::Stopped(status.error.unwrap_or_default()));
            }
            self.ask_for_checkpoint();
            tokio::select! {
                () = flushed => {}
                () = shutdown.wait() => return Err(CheckpointError::ShuttingDown),
                () = &mut deadline => {
                    let because = status.error.map_or(String::new(), |error| format!(": {error}"));
                    return Err(CheckpointError::TimedOut { asked, reached, seconds: timeout.as_secs(), because });
                }
            }
        }
    }
}
