//! Opening a timeline after a process start: where does its log really end?

use std::{fs::File, io, path::Path};

use bytes::Bytes;
use ogel_ids::Lsn;
use quorum::AcceptorState;
use wal_decoder::stream::{StreamDecoder, StreamError};

use super::{
    acked_file::{AckedFile, AckedFileError},
    control_file::{self, ControlFileError},
    segments::SegmentFolder,
};

const SCAN_STEP_BYTES: usize = 256 << 10;
/// Committed WAL that is checked although it is not needed to find the end: what was written last is asked for first.
const LOOK_BACK_BYTES: u64 = 4 << 20;

/// Why a timeline cannot be served. It does not vote; other timelines go on.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// No term, no vote.
    #[error(transparent)]
    ControlFile(#[from] ControlFileError),
    /// The folder's name and its content disagree.
    #[error("the control file belongs to timeline {found}: the folder was moved or mixed up")]
    WrongFolder {
        /// By the control file.
        found: String,
    },
    /// Unknown what was acknowledged.
    #[error(transparent)]
    Acked(#[from] AckedFileError),
    /// Acknowledged WAL does not decode (H6).
    #[error(
        "WAL was acknowledged up to {acked} but is readable only up to {readable} ({reason}): \
         acknowledged WAL of this node is damaged, so it must not vote"
    )]
    Rot {
        /// Noted end.
        acked: Lsn,
        /// End of the last valid record.
        readable: Lsn,
        /// Why it ends there.
        reason: String,
    },
    /// The scan cannot even start.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The disk.
    #[error("WAL cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// How much of the WAL is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// From the persisted commit_lsn on.
    End,
    /// The megabytes before it too.
    LookBack,
}

/// What the disk says.
pub struct Recovered {
    /// From the control file.
    pub state: AcceptorState,
    /// End of the last valid record.
    pub flush_lsn: Lsn,
    /// The side file.
    pub acked: AckedFile,
    /// Continues at `flush_lsn`.
    pub decoder: StreamDecoder,
}

/// Reads a timeline's folder: decodes from the persisted commit_lsn to the last valid record. What follows it is a torn tail,
/// which the next Elected zeroes, unless the side file says that it was acknowledged.
///
/// The WAL is fsynced first: what only the page cache still holds after a killed process must not be promised unsynced.
pub fn recover(path: &Path, sync: bool, checks: Checks) -> Result<Recovered, RecoveryError> {
    let state = control_file::read(path)?;
    let folder = SegmentFolder::new(path.to_owned(), state.identity.wal_segment_size_bytes.into(), sync);
    if let Some(tail) = state.archived_tail {
        // A crash came before all was removed, or after it was brought back: then nothing was added yet.
        folder.remove_all()?;
        let (acked, decoder) = (AckedFile::removed(path, tail.end), decoder_at(&state, tail.end)?);
        return Ok(Recovered { state, flush_lsn: tail.end, acked, decoder });
    }
    let acked = AckedFile::open(path)?;
    let (flush_lsn, reason) = scan(&folder, &state)?;
    let acknowledged = acked.end().max(state.commit_lsn);
    if flush_lsn < acknowledged {
        return Err(RecoveryError::Rot { acked: acknowledged, readable: flush_lsn, reason });
    }
    if checks == Checks::LookBack {
        look_back(&folder, &state)?;
    }
    let decoder = decoder_at(&state, flush_lsn)?;
    Ok(Recovered { state, flush_lsn, acked, decoder })
}

/// A decoder for the WAL of this timeline from a record boundary on.
pub fn decoder_at(state: &AcceptorState, at: Lsn) -> Result<StreamDecoder, StreamError> {
    let identity = &state.identity;
    StreamDecoder::new(at, identity.wal_segment_size_bytes, Some(identity.system_identifier))
}

/// Whether the last committed WAL that is here decodes.
fn look_back(folder: &SegmentFolder, state: &AcceptorState) -> Result<(), RecoveryError> {
    let size = folder.segment_size_bytes();
    let (identity, commit_lsn) = (&state.identity, state.commit_lsn);
    let first = commit_lsn.0.saturating_sub(LOOK_BACK_BYTES).max(identity.start_lsn.segment_start(size).0);
    let mut first = Lsn(first - first % 8192);
    while first < commit_lsn && !folder.segment_path(first.segment_number(size)).exists() {
        first = Lsn((first.segment_number(size) + 1) * size);
    }
    let mut decoder =
        StreamDecoder::find_first(first, identity.wal_segment_size_bytes, Some(identity.system_identifier))?;
    while decoder.fed_until() < commit_lsn {
        let left = commit_lsn.bytes_since(decoder.fed_until());
        let mut piece = vec![0; SCAN_STEP_BYTES.min(left as usize)];
        let read = folder.read(decoder.fed_until(), &mut piece)?;
        piece.truncate(read);
        decoder.feed(Bytes::from(piece));
        if let Err(error) = decoder.skip_to_boundary() {
            let (acked, readable) = (commit_lsn, decoder.last_good_end());
            return Err(RecoveryError::Rot { acked, readable, reason: error.to_string() });
        }
    }
    Ok(())
}

fn scan(folder: &SegmentFolder, state: &AcceptorState) -> Result<(Lsn, String), RecoveryError> {
    let mut decoder = decoder_at(state, state.commit_lsn)?;
    let size = folder.segment_size_bytes();
    let first = state.commit_lsn.segment_number(size);
    for number in first.. {
        let path = folder.segment_path(number);
        if !path.exists() {
            return Ok((decoder.last_good_end(), format!("segment {} is missing", path.display())));
        }
        if folder.syncs() {
            File::open(&path)?.sync_all()?;
        }
        let segment_end = (number + 1) * size;
        while decoder.fed_until().0 < segment_end {
            let left = segment_end - decoder.fed_until().0;
            let mut piece = vec![0; SCAN_STEP_BYTES.min(left as usize)];
            folder.read(decoder.fed_until(), &mut piece)?;
            decoder.feed(Bytes::from(piece));
            if let Err(error) = decoder.skip_to_boundary() {
                return Ok((decoder.last_good_end(), error.to_string()));
            }
        }
    }
    Ok((decoder.last_good_end(), "the numbers of segments are exhausted".into()))
}
