//! The users' replication slots, before Postgres starts.
//!
//! Their state files come with the basebackup. A logical slot starts decoding again at its restart_lsn, for which it needs what stock
//! PostgreSQL has in files: the WAL from there on, the snapshot that was serialized there, and the mapping files of catalogs that were
//! rewritten since. Without the snapshot, decoding would skip transactions until it finds a consistent point by itself.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use ogel_ids::Lsn;
use wal_decoder::{
    record::ParsedRecord,
    stream::{Record, StreamDecoder},
    v17::rmgr::{self, heap2},
};

use crate::{
    postgres::{run_user::RunUser, slot_file},
    slot_limit::SlotLimit,
};

/// `LogicalRewriteMappingData`.
const MAPPING_BYTES: u64 = 36;
/// WAL is read in pieces of this size.
const CHUNK_BYTES: u64 = 1 << 20;

/// Puts the slots' snapshots where PostgreSQL looks for them. Returns from where on WAL is needed. A slot beyond the limit is marked as
/// PostgreSQL marks one whose WAL is gone; the extension sees to it that it stays so.
pub fn restore(pgdata: &Path, limit: &SlotLimit) -> anyhow::Result<Option<Lsn>> {
    let slots = pgdata.join("pg_replslot");
    let entries = match fs::read_dir(&slots) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.context("reading the replication slots")?,
    };
    let mut oldest = None;
    for entry in entries {
        let folder = entry?.path();
        let state = match fs::read(folder.join("state")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            state => state.with_context(|| format!("reading the replication slot {}", folder.display()))?,
        };
        let snapshot = folder.join("snapshot");
        let restart_lsn = slot_file::restart_lsn(&state).filter(|lsn| can_go_on(&folder, *lsn, limit));
        if restart_lsn.is_none()
            && let Some(lost) = slot_file::invalidated(&state)
        {
            fs::write(folder.join("state"), lost).context("marking a replication slot as lost")?;
        }
        match restart_lsn {
            Some(lsn) => {
                oldest = Some(oldest.map_or(lsn, |oldest: Lsn| oldest.min(lsn)));
                let name = format!("pg_logical/snapshots/{:X}-{:X}.snap", lsn.0 >> 32, lsn.0 as u32);
                if snapshot.exists() {
                    fs::rename(&snapshot, pgdata.join(name)).context("moving a slot's snapshot")?;
                }
            }
            None if snapshot.exists() => fs::remove_file(&snapshot).context("removing a slot's snapshot")?,
            None => {}
        }
    }
    Ok(oldest)
}

fn can_go_on(folder: &Path, restart_lsn: Lsn, limit: &SlotLimit) -> bool {
    let Some(excess) = limit.excess(restart_lsn) else { return true };
    let slot = folder.file_name().unwrap_or_default().to_string_lossy();
    tracing::warn!(
        %slot,
        %restart_lsn,
        "replication slot {slot:?} is lost, it needs WAL from {restart_lsn} on: {excess}. Its consumer has to begin anew: SELECT pg_drop_replication_slot('{slot}'), then make it again",
    );
    false
}

/// Makes the mapping files of catalogs that were rewritten between `begin`, where a record begins, and `end`.
pub fn restore_mappings(
    pgdata: &Path,
    (begin, end): (Lsn, Lsn),
    segment_size_bytes: u64,
    owner: RunUser,
) -> anyhow::Result<()> {
    let segment_size = u32::try_from(segment_size_bytes).context("the WAL segment size")?;
    let mut decoder = StreamDecoder::new(begin, segment_size, None).context("the oldest slot's restart_lsn")?;
    let mut mappings = Mappings { folder: pgdata.join("pg_logical/mappings"), owner, files: HashMap::new() };
    let mut at = begin;
    while at < end {
        let offset = at.segment_offset(segment_size_bytes);
        let length = CHUNK_BYTES.min(segment_size_bytes - offset).min(end.bytes_since(at));
        let path = pgdata.join("pg_wal").join(at.segment_file_name(segment_size_bytes));
        let mut chunk = vec![0; length as usize];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut chunk, offset))
            .with_context(|| format!("reading {}", path.display()))?;
        decoder.feed_slice(&chunk);
        while let Some(record) = decoder.next_record().context("WAL that a slot needs")? {
            mappings.take(&record).with_context(|| format!("the record at {}", record.start))?;
        }
        at = Lsn(at.0 + length);
    }
    Ok(())
}

/// `pg_logical/mappings` under construction.
struct Mappings {
    folder: PathBuf,
    owner: RunUser,
    files: HashMap<String, File>,
}

impl Mappings {
    fn take(&mut self, record: &Record) -> anyhow::Result<()> {
        if record.rmid() != rmgr::HEAP2 || record.info() & 0x70 != heap2::REWRITE {
            return Ok(());
        }
        let parsed = ParsedRecord::parse(&record.bytes)?;
        let mapping = Mapping::parse(parsed.main_data).context("a catalog's mapping is shorter than it says")?;
        let name = mapping.file_name(record.xid());
        let file = match self.files.entry(name) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let file = self.owner.create_file(&self.folder.join(entry.key())).context("making a mapping file")?;
                entry.insert(file)
            }
        };
        Ok(file.write_all_at(mapping.data, mapping.offset)?)
    }
}

/// `xl_heap_rewrite_mapping`, 40 bytes, and what follows it.
struct Mapping<'a> {
    xid: u32,
    db: u32,
    rel: u32,
    offset: u64,
    start_lsn: Lsn,
    data: &'a [u8],
}

impl<'a> Mapping<'a> {
    fn parse(main_data: &'a [u8]) -> Option<Self> {
        let (header, data) = main_data.split_first_chunk::<40>()?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(*header[at..].first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*header[at..].first_chunk()?));
        let bytes = u64::from(u32_at(24)?) * MAPPING_BYTES;
        Some(Self {
            xid: u32_at(0)?,
            db: u32_at(4)?,
            rel: u32_at(8)?,
            offset: u64_at(16)?,
            start_lsn: Lsn(u64_at(32)?),
            data: data.get(..usize::try_from(bytes).ok()?)?,
        })
    }

    /// `LOGICAL_REWRITE_FORMAT`.
    fn file_name(&self, written_by: u32) -> String {
        let lsn = self.start_lsn.0;
        format!("map-{:x}-{:x}-{:X}_{:X}-{:x}-{written_by:x}", self.db, self.rel, lsn >> 32, lsn as u32, self.xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_goes_where_its_slot_will_look_for_it() {
        let pgdata = tempfile::tempdir().expect("a folder");
        let path = |name: &str| pgdata.path().join(name);
        let limit =
            SlotLimit { end: Lsn(0x2_1000_0000), segment_size_bytes: 1 << 24, keep_bytes: None, free_bytes: u64::MAX };
        assert_eq!(restore(pgdata.path(), &limit).expect("no slots"), None);
        for folder in ["pg_logical/snapshots", "pg_replslot/old", "pg_replslot/new", "pg_replslot/damaged"] {
            fs::create_dir_all(path(folder)).expect("a folder");
        }
        fs::write(path("pg_replslot/old/state"), slot_file::encode(Lsn(0x1_0000_A028))).expect("a file");
        fs::write(path("pg_replslot/old/snapshot"), "snap").expect("a file");
        fs::write(path("pg_replslot/new/state"), slot_file::encode(Lsn(0x2_0000_0000))).expect("a file");
        fs::write(path("pg_replslot/damaged/state"), "x").expect("a file");
        assert_eq!(restore(pgdata.path(), &limit).expect("slots"), Some(Lsn(0x1_0000_A028)));
        assert_eq!(fs::read(path("pg_logical/snapshots/1-A028.snap")).expect("moved"), b"snap");
        assert!(!path("pg_replslot/old/snapshot").exists());

        fs::write(path("pg_replslot/old/snapshot"), "snap").expect("a file");
        let limit = SlotLimit { keep_bytes: Some(1 << 30), ..limit };
        assert_eq!(restore(pgdata.path(), &limit).expect("slots"), Some(Lsn(0x2_0000_0000)), "the old one is lost");
        assert!(!path("pg_replslot/old/snapshot").exists());
        let lost = fs::read(path("pg_replslot/old/state")).expect("there");
        assert_eq!(lost[104], 1);
        assert_eq!(restore(pgdata.path(), &limit).expect("slots"), Some(Lsn(0x2_0000_0000)), "and stays so");
    }

    #[test]
    fn a_mapping_is_read_as_postgres_writes_it() {
        let mut main = Vec::new();
        for number in [700_u32, 5, 1259, 0, 72, 0, 1, 0, 0x1528, 1] {
            main.extend_from_slice(&number.to_le_bytes());
        }
        main.extend_from_slice(&[7; 36]);
        let mapping = Mapping::parse(&main).expect("whole");
        assert_eq!((mapping.offset, mapping.data), (72, &[7; 36][..]));
        assert_eq!(mapping.file_name(701), "map-5-4eb-1_1528-2bc-2bd");
        assert!(Mapping::parse(&main[..main.len() - 1]).is_none());
    }
}
