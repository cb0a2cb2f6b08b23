//! What one WAL record does to the stored state: page versions and metadata.

use crate::key::{Page, Rel, RelFork, SlruKind};

/// The new version of one page. Its LSN is the record's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version<'a> {
    /// The whole page; `pd_lsn` is already set where the page carries one.
    Image(&'a Page),
    /// What redo needs to make this version out of the previous one (see [`crate::redo`]).
    Delta {
        /// Self-contained, in this crate's own encoding, which starts with a version byte.
        bytes: &'a [u8],
        /// Redo does not look at the previous version: a chain of versions may be read from here.
        will_init: bool,
    },
}

/// One effect of a record. Effects of a record are delivered in the order in which they are to be applied, and all of them become
/// visible together, at the record's end LSN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<'a> {
    /// A new version of a relation page. The fork comes into being when it does not exist, and grows to `block + 1` blocks when it is shorter;
    /// blocks in between read as zeros.
    Page {
        /// The fork.
        rel: RelFork,
        /// Block number in the fork.
        block: u32,
        /// Its new version.
        version: Version<'a>,
        /// Apply only when the block exists already (visibility-map bits that are cleared without a block reference).
        only_existing: bool,
    },
    /// The fork comes into being with 0 blocks, or stays as it is when it exists.
    RelCreate {
        /// The fork.
        rel: RelFork,
    },
    /// The fork has at most `blocks` blocks from now on; those beyond are gone and read as zeros if it grows again.
    /// A fork that does not exist stays absent (except Main, which PostgreSQL creates).
    RelTruncate {
        /// The fork.
        rel: RelFork,
        /// Its new size in blocks; never grows the fork.
        blocks: u32,
    },
    /// All forks of the relation are gone.
    RelDrop {
        /// The relation.
        rel: Rel,
    },
    /// A database comes into being in a tablespace.
    DatabaseCreate {
        /// Tablespace OID.
        spc: u32,
        /// Database OID.
        db: u32,
        /// (tablespace, database) whose relations of all forks, sizes and relmap are copied as of just before this record; what the
        /// destination held is replaced. `None`: created empty.
        copy_of: Option<(u32, u32)>,
    },
    /// All relations and the relmap of the database in this tablespace are gone.
    DatabaseDrop {
        /// Tablespace OID.
        spc: u32,
        /// Database OID.
        db: u32,
    },
    /// New content of a `pg_filenode.map` (524 bytes in PostgreSQL 17).
    RelMap {
        /// Tablespace OID.
        spc: u32,
        /// Database OID, 0 for the shared map.
        db: u32,
        /// The whole file.
        image: &'a [u8],
    },
    /// A new version of an SLRU page. Missing segments and pages before it in its segment come into being as zeros. A delta for a page that
    /// does not exist applies to zeros.
    Slru {
        /// Which log.
        kind: SlruKind,
        /// Page number.
        page: u32,
        /// Its new version.
        version: Version<'a>,
    },
    /// Segments of which the first and the last page both precede `cutoff_page` ([`crate::slru::page_precedes`], which wraps) are gone.
    SlruTruncate {
        /// Which log.
        kind: SlruKind,
        /// Page that holds the oldest entry still needed.
        cutoff_page: u32,
    },
    /// Segments from `first` up to but not including `end` are gone, wrapping at the kind's highest segment.
    SlruDropSegments {
        /// Which log.
        kind: SlruKind,
        /// First segment that goes.
        first: u32,
        /// First segment that stays.
        end: u32,
    },
    /// A prepared transaction's state file comes into being. `data` is the file without its trailing CRC-32C.
    TwoPhasePut {
        /// Full transaction id: epoch in the high 32 bits.
        xid: u64,
        /// Content, CRC excluded.
        data: &'a [u8],
    },
    /// The prepared transaction has ended.
    TwoPhaseRemove {
        /// Full transaction id.
        xid: u64,
    },
    /// Progress of a replication origin.
    OriginSet {
        /// Origin id.
        origin: u16,
        /// Position reached at the remote side.
        remote_lsn: ogel_ids::Lsn,
    },
    /// A replication origin is gone.
    OriginDrop {
        /// Origin id.
        origin: u16,
    },
    /// A file of the data directory that no other effect describes (a replication slot, statistics) has a new content, or is gone.
    AuxFile {
        /// Relative to the data directory; checked by [`crate::interpret::is_aux_path`].
        path: &'a str,
        /// Packed as `docs/formats.md` says; `None`: removed.
        content: Option<&'a [u8]>,
    },
    /// A transaction committed at this time.
    CommitTime {
        /// Microseconds since 2000-01-01 UTC (`TimestampTz`).
        at_us: i64,
    },
}

/// Takes a record's effects. What it borrows is valid during the call only.
pub trait EffectSink {
    /// Takes one effect.
    fn effect(&mut self, effect: Effect<'_>);
}

impl<F: FnMut(Effect<'_>)> EffectSink for F {
    fn effect(&mut self, effect: Effect<'_>) {
        self(effect);
    }
}
