//! Fixed-size parts of a layer file.

use ogel_ids::{Lsn, TenantId, TimelineId};

use crate::{
    keyspace::{KEY_SIZE, Key, KeyRange},
    layer::LsnRange,
};

/// Newest format version, which is the one written.
pub const FORMAT_VERSION: u16 = 1;
pub(super) const HEADER_SIZE: usize = 128;
pub(super) const FOOTER_SIZE: usize = 64;
const HEADER_MAGIC: &[u8; 8] = b"OGELLAYR";
const FOOTER_MAGIC: &[u8; 8] = b"OGELLEND";

/// What a layer file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum LayerKind {
    /// What the WAL of its LSN range did to its key range.
    Delta = 1,
    /// Complete: what it does not show at some LSN does not exist there. It holds every value of its key range as of the end of its LSN
    /// range, and history: for LSNs in the range, all of it; below, what was retained when it was written.
    Image = 2,
}

/// Identity of a layer file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerHeader {
    /// Delta or image.
    pub kind: LayerKind,
    /// Owner.
    pub tenant: TenantId,
    /// Owner.
    pub timeline: TimelineId,
    /// WAL that it covers.
    pub lsns: LsnRange,
    /// Keys that it covers.
    pub keys: KeyRange,
}

/// Why fixed bytes were not understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FormatError {
    Damaged(&'static str),
    FutureVersion(u16),
}

impl LayerHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[0..8].copy_from_slice(HEADER_MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
        bytes[10] = self.kind as u8;
        bytes[16..32].copy_from_slice(self.tenant.as_bytes());
        bytes[32..48].copy_from_slice(self.timeline.as_bytes());
        bytes[48..56].copy_from_slice(&self.lsns.start.0.to_be_bytes());
        bytes[56..64].copy_from_slice(&self.lsns.end.0.to_be_bytes());
        bytes[64..82].copy_from_slice(self.keys.start.as_bytes());
        bytes[82..100].copy_from_slice(self.keys.end.as_bytes());
        seal(&mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_SIZE]) -> Result<Self, FormatError> {
        if &bytes[0..8] != HEADER_MAGIC {
            return Err(FormatError::Damaged("it does not begin as a layer file"));
        }
        let version = u16::from_be_bytes([bytes[8], bytes[9]]);
        if version > FORMAT_VERSION {
            return Err(FormatError::FutureVersion(version));
        }
        if version == 0 || !is_sealed(bytes) {
            return Err(FormatError::Damaged("checksum of the header is wrong"));
        }
        let kind = match bytes[10] {
            1 => LayerKind::Delta,
            2 => LayerKind::Image,
            _ => return Err(FormatError::Damaged("unknown kind of layer")),
        };
        Ok(Self {
            kind,
            tenant: TenantId::from_bytes(take(bytes, 16)),
            timeline: TimelineId::from_bytes(take(bytes, 32)),
            lsns: LsnRange { start: Lsn(number(bytes, 48)), end: Lsn(number(bytes, 56)) },
            keys: KeyRange {
                start: Key::from_bytes(take::<KEY_SIZE>(bytes, 64)),
                end: Key::from_bytes(take::<KEY_SIZE>(bytes, 82)),
            },
        })
    }
}

/// Place of a block in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRef {
    /// From the start of the file.
    pub offset: u64,
    /// As stored, checksum included.
    pub len: u32,
}

impl BlockRef {
    /// First byte behind it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.len))
    }
}

/// End of a layer file: where the index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    /// Everything from here on is the separable index.
    pub index_offset: u64,
    pub tombstones: BlockRef,
    pub root: BlockRef,
    /// Number of versions.
    pub entries: u64,
}

impl Footer {
    pub fn encode(&self) -> [u8; FOOTER_SIZE] {
        let mut bytes = [0; FOOTER_SIZE];
        bytes[0..8].copy_from_slice(FOOTER_MAGIC);
        bytes[8..16].copy_from_slice(&self.index_offset.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.tombstones.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.tombstones.len.to_be_bytes());
        bytes[28..36].copy_from_slice(&self.root.offset.to_be_bytes());
        bytes[36..40].copy_from_slice(&self.root.len.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.entries.to_be_bytes());
        seal(&mut bytes);
        bytes
    }

    pub fn decode(bytes: &[u8; FOOTER_SIZE]) -> Result<Self, FormatError> {
        if &bytes[0..8] != FOOTER_MAGIC {
            return Err(FormatError::Damaged("its end is missing (cut short?)"));
        }
        if !is_sealed(bytes) {
            return Err(FormatError::Damaged("checksum of the footer is wrong"));
        }
        let block = |at| BlockRef { offset: number(bytes, at), len: u32::from_be_bytes(take(bytes, at + 8)) };
        Ok(Self { index_offset: number(bytes, 8), tombstones: block(16), root: block(28), entries: number(bytes, 40) })
    }
}

/// Writes the checksum of all but the last four bytes into those.
fn seal(bytes: &mut [u8]) {
    let (content, checksum) = bytes.split_at_mut(bytes.len() - 4);
    checksum.copy_from_slice(&crc32c::crc32c(content).to_be_bytes());
}

fn is_sealed(bytes: &[u8]) -> bool {
    let (content, checksum) = bytes.split_at(bytes.len() - 4);
    crc32c::crc32c(content).to_be_bytes() == checksum
}

/// Bytes of a fixed-size structure; offsets are ours and in bounds.
pub(super) fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has this length")
}

pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(take(bytes, at))
}
