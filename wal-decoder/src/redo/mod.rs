//! A page and a delta become the next version of the page.

use crate::key::{Page, RelFork, SlruKind};
use ogel_ids::Lsn;

mod error;
pub use error::RedoError;

/// Which page a delta is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRef {
    /// The fork.
    pub rel: RelFork,
    /// Block number in the fork.
    pub block: u32,
}

/// Makes `page` the version that the record of `delta` leaves behind; `end` is the record's end LSN and becomes the page's LSN.
/// After an error the content of `page` is unspecified and must not be served.
pub fn apply(page: &mut Page, delta: &[u8], at: PageRef, end: Lsn) -> Result<(), RedoError> {
    let _ = (page, delta, at, end);
    Err(RedoError::NotImplemented { rmid: 0, info: 0, name: "redo", lsn: end })
}

/// Makes an SLRU page the version that the record of `delta` leaves behind.
/// After an error the content of `page` is unspecified and must not be served.
pub fn apply_slru(kind: SlruKind, pageno: u32, page: &mut Page, delta: &[u8]) -> Result<(), RedoError> {
    let _ = (page, delta, kind, pageno);
    Err(RedoError::NotImplemented { rmid: 0, info: 0, name: "redo", lsn: Lsn(0) })
}
