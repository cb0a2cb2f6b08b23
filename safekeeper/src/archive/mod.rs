//! WAL in the object store: what is finished goes there, what is not needed here any more is removed here, and read from there.
//!
//! ```text
//! plan.rs     what a timeline does next (pure)
//! duty.rs     which member uploads (pure)
//! names.rs    names of objects (pure)
//! packed.rs   how an object holds its WAL: compressed, with an index (pure)
//! object.rs   one object read, whole or a range, in whichever form
//! jobs.rs     a task per timeline, while it has something to do
//! upload.rs   segments and idle tails up; compared with what is there
//! fetch.rs    WAL that is not here any more; an idle tail back
//! metrics.rs  what is counted
//! check/      `safekeeper archive check`
//! ```
//!
//! What must never be: an object of WAL above commit_lsn; an object that is changed; local WAL removed that is not in the object
//! store, or that a restart would not know to be there.

pub mod check;
mod duty;
mod fetch;
mod jobs;
mod metrics;
pub mod names;
mod object;
pub mod packed;
pub mod plan;
mod upload;

use std::{sync::Arc, time::Duration};

use ogel_object_store::{ObjectStore, StoreError};
use ogel_service::{Background, Shutdown, StepBack};
use tokio::sync::Semaphore;
use wal_decoder::stream::StreamError;

pub use duty::rank;
use jobs::Jobs;
pub use metrics::ArchiveMetrics;
use packed::PackedError;

/// Memory for objects on their way, of all timelines together.
const MEMORY_MIB: u32 = 128;

/// Why something did not go into the object store, or come from it.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The object store. What failed may be tried again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Local WAL cannot be read.
    #[error("local WAL cannot be read: {0}")]
    Local(#[from] std::io::Error),
    /// What was to be uploaded is damaged on this disk. Another member takes over.
    #[error(
        "local WAL is damaged ({0}) and is not uploaded; restart this safekeeper, so that it repairs the segment from a peer"
    )]
    Rotten(#[from] StreamError),
    /// The store has other bytes than were committed. Nothing that depends on the object is removed.
    #[error(
        "the object {key} differs from the committed WAL on this safekeeper: one of the two is damaged; \
         WAL is kept here; run `safekeeper archive check` with --data-dir, and move the damaged object away"
    )]
    Differs {
        /// The object.
        key: String,
    },
    /// An object does not give the WAL that was put there.
    #[error(
        "the object {key} does not give its WAL: {error}; what is only there cannot be read: restore the object, or pull the timeline \
         from another safekeeper; `safekeeper archive check` finds all that are damaged"
    )]
    Packed {
        /// The object.
        key: String,
        /// What is wrong with it.
        error: PackedError,
    },
    /// The tail came back, but not as it went.
    #[error(
        "the object {key} is not what was put there: the WAL that this safekeeper dropped cannot be brought back from it; \
         restore the object, or pull the timeline from another safekeeper"
    )]
    Damaged {
        /// The object.
        key: String,
    },
}

/// The node's connection to the object store.
pub struct Archive {
    store: ObjectStore,
    idle_after: Duration,
    /// In MiB.
    memory: Semaphore,
    metrics: Arc<ArchiveMetrics>,
    /// Reads, decodes and uploads: commits go first.
    background: Background,
    /// The same where uploads lag behind.
    behind: Background,
    jobs: Jobs,
    shutdown: Shutdown,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "archive in {}", self.store.url())
    }
}

impl Archive {
    /// WAL of timelines that were idle for `idle_after` is dropped.
    pub fn new(
        store: ObjectStore,
        idle_after: Duration,
        metrics: Arc<ArchiveMetrics>,
        shutdown: Shutdown,
    ) -> std::io::Result<Arc<Self>> {
        let memory = Semaphore::new(MEMORY_MIB as usize);
        let background = Background::start("archive", StepBack::Far)?;
        let behind = Background::start("archive", StepBack::Some)?;
        Ok(Arc::new(Self { store, idle_after, memory, metrics, background, behind, jobs: Jobs::default(), shutdown }))
    }

    /// Room for an object of this size.
    async fn room(&self, size_bytes: u64) -> tokio::sync::SemaphorePermit<'_> {
        let mib = u32::try_from(size_bytes.div_ceil(1 << 20)).unwrap_or(MEMORY_MIB).clamp(1, MEMORY_MIB);
        self.memory.acquire_many(mib).await.expect("the semaphore is never closed")
    }
}
