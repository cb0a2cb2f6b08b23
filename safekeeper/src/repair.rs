//! Repairs timelines whose acknowledged WAL is damaged (H6) from the peers, by itself, as soon as one has what is needed.
//!
//! The damaged copy is compared with the peer's from the segment of the damage on, and what differs is written again. Until the
//! whole log decodes, the node has no vote in the timeline. Which peer's WAL may be taken is `quorum`'s decision
//! ([`quorum::Repair::plan`]). A damaged control file cannot be repaired: it says what this node has promised.

use std::{io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use ogel_ids::Lsn;
use ogel_service::Shutdown;
use quorum::{AcceptorState, PeerStatus, Repair};

use crate::{
    disk::{
        SegmentWriter,
        acked_file::{AckedFile, AckedFileError},
        control_file::{self, ControlFileError},
        recovery::{self, Checks, RecoveryError},
        segments::{SegmentError, SegmentFolder},
    },
    peers::{
        ask,
        wal_stream::{FetchError, WalStream},
    },
    registry::Registry,
    timeline::TimelineKey,
};

/// How often a damaged timeline is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Compared and written at once: WAL's own pages.
const PAGE_BYTES: usize = 8192;

/// Why a timeline is not repaired yet; it is tried again.
#[derive(Debug, thiserror::Error)]
enum RepairError {
    /// No peer has the WAL, or none answers.
    #[error("no other safekeeper that answers has this copy's log up to {0}")]
    NoSource(Lsn),
    /// The source.
    #[error("the source: {0}")]
    Fetch(#[from] FetchError),
    /// Segments.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Other files.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The control file.
    #[error(transparent)]
    Control(#[from] ControlFileError),
    /// The side file.
    #[error(transparent)]
    Acked(#[from] AckedFileError),
    /// Still not sound.
    #[error("the repaired copy is not sound: {0}")]
    Unsound(#[from] RecoveryError),
}

/// Repairs what is damaged, now and later, until shutdown.
pub async fn run(registry: Arc<Registry>, shutdown: Shutdown) {
    loop {
        for (key, readable) in registry.damaged() {
            match repair(&registry, key, readable).await {
                Ok(bytes) => registry.repaired(key, bytes).await,
                Err(error) => registry.not_repaired(key, &error.to_string()),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
            () = shutdown.wait() => return,
        }
    }
}

/// Returns how many bytes were written again.
async fn repair(registry: &Registry, key: TimelineKey, readable: Lsn) -> Result<u64, RepairError> {
    let (path, shared) = (registry.path(key), registry.shared().clone());
    let (state, acked) = blocking({
        let path = path.clone();
        move || Ok((control_file::read(&path)?, AckedFile::open(&path)?.end()))
    })
    .await?;
    let acknowledged = acked.max(state.commit_lsn);
    let plan = Repair::plan(&state, acknowledged, &statuses(registry, key).await);
    let plan = plan.ok_or(RepairError::NoSource(acknowledged))?;
    let address = shared.peers.address(plan.source).ok_or(RepairError::NoSource(acknowledged))?;
    let size = u64::from(state.identity.wal_segment_size_bytes);
    let from = readable.min(plan.end).segment_start(size);
    let mut target = Target::new(&path, &state, shared.sync);
    let mut stream = WalStream::open(key, address, plan.source_term, from..plan.end).await?;
    while let Some((begin, wal)) = stream.next().await? {
        target = blocking(move || target.put(begin, &wal)).await?;
    }
    let written_bytes = target.written_bytes;
    tracing::info!(timeline = %key, source = %plan.source, from = %from, to = %plan.end, written_bytes, "damaged WAL compared with a peer's");
    blocking(move || finish(&path, target, plan.end, acked, shared.sync)).await?;
    Ok(written_bytes)
}

async fn statuses(registry: &Registry, key: TimelineKey) -> Vec<PeerStatus> {
    let mut statuses = Vec::new();
    for (_, address) in registry.shared().peers.addresses() {
        if let Ok(report) = ask::report(&address, key).await
            && let Ok((status, _)) = report.status()
        {
            statuses.push(status);
        }
    }
    statuses
}

/// The copy that is repaired.
struct Target {
    folder: Arc<SegmentFolder>,
    writer: SegmentWriter,
    written_bytes: u64,
}

impl Target {
    fn new(path: &Path, state: &AcceptorState, sync: bool) -> Self {
        let size = state.identity.wal_segment_size_bytes.into();
        let folder = Arc::new(SegmentFolder::new(path.to_owned(), size, sync));
        Self { writer: SegmentWriter::new(folder.clone()), folder, written_bytes: 0 }
    }

    /// Writes those pages that differ.
    fn put(mut self, begin: Lsn, wal: &Bytes) -> Result<Self, RepairError> {
        self.writer.make_room(begin, Lsn(begin.0 + wal.len() as u64))?;
        let mut at = begin;
        while at.0 < begin.0 + wal.len() as u64 {
            let rest = &wal[at.bytes_since(begin) as usize..];
            let piece = &rest[..rest.len().min(PAGE_BYTES - at.0 as usize % PAGE_BYTES)];
            let mut here = [0; PAGE_BYTES];
            self.folder.read(at, &mut here[..piece.len()])?;
            if here[..piece.len()] != *piece {
                self.writer.write(at, piece)?;
                self.written_bytes += piece.len() as u64;
            }
            at.0 += piece.len() as u64;
        }
        self.writer.sync()?;
        Ok(self)
    }
}

fn finish(path: &Path, mut target: Target, end: Lsn, acked: Lsn, sync: bool) -> Result<(), RepairError> {
    if end < acked {
        // First: zeros below a noted end would be taken for rot after a crash.
        let mut note = AckedFile::open(path)?;
        note.write(end)?;
        note.sync()?;
        target.writer.cut(end)?;
    }
    recovery::recover(path, sync, Checks::End)?;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RepairError> + Send + 'static,
) -> Result<T, RepairError> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
