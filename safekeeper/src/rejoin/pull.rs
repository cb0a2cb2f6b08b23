//! Builds a timeline's folder from a peer's WAL, beside its place.

use std::{fs, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use ogel_ids::Lsn;
use ogel_pgwire::Endpoint;
use ogel_service::durable_file;
use quorum::Join;

use crate::{
    disk::{
        SegmentWriter,
        acked_file::AckedFile,
        control_file,
        recovery::{self, Checks, RecoveryError},
        segments::{SegmentError, SegmentFolder},
    },
    peers::wal_stream::{FetchError, WalStream},
    registry::Registry,
    timeline::TimelineKey,
};

/// Why the copy is not there. What was built is removed by the next try, or at the next start.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The source.
    #[error("the source: {0}")]
    Fetch(#[from] FetchError),
    /// Segments.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Other files.
    #[error("the timeline's folder cannot be built: {0}")]
    Io(#[from] io::Error),
    /// What came is not sound.
    #[error("the copy is not sound: {0}")]
    Unsound(#[from] RecoveryError),
    /// What came ends early.
    #[error("the copy is readable up to {readable} only, {wanted} is needed: the source's WAL is damaged")]
    Short {
        /// End of its last valid record.
        readable: Lsn,
        /// Where it should end.
        wanted: Lsn,
    },
}

/// Copies `[first, join.flush_lsn)`, makes it durable, checks it. Returns the folder.
pub async fn pull(
    registry: &Registry,
    key: TimelineKey,
    join: &Join,
    first: Lsn,
    source: Endpoint,
    progress: &impl Fn(u64, u64),
) -> Result<PathBuf, PullError> {
    let path = registry.building_path(key);
    let (shared, size) = (registry.shared().clone(), u64::from(join.state.identity.wal_segment_size_bytes));
    let total_bytes = join.flush_lsn.bytes_since(first);
    let folder = Arc::new(SegmentFolder::new(path.clone(), size, shared.sync).with_limits(shared.limits));
    let mut writer = SegmentWriter::new(folder);
    blocking({
        let path = path.clone();
        move || make_empty(&path)
    })
    .await?;
    let mut stream = WalStream::open(key, source, join.source_term, first..join.flush_lsn).await?;
    while let Some((begin, wal)) = stream.next().await? {
        let done_bytes = begin.bytes_since(first) + wal.len() as u64;
        writer = blocking(move || write(writer, size, begin, &wal)).await?;
        progress(done_bytes, total_bytes);
    }
    let (state, flush_lsn, sync) = (join.state.clone(), join.flush_lsn, shared.sync);
    blocking(move || {
        writer.sync()?;
        AckedFile::create(&path, flush_lsn)?;
        control_file::write(&path, &state)?;
        durable_file::sync_folder(&path)?;
        let readable = recovery::recover(&path, sync, Checks::LookBack)?.flush_lsn;
        if readable < flush_lsn {
            return Err(PullError::Short { readable, wanted: flush_lsn });
        }
        Ok(path)
    })
    .await
}

fn make_empty(path: &std::path::Path) -> Result<(), PullError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        durable_file::create_folders(parent)?;
    }
    Ok(fs::create_dir(path)?)
}

/// Synced once a segment: a crash costs the whole copy anyway, but the page cache stays small.
fn write(mut writer: SegmentWriter, size: u64, begin: Lsn, wal: &Bytes) -> Result<SegmentWriter, PullError> {
    let end = Lsn(begin.0 + wal.len() as u64);
    writer.make_room(begin, end)?;
    writer.write(begin, wal)?;
    if begin.segment_number(size) != end.segment_number(size) {
        writer.sync()?;
    }
    Ok(writer)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
