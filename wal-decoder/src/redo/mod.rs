//! A page and a delta become the next version of the page.
//!
//! One file per resource manager. Redo touches only the one page that it is asked for: the other blocks of the record need not exist.
//! What it makes is what PostgreSQL 17's own redo makes of that page, byte for byte except in the unused space between the line pointers
//! and the items; `walcheck` compares the two over whole clusters. It allocates nothing, and every offset, length and line pointer that
//! comes from the page or the record is checked before use: damaged input ends in a [`RedoError`].

use crate::{
    byte_reader::ShortInput,
    delta::{DeltaView, RecordDelta},
    key::{Fork, Page, RelFork, SlruKind},
    v17::rmgr,
};
use ogel_ids::Lsn;

mod brin;
mod btree;
mod error;
mod free_space_map;
mod generic;
mod gin;
mod gist;
mod hash;
mod heap;
mod heap2;
mod kind;
pub mod mask;
mod page;
mod sequence;
mod slru;
mod spgist;
mod tuple;
mod visibility_map;

pub use error::RedoError;
pub use kind::{metadata_kinds, page_changing_kinds, record_kind};
use page::Slotted;

/// Which page a delta is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRef {
    /// The fork.
    pub rel: RelFork,
    /// Block number in the fork.
    pub block: u32,
}

/// Why one manager's redo gave up; [`apply`] adds which record it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The record contradicts itself or its format.
    Record(&'static str),
    /// The page cannot be what the record was written for.
    Page(&'static str),
    /// There is no redo for this kind.
    NotImplemented,
}

impl From<ShortInput> for Fault {
    fn from(_: ShortInput) -> Fault {
        Fault::Record("it ends early")
    }
}

/// One record as seen by the page that it is applied to.
struct Change<'a> {
    record: RecordDelta<'a>,
    at: PageRef,
}

impl Change<'_> {
    /// An index page, which must be one of its access method unless the record makes it anew.
    fn index_page<'p>(
        &self,
        page: &'p mut Page,
        special: usize,
        otherwise: &'static str,
    ) -> Result<Slotted<'p>, Fault> {
        let page = Slotted::new(page);
        if !self.record.page().will_init() {
            page.check_special(special, otherwise)?;
        }
        Ok(page)
    }

    /// Block number of another block of the record.
    fn block(&self, id: u8) -> Result<u32, Fault> {
        self.record.block(id).map(|tag| tag.block).ok_or(Fault::Record("a block reference is missing"))
    }

    /// The page is none of those that this kind of record changes.
    fn unknown_block<T>(&self) -> Result<T, Fault> {
        Err(Fault::Record("it does not change a page with this block id"))
    }
}

/// Makes `page` the version that the record of `delta` leaves behind; `end` is the record's end LSN and becomes the page's LSN.
/// After an error the content of `page` is unspecified and must not be served.
pub fn apply(page: &mut Page, delta: &[u8], at: PageRef, end: Lsn) -> Result<(), RedoError> {
    match DeltaView::parse(delta)? {
        DeltaView::Record(record) => apply_record(page, &Change { record, at }, end)
            .map_err(|fault| RedoError::of_record(fault, &record, end))?,
        DeltaView::VmClear(clear) => {
            clear.entries().for_each(|(index, bits)| visibility_map::clear(page, u32::from(index), bits))
        }
        DeltaView::VmCut { keep_heap_blocks } => visibility_map::cut(page, keep_heap_blocks),
        DeltaView::FsmCut { keep_slots } => free_space_map::cut(page, keep_slots),
        DeltaView::Zero => {
            page.fill(0);
        }
        _ => return Err(RedoError::WrongPage),
    }
    // A page that was never initialised must stay all zeros: PostgreSQL takes anything else for damage.
    let mut page = Slotted::new(page);
    if !page.is_new() {
        page.set_lsn(end);
    }
    Ok(())
}

fn apply_record(page: &mut Page, change: &Change<'_>, end: Lsn) -> Result<(), Fault> {
    match change.record.rmid {
        rmgr::HEAP | rmgr::HEAP2 if change.at.rel.fork == Fork::VisibilityMap => visibility_map::redo(page, change),
        rmgr::HEAP => heap::redo(page, change),
        rmgr::HEAP2 => heap2::redo(page, change),
        rmgr::BTREE => btree::redo(page, change),
        rmgr::HASH => hash::redo(page, change),
        rmgr::GIN => gin::redo(page, change),
        rmgr::GIST => gist::redo(page, change, end.0),
        rmgr::SPGIST => spgist::redo(page, change),
        rmgr::BRIN => brin::redo(page, change),
        rmgr::SEQ => sequence::redo(page, change),
        rmgr::GENERIC => generic::redo(page, change),
        // An image is not a delta; a hint record without one changes nothing.
        rmgr::XLOG if change.record.info == rmgr::xlog::FPI_FOR_HINT => Ok(()),
        _ => Err(Fault::NotImplemented),
    }
}

/// Completes an image that replaces a page with what PostgreSQL changes on that page after it has logged the image.
pub fn finish_image(page: &mut Page, rmid: u8, info: u8, block_id: u8, end: Lsn) {
    if rmid == rmgr::GIST {
        gist::finish_image(page, info, block_id, end.0);
    }
}

/// Makes an SLRU page the version that the record of `delta` leaves behind.
/// After an error the content of `page` is unspecified and must not be served.
pub fn apply_slru(kind: SlruKind, page: &mut Page, delta: &[u8]) -> Result<(), RedoError> {
    slru::apply(kind, page, DeltaView::parse(delta)?)
}

#[cfg(test)]
mod tests;
