//! Requests and answers of a page stream as bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ogel_ids::Lsn;
use wal_decoder::key::{Fork, PAGE_SIZE, Rel, RelFork, SlruKind};

/// Blocks of one request at most.
pub const MAX_BLOCKS: u16 = 128;
const TAG_ERROR: u8 = 199;

/// What every request begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// Kind of request.
    pub tag: u8,
    /// Chosen by the client, echoed.
    pub id: u64,
    /// Answer at the newest LSN at or below this.
    pub request_lsn: Lsn,
    /// First wait until this is ingested.
    pub not_modified_since: Lsn,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestBody {
    /// Whether a fork exists.
    Exists(RelFork),
    /// Its size.
    BlockCount(RelFork),
    /// Some of its pages.
    Pages(RelFork, Vec<u32>),
    /// Size of a database, in one tablespace or (0) in all.
    DatabaseSize {
        /// Tablespace.
        spc: u32,
        /// Database.
        db: u32,
    },
    /// An SLRU segment.
    SlruSegment(SlruKind, u32),
}

/// Why an answer is an error. Numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorCode {
    /// No such relation fork.
    NoSuchRelation = 1,
    /// The compute has been replaced.
    Fenced = 2,
    /// request_lsn is below the cutoff.
    BelowCutoff = 3,
    /// The page cannot be made.
    Damaged = 4,
    /// The request is not understood.
    BadRequest = 5,
    /// The WAL has not arrived in time.
    WaitTimedOut = 6,
    /// The server stops.
    ShuttingDown = 7,
}

/// A request that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Too short to carry even an id: the connection cannot go on.
    #[error("a request of {0} bytes is too short")]
    NoHeader(usize),
    /// A kind that this version does not know.
    #[error("request kind {0} is not known")]
    UnknownTag(u8),
    /// Fields missing or left over.
    #[error("the request has the wrong length")]
    WrongLength,
    /// Fork or SLRU kind out of range.
    #[error("fork or log number {0} is not known")]
    UnknownNumber(u8),
    /// Block count out of range.
    #[error("{0} blocks were asked for, 1 to {MAX_BLOCKS} can be")]
    BadCount(u16),
}

impl RequestHeader {
    /// Takes the header off a request.
    pub fn take(request: &mut Bytes) -> Result<Self, RequestError> {
        if request.len() < 25 {
            return Err(RequestError::NoHeader(request.len()));
        }
        Ok(Self {
            tag: request.get_u8(),
            id: request.get_u64(),
            request_lsn: Lsn(request.get_u64()),
            not_modified_since: Lsn(request.get_u64()),
        })
    }
}

impl RequestBody {
    /// Reads what follows the header.
    pub fn parse(tag: u8, mut fields: Bytes) -> Result<Self, RequestError> {
        let fields = &mut fields;
        let body = match tag {
            1 => Self::Exists(take_rel(fields)?),
            2 => Self::BlockCount(take_rel(fields)?),
            3 => {
                let rel = take_rel(fields)?;
                let count = fields.try_get_u16().map_err(too_short)?;
                if count == 0 || count > MAX_BLOCKS {
                    return Err(RequestError::BadCount(count));
                }
                let blocks = (0..count).map(|_| fields.try_get_u32().map_err(too_short));
                Self::Pages(rel, blocks.collect::<Result<_, _>>()?)
            }
            4 => Self::DatabaseSize {
                spc: fields.try_get_u32().map_err(too_short)?,
                db: fields.try_get_u32().map_err(too_short)?,
            },
            5 => {
                let kind = fields.try_get_u8().map_err(too_short)?;
                let kind = SlruKind::from_number(kind).ok_or(RequestError::UnknownNumber(kind))?;
                Self::SlruSegment(kind, fields.try_get_u32().map_err(too_short)?)
            }
            tag => return Err(RequestError::UnknownTag(tag)),
        };
        if fields.has_remaining() { Err(RequestError::WrongLength) } else { Ok(body) }
    }
}

fn too_short(_: bytes::TryGetError) -> RequestError {
    RequestError::WrongLength
}

fn take_rel(fields: &mut Bytes) -> Result<RelFork, RequestError> {
    let mut number = || fields.try_get_u32().map_err(too_short);
    let rel = Rel { spc: number()?, db: number()?, rel: number()? };
    let fork = fields.try_get_u8().map_err(too_short)?;
    Ok(rel.fork(Fork::from_number(fork).ok_or(RequestError::UnknownNumber(fork))?))
}

/// An answer without its pages, which are written behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Whether the fork exists.
    Exists(bool),
    /// Its blocks.
    BlockCount(u32),
    /// So many pages follow.
    Pages(u16),
    /// Bytes of a database.
    DatabaseSize(u64),
    /// So many pages follow.
    SlruSegment(u32),
}

impl Answer {
    /// Writes the answer.
    pub fn put(&self, id: u64, lsn: Lsn, out: &mut BytesMut) {
        let tag = match self {
            Answer::Exists(_) => 101,
            Answer::BlockCount(_) => 102,
            Answer::Pages(_) => 103,
            Answer::DatabaseSize(_) => 104,
            Answer::SlruSegment(_) => 105,
        };
        put_header(tag, id, lsn, out);
        match *self {
            Answer::Exists(exists) => out.put_u8(u8::from(exists)),
            Answer::BlockCount(blocks) => out.put_u32(blocks),
            Answer::Pages(count) => {
                out.put_u16(count);
                out.reserve(usize::from(count) * PAGE_SIZE);
            }
            Answer::DatabaseSize(bytes) => out.put_u64(bytes),
            Answer::SlruSegment(pages) => out.put_u32(pages),
        }
    }
}

/// Ends the frame that begins at `start` with the CRC-32C of it.
pub fn put_seal(start: usize, out: &mut BytesMut) {
    let checksum = crc32c::crc32c(&out[start..]);
    out.put_u32(checksum);
}

/// Takes the checksum off a frame. False when it is not that of the frame.
pub fn open_seal(frame: &mut Bytes) -> bool {
    let Some(at) = frame.len().checked_sub(4) else { return false };
    let mut checksum = frame.split_off(at);
    checksum.get_u32() == crc32c::crc32c(frame)
}

/// Writes an error.
pub fn put_error(id: u64, lsn: Lsn, code: ErrorCode, text: &str, out: &mut BytesMut) {
    put_header(TAG_ERROR, id, lsn, out);
    out.put_u8(code as u8);
    out.put_slice(text.as_bytes());
}

fn put_header(tag: u8, id: u64, lsn: Lsn, out: &mut BytesMut) {
    out.put_u8(tag);
    out.put_u64(id);
    out.put_u64(lsn.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tag: u8, fields: &[u8]) -> Bytes {
        let mut bytes = vec![tag];
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(u64::MAX.to_be_bytes());
        bytes.extend(0x1000_u64.to_be_bytes());
        bytes.extend(fields);
        bytes.into()
    }

    #[test]
    fn a_seal_covers_every_bit() {
        let mut sealed = BytesMut::from(&b"before"[..]);
        sealed.put_slice(b"frame");
        put_seal(6, &mut sealed);
        let sealed = sealed.freeze().slice(6..);
        let mut whole = sealed.clone();
        assert!(open_seal(&mut whole) && whole == b"frame"[..]);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!open_seal(&mut flipped.into()), "bit {bit}");
        }
        assert!(!open_seal(&mut Bytes::from_static(b"abc")));
    }

    #[test]
    fn requests_are_read_whole_or_refused() {
        let rel = Rel { spc: 1663, db: 5, rel: 16384 }.fork(Fork::VisibilityMap);
        let mut fields = BytesMut::new();
        [1663, 5, 16384].into_iter().for_each(|number| fields.put_u32(number));
        fields.put_u8(2);
        fields.put_u16(2);
        [9, 10].into_iter().for_each(|block| fields.put_u32(block));
        let whole = request(3, &fields);
        let mut bytes = whole.clone();
        let header = RequestHeader::take(&mut bytes).unwrap();
        assert_eq!((header.id, header.request_lsn, header.not_modified_since), (7, Lsn::MAX, Lsn(0x1000)));
        assert_eq!(RequestBody::parse(3, bytes), Ok(RequestBody::Pages(rel, vec![9, 10])));
        for length in 0..whole.len() {
            let mut cut = whole.slice(..length);
            let read = RequestHeader::take(&mut cut).and_then(|header| RequestBody::parse(header.tag, cut));
            assert!(read.is_err(), "cut at {length}");
        }
        let mut long = fields.to_vec();
        long.push(0);
        assert_eq!(RequestBody::parse(3, long.into()), Err(RequestError::WrongLength));
        fields[13..15].copy_from_slice(&129_u16.to_be_bytes());
        assert_eq!(RequestBody::parse(3, fields.freeze()), Err(RequestError::BadCount(129)));
        assert_eq!(RequestBody::parse(9, Bytes::new()), Err(RequestError::UnknownTag(9)));
    }
}
