//! What a compute needs to start at an LSN, as a tar stream (`docs/protocols.md` §5).
//!
//! Relation pages are not in it: those are read on demand. `global/pg_control` comes last, so that a stream that was cut short cannot be
//! started from.

mod control;
mod entries;

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use anyhow::Context;
use entries::Entries;
use ogel_ids::Lsn;
use wal_decoder::{
    key::{Fork, PAGE_SIZE, RelFork, SlruKind},
    v17::{CATALOG_VERSION_NO, GLOBAL_TABLESPACE},
};

use crate::{
    keyspace::{Key, KeyRange},
    layer::Io,
    template::DEFAULT_TABLESPACE,
    timeline::{Timeline, aux_file::AuxFile, state::RunningState},
};

/// Folders that PostgreSQL expects to find, found by leaving each out.
const FOLDERS: [&str; 23] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_wal/summaries",
    "pg_xact",
];
const PG_VERSION: &[u8] = b"17\n";
/// `REPLICATION_STATE_MAGIC`: begins `pg_logical/replorigin_checkpoint`.
const REPLICATION_STATE_MAGIC: u32 = 0x1257_dade;

/// Writes the basebackup at `lsn`, which must be ingested. Blocks.
pub fn write(timeline: &Timeline, lsn: Lsn, out: impl Write) -> anyhow::Result<()> {
    let state = timeline.state_at(lsn)?;
    let original = timeline.original_control_file().context("the timeline's original pg_control cannot be read")?;
    let control = control::build(&original, &state)?;
    let mut backup = Backup { timeline, lsn, entries: Entries::new(out) };
    backup.description(&state)?;
    backup.entries.file("PG_VERSION", PG_VERSION)?;
    FOLDERS.iter().try_for_each(|folder| backup.entries.folder(folder))?;
    SlruKind::ALL.into_iter().try_for_each(|kind| backup.slru(kind))?;
    backup.databases()?;
    backup.unlogged_relations()?;
    backup.two_phase_files()?;
    backup.replication_origins()?;
    backup.aux_files()?;
    backup.entries.file("global/pg_control", &control)?;
    backup.entries.finish()?;
    Ok(())
}

struct Backup<'a, W: Write> {
    timeline: &'a Timeline,
    lsn: Lsn,
    entries: Entries<W>,
}

impl<W: Write> Backup<'_, W> {
    fn description(&mut self, state: &RunningState) -> io::Result<()> {
        let timeline = self.timeline;
        let description = serde_json::json!({
            "version": 1,
            "tenant": timeline.tenant,
            "timeline": timeline.id,
            "lsn": self.lsn,
            "prev_record_lsn": state.prev_record_lsn,
            "clean_shutdown": state.clean_shutdown,
            "system_identifier": timeline.system_identifier.to_string(),
            "wal_segment_size": timeline.wal_segment_size,
            "pg_version_num": timeline.pg_version_num,
        });
        self.entries.file("ogel_basebackup.json", description.to_string().as_bytes())
    }

    fn slru(&mut self, kind: SlruKind) -> anyhow::Result<()> {
        let segments = self.timeline.scan(KeyRange::slru_sizes(kind), self.lsn, Io::MayBlock)?;
        for segment in segments.keys().filter_map(Key::as_slru_segment) {
            let content = self.timeline.slru_segment(kind, segment, self.lsn, Io::MayBlock)?.unwrap_or_default();
            self.entries.file(&format!("{}/{segment:04X}", kind.directory()), &content)?;
        }
        Ok(())
    }

    fn databases(&mut self) -> anyhow::Result<()> {
        let maps = self.timeline.scan(KeyRange::relmaps(), self.lsn, Io::MayBlock)?;
        let databases = self.timeline.scan(KeyRange::databases(), self.lsn, Io::MayBlock)?;
        let known: BTreeSet<(u32, u32)> = databases.keys().chain(maps.keys()).filter_map(Key::as_database).collect();
        for (spc, db) in known {
            if db != 0 {
                self.entries.folder(&database_folder(spc, db))?;
                self.entries.file(&format!("{}/PG_VERSION", database_folder(spc, db)), PG_VERSION)?;
            }
            if let Some(map) = maps.get(&Key::relmap(spc, db)) {
                self.entries.file(&format!("{}/pg_filenode.map", database_folder(spc, db)), map)?;
            }
        }
        Ok(())
    }

    /// Init forks, and copies of them as main forks: a clean start does not reset unlogged relations (H19).
    fn unlogged_relations(&mut self) -> anyhow::Result<()> {
        let sizes = self.timeline.scan(KeyRange::all_rel_sizes(), self.lsn, Io::MayBlock)?;
        for rel in sizes.keys().filter_map(Key::as_rel_size).filter(|rel| rel.fork == Fork::Init) {
            let content = self.fork(rel)?;
            let main = format!("{}/{}", database_folder(rel.rel.spc, rel.rel.db), rel.rel.rel);
            self.entries.file(&format!("{main}{}", Fork::Init.file_suffix()), &content)?;
            self.entries.file(&main, &content)?;
        }
        Ok(())
    }

    fn fork(&self, rel: RelFork) -> anyhow::Result<Vec<u8>> {
        let blocks = self.timeline.rel_size(rel, self.lsn, Io::MayBlock)?.unwrap_or(0);
        let mut content = Vec::new();
        let mut page = [0; PAGE_SIZE];
        for block in 0..blocks {
            self.timeline.read_page(rel, block, self.lsn, &mut page, Io::MayBlock)?;
            content.extend_from_slice(&page);
        }
        Ok(content)
    }

    fn two_phase_files(&mut self) -> anyhow::Result<()> {
        for (key, data) in self.timeline.scan(KeyRange::two_phase_files(), self.lsn, Io::MayBlock)? {
            if let Some(xid) = key.as_two_phase() {
                let content = [&data[..], &crc32c::crc32c(&data).to_le_bytes()].concat();
                self.entries.file(&format!("pg_twophase/{xid:016X}"), &content)?;
            }
        }
        Ok(())
    }

    /// Slots stay with the branch that they were made on, as a base backup of stock PostgreSQL leaves them out: their consumers follow that
    /// branch, and WAL from before the branch point is not this timeline's.
    fn aux_files(&mut self) -> anyhow::Result<()> {
        let branched_at = self.timeline.ancestor.as_ref().map(|ancestor| ancestor.lsn);
        for value in self.timeline.scan(KeyRange::aux_files(), self.lsn, Io::MayBlock)?.values() {
            let file = AuxFile::decode(value)?;
            let inherited = branched_at.is_some_and(|lsn| file.lsn <= lsn);
            if inherited && file.path.starts_with("pg_replslot/") {
                continue;
            }
            match file.content() {
                Ok(content) => self.entries.file(&file.path, &content)?,
                // What was counted is not worth a compute that cannot start.
                Err(error) if file.path.starts_with("pg_stat/") => tracing::warn!(%error, "statistics are left out"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn replication_origins(&mut self) -> anyhow::Result<()> {
        let origins = self.timeline.scan(KeyRange::origins(), self.lsn, Io::MayBlock)?;
        if origins.is_empty() {
            return Ok(());
        }
        let mut content = REPLICATION_STATE_MAGIC.to_le_bytes().to_vec();
        for (key, value) in origins {
            let remote_lsn: [u8; 8] = value[..].try_into().context("a replication origin's progress is damaged")?;
            content.extend_from_slice(&key.as_origin().unwrap_or(0).to_le_bytes());
            content.extend_from_slice(&[0; 6]);
            content.extend_from_slice(&u64::from_be_bytes(remote_lsn).to_le_bytes());
        }
        let checksum = crc32c::crc32c(&content);
        content.extend_from_slice(&checksum.to_le_bytes());
        Ok(self.entries.file("pg_logical/replorigin_checkpoint", &content)?)
    }
}

/// Where PostgreSQL keeps a database's files. Other tablespaces are folders in place, where stock PostgreSQL has links.
fn database_folder(spc: u32, db: u32) -> String {
    match spc {
        GLOBAL_TABLESPACE => "global".to_owned(),
        DEFAULT_TABLESPACE => format!("base/{db}"),
        other => format!("pg_tblspc/{other}/PG_17_{CATALOG_VERSION_NO}/{db}"),
    }
}
