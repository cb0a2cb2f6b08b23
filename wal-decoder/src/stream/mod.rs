//! WAL bytes at an LSN, in any chunking, become whole records.
//!
//! The WAL is a sequence of segments of 8 KiB pages. Every page begins with a header (40 bytes on the first page of a segment, 24
//! elsewhere); between the headers lie the records, each aligned to 8 bytes, crossing pages and segments as needed.
//!
//! ```text
//! page header: magic u16, flags u16, timeline u32, page address u64, remaining length u32, 4 bytes 0
//! long header: page header, system identifier u64, segment size u32, page size u32
//! ```

mod decoder;
mod error;
mod page_header;

use bytes::Bytes;
use ogel_ids::Lsn;

pub use decoder::StreamDecoder;
pub use error::{StreamError, StreamErrorKind};
pub use page_header::{FLAG_CONTINUATION, FLAG_LONG, FLAG_OVERWRITE_CONTINUATION, PageHeader, is_valid_segment_size};

/// One whole record whose checksum was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its first byte; never inside a page header.
    pub start: Lsn,
    /// Start of what follows: aligned to 8; the bare boundary where the record ends with its page; the next segment's start for `XLOG_SWITCH`.
    pub end: Lsn,
    /// Start of the previous record, as this one says.
    pub prev: Lsn,
    /// The record without page headers and alignment.
    pub bytes: Bytes,
}

impl Record {
    /// `xl_xid`.
    pub fn xid(&self) -> u32 {
        self.bytes.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    /// `xl_info`.
    pub fn info(&self) -> u8 {
        self.bytes.get(16).copied().unwrap_or(0)
    }

    /// Resource manager, see [`crate::v17::rmgr`].
    pub fn rmid(&self) -> u8 {
        self.bytes.get(17).copied().unwrap_or(0)
    }
}

/// The checksum of a whole record: over everything behind the header, then over the header up to the checksum itself.
pub(crate) fn record_crc(record: &[u8]) -> u32 {
    use crate::record::HEADER_SIZE;
    let Some((header, body)) = record.split_at_checked(HEADER_SIZE) else { return 0 };
    crc32c::crc32c_append(crc32c::crc32c(body), &header[..HEADER_SIZE - 4])
}

#[cfg(test)]
mod tests;
