//! What a file of a data directory holds, by its path.

use wal_decoder::{
    key::{Fork, Rel, RelFork, SlruKind},
    v17::GLOBAL_TABLESPACE,
};

/// OID of the tablespace `pg_default`.
pub const DEFAULT_TABLESPACE: u32 = 1663;

/// Meaning of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind<'a> {
    /// A segment of a relation fork, 1 GiB each.
    Relation(RelFork, u32),
    /// `pg_filenode.map` of a database, 0 for the shared one.
    RelMap {
        /// Tablespace.
        spc: u32,
        /// Database.
        db: u32,
    },
    /// A segment of an SLRU.
    Slru(SlruKind, u32),
    /// `global/pg_control`.
    Control,
    /// The top `PG_VERSION`.
    Version,
    /// A WAL segment, by its name.
    Wal(&'a str),
    /// Something that a fresh cluster must not have.
    Unexpected,
    /// Settings and files that PostgreSQL makes again.
    Ignored,
}

impl FileKind<'_> {
    /// The meaning of the file at this path in a data directory.
    pub fn of(path: &str) -> FileKind<'_> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        match (folder, name) {
            ("", "PG_VERSION") => FileKind::Version,
            ("global", "pg_control") => FileKind::Control,
            ("pg_wal", name) => FileKind::Wal(name),
            ("global", name) => in_database(GLOBAL_TABLESPACE, 0, name),
            _ if folder.starts_with("pg_tblspc") || folder.starts_with("pg_twophase") => FileKind::Unexpected,
            _ => match folder.strip_prefix("base/").and_then(|db| db.parse().ok()) {
                Some(db) => in_database(DEFAULT_TABLESPACE, db, name),
                None => slru(folder, name),
            },
        }
    }
}

fn in_database(spc: u32, db: u32, name: &str) -> FileKind<'static> {
    if name == "pg_filenode.map" {
        return FileKind::RelMap { spc, db };
    }
    let (fork_name, segment) = match name.split_once('.') {
        Some((fork_name, segment)) => (fork_name, segment.parse().ok()),
        None => (name, Some(0)),
    };
    let (rel, suffix) = fork_name.split_at(fork_name.find('_').unwrap_or(fork_name.len()));
    let fork = Fork::ALL.into_iter().find(|fork| fork.file_suffix() == suffix);
    match (rel.parse::<u32>(), fork, segment) {
        (Ok(rel), Some(fork), Some(segment)) => FileKind::Relation(Rel { spc, db, rel }.fork(fork), segment),
        _ => FileKind::Ignored,
    }
}

fn slru(folder: &str, name: &str) -> FileKind<'static> {
    let kind = SlruKind::ALL.into_iter().find(|kind| kind.directory() == folder);
    match (kind, u32::from_str_radix(name, 16)) {
        (Some(kind), Ok(segment)) if segment <= kind.max_segment() => FileKind::Slru(kind, segment),
        _ => FileKind::Ignored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_what_files_hold() {
        let rel = |spc, db, rel| Rel { spc, db, rel };
        for (path, kind) in [
            ("base/5/1259", FileKind::Relation(rel(1663, 5, 1259).fork(Fork::Main), 0)),
            ("base/5/1259_vm", FileKind::Relation(rel(1663, 5, 1259).fork(Fork::VisibilityMap), 0)),
            ("base/5/16384_fsm.2", FileKind::Relation(rel(1663, 5, 16384).fork(Fork::FreeSpaceMap), 2)),
            ("global/1262", FileKind::Relation(rel(1664, 0, 1262).fork(Fork::Main), 0)),
            ("base/5/pg_filenode.map", FileKind::RelMap { spc: 1663, db: 5 }),
            ("base/5/PG_VERSION", FileKind::Ignored),
            ("base/5/pg_internal.init", FileKind::Ignored),
            ("pg_multixact/offsets/000A", FileKind::Slru(SlruKind::MultixactOffsets, 10)),
            ("pg_xact/FFFFFFFF", FileKind::Ignored),
            ("pg_wal/000000010000000000000001", FileKind::Wal("000000010000000000000001")),
            ("pg_twophase/0000000000000003", FileKind::Unexpected),
            ("PG_VERSION", FileKind::Version),
        ] {
            assert_eq!(FileKind::of(path), kind, "{path}");
        }
    }
}
