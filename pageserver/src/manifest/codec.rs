//! Bytes of manifests and edits: JSON, then a line `crc32c XXXXXXXX` over all bytes before the newline in front of it.
//!
//! A base and an edit have the same frame and the same version. A newer version is refused by its number, an older one is still read.

use std::collections::BTreeMap;

use ogel_ids::{Lsn, TenantId, TimelineId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Ancestor, Edit, Inconsistency, Lease, Manifest, TermStart, TimelineState};
use crate::{
    keyspace::Key,
    layer::{
        desc::{LayerDesc, LayerName},
        partitions::{Partition, Partitions},
    },
    timeline::state::RunningState,
};

/// Newest version of the format, which is the one written.
pub const MANIFEST_VERSION: u32 = 1;
const CHECKSUM_LABEL: &str = "\ncrc32c ";

/// Why bytes are not a manifest or an edit that can be used. Reading them again does not help.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Written by a newer program.
    #[error("it has format version {0}, this program knows {MANIFEST_VERSION}: start the newer program again")]
    FutureVersion(u64),
    /// The content contradicts itself.
    #[error("it contradicts itself: {0}")]
    Inconsistent(#[from] Inconsistency),
}

#[derive(Serialize, Deserialize)]
struct BaseFile {
    version: u32,
    tenant: TenantId,
    timeline: TimelineId,
    system_identifier: u64,
    pg_version_num: u32,
    wal_segment_size: u32,
    start_lsn: Lsn,
    prev_record_lsn: Lsn,
    ancestor: Option<Ancestor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_state: Option<RunningState>,
    disk_consistent_lsn: Lsn,
    logical_size_bytes: u64,
    term_history: Vec<TermStart>,
    gc_cutoff: Lsn,
    branches: BTreeMap<TimelineId, Lsn>,
    leases: BTreeMap<String, Lease>,
    state: TimelineState,
    partitions: Vec<PartitionEntry>,
    layers: Vec<LayerDesc>,
}

#[derive(Serialize, Deserialize)]
struct PartitionEntry {
    start: Key,
    stack: Vec<LayerName>,
}

#[derive(Serialize, Deserialize)]
struct EditFile<E> {
    version: u32,
    edit: E,
}

impl Manifest {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let entry = |(keys, stack): (crate::keyspace::KeyRange, &std::sync::Arc<[LayerName]>)| PartitionEntry {
            start: keys.start,
            stack: stack.to_vec(),
        };
        frame(&BaseFile {
            version: MANIFEST_VERSION,
            tenant: self.tenant,
            timeline: self.timeline,
            system_identifier: self.system_identifier,
            pg_version_num: self.pg_version_num,
            wal_segment_size: self.wal_segment_size,
            start_lsn: self.start_lsn,
            prev_record_lsn: self.prev_record_lsn,
            ancestor: self.ancestor,
            start_state: self.start_state.clone(),
            disk_consistent_lsn: self.disk_consistent_lsn,
            logical_size_bytes: self.logical_size_bytes,
            term_history: self.term_history.clone(),
            gc_cutoff: self.gc_cutoff,
            branches: self.branches.clone(),
            leases: self.leases.clone(),
            state: self.state,
            partitions: self.partitions.iter().map(entry).collect(),
            layers: self.layers.values().cloned().collect(),
        })
    }

    /// Checks and reads bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let file: BaseFile = unframe(bytes)?;
        let described = file.layers.len();
        let partitions = file
            .partitions
            .into_iter()
            .map(|entry| Partition { start: entry.start, stack: entry.stack.into() })
            .collect();
        let manifest = Self {
            tenant: file.tenant,
            timeline: file.timeline,
            system_identifier: file.system_identifier,
            pg_version_num: file.pg_version_num,
            wal_segment_size: file.wal_segment_size,
            start_lsn: file.start_lsn,
            prev_record_lsn: file.prev_record_lsn,
            ancestor: file.ancestor,
            start_state: file.start_state,
            disk_consistent_lsn: file.disk_consistent_lsn,
            logical_size_bytes: file.logical_size_bytes,
            term_history: file.term_history,
            gc_cutoff: file.gc_cutoff,
            branches: file.branches,
            leases: file.leases,
            state: file.state,
            partitions: Partitions::new(partitions).map_err(Inconsistency::from)?,
            layers: file.layers.into_iter().map(|desc| (desc.name, desc)).collect(),
        };
        if manifest.layers.len() != described {
            return Err(CodecError::Damaged("a layer is described twice".into()));
        }
        manifest.check()?;
        Ok(manifest)
    }
}

impl Edit {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        frame(&EditFile { version: MANIFEST_VERSION, edit: self })
    }

    /// Checks and reads bytes. Whether it fits a manifest is seen when it is applied.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(unframe::<EditFile<Edit>>(bytes)?.edit)
    }
}

fn frame(content: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(content).expect("texts, numbers and lists are always JSON");
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(format!("{CHECKSUM_LABEL}{checksum:08x}\n").as_bytes());
    bytes
}

fn unframe<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let damaged = |what: &str| CodecError::Damaged(what.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (json, checksum) = text.rsplit_once(CHECKSUM_LABEL).ok_or_else(|| damaged("its last line is missing"))?;
    if checksum.strip_suffix('\n') != Some(&format!("{:08x}", crc32c::crc32c(json.as_bytes()))) {
        return Err(damaged("its checksum is wrong"));
    }
    let Version { version } = serde_json::from_str(json).map_err(|_| damaged("it has no version"))?;
    if version != u64::from(MANIFEST_VERSION) {
        return Err(CodecError::FutureVersion(version));
    }
    serde_json::from_str(json).map_err(|error| damaged(&error.to_string()))
}

#[cfg(test)]
pub(super) mod tests {
    use ogel_ids::{Generation, Term};

    use super::*;
    use crate::{
        keyspace::KeyRange,
        layer::{LsnRange, file::LayerKind, partitions::Piece},
    };

    /// A manifest with something in every field.
    pub(in crate::manifest) fn sample() -> Manifest {
        let split = KeyRange::all_rel_sizes().start;
        let desc = |kind, start, end, sequence, keys| LayerDesc {
            name: LayerName { end_lsn: Lsn(end), generation: Generation(2), sequence },
            kind,
            lsns: LsnRange { start: Lsn(start), end: Lsn(end) },
            keys,
            size_bytes: 90_000,
            index_offset: 88_000,
            history_bytes: 300,
            tombstones: 2,
        };
        let template = desc(LayerKind::Image, 0x100_0028, 0x100_0028, 0, KeyRange::ALL);
        let complete = desc(LayerKind::Image, 0x180_0000, 0x200_0000, 7, KeyRange { start: split, end: Key::MAX });
        let delta = desc(LayerKind::Delta, 0x200_0000, 0x300_0000, 8, KeyRange::ALL);
        let mut partitions = Partitions::single(vec![delta.name, template.name]);
        partitions.split(split);
        let piece = Piece { start: split, layer: Some(complete.name) };
        partitions.replace(split, &[template.name], &[piece]).unwrap();
        Manifest {
            tenant: TenantId::from_bytes([1; 16]),
            timeline: TimelineId::from_bytes([2; 16]),
            system_identifier: 7_300_000_000_000_000_001,
            pg_version_num: 170_011,
            wal_segment_size: 16 << 20,
            start_lsn: Lsn(0x100_0028),
            prev_record_lsn: Lsn(0x100_0000),
            ancestor: None,
            start_state: None,
            disk_consistent_lsn: Lsn(0x300_0000),
            logical_size_bytes: 8192,
            term_history: vec![TermStart { term: Term(1), lsn: Lsn(0x100_0028) }],
            gc_cutoff: Lsn(0x180_0000),
            branches: BTreeMap::from([(TimelineId::from_bytes([3; 16]), Lsn(0x140_0000))]),
            leases: BTreeMap::from([("backup".into(), Lease { lsn: Lsn(0x150_0000), expires_s: 1_800_000_000 })]),
            state: TimelineState::Active,
            partitions,
            layers: [template, complete, delta].into_iter().map(|desc| (desc.name, desc)).collect(),
        }
    }

    fn sample_edit() -> Edit {
        let manifest = sample();
        let desc = manifest.layers.values().next_back().unwrap().clone();
        Edit::Replaced {
            partition: Key::MIN,
            removed: manifest.partitions.at(0).stack.to_vec(),
            added: vec![Piece { start: Key::MIN, layer: Some(desc) }],
        }
    }

    #[test]
    fn survives_and_tells_rot() {
        let manifest = sample();
        manifest.check().unwrap();
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 4;
            assert!(Manifest::decode(&rotten).is_err(), "flipped byte {at}");
            assert!(Manifest::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    /// `OGEL_WRITE_FIXTURES=1` writes them, once per version.
    #[test]
    fn files_of_every_version_are_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manifest/fixtures");
        if std::env::var_os("OGEL_WRITE_FIXTURES").is_some() {
            std::fs::write(format!("{folder}/v{MANIFEST_VERSION}.base"), sample().encode()).unwrap();
            std::fs::write(format!("{folder}/v{MANIFEST_VERSION}.edit"), sample_edit().encode()).unwrap();
        }
        assert_eq!(Manifest::decode(include_bytes!("fixtures/v1.base")).unwrap(), sample());
        assert_eq!(Edit::decode(include_bytes!("fixtures/v1.edit")).unwrap(), sample_edit());
    }

    #[test]
    fn a_future_version_is_named() {
        let future = frame(&EditFile { version: 7, edit: "whatever it will be" });
        assert!(matches!(Edit::decode(&future), Err(CodecError::FutureVersion(7))));
        assert!(matches!(Manifest::decode(&sample_edit().encode()), Err(CodecError::Damaged(_))), "not a base");
    }

    #[test]
    fn contradictions_are_found() {
        let sound = sample();
        let spoil = |change: fn(&mut Manifest)| {
            let mut manifest = sound.clone();
            change(&mut manifest);
            Manifest::decode(&manifest.encode()).unwrap_err().to_string()
        };
        let undescribed = spoil(|manifest| _ = manifest.layers.pop_last());
        assert!(undescribed.contains("is not described"), "{undescribed}");
        let unused = spoil(|manifest| {
            let last = manifest.layers.last_entry().unwrap().get().clone();
            let name = LayerName { sequence: 99, ..last.name };
            manifest.layers.insert(name, LayerDesc { name, ..last });
        });
        assert!(unused.contains("is in no stack"), "{unused}");
        let order = spoil(|manifest| {
            let stack = manifest.partitions.at(0).stack.iter().rev().copied().collect();
            manifest.partitions = Partitions::single(stack);
            let unused = LayerName { end_lsn: Lsn(0x200_0000), generation: Generation(2), sequence: 7 };
            manifest.layers.remove(&unused);
        });
        assert!(order.contains("wrong order"), "{order}");
        let cutoff = spoil(|manifest| manifest.gc_cutoff = Lsn(0x300_0008));
        assert!(cutoff.contains("gc_cutoff"), "{cutoff}");
    }
}
