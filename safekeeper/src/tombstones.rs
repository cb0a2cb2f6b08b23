//! Timelines and tenants that were deleted: their ids never come back.
//!
//! A compute that was cut off, or a creation that arrives late, must not bring a deleted timeline back to life. So the deletion
//! itself is a durable fact, written before anything is removed:
//!
//! ```text
//! 0   4 bytes  magic "OGTS"
//! 4   u32      version = 1
//! 8   records of 44 bytes, appended and fsynced one by one:
//!     tenant 16, timeline 16 (zeros: the whole tenant), seconds since 1970 u64, u32 crc32c of the 40 bytes before
//! ```
//! All numbers are big-endian. A torn last record is cut off at start: nobody was told of it.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ogel_ids::{TenantId, TimelineId};
use ogel_service::durable_file;

use crate::timeline::TimelineKey;

/// Name of the file in the data folder.
pub const FILE_NAME: &str = "tombstones";

const MAGIC: &[u8; 4] = b"OGTS";
const VERSION: u32 = 1;
const HEAD_BYTES: u64 = 8;
const RECORD_BYTES: usize = 44;
const WHOLE_TENANT: TimelineId = TimelineId::from_bytes([0; 16]);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TombstoneError {
    /// It cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not what was written.
    #[error(
        "{path} is damaged (record {record}): a deleted timeline could come back; restore the file, \
         or give this node a new folder as a new member"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record; 0 is the head.
        record: u64,
    },
    /// Another version of the safekeeper wrote it.
    #[error("{path} has version {found}, this safekeeper knows {VERSION}: run the version that wrote it")]
    Version {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: u32,
    },
}

/// All tombstones of the node, in memory and on disk.
#[derive(Debug)]
pub struct Tombstones {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    end: u64,
    /// When, in seconds since 1970.
    buried: HashMap<(TenantId, TimelineId), u64>,
}

impl Tombstones {
    /// Reads the file in the data folder; makes it when there is none. Blocks.
    pub fn open(folder: &Path) -> Result<Self, TombstoneError> {
        let path = folder.join(FILE_NAME);
        let failed = |error| TombstoneError::Io { path: path.clone(), error };
        if !path.exists() {
            durable_file::replace(&path, &[&MAGIC[..], &VERSION.to_be_bytes()].concat()).map_err(failed)?;
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        let buried = parse(&path, &bytes)?;
        let end = HEAD_BYTES + buried.len() as u64 * RECORD_BYTES as u64;
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        file.set_len(end).and_then(|()| file.sync_all()).map_err(failed)?;
        let buried = buried.into_iter().map(|(tenant, timeline, time)| ((tenant, timeline), time)).collect();
        Ok(Self { path: path.clone(), inner: Mutex::new(Inner { file, end, buried }) })
    }

    /// When this timeline was deleted, by itself or with its tenant; seconds since 1970.
    pub fn find(&self, key: TimelineKey) -> Option<u64> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let buried = |timeline| inner.buried.get(&(key.tenant, timeline)).copied();
        buried(key.timeline).or_else(|| buried(WHOLE_TENANT))
    }

    /// Buries one timeline, or all that a tenant has or could have. Says when it was done first. Blocks; durable on return.
    pub fn bury(&self, tenant: TenantId, timeline: Option<TimelineId>, now: u64) -> Result<u64, TombstoneError> {
        let timeline = timeline.unwrap_or(WHOLE_TENANT);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&time) = inner.buried.get(&(tenant, timeline)) {
            return Ok(time);
        }
        let failed = |error| TombstoneError::Io { path: self.path.clone(), error };
        inner.file.write_all_at(&encode(tenant, timeline, now), inner.end).map_err(failed)?;
        inner.file.sync_data().map_err(failed)?;
        inner.end += RECORD_BYTES as u64;
        inner.buried.insert((tenant, timeline), now);
        Ok(now)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).buried.len()
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<(TenantId, TimelineId, u64)>, TombstoneError> {
    let damaged = |record| TombstoneError::Damaged { path: path.to_owned(), record };
    let rest = bytes.strip_prefix(MAGIC).ok_or(damaged(0))?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(damaged(0))?;
    match u32::from_be_bytes(*version) {
        VERSION => {}
        found => return Err(TombstoneError::Version { path: path.to_owned(), found }),
    }
    let mut found = Vec::new();
    let (records, torn) = rest.as_chunks::<RECORD_BYTES>();
    for (index, record) in records.iter().enumerate() {
        match decode(record) {
            Some(tombstone) => found.push(tombstone),
            None if index + 1 == records.len() && torn.is_empty() => {}
            None => return Err(damaged(index as u64 + 1)),
        }
    }
    Ok(found)
}

fn encode(tenant: TenantId, timeline: TimelineId, time: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..16].copy_from_slice(tenant.as_bytes());
    record[16..32].copy_from_slice(timeline.as_bytes());
    record[32..40].copy_from_slice(&time.to_be_bytes());
    let crc = crc32c::crc32c(&record[..40]);
    record[40..].copy_from_slice(&crc.to_be_bytes());
    record
}

fn decode(record: &[u8; RECORD_BYTES]) -> Option<(TenantId, TimelineId, u64)> {
    let (body, crc) = record.split_last_chunk::<4>()?;
    let (tenant, rest) = body.split_first_chunk::<16>()?;
    let (timeline, time) = rest.split_first_chunk::<16>()?;
    (u32::from_be_bytes(*crc) == crc32c::crc32c(body)).then_some(())?;
    let time = u64::from_be_bytes(time.try_into().ok()?);
    Some((TenantId::from_bytes(*tenant), TimelineId::from_bytes(*timeline), time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: u8, timeline: u8) -> TimelineKey {
        TimelineKey { tenant: TenantId::from_bytes([tenant; 16]), timeline: TimelineId::from_bytes([timeline; 16]) }
    }

    fn bury(tombstones: &Tombstones, key: TimelineKey, now: u64) -> u64 {
        tombstones.bury(key.tenant, Some(key.timeline), now).unwrap()
    }

    #[test]
    fn what_is_buried_stays_buried() {
        let folder = tempfile::tempdir().unwrap();
        let tombstones = Tombstones::open(folder.path()).unwrap();
        assert_eq!(bury(&tombstones, key(1, 1), 100), 100);
        assert_eq!(bury(&tombstones, key(1, 1), 200), 100, "the first time counts");
        tombstones.bury(key(2, 0).tenant, None, 300).unwrap();
        let again = Tombstones::open(folder.path()).unwrap();
        assert_eq!(again.find(key(1, 1)), Some(100));
        assert_eq!(again.find(key(1, 2)), None);
        assert_eq!(again.find(key(2, 9)), Some(300), "with its tenant");
        assert_eq!(again.len(), 2);
    }

    #[test]
    fn a_torn_record_is_dropped_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let tombstones = Tombstones::open(folder.path()).unwrap();
        for n in 1..=3 {
            assert_eq!(bury(&tombstones, key(1, n), 3), 3);
        }
        let path = folder.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        for torn in 1..RECORD_BYTES {
            std::fs::write(&path, &whole[..whole.len() - torn]).unwrap();
            let tombstones = Tombstones::open(folder.path()).unwrap();
            assert_eq!((tombstones.len(), tombstones.find(key(1, 3))), (2, None));
            assert_eq!(bury(&tombstones, key(1, 3), 3), 3);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(Tombstones::open(folder.path()), Err(TombstoneError::Damaged { record: 1, .. })));
        damaged[7] = 9;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(Tombstones::open(folder.path()), Err(TombstoneError::Version { found: 9, .. })));
    }

    /// Files of this version must stay readable.
    #[test]
    fn version_1_as_first_written() {
        let record = include_bytes!("disk/fixtures/tombstone-v1");
        let written = encode(key(1, 2).tenant, key(1, 2).timeline, 1_700_000_000);
        assert_eq!(&written, record, "what is written has changed: raise the version");
        assert_eq!(decode(record), Some((key(1, 2).tenant, key(1, 2).timeline, 1_700_000_000)));
    }
}
