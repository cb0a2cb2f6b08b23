//! The header of a WAL page.

use super::error::StreamErrorKind;
use crate::v17::XLOG_PAGE_MAGIC;
use ogel_ids::{Lsn, PAGE_HEADER_LONG, PAGE_HEADER_SHORT, WAL_PAGE_SIZE};

/// `XLP_FIRST_IS_CONTRECORD`: the page begins inside a record.
pub const FLAG_CONTINUATION: u16 = 1;
/// `XLP_LONG_HEADER`: first page of a segment.
pub const FLAG_LONG: u16 = 2;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the record that the previous page left incomplete is given up.
pub const FLAG_OVERWRITE_CONTINUATION: u16 = 8;
const FLAGS_KNOWN: u16 = 0x0f;

/// Whether PostgreSQL takes this `wal_segment_size`.
pub const fn is_valid_segment_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30
}

/// A page header that belongs to its position, or is to be written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// `FLAG_*` bits.
    pub flags: u16,
    /// PostgreSQL's timeline number.
    pub timeline_id: u32,
    /// Where the page is.
    pub address: Lsn,
    /// Bytes of the continued record from this page on; 0 when the page continues nothing.
    pub remaining: u32,
    /// Only on the first page of a segment.
    pub system_id: Option<u64>,
}

/// What a page header must agree with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub address: Lsn,
    pub segment_size: u32,
    pub system_id: Option<u64>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        out.copy_from_slice(found);
    }
    out
}

impl PageHeader {
    /// Bytes of the header at this page address.
    pub const fn size_at(address: Lsn, segment_size: u32) -> usize {
        if address.segment_offset(segment_size as u64) == 0 {
            PAGE_HEADER_LONG as usize
        } else {
            PAGE_HEADER_SHORT as usize
        }
    }

    /// Reads the header and checks it against its place. `bytes` has the length of [`PageHeader::size_at`].
    pub(super) fn parse(bytes: &[u8], expected: Expected) -> Result<PageHeader, StreamErrorKind> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(StreamErrorKind::ZeroTail);
        }
        let magic = u16::from_le_bytes(number(bytes, 0));
        if magic != XLOG_PAGE_MAGIC {
            return Err(StreamErrorKind::Magic(magic));
        }
        let flags = u16::from_le_bytes(number(bytes, 2));
        let long = bytes.len() == PAGE_HEADER_LONG as usize;
        if flags & !FLAGS_KNOWN != 0 || (flags & FLAG_LONG != 0) != long {
            return Err(StreamErrorKind::Flags(flags));
        }
        let address = Lsn(u64::from_le_bytes(number(bytes, 8)));
        if address != expected.address {
            return Err(StreamErrorKind::PageAddress(address));
        }
        let system_id = long.then(|| u64::from_le_bytes(number(bytes, 24)));
        if let (Some(got), Some(expected)) = (system_id, expected.system_id)
            && got != expected
        {
            return Err(StreamErrorKind::SystemId { expected, got });
        }
        if long {
            let segment_size = u32::from_le_bytes(number(bytes, 32));
            if segment_size != expected.segment_size {
                return Err(StreamErrorKind::SegmentSize { expected: expected.segment_size, got: segment_size });
            }
            let block_size = u32::from_le_bytes(number(bytes, 36));
            if u64::from(block_size) != WAL_PAGE_SIZE {
                return Err(StreamErrorKind::BlockSize(block_size));
            }
        }
        Ok(PageHeader {
            flags,
            timeline_id: u32::from_le_bytes(number(bytes, 4)),
            address,
            remaining: u32::from_le_bytes(number(bytes, 16)),
            system_id,
        })
    }

    /// Whether the page begins inside a record.
    pub const fn continues(&self) -> bool {
        self.flags & FLAG_CONTINUATION != 0
    }

    /// Appends the header's bytes: a long one when there is a system identifier.
    pub fn write(&self, segment_size: u32, out: &mut Vec<u8>) {
        let long = if self.system_id.is_some() { FLAG_LONG } else { 0 };
        out.extend_from_slice(&XLOG_PAGE_MAGIC.to_le_bytes());
        out.extend_from_slice(&(self.flags & !FLAG_LONG | long).to_le_bytes());
        out.extend_from_slice(&self.timeline_id.to_le_bytes());
        out.extend_from_slice(&self.address.0.to_le_bytes());
        out.extend_from_slice(&self.remaining.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        if let Some(system_id) = self.system_id {
            out.extend_from_slice(&system_id.to_le_bytes());
            out.extend_from_slice(&segment_size.to_le_bytes());
            out.extend_from_slice(&(WAL_PAGE_SIZE as u32).to_le_bytes());
        }
    }
}
