//! Blocks: codec u8, raw length u32, stored bytes, crc32c u32 over all before it.

use std::{cell::RefCell, io};

use super::{
    Packing,
    format::{number, take},
};
use crate::{
    keyspace::{KEY_SIZE, Key, KeyRange},
    layer::{VersionKind, file::format::BlockRef, tombstone::Tombstone},
};
use ogel_ids::Lsn;
use zstd::bulk::{Compressor, Decompressor};

const RAW: u8 = 0;
const ZSTD: u8 = 1;
const HEAD: usize = 5;
const CHECKSUM: usize = 4;
/// Longest block that is unpacked: PostgreSQL's longest record, and then some. A damaged length must not cost memory.
const MAX_RAW_BYTES: usize = 1100 << 20;

thread_local! {
    /// A context is 100 KiB and more: made for each block, it costs more than the work on the block.
    static CONTEXTS: RefCell<Contexts> = const { RefCell::new(Contexts { compressor: None, decompressor: None }) };
}

/// Of zstd, one of each kind per thread that ever needed it.
struct Contexts {
    compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
}

fn compress(raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
    CONTEXTS.with_borrow_mut(|contexts| {
        let compressor = match &mut contexts.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(level)?),
        };
        compressor.set_compression_level(level)?;
        compressor.compress(raw)
    })
}

fn decompress(stored: &[u8], raw_len: usize) -> io::Result<Vec<u8>> {
    CONTEXTS.with_borrow_mut(|contexts| match &mut contexts.decompressor {
        Some(decompressor) => decompressor.decompress(stored, raw_len),
        none => none.insert(Decompressor::new()?).decompress(stored, raw_len),
    })
}

/// Encodes a block; compresses when asked to and when that makes it smaller.
pub(super) fn encode(raw: &[u8], packing: Packing) -> Vec<u8> {
    let compressed = packing.zstd_level().and_then(|level| compress(raw, level).ok());
    let (codec, stored) = match &compressed {
        Some(stored) if stored.len() < raw.len() => (ZSTD, stored.as_slice()),
        _ => (RAW, raw),
    };
    let raw_len = u32::try_from(raw.len()).expect("values are below 4 GiB and so are blocks");
    let mut block = Vec::with_capacity(HEAD + stored.len() + CHECKSUM);
    block.push(codec);
    block.extend_from_slice(&raw_len.to_be_bytes());
    block.extend_from_slice(stored);
    block.extend_from_slice(&crc32c::crc32c(&block).to_be_bytes());
    block
}

/// Checks and unpacks a block.
pub(super) fn decode(block: &[u8]) -> Result<Vec<u8>, &'static str> {
    if block.len() < HEAD + CHECKSUM {
        return Err("a block is too short");
    }
    let (content, checksum) = block.split_at(block.len() - CHECKSUM);
    if crc32c::crc32c(content).to_be_bytes() != checksum {
        return Err("checksum of a block is wrong");
    }
    let raw_len = u32::from_be_bytes(take(content, 1)) as usize;
    if raw_len > MAX_RAW_BYTES {
        return Err("a block is longer than any can be");
    }
    let raw = match content[0] {
        RAW => content[HEAD..].to_vec(),
        ZSTD => decompress(&content[HEAD..], raw_len).map_err(|_| "a block cannot be decompressed")?,
        _ => return Err("a block has an unknown codec"),
    };
    if raw.len() != raw_len { Err("a block has the wrong length") } else { Ok(raw) }
}

/// One version in an index block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub key: Key,
    pub lsn: Lsn,
    pub kind: VersionKind,
    pub block: BlockRef,
    /// Of the value in the unpacked block.
    pub offset: u32,
    pub len: u32,
}

impl IndexEntry {
    pub const SIZE: usize = KEY_SIZE + 8 + 1 + 12 + 8;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key.as_bytes());
        out.extend_from_slice(&self.lsn.0.to_be_bytes());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.block.offset.to_be_bytes());
        out.extend_from_slice(&self.block.len.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
    }

    /// The entry at this place of an unpacked index block; the caller has checked the bounds.
    pub fn decode(block: &[u8], place: usize) -> Result<Self, &'static str> {
        let bytes = &block[place * Self::SIZE..(place + 1) * Self::SIZE];
        Ok(Self {
            key: Key::from_bytes(take(bytes, 0)),
            lsn: Lsn(number(bytes, 18)),
            kind: VersionKind::from_number(bytes[26]).ok_or("an index entry has an unknown kind")?,
            block: BlockRef { offset: number(bytes, 27), len: u32::from_be_bytes(take(bytes, 35)) },
            offset: u32::from_be_bytes(take(bytes, 39)),
            len: u32::from_be_bytes(take(bytes, 43)),
        })
    }

    /// Key and LSN at this place, as bytes, which compare as they do.
    pub fn position(block: &[u8], place: usize) -> &[u8] {
        &block[place * Self::SIZE..place * Self::SIZE + KEY_SIZE + 8]
    }
}

/// One index block in the root block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootEntry {
    /// Key and LSN of the block's first version.
    pub first: [u8; KEY_SIZE + 8],
    pub block: BlockRef,
}

impl RootEntry {
    pub const SIZE: usize = KEY_SIZE + 8 + 12;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first);
        out.extend_from_slice(&self.block.offset.to_be_bytes());
        out.extend_from_slice(&self.block.len.to_be_bytes());
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let block = BlockRef { offset: number(bytes, 26), len: u32::from_be_bytes(take(bytes, 34)) };
        Self { first: take(bytes, 0), block }
    }
}

const TOMBSTONE_SIZE: usize = 2 * KEY_SIZE + 8;

pub(super) fn encode_tombstone(tombstone: &Tombstone, out: &mut Vec<u8>) {
    out.extend_from_slice(tombstone.range.start.as_bytes());
    out.extend_from_slice(tombstone.range.end.as_bytes());
    out.extend_from_slice(&tombstone.lsn.0.to_be_bytes());
}

pub(super) fn decode_tombstones(raw: &[u8]) -> Result<impl Iterator<Item = Tombstone> + '_, &'static str> {
    if !raw.len().is_multiple_of(TOMBSTONE_SIZE) {
        return Err("the tombstone block has the wrong length");
    }
    Ok(raw.chunks_exact(TOMBSTONE_SIZE).map(|bytes| Tombstone {
        range: KeyRange { start: Key::from_bytes(take(bytes, 0)), end: Key::from_bytes(take(bytes, KEY_SIZE)) },
        lsn: Lsn(number(bytes, 2 * KEY_SIZE)),
    }))
}
