//! Records that we write ourselves, byte for byte as PostgreSQL would: the checkpoint from which a compute starts.
//!
//! A record is appended at the bare end of the one before. Page headers are written where the record crosses into a page, and before it
//! when it begins one.

use crate::{
    checkpoint_state::CheckpointState,
    control_file::Checkpoint,
    record::{HEADER_SIZE, MAX_RECORD_SIZE},
    stream::{FLAG_CONTINUATION, PageHeader, is_valid_segment_size, record_crc},
    v17::{XLOG_PAGE_MAGIC, rmgr},
};
use ogel_ids::{Lsn, PAGE_HEADER_LONG, WAL_PAGE_SIZE};

/// Nothing can be written there. Not retryable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Not a place where a record can begin.
    #[error("no record can be appended at {0}: it is not a multiple of 8, or inside a page header")]
    Position(Lsn),
    /// Impossible segment size.
    #[error("segment size {0} is not a power of two from 1 MiB to 1 GiB")]
    SegmentSize(u32),
    /// More content than a record can have.
    #[error("record of {0} bytes is longer than PostgreSQL allows")]
    TooLong(usize),
    /// Where the first page of a segment should be is none.
    #[error("no first page of a segment at {0}: the WAL there is damaged or of another version")]
    NoLongHeader(Lsn),
}

/// Where to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendAt {
    /// End of the last record, as it was decoded: the bare boundary where that ended with its page.
    pub end: Lsn,
    /// Start of the last record.
    pub prev: Lsn,
    /// The cluster's system identifier, for the first page of a segment.
    pub system_id: u64,
    /// `wal_segment_size`.
    pub segment_size: u32,
    /// PostgreSQL's timeline number for page headers.
    pub timeline_id: u32,
}

/// A record without block references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordContent<'a> {
    /// Resource manager.
    pub rmid: u8,
    /// `xl_info`.
    pub info: u8,
    /// `xl_xid`.
    pub xid: u32,
    /// Data that belongs to no block.
    pub main_data: &'a [u8],
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The record's first byte.
    pub start: Lsn,
    /// Its end, aligned: where the next record is appended.
    pub end: Lsn,
    /// All bytes from [`AppendAt::end`] to `end`.
    pub bytes: Vec<u8>,
}

/// Makes the bytes that append a record.
pub fn append_record(at: &AppendAt, content: &RecordContent<'_>) -> Result<Appended, WriteError> {
    let record = encode_record(at.prev, content)?;
    append_encoded(at, &record)
}

/// The record itself, without page headers and alignment, checksum included.
fn encode_record(prev: Lsn, content: &RecordContent<'_>) -> Result<Vec<u8>, WriteError> {
    let length = content.main_data.len();
    let data_header = match length {
        0 => 0,
        1..=255 => 2,
        _ => 5,
    };
    let total = HEADER_SIZE + data_header + length;
    if total > MAX_RECORD_SIZE as usize {
        return Err(WriteError::TooLong(total));
    }
    let mut record = Vec::with_capacity(total);
    record.extend_from_slice(&(total as u32).to_le_bytes());
    record.extend_from_slice(&content.xid.to_le_bytes());
    record.extend_from_slice(&prev.0.to_le_bytes());
    record.extend_from_slice(&[content.info, content.rmid, 0, 0, 0, 0, 0, 0]);
    match data_header {
        0 => {}
        2 => record.extend_from_slice(&[255, length as u8]),
        _ => {
            record.push(254);
            record.extend_from_slice(&(length as u32).to_le_bytes());
        }
    }
    record.extend_from_slice(content.main_data);
    let crc = record_crc(&record);
    record[HEADER_SIZE - 4..HEADER_SIZE].copy_from_slice(&crc.to_le_bytes());
    Ok(record)
}

/// Lays an encoded record out over pages. Its `xl_prev` and checksum are taken as they are.
pub fn append_encoded(at: &AppendAt, record: &[u8]) -> Result<Appended, WriteError> {
    if !is_valid_segment_size(at.segment_size) {
        return Err(WriteError::SegmentSize(at.segment_size));
    }
    let page_start = Lsn(at.end.0 - at.end.page_offset());
    let header_size = PageHeader::size_at(page_start, at.segment_size) as u64;
    let out_of_range = at.end.0 > u64::MAX / 2;
    if !at.end.0.is_multiple_of(8) || (1..header_size).contains(&at.end.page_offset()) || out_of_range {
        return Err(WriteError::Position(at.end));
    }
    let start = at.end.record_start(u64::from(at.segment_size));
    let mut bytes = Vec::with_capacity(record.len() + 128);
    let mut rest = record;
    let mut position = at.end;
    while !rest.is_empty() {
        if position.page_offset() == 0 {
            let continues = rest.len() < record.len();
            let first_of_segment = position.segment_offset(u64::from(at.segment_size)) == 0;
            let header = PageHeader {
                flags: if continues { FLAG_CONTINUATION } else { 0 },
                timeline_id: at.timeline_id,
                address: position,
                remaining: if continues { rest.len() as u32 } else { 0 },
                system_id: first_of_segment.then_some(at.system_id),
            };
            header.write(at.segment_size, &mut bytes);
            position.0 += PageHeader::size_at(position, at.segment_size) as u64;
        }
        let step = rest.len().min((WAL_PAGE_SIZE - position.page_offset()) as usize);
        bytes.extend_from_slice(&rest[..step]);
        rest = &rest[step..];
        position.0 += step as u64;
    }
    let end = position.align();
    bytes.resize((end.0 - at.end.0) as usize, 0);
    Ok(Appended { start, end, bytes })
}

/// A clean shutdown's checkpoint of `state`, as of `time_s` (seconds since 1970). `pg_control` gets the returned struct, and the record's
/// start as `checkPoint`.
pub fn shutdown_checkpoint(
    at: &AppendAt,
    state: &CheckpointState,
    time_s: i64,
) -> Result<(Appended, Checkpoint), WriteError> {
    let redo = at.end.record_start(u64::from(at.segment_size));
    let checkpoint = Checkpoint { time_s, ..state.to_checkpoint(redo) };
    let content = RecordContent {
        rmid: rmgr::XLOG,
        info: rmgr::xlog::CHECKPOINT_SHUTDOWN,
        xid: 0,
        main_data: &checkpoint.encode(),
    };
    Ok((append_record(at, &content)?, checkpoint))
}

/// Gives WAL a new system identifier. Only the first page of each segment carries it, and no checksum covers it.
/// `wal` begins at `start`; segments that begin within it are rewritten.
pub fn rewrite_system_identifier(
    wal: &mut [u8],
    start: Lsn,
    segment_size: u32,
    system_id: u64,
) -> Result<(), WriteError> {
    if !is_valid_segment_size(segment_size) {
        return Err(WriteError::SegmentSize(segment_size));
    }
    let size = u64::from(segment_size);
    let first = (size - start.segment_offset(size)) % size;
    for at in (first as usize..wal.len()).step_by(segment_size as usize) {
        let lsn = Lsn(start.0 + at as u64);
        let header = wal.get_mut(at..at + PAGE_HEADER_LONG as usize).ok_or(WriteError::NoLongHeader(lsn))?;
        if header[..2] != XLOG_PAGE_MAGIC.to_le_bytes() || header[8..16] != lsn.0.to_le_bytes() {
            return Err(WriteError::NoLongHeader(lsn));
        }
        header[24..32].copy_from_slice(&system_id.to_le_bytes());
    }
    Ok(())
}
