//! What a timeline is, on disk: `timeline.json`.
//!
//! The file is the truth about the timeline: a layer file that it does not name does not exist (it is a leftover of a crash).
//! It is replaced as a whole. Its last line is the CRC-32C of all before, so that rot is told from a mistake of a person.

use std::{io, path::Path};

use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use ogel_service::durable_file;
use serde::{Deserialize, Serialize};

use crate::{
    keyspace::{KEY_SIZE, Key, KeyRange},
    layer::{
        LsnRange,
        file::{LayerHeader, LayerKind},
    },
};

/// Newest version of the file, which is the one written.
pub const METADATA_VERSION: u32 = 1;
/// Name of the file in the timeline's folder.
pub const METADATA_FILE: &str = "timeline.json";
const CHECKSUM_LABEL: &str = "\ncrc32c ";

/// When a term began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// WAL at and after this position was written in it (until the next one starts).
    pub lsn: Lsn,
}

/// One layer file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// Name in the folder `layers`.
    pub file: String,
    /// Delta or image.
    pub kind: LayerKind,
    /// Start of its LSN range.
    pub start_lsn: Lsn,
    /// End of its LSN range.
    pub end_lsn: Lsn,
    /// First key of its key range, hexadecimal.
    pub start_key: HexKey,
    /// End of its key range, hexadecimal.
    pub end_key: HexKey,
    /// Size of the file.
    pub size_bytes: u64,
}

/// A key as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HexKey(pub Key);

impl Serialize for HexKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HexKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; KEY_SIZE];
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let pairs = text.as_bytes().chunks_exact(2);
        if text.len() != 2 * KEY_SIZE {
            return Err(serde::de::Error::custom("a key has 36 hexadecimal digits"));
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
                return Err(serde::de::Error::custom("a key has 36 hexadecimal digits"));
            };
            *byte = high << 4 | low;
        }
        Ok(HexKey(Key::from_bytes(bytes)))
    }
}

impl LayerEntry {
    /// The entry of a file that has this header.
    pub fn new(file: String, header: &LayerHeader, size_bytes: u64) -> Self {
        Self {
            file,
            kind: header.kind,
            start_lsn: header.lsns.start,
            end_lsn: header.lsns.end,
            start_key: HexKey(header.keys.start),
            end_key: HexKey(header.keys.end),
            size_bytes,
        }
    }

    /// The header that the file must have.
    pub fn header(&self, tenant: TenantId, timeline: TimelineId) -> LayerHeader {
        LayerHeader {
            kind: self.kind,
            tenant,
            timeline,
            lsns: LsnRange { start: self.start_lsn, end: self.end_lsn },
            keys: KeyRange { start: self.start_key.0, end: self.end_key.0 },
        }
    }
}

/// Everything about a timeline that survives a restart, beside the layer files.
///
/// Invariants: `start_lsn ≤ disk_consistent_lsn`; every version up to `disk_consistent_lsn` is in the named layers, and the running
/// state at exactly that LSN too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineMetadata {
    /// Of this file's format.
    pub version: u32,
    /// Owner.
    pub tenant: TenantId,
    /// Itself.
    pub timeline: TimelineId,
    /// PostgreSQL's `system_identifier`; never changes.
    pub system_identifier: u64,
    /// Such as 170011; never changes.
    pub pg_version_num: u32,
    /// Never changes.
    pub wal_segment_size: u32,
    /// Where its WAL begins: end of the shutdown checkpoint of the template.
    pub start_lsn: Lsn,
    /// A restart resumes here.
    pub disk_consistent_lsn: Lsn,
    /// Sum of all relation sizes at `disk_consistent_lsn`.
    pub logical_size_bytes: u64,
    /// All known terms, in order.
    pub term_history: Vec<TermStart>,
    /// All layer files.
    pub layers: Vec<LayerEntry>,
}

/// Why a metadata file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The disk failed.
    #[error("{METADATA_FILE} cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not what was written.
    #[error("{METADATA_FILE} is damaged ({0}): the timeline cannot be opened; restore the file from a copy")]
    Damaged(String),
    /// Written by a newer program.
    #[error("{METADATA_FILE} has version {0}, this program knows {METADATA_VERSION}: start the newer program again")]
    FutureVersion(u64),
    /// Written for another timeline.
    #[error(
        "{METADATA_FILE} belongs to tenant {tenant}, timeline {timeline}: the folder was moved or copied by mistake"
    )]
    Foreign {
        /// Owner by the file.
        tenant: TenantId,
        /// Timeline by the file.
        timeline: TimelineId,
    },
}

impl TimelineMetadata {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("texts, numbers and lists are always JSON");
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(format!("{CHECKSUM_LABEL}{checksum:08x}\n").as_bytes());
        bytes
    }

    /// Checks and reads the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetadataError> {
        let damaged = |what: &str| MetadataError::Damaged(what.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        let (json, checksum) = text.rsplit_once(CHECKSUM_LABEL).ok_or_else(|| damaged("its last line is missing"))?;
        if checksum.trim_end() != format!("{:08x}", crc32c::crc32c(json.as_bytes())) {
            return Err(damaged("its checksum is wrong"));
        }
        let value: serde_json::Value = serde_json::from_str(json).map_err(|e| damaged(&e.to_string()))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(METADATA_VERSION) => {}
            Some(version) => return Err(MetadataError::FutureVersion(version)),
            None => return Err(damaged("it has no version")),
        }
        serde_json::from_value(value).map_err(|e| damaged(&e.to_string()))
    }

    /// Reads the file of a timeline from its folder.
    pub fn load(folder: &Path, tenant: TenantId, timeline: TimelineId) -> Result<Self, MetadataError> {
        let metadata = Self::decode(&std::fs::read(folder.join(METADATA_FILE))?)?;
        if (metadata.tenant, metadata.timeline) != (tenant, timeline) {
            return Err(MetadataError::Foreign { tenant: metadata.tenant, timeline: metadata.timeline });
        }
        Ok(metadata)
    }

    /// Puts the file in its folder. On disk when this returns.
    pub fn store(&self, folder: &Path) -> io::Result<()> {
        durable_file::replace(&folder.join(METADATA_FILE), &self.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TimelineMetadata {
        let (tenant, timeline) = (TenantId::from_bytes([1; 16]), TimelineId::from_bytes([2; 16]));
        let header = LayerHeader {
            kind: LayerKind::Image,
            tenant,
            timeline,
            lsns: LsnRange { start: Lsn(0x1000028), end: Lsn(0x1000028) },
            keys: KeyRange::ALL,
        };
        TimelineMetadata {
            version: METADATA_VERSION,
            tenant,
            timeline,
            system_identifier: 7_300_000_000_000_000_001,
            pg_version_num: 170_011,
            wal_segment_size: 16 << 20,
            start_lsn: Lsn(0x1000028),
            disk_consistent_lsn: Lsn(0x1000028),
            logical_size_bytes: 8192,
            term_history: vec![TermStart { term: Term(1), lsn: Lsn(0x1000028) }],
            layers: vec![LayerEntry::new("image.layer".into(), &header, 99)],
        }
    }

    #[test]
    fn survives_the_disk_and_tells_rot() {
        let metadata = sample();
        let bytes = metadata.encode();
        assert_eq!(TimelineMetadata::decode(&bytes).unwrap(), metadata);
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 4;
            if let Ok(read) = TimelineMetadata::decode(&rotten) {
                assert_eq!(read, metadata, "flipped byte {at}");
            }
            assert!(TimelineMetadata::decode(&bytes[..at]).is_err() || at + 1 == bytes.len(), "cut at {at}");
        }
    }

    #[test]
    fn a_future_version_is_named() {
        let mut metadata = sample();
        metadata.version = 7;
        assert!(matches!(TimelineMetadata::decode(&metadata.encode()), Err(MetadataError::FutureVersion(7))));
    }
}
