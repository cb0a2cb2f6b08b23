//! Making a timeline: only by explicit request, bound to this node's store (H4).

use std::{fs, io, path::Path};

use bytes::Bytes;
use ogel_service::durable_file;
use quorum::{AcceptorState, Member};
use wal_decoder::stream::StreamDecoder;

use crate::{
    disk::{
        acked_file::AckedFile,
        control_file,
        segments::{Filling, SegmentError, SegmentFolder},
    },
    store::MAKING_PREFIX,
};

/// Why a timeline cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CreationError {
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// No space; nothing was made.
    #[error("no disk space for the timeline; nothing was made")]
    NoSpace,
    /// The disk.
    #[error("the timeline's folder cannot be made: {0}")]
    Io(#[from] io::Error),
}

/// Checks a request against the rules that do not need the disk.
pub fn check(state: &AcceptorState, prefix: &[u8], me: Member) -> Result<(), CreationError> {
    let invalid = |text: String| Err(CreationError::Invalid(text));
    let identity = &state.identity;
    if !state.membership.contains(me) {
        return invalid(format!(
            "this node is {}:{} and not among the members: it would neither vote nor count; name it by its present store uuid",
            me.node_id, me.store_uuid
        ));
    }
    if identity.pg_version_num / 10_000 != 17 {
        return invalid(format!(
            "pg_version_num is {}; this safekeeper keeps WAL of PostgreSQL 17",
            identity.pg_version_num
        ));
    }
    if identity.system_identifier == 0 {
        return invalid("system_identifier is 0: the identifier of the database is needed".into());
    }
    let segment_size = identity.wal_segment_size_bytes;
    if !wal_decoder::stream::is_valid_segment_size(segment_size) {
        return invalid(format!("wal_segment_size is {segment_size}; a power of two from 1 MiB to 1 GiB is needed"));
    }
    let offset = identity.start_lsn.segment_offset(segment_size.into());
    if prefix.len() as u64 != offset {
        let got = prefix.len();
        return invalid(format!(
            "the body has {got} bytes; {offset} are needed: the segment of {} up to there",
            identity.start_lsn
        ));
    }
    check_prefix(state, prefix).or_else(invalid)
}

/// The bytes must be this database's WAL and end with a whole record.
fn check_prefix(state: &AcceptorState, prefix: &[u8]) -> Result<(), String> {
    let identity = &state.identity;
    let (start, size) = (identity.start_lsn, identity.wal_segment_size_bytes);
    let segment_start = start.segment_start(size.into());
    StreamDecoder::new(start, size, None).map_err(|error| format!("start_lsn: {error}"))?;
    if start == segment_start || start == segment_start.record_start(size.into()) {
        return Ok(()); // no record before it in this segment
    }
    let mut decoder = StreamDecoder::find_first(segment_start, size, Some(identity.system_identifier))
        .map_err(|error| error.to_string())?;
    decoder.feed(Bytes::copy_from_slice(prefix));
    let end = decoder.skip_to_boundary().map_err(|error| format!("the body is not this timeline's WAL: {error}"))?;
    if end.record_start(size.into()) != start.record_start(size.into()) {
        return Err(format!("the last whole record in the body ends at {end}, not at start_lsn {start}"));
    }
    Ok(())
}

/// Builds the folder under another name, makes it durable, and renames it. Blocks.
pub fn make(path: &Path, state: &AcceptorState, prefix: &[u8], sync: bool) -> Result<(), CreationError> {
    let parent = path.parent().ok_or_else(|| io::Error::other("a timeline's folder has a parent"))?;
    durable_file::create_folders(parent)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let temporary = parent.join(format!("{MAKING_PREFIX}{name}"));
    match fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let result = fill(&temporary, state, prefix, sync)
        .and_then(|()| Ok(fs::rename(&temporary, path)?))
        .and_then(|()| Ok(durable_file::sync_folder(parent)?));
    if result.is_err() {
        let _ = fs::remove_dir_all(&temporary); // the error above is the one to report; a rest is swept at the next start
    }
    result
}

fn fill(folder: &Path, state: &AcceptorState, prefix: &[u8], sync: bool) -> Result<(), CreationError> {
    fs::create_dir(folder)?;
    let size = state.identity.wal_segment_size_bytes.into();
    let segments = SegmentFolder::new(folder.to_owned(), size, sync);
    segments.make(state.identity.start_lsn.segment_number(size), prefix, Filling::Zeros).map_err(
        |error| match error {
            SegmentError::NoSpace { .. } => CreationError::NoSpace,
            SegmentError::Io { error, .. } => error.into(),
        },
    )?;
    AckedFile::create(folder, state.identity.start_lsn)?;
    control_file::write(folder, state)?;
    Ok(durable_file::sync_folder(folder)?)
}
