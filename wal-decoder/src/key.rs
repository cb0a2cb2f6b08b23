//! What a page version belongs to.

use serde::{Deserialize, Serialize};

/// `BLCKSZ`: bytes of a relation or SLRU page.
pub const PAGE_SIZE: usize = 8192;

/// One page's bytes.
pub type Page = [u8; PAGE_SIZE];

/// Fork of a relation, numbered as in PostgreSQL's `relpath.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Fork {
    /// The table's or index's own pages.
    Main = 0,
    /// Free space map; mostly not WAL-logged.
    FreeSpaceMap = 1,
    /// Visibility map.
    VisibilityMap = 2,
    /// The empty content to which an unlogged relation is reset.
    Init = 3,
}

impl Fork {
    /// All forks in order of their numbers.
    pub const ALL: [Fork; 4] = [Fork::Main, Fork::FreeSpaceMap, Fork::VisibilityMap, Fork::Init];

    /// The fork with PostgreSQL's number, if there is one.
    pub const fn from_number(number: u8) -> Option<Fork> {
        match number {
            0 => Some(Fork::Main),
            1 => Some(Fork::FreeSpaceMap),
            2 => Some(Fork::VisibilityMap),
            3 => Some(Fork::Init),
            _ => None,
        }
    }

    /// The suffix of the fork's file name in a data directory (`relpath.c`).
    pub const fn file_suffix(self) -> &'static str {
        match self {
            Fork::Main => "",
            Fork::FreeSpaceMap => "_fsm",
            Fork::VisibilityMap => "_vm",
            Fork::Init => "_init",
        }
    }
}

/// A relation's storage (`RelFileLocator`): tablespace, database, file number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rel {
    /// Tablespace OID: 1663 `pg_default`, 1664 `pg_global`.
    pub spc: u32,
    /// Database OID, 0 for shared relations.
    pub db: u32,
    /// Relation file number; never 0.
    pub rel: u32,
}

impl Rel {
    /// One of its forks.
    pub const fn fork(self, fork: Fork) -> RelFork {
        RelFork { rel: self, fork }
    }
}

/// One fork of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelFork {
    /// The relation.
    pub rel: Rel,
    /// Which of its forks.
    pub fork: Fork,
}

/// The fixed-page logs beside the relations (`slru.c`); 32 pages make a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum SlruKind {
    /// `pg_xact`: two bits per transaction.
    Clog = 0,
    /// `pg_multixact/offsets`.
    MultixactOffsets = 1,
    /// `pg_multixact/members`.
    MultixactMembers = 2,
    /// `pg_commit_ts`.
    CommitTs = 3,
}

impl SlruKind {
    /// All kinds in order of their numbers.
    pub const ALL: [SlruKind; 4] =
        [SlruKind::Clog, SlruKind::MultixactOffsets, SlruKind::MultixactMembers, SlruKind::CommitTs];

    /// Pages of one segment file (`SLRU_PAGES_PER_SEGMENT`).
    pub const PAGES_PER_SEGMENT: u32 = 32;

    /// The kind with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<SlruKind> {
        match number {
            0 => Some(SlruKind::Clog),
            1 => Some(SlruKind::MultixactOffsets),
            2 => Some(SlruKind::MultixactMembers),
            3 => Some(SlruKind::CommitTs),
            _ => None,
        }
    }

    /// Folder of its segment files in a data directory.
    pub const fn directory(self) -> &'static str {
        match self {
            SlruKind::Clog => "pg_xact",
            SlruKind::MultixactOffsets => "pg_multixact/offsets",
            SlruKind::MultixactMembers => "pg_multixact/members",
            SlruKind::CommitTs => "pg_commit_ts",
        }
    }
}
