//! Disk work of one timeline, carried out strictly in order by one blocking thread at a time.
//!
//! A turn takes all that waits, writes it, and flushes once: whatever arrived while the last flush ran shares the next one.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use ogel_ids::Lsn;
use ogel_service::durable_file;
use quorum::{AcceptorEvent, AcceptorState, ArchivedTail, Token};
use wal_decoder::stream::StreamDecoder;

use crate::{
    archive::Archive,
    disk::{
        SegmentWriter,
        acked_file::{self, AckedFile},
        control_file, recovery,
        segments::{Filling, SegmentError, SegmentFolder},
    },
    timeline::TimelineKey,
};

/// When a segment is half full after this time, and much of that came in it, WAL comes in a stream.
const STREAM: Duration = Duration::from_millis(500);
/// Part of a segment that must have come.
const STREAM_PART: u64 = 4;

/// One piece of work.
#[derive(Debug)]
pub enum DiskWork {
    /// Take WAL to be written, at the latest with the next flush.
    Write { token: Token, at: Lsn, wal: Bytes },
    /// Flush all WAL taken before.
    Flush { token: Token },
    /// Cut the log.
    Cut { token: Token, at: Lsn },
    /// Replace the control file.
    Persist { version: u64, state: Box<AcceptorState> },
    /// Remove all WAL.
    Drop { tail: ArchivedTail },
    /// Nobody is connected: close the files.
    Rest,
}

impl DiskWork {
    /// Bytes that this work holds in memory.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Write { wal, .. } => wal.len(),
            _ => 0,
        }
    }
}

/// What a piece of work came to.
#[derive(Debug)]
pub enum Outcome {
    /// Done; tell the acceptor, if there is something to tell.
    Done(Option<AcceptorEvent>),
    /// Done, but the WAL does not decode: everything from `record_end` on is worthless.
    Undecodable { event: AcceptorEvent, reason: String },
    /// There is no space for it. Nothing was written; try the same again later.
    NoSpace { reason: String },
    /// The object store does not give back what it needs. Nothing was written; try the same again later.
    NotArchived { reason: String },
}

/// The segment that is written to.
#[derive(Debug)]
struct Current {
    number: u64,
    /// When the first write came, since the start of the process.
    since: Instant,
    /// Where that began.
    first: Lsn,
}

impl Current {
    fn is_stream(&self, end: Lsn, segment_size_bytes: u64) -> bool {
        self.since.elapsed() < STREAM && end.0.saturating_sub(self.first.0) >= segment_size_bytes / STREAM_PART
    }
}

/// The files of a timeline. Only the thread whose turn it is has this.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    folder: Arc<SegmentFolder>,
    writer: SegmentWriter,
    decoder: StreamDecoder,
    acked: AckedFile,
    acked_sync_planned: Arc<AtomicBool>,
    /// That is written to.
    current: Current,
    /// There is no WAL here, and no side file: this is its end in the object store.
    archived: Option<ArchivedTail>,
    archive: Option<Arc<Archive>>,
    /// Counted up when a cut begins; see `Timeline::cuts`.
    cuts: Arc<AtomicU64>,
    /// For a decoder behind a cut, and to name the timeline's parameters.
    identity: AcceptorState,
    /// What the control file says.
    persisted: AcceptorState,
}

impl Disk {
    /// Of a timeline that was just recovered.
    pub fn new(
        mut recovered: recovery::Recovered,
        folder: Arc<SegmentFolder>,
        cuts: Arc<AtomicU64>,
        archive: Option<Arc<Archive>>,
    ) -> Self {
        recovered.acked.close(); // a timeline that nobody writes to holds no open file
        Self {
            path: folder.path().to_owned(),
            writer: SegmentWriter::new(folder.clone()),
            folder,
            decoder: recovered.decoder,
            acked: recovered.acked,
            acked_sync_planned: Arc::default(),
            current: Current { number: 0, since: Instant::now(), first: Lsn(0) },
            archived: recovered.state.archived_tail,
            archive,
            cuts,
            persisted: recovered.state.clone(),
            identity: recovered.state,
        }
    }

    /// Whether this state promises nothing new, only knows of more progress: all of that is durable already, so it may be persisted before
    /// WAL that waits.
    pub fn is_mere_progress(&self, state: &AcceptorState) -> bool {
        let AcceptorState { commit_lsn, backup_lsn, remote_consistent_lsn, .. } = *state;
        AcceptorState { commit_lsn, backup_lsn, remote_consistent_lsn, ..self.persisted.clone() } == *state
    }

    /// Carries out one piece of work. An error means that the disk's content is unknown: the process must end.
    pub fn execute(&mut self, work: &DiskWork) -> io::Result<Outcome> {
        match work {
            DiskWork::Write { token, at, wal } => self.write(*token, *at, wal),
            DiskWork::Flush { token } => {
                self.writer.sync().map_err(io::Error::other)?;
                Ok(Outcome::Done(Some(AcceptorEvent::Flushed { token: *token })))
            }
            DiskWork::Cut { token, at } => {
                if let Some(not_now) = self.bring_back()? {
                    return Ok(not_now);
                }
                self.cut(*at)?;
                Ok(Outcome::Done(Some(AcceptorEvent::TailZeroed { token: *token })))
            }
            DiskWork::Persist { version, state } => self.persist(*version, state),
            DiskWork::Drop { tail } => {
                self.writer.close().map_err(io::Error::other)?;
                self.acked.close();
                self.folder.remove_all()?;
                self.archived = Some(*tail);
                Ok(Outcome::Done(None))
            }
            DiskWork::Rest if self.archived.is_some() => Ok(Outcome::Done(None)),
            DiskWork::Rest => {
                // A flush may wait behind this: it must find nothing left to do, not forgotten files.
                self.writer.close().map_err(io::Error::other)?;
                if self.folder.syncs() {
                    self.acked.sync()?;
                }
                self.acked.close();
                Ok(Outcome::Done(None))
            }
        }
    }

    fn write(&mut self, token: Token, at: Lsn, wal: &Bytes) -> io::Result<Outcome> {
        let end = Lsn(at.0 + wal.len() as u64);
        match self.writer.make_room(at, end) {
            Err(error @ SegmentError::NoSpace { .. }) => {
                return Ok(Outcome::NoSpace { reason: error.to_string() });
            }
            other => other.map_err(io::Error::other)?,
        }
        self.writer.write(at, wal).map_err(io::Error::other)?;
        self.make_ahead(at, end);
        self.decoder.feed(wal.clone());
        let decoded = self.decoder.skip_to_boundary();
        let event = AcceptorEvent::WalWritten { token, end, record_end: self.decoder.last_good_end() };
        Ok(match decoded {
            Ok(_) => Outcome::Done(Some(event)),
            Err(error) => Outcome::Undecodable { event, reason: error.to_string() },
        })
    }

    /// Once the current segment is half full the next is made in the background.
    fn make_ahead(&mut self, begin: Lsn, end: Lsn) {
        let size = self.folder.segment_size_bytes();
        let (number, offset) = (end.segment_number(size), end.segment_offset(size));
        if number != self.current.number {
            self.current = Current { number, since: Instant::now(), first: begin.max(end.segment_start(size)) };
        }
        if offset < size / 2 || self.folder.ahead_begun(number + 1) {
            return;
        }
        let folder = self.folder.clone();
        let filling = if self.current.is_stream(end, size) { Filling::Reserved } else { Filling::Zeros };
        tokio::task::spawn_blocking(move || match folder.make(number + 1, &[], filling) {
            Ok(()) => {}
            Err(error @ SegmentError::NoSpace { .. }) => {
                tracing::warn!(%error, "the next WAL segment is not made ahead; commits stop when this one is full")
            }
            Err(error) => crash(&error),
        });
    }

    /// Puts back what was dropped, durably. An outcome, if it is not possible now.
    fn bring_back(&mut self) -> io::Result<Option<Outcome>> {
        let Some(tail) = self.archived else { return Ok(None) };
        let identity = &self.identity.identity;
        let Some(archive) = &self.archive else {
            let reason = "this timeline's WAL is in the object store: start with --remote".into();
            return Ok(Some(Outcome::NotArchived { reason }));
        };
        let key = TimelineKey { tenant: identity.tenant, timeline: identity.timeline };
        let size = self.folder.segment_size_bytes();
        let archive = archive.clone();
        let runtime = tokio::runtime::Handle::current();
        // In a task: this thread's stack may be small.
        let restored = runtime.block_on(runtime.spawn(async move { archive.restore(key, size, tail).await }));
        let wal = match restored.map_err(io::Error::other)? {
            Ok(wal) => wal,
            Err(error) => {
                let reason = format!("this timeline's WAL cannot be brought back: {error}");
                return Ok(Some(Outcome::NotArchived { reason }));
            }
        };
        self.folder.remove_all()?; // what an attempt before has left
        if !wal.is_empty() {
            match self.folder.make(tail.end.segment_number(size), &wal, Filling::Zeros) {
                Err(SegmentError::NoSpace { segment, reason }) => {
                    let reason = format!("no space for WAL segment {segment}: {reason}");
                    return Ok(Some(Outcome::NoSpace { reason }));
                }
                made => made.map_err(io::Error::other)?,
            }
        }
        self.acked = AckedFile::create(&self.path, tail.end)?;
        if self.folder.syncs() {
            durable_file::sync_folder(&self.path)?;
        }
        self.archived = None;
        self.writer.starts_anew(tail.end);
        tracing::info!(timeline = %key, lsn = %tail.end, "WAL brought back from the object store");
        Ok(None)
    }

    fn cut(&mut self, at: Lsn) -> io::Result<()> {
        self.cuts.fetch_add(1, Ordering::SeqCst);
        if self.acked.end() > at {
            // First: zeros below a noted end would be taken for rot after a crash.
            self.acked.write(at)?;
            if self.folder.syncs() {
                self.acked.sync()?;
            }
        }
        self.writer.cut(at)?;
        self.decoder = recovery::decoder_at(&self.identity, at).map_err(io::Error::other)?;
        Ok(())
    }

    fn persist(&mut self, version: u64, state: &AcceptorState) -> io::Result<Outcome> {
        match control_file::write(&self.path, state) {
            Ok(()) => {
                self.persisted = state.clone();
                Ok(Outcome::Done(Some(AcceptorEvent::StatePersisted { version })))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Ok(Outcome::NoSpace { reason: "no space for the control file".into() })
            }
            Err(error) => Err(error),
        }
    }

    /// Notes the end of a batch that is durable (H6), and plans to flush the note.
    pub fn note_acked(&mut self, end: Lsn) -> io::Result<()> {
        if end == self.acked.end() {
            return Ok(());
        }
        self.acked.write(end)?;
        if !self.folder.syncs() || self.acked_sync_planned.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let (file, planned) = (self.acked.handle()?, self.acked_sync_planned.clone());
        tokio::spawn(async move {
            tokio::time::sleep(acked_file::SYNC_INTERVAL).await;
            planned.store(false, Ordering::SeqCst);
            tokio::task::spawn_blocking(move || file.sync_data().unwrap_or_else(|error| crash(&error)));
        });
        Ok(())
    }
}

/// Ends the process: after a broken invariant nothing in memory can be trusted; what is on disk can.
pub fn crash_by_bug() -> ! {
    tracing::error!("a thread has panicked while it changed a timeline (a bug: please report it): ending the process");
    std::process::abort()
}

/// Ends the process: what is on disk is unknown, and a second fsync would claim more than the first one proved. The restart
/// reads what is really there.
pub fn crash(error: &dyn std::error::Error) -> ! {
    tracing::error!(%error, "the disk failed: ending the process, so that the restart reads what is really on disk; check the disk");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_commit_after_a_restart_is_no_stream() {
        let size = 16 << 20;
        let half = Lsn(5 * size + size / 2);
        let current = |first| Current { number: 5, since: Instant::now(), first };
        assert!(current(Lsn(5 * size)).is_stream(half, size));
        assert!(!current(Lsn(half.0 - 200)).is_stream(half, size), "it only began in the second half");
    }
}
