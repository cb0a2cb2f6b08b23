//! The oracle of native redo.
//!
//! With `wal_consistency_checking = all` PostgreSQL attaches to each record the image that each touched page must have afterwards. The
//! [`Checker`] builds every page from nothing but earlier WAL, applies each record natively, masks both pages as PostgreSQL does and
//! compares them byte for byte.
//!
//! A page whose history begins before the WAL at hand (`initdb` logs nothing) starts from the first such image; that record counts as
//! *seeded*, not as compared. After a difference the page continues from PostgreSQL's image, so that each difference stands for itself.
//!
//! Visibility maps, of which PostgreSQL's own check compares nothing, and the transaction logs, which have no images, are compared with the
//! files of the cluster after a clean shutdown as well ([`Checker::compare_files`]).

use anyhow::{Context, Result};
use ogel_ids::Lsn;
use std::ops::ControlFlow;
use wal_decoder::stream::StreamDecoder;

mod checker;
mod cluster_files;
mod comparison;
mod mask_pages;
mod page_kinds;
mod page_section;
mod pages;
mod relation_files;
mod report;
mod slru_pages;
mod wal_dump;
mod wal_files;
mod wal_stream;

pub use checker::{Checker, Options};
pub use comparison::mask_and_compare;
pub use mask_pages::mask_pages;
pub use page_kinds::{ComparedPage, PageKinds};
pub use relation_files::{PageDifference, RelationReport, compare_relations};
pub use report::{Difference, Report};
pub use wal_dump::WalDump;
pub use wal_files::WalFiles;
pub use wal_stream::WalStream;

/// Which records to check.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The first record starts here or later.
    pub start: Lsn,
    /// The last record starts before.
    pub end: Lsn,
    /// End after the first record with a difference.
    pub stop_at_first: bool,
}

impl Range {
    /// All records, differences or not.
    pub const EVERYTHING: Range = Range { start: Lsn(0), end: Lsn::MAX, stop_at_first: false };
}

/// Checks the records that the decoder has been fed; breaks at the end of the WAL or of the range.
pub fn check(checker: &mut Checker, decoder: &mut StreamDecoder, range: Range) -> Result<ControlFlow<()>> {
    loop {
        let record = match decoder.next_record() {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(ControlFlow::Continue(())),
            Err(error) if error.is_end_of_wal() => return Ok(ControlFlow::Break(())),
            Err(error) => return Err(error).context("the WAL goes on with bytes that are not a record"),
        };
        if record.start < range.start {
            continue;
        }
        if record.start >= range.end {
            return Ok(ControlFlow::Break(()));
        }
        checker.record(record.start, record.end, &record.bytes)?;
        if range.stop_at_first && checker.report().difference_count > 0 {
            return Ok(ControlFlow::Break(()));
        }
    }
}
