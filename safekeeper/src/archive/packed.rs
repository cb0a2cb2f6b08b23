//! WAL as an object holds it: independent zstd frames over fixed pieces, behind an index. Pure.
//!
//! ```text
//!  0  u32  magic of a skippable zstd frame, little-endian       \
//!  4  u32  bytes of the index behind this field, little-endian   |
//!  8       OGELWALZ                                              |
//! 16  u16  version = 1                                           |
//! 18  u16  0                                                     | index; `zstd -d` skips it
//! 20  u32  bytes of WAL in a piece, the last one aside           |
//! 24  u32  bytes of WAL in all                                   |
//! 28       per piece: u32 stored bytes, u32 crc32c of them       |
//!     u32  crc32c of all before                                 /
//!          the pieces: a zstd frame each, one behind the other, up to the end
//! ```
//! All but the first two numbers are big-endian. `zstd -d` gives exactly the WAL; a reader of a range needs the index, whose
//! length follows from the length of the WAL, and the pieces that the range touches.

use std::{cell::RefCell, io, ops::Range};

use bytes::Bytes;
use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::compress_bound,
};

/// WAL in a piece. A multiple of PostgreSQL's page; smaller ones compress worse, larger ones have readers unpack what they do not need.
pub const PIECE_BYTES: u64 = 256 << 10;
/// `WalSegMaxSize`.
const MAX_WAL_BYTES: u64 = 1 << 30;
const SKIPPABLE_FRAME: u32 = 0x184D_2A55;
const MAGIC: &[u8; 8] = b"OGELWALZ";
const VERSION: u16 = 1;
/// Bytes of the index before its pieces.
pub const HEAD_BYTES: u64 = 28;
const ENTRY_BYTES: u64 = 8;
const CHECKSUM_BYTES: u64 = 4;
/// Tenfold on WAL, at the speed of writing a fifth of it.
const ZSTD_LEVEL: i32 = 1;

/// Why an object does not give its WAL. Certain; the object must be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// The index.
    #[error("its index is damaged: {0}")]
    Index(&'static str),
    /// Of a later version, or damaged.
    #[error(
        "it has version {found}, and this program reads version {VERSION}: it is damaged, or a later version wrote it"
    )]
    Version {
        /// What it says.
        found: u16,
    },
    /// Cut off, or with something behind its end.
    #[error("{found} bytes are there, by its index {expected}")]
    Length {
        /// What came.
        found: u64,
        /// What should have.
        expected: u64,
    },
    /// One piece; the others may be good.
    #[error("piece {number} of {count} in it (bytes {} to {} of its WAL) is damaged: {problem}", wal.start, wal.end)]
    Piece {
        /// Which, from 1.
        number: u64,
        /// Of so many.
        count: u64,
        /// What it holds.
        wal: Range<u64>,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Where the pieces of an object are. `sum of the lengths + index = the object`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    wal_bytes: u64,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// In the object.
    offset: u64,
    /// Stored.
    length: u32,
    crc32c: u32,
}

thread_local! {
    /// A context costs more to make than a piece to pack.
    static CONTEXTS: RefCell<Contexts> = const { RefCell::new(Contexts { compressor: None, decompressor: None }) };
}

/// Of zstd, one of each kind per thread that ever needed it.
struct Contexts {
    compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
}

fn compress(wal: &[u8], into: &mut Vec<u8>) -> io::Result<usize> {
    CONTEXTS.with_borrow_mut(|contexts| match &mut contexts.compressor {
        Some(compressor) => compressor.compress_to_buffer(wal, into),
        none => none.insert(Compressor::new(ZSTD_LEVEL)?).compress_to_buffer(wal, into),
    })
}

fn decompress(stored: &[u8], into: &mut [u8]) -> io::Result<usize> {
    CONTEXTS.with_borrow_mut(|contexts| match &mut contexts.decompressor {
        Some(decompressor) => decompressor.decompress_to_buffer(stored, into),
        none => none.insert(Decompressor::new()?).decompress_to_buffer(stored, into),
    })
}

/// The object for this WAL, which is not empty and of one segment. Fails only where zstd gets no memory.
pub fn pack(wal: &[u8]) -> io::Result<Vec<u8>> {
    assert!((1..=MAX_WAL_BYTES).contains(&(wal.len() as u64)), "{} bytes are no WAL of one segment", wal.len());
    let index_bytes = index_bytes(wal.len() as u64) as usize;
    let mut object = Vec::with_capacity(index_bytes + wal.len() / 8);
    object.extend_from_slice(&SKIPPABLE_FRAME.to_le_bytes());
    object.extend_from_slice(&(index_bytes as u32 - 8).to_le_bytes());
    object.extend_from_slice(MAGIC);
    object.extend_from_slice(&VERSION.to_be_bytes());
    object.extend_from_slice(&[0; 2]);
    object.extend_from_slice(&(PIECE_BYTES as u32).to_be_bytes());
    object.extend_from_slice(&(wal.len() as u32).to_be_bytes());
    let mut entry = object.len();
    object.resize(index_bytes, 0);
    let mut stored = Vec::with_capacity(compress_bound(PIECE_BYTES as usize));
    for piece in wal.chunks(PIECE_BYTES as usize) {
        compress(piece, &mut stored)?;
        object[entry..entry + 4].copy_from_slice(&(stored.len() as u32).to_be_bytes());
        object[entry + 4..entry + 8].copy_from_slice(&crc32c::crc32c(&stored).to_be_bytes());
        entry += ENTRY_BYTES as usize;
        object.extend_from_slice(&stored);
    }
    let checksum = crc32c::crc32c(&object[..entry]);
    object[entry..index_bytes].copy_from_slice(&checksum.to_be_bytes());
    Ok(object)
}

/// Length of the index of an object with so much WAL.
pub fn index_bytes(wal_bytes: u64) -> u64 {
    HEAD_BYTES + wal_bytes.div_ceil(PIECE_BYTES) * ENTRY_BYTES + CHECKSUM_BYTES
}

/// Longest object with so much WAL.
pub fn max_bytes(wal_bytes: u64) -> u64 {
    index_bytes(wal_bytes) + wal_bytes.div_ceil(PIECE_BYTES) * compress_bound(PIECE_BYTES as usize) as u64
}

/// How much WAL an object has, by its first [`HEAD_BYTES`]: to be confirmed by the rest of the index.
pub fn wal_bytes(head: &[u8]) -> Result<u64, PackedError> {
    if head.len() < HEAD_BYTES as usize {
        return Err(PackedError::Index("it is too short"));
    }
    if head[..4] != SKIPPABLE_FRAME.to_le_bytes() || head[8..16] != *MAGIC {
        return Err(PackedError::Index("it does not begin as one"));
    }
    let found = u16::from_be_bytes([head[16], head[17]]);
    if found != VERSION {
        return Err(PackedError::Version { found });
    }
    let (piece, wal) = (number(head, 20), u64::from(number(head, 24)));
    if u64::from(piece) != PIECE_BYTES || !(1..=MAX_WAL_BYTES).contains(&wal) {
        return Err(PackedError::Index("it names lengths that cannot be"));
    }
    Ok(wal)
}

/// Whether an object holds exactly this WAL. Unpacks piece by piece.
pub fn holds(object: &[u8], wal: &[u8]) -> Result<bool, PackedError> {
    let (index, stored) = Index::open(object, wal.len() as u64)?;
    for (number, expected) in (0..).zip(wal.chunks(PIECE_BYTES as usize)) {
        let piece = index.wal_of(number);
        let range = index.stored_range(&piece);
        let start = index_bytes(index.wal_bytes);
        let stored = &stored[(range.start - start) as usize..(range.end - start) as usize];
        if index.unpack(piece, stored)? != expected {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All WAL of an object, which must be so much.
pub fn unpack(object: &[u8], wal_bytes: u64) -> Result<Bytes, PackedError> {
    let (index, stored) = Index::open(object, wal_bytes)?;
    index.unpack(0..wal_bytes, stored)
}

impl Index {
    /// Reads the first [`index_bytes`] of an object that is to have so much WAL.
    pub fn parse(bytes: &[u8], wal_bytes: u64) -> Result<Self, PackedError> {
        if self::wal_bytes(bytes)? != wal_bytes {
            return Err(PackedError::Index("it is of another length of WAL than the object's name says"));
        }
        if bytes.len() as u64 != index_bytes(wal_bytes) || number_le(bytes, 4) as usize != bytes.len() - 8 {
            return Err(PackedError::Index("it has the wrong length"));
        }
        let checksum = bytes.len() - CHECKSUM_BYTES as usize;
        if crc32c::crc32c(&bytes[..checksum]) != number(bytes, checksum) {
            return Err(PackedError::Index("its checksum is wrong"));
        }
        let mut offset = bytes.len() as u64;
        let mut pieces = Vec::with_capacity(wal_bytes.div_ceil(PIECE_BYTES) as usize);
        for entry in bytes[HEAD_BYTES as usize..checksum].chunks_exact(ENTRY_BYTES as usize) {
            let (length, crc32c) = (number(entry, 0), number(entry, 4));
            if length == 0 || length as usize > compress_bound(PIECE_BYTES as usize) {
                return Err(PackedError::Index("it names lengths that cannot be"));
            }
            pieces.push(Piece { offset, length, crc32c });
            offset += u64::from(length);
        }
        Ok(Self { wal_bytes, pieces })
    }

    /// The index of a whole object, and what is behind it.
    fn open(object: &[u8], wal_bytes: u64) -> Result<(Self, &[u8]), PackedError> {
        let split = object.split_at_checked(index_bytes(wal_bytes) as usize);
        let (index, stored) = split.ok_or(PackedError::Index("it is cut off"))?;
        let index = Self::parse(index, wal_bytes)?;
        let (found, expected) = (object.len() as u64, index.object_bytes());
        if found != expected { Err(PackedError::Length { found, expected }) } else { Ok((index, stored)) }
    }

    /// Length of the object.
    pub fn object_bytes(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.offset + u64::from(piece.length))
    }

    /// Bytes of the object that hold this range of its WAL, which is not empty and within it.
    pub fn stored_range(&self, wal: &Range<u64>) -> Range<u64> {
        let touched = self.touched(wal);
        let (first, last) = (self.pieces[touched.start], self.pieces[touched.end - 1]);
        first.offset..last.offset + u64::from(last.length)
    }

    /// This range of the WAL out of [`Index::stored_range`].
    pub fn unpack(&self, wal: Range<u64>, stored: &[u8]) -> Result<Bytes, PackedError> {
        let range = self.stored_range(&wal);
        let (found, expected) = (stored.len() as u64, range.end - range.start);
        if found != expected {
            return Err(PackedError::Length { found, expected });
        }
        let touched = self.touched(&wal);
        let (start, end) = (self.wal_of(touched.start).start, self.wal_of(touched.end - 1).end);
        let mut unpacked = vec![0; (end - start) as usize];
        let mut rest = stored;
        for (number, into) in touched.zip(unpacked.chunks_mut(PIECE_BYTES as usize)) {
            let (piece, behind) = rest.split_at(self.pieces[number].length as usize);
            self.unpack_piece(number, piece, into)?;
            rest = behind;
        }
        Ok(Bytes::from(unpacked).slice((wal.start - start) as usize..(wal.end - start) as usize))
    }

    fn unpack_piece(&self, number: usize, stored: &[u8], into: &mut [u8]) -> Result<(), PackedError> {
        let damaged = |problem| {
            let (wal, count) = (self.wal_of(number), self.pieces.len() as u64);
            PackedError::Piece { number: number as u64 + 1, count, wal, problem }
        };
        if crc32c::crc32c(stored) != self.pieces[number].crc32c {
            return Err(damaged("its checksum is wrong"));
        }
        match decompress(stored, into) {
            Ok(length) if length == into.len() => Ok(()),
            Ok(_) => Err(damaged("it is shorter than it should be")),
            Err(_) => Err(damaged("it cannot be decompressed")),
        }
    }

    /// Numbers of the pieces that a range touches.
    fn touched(&self, wal: &Range<u64>) -> Range<usize> {
        assert!(wal.start < wal.end && wal.end <= self.wal_bytes, "{wal:?} of {} bytes", self.wal_bytes);
        (wal.start / PIECE_BYTES) as usize..wal.end.div_ceil(PIECE_BYTES) as usize
    }

    /// The WAL in a piece.
    fn wal_of(&self, number: usize) -> Range<u64> {
        let start = number as u64 * PIECE_BYTES;
        start..(start + PIECE_BYTES).min(self.wal_bytes)
    }
}

/// Four bytes; the caller has checked that they are there.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn number_le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
