//! What was compared, and what differed.

use std::{collections::BTreeMap, fmt};

use ogel_ids::Lsn;
use serde::Serialize;
use wal_decoder::{
    key::Page,
    redo::{PageRef, metadata_kinds, page_changing_kinds, record_kind},
    v17::rmgr,
};

/// Counts of one record kind, in pages.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Counts {
    /// Records seen.
    pub records: u64,
    /// Pages that were compared with PostgreSQL's.
    pub compared: u64,
    /// Pages whose history began before the WAL at hand.
    pub seeded: u64,
    /// Pages for which the WAL has an image that replaces them.
    pub images: u64,
    /// Pages that differ, or that redo refused to make.
    pub differences: u64,
    /// Pages without a redo.
    pub not_implemented: u64,
}

/// One page that is not what PostgreSQL made of it.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// Resource manager and record kind.
    pub record: String,
    /// The record's start.
    pub start: Lsn,
    /// Tablespace/database/relation, fork and block.
    pub page: String,
    /// The block's id in the record.
    pub block_id: u8,
    /// First offset at which the masked pages differ; `None` when redo returned an error.
    pub offset: Option<usize>,
    /// What of the page lies there: a field of the header, a line pointer, a tuple.
    pub section: String,
    /// 64 bytes from there, ours and PostgreSQL's, in hex; or the error.
    pub ours: String,
    /// See `ours`.
    pub postgres: String,
    /// The record as `pg_waldump` prints it, when that is installed.
    pub waldump: Option<String>,
}

impl Difference {
    /// A page that redo refused to make.
    pub(crate) fn of_error(kind: &str, start: Lsn, page: String, error: &dyn std::error::Error) -> Difference {
        let (record, ours, postgres) = (kind.to_owned(), error.to_string(), String::new());
        let section = "page".to_owned();
        Difference { record, start, page, block_id: 0, offset: None, section, ours, postgres, waldump: None }
    }
}

/// The result of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Per resource manager and record kind.
    pub kinds: BTreeMap<String, Counts>,
    /// The first differences, in WAL order.
    pub differences: Vec<Difference>,
    /// All differences, also those that are not listed.
    pub difference_count: u64,
    /// Pages of records without a redo.
    pub not_implemented: u64,
    /// Pages compared.
    pub compared: u64,
    /// See [`Report::unreached`].
    pub unreached: Vec<String>,
    /// First and last LSN.
    pub start: Option<Lsn>,
    /// See `start`.
    pub end: Option<Lsn>,
}

/// At most this many differences are kept in full.
const MAX_LISTED: usize = 100;

/// Name of a record kind, with its manager.
pub(crate) fn kind_name(rmid: u8, info: u8) -> String {
    format!("{}/{}", rmgr::name(rmid), record_kind(rmid, info))
}

/// A page's name.
pub(crate) fn page_name(at: PageRef) -> String {
    let rel = at.rel.rel;
    format!("{}/{}/{}{} block {}", rel.spc, rel.db, rel.rel, at.rel.fork.file_suffix(), at.block)
}

impl Report {
    pub(crate) fn counts(&mut self, kind: &str) -> &mut Counts {
        if !self.kinds.contains_key(kind) {
            self.kinds.insert(kind.to_owned(), Counts::default());
        }
        self.kinds.get_mut(kind).expect("just inserted")
    }

    pub(crate) fn add_difference(&mut self, difference: Difference) {
        self.difference_count += 1;
        self.counts(&difference.record.clone()).differences += 1;
        if self.differences.len() < MAX_LISTED {
            self.differences.push(difference);
        }
    }

    /// Record kinds that change pages and of which no page was compared; of some kinds PostgreSQL always logs the images.
    pub fn unreached_page_kinds(&self) -> impl Iterator<Item = String> {
        self.without(page_changing_kinds(), |counts| counts.compared + counts.images)
    }

    /// These, and kinds that change no page and of which there was no record.
    pub fn unreached(&self) -> Vec<String> {
        self.unreached_page_kinds().chain(self.without(metadata_kinds(), |counts| counts.records)).collect()
    }

    fn without(
        &self,
        kinds: impl Iterator<Item = (u8, u8)>,
        how_often: fn(&Counts) -> u64,
    ) -> impl Iterator<Item = String> {
        kinds
            .map(|(rmid, info)| kind_name(rmid, info))
            .filter(move |kind| self.kinds.get(kind).is_none_or(|counts| how_often(counts) == 0))
    }
}

/// 64 bytes from `offset` in hex.
pub(crate) fn excerpt(page: &Page, offset: usize) -> String {
    page[offset..].iter().take(64).map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<32} {:>10} {:>10} {:>8} {:>8} {:>8} {:>10}",
            "record", "records", "compared", "seeded", "images", "no redo", "different"
        )?;
        for (kind, counts) in &self.kinds {
            let Counts { records, compared, seeded, images, differences, not_implemented } = counts;
            writeln!(
                f,
                "{kind:<32} {records:>10} {compared:>10} {seeded:>8} {images:>8} {not_implemented:>8} {differences:>10}"
            )?;
        }
        for difference in &self.differences {
            let Difference { record, start, page, block_id, offset, section, ours, postgres, waldump } = difference;
            match offset {
                Some(offset) => {
                    writeln!(
                        f,
                        "{record} at {start}, {page} (block id {block_id}) differs from offset {offset} ({section}) on"
                    )?;
                    writeln!(f, "  ours       {ours}\n  PostgreSQL {postgres}")?;
                }
                None => writeln!(f, "{record} at {start}, {page} (block id {block_id}): {ours}")?,
            }
            if let Some(waldump) = waldump {
                writeln!(f, "  {waldump}")?;
            }
        }
        write!(
            f,
            "{} pages compared, {} different, {} without redo",
            self.compared, self.difference_count, self.not_implemented
        )
    }
}
