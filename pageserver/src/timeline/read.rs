//! Values, sizes and lists at an LSN. Pages are in [`super::pages`].

use std::collections::BTreeMap;

use bytes::Bytes;
use ogel_ids::{Lsn, TimelineId};
use wal_decoder::{
    key::{PAGE_SIZE, RelFork, SlruKind},
    redo::RedoError,
};

use super::{Timeline, lineage::Lineage};
use crate::{
    keyspace::{Key, KeyRange},
    layer::{Io, file::LayerError, map::LayerMap, reconstruct::Scan},
};

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A layer file cannot be read (or, with [`Io::MemoryOnly`], not without waiting).
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A record cannot be applied to its page.
    #[error("{page} at {lsn}: {error}")]
    Redo {
        /// Which page.
        page: String,
        /// End of the record that failed.
        lsn: Lsn,
        /// What was wrong.
        error: RedoError,
    },
    /// The timeline that this one branched from has been restarted and does not hold what the branch needs yet. It will.
    #[error(
        "the branch needs its ancestor {ancestor} up to {needed}, which has been ingested up to {reached} only: try again when its WAL has arrived"
    )]
    AncestorBehind {
        /// The ancestor.
        ancestor: TimelineId,
        /// Where the branch reads in it.
        needed: Lsn,
        /// How far it is.
        reached: Lsn,
    },
    /// The history there is not kept any more. Asking again does not help.
    #[error(
        "{at} is below {cutoff}, where the history that is kept begins: ask for an LSN at or above it, or keep more history (--retention-s)"
    )]
    BelowCutoff {
        /// As asked.
        at: Lsn,
        /// Where history begins.
        cutoff: Lsn,
    },
    /// A stored value has an impossible form.
    #[error("{what} is stored with an impossible length of {len} bytes: a layer file is damaged")]
    BadValue {
        /// Which value.
        what: String,
        /// Its length.
        len: usize,
    },
}

impl ReadError {
    /// The read must be repeated on a thread that may block.
    pub fn would_block(&self) -> bool {
        matches!(self, ReadError::Layer(LayerError::WouldBlock))
    }
}

impl Timeline {
    pub(super) fn lineage<'a>(&'a self, layers: &'a LayerMap) -> Lineage<'a> {
        Lineage::new(layers, self.ancestor.as_ref())
    }

    /// The value of a key that holds images only.
    pub fn read_value(&self, key: &Key, at: Lsn, io: Io) -> Result<Option<Bytes>, ReadError> {
        let layers = self.pin_layers();
        self.check_readable(at)?;
        Ok(self.lineage(&layers).newest_image(key, at, io)?.map(|(_, value)| value))
    }

    /// All values of a range of keys that hold images only.
    pub fn scan(&self, range: KeyRange, at: Lsn, io: Io) -> Result<BTreeMap<Key, Bytes>, ReadError> {
        let mut scan = Scan::new(range, at);
        let layers = self.pin_layers();
        self.check_readable(at)?;
        self.lineage(&layers).scan(&mut scan, io)?;
        Ok(scan.finish())
    }

    /// Blocks of a fork; `None` when it does not exist.
    pub fn rel_size(&self, rel: RelFork, at: Lsn, io: Io) -> Result<Option<u32>, ReadError> {
        self.read_number(&Key::rel_size(rel), at, io)
    }

    /// Pages of an SLRU segment; `None` when it does not exist.
    pub fn slru_size(&self, kind: SlruKind, segment: u32, at: Lsn, io: Io) -> Result<Option<u32>, ReadError> {
        self.read_number(&Key::slru_size(kind, segment), at, io)
    }

    fn read_number(&self, key: &Key, at: Lsn, io: Io) -> Result<Option<u32>, ReadError> {
        self.read_value(key, at, io)?.map(|value| number_value(key, &value)).transpose()
    }

    /// Sizes of all forks of a database, in one tablespace or (0) in all.
    pub fn relations(&self, spc: u32, db: u32, at: Lsn, io: Io) -> Result<Vec<(RelFork, u32)>, ReadError> {
        let range = if spc == 0 { KeyRange::all_rel_sizes() } else { KeyRange::database_sizes(spc, db) };
        let mut sizes = self.relation_sizes(range, at, io)?;
        sizes.retain(|(rel, _)| rel.rel.db == db);
        Ok(sizes)
    }

    /// Sizes of all forks in a range of their keys.
    pub fn relation_sizes(&self, range: KeyRange, at: Lsn, io: Io) -> Result<Vec<(RelFork, u32)>, ReadError> {
        let sizes = self.scan(range, at, io)?;
        let known = sizes.iter().filter_map(|(key, value)| Some((key.as_rel_size()?, key, value)));
        known.map(|(rel, key, value)| Ok((rel, number_value(key, value)?))).collect()
    }

    /// Bytes of all relations of a database, in one tablespace or (0) in all.
    pub fn database_size(&self, spc: u32, db: u32, at: Lsn, io: Io) -> Result<u64, ReadError> {
        let relations = self.relations(spc, db, at, io)?;
        Ok(relations.iter().map(|(_, blocks)| u64::from(*blocks) * PAGE_SIZE as u64).sum())
    }
}

fn number_value(key: &Key, value: &[u8]) -> Result<u32, ReadError> {
    let bytes: [u8; 4] =
        value.try_into().map_err(|_| ReadError::BadValue { what: key.describe(), len: value.len() })?;
    Ok(u32::from_be_bytes(bytes))
}
