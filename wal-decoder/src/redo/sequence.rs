//! Sequences: each record rebuilds the page with its one tuple (`sequence.c`).
//!
//! Mirrors `seq_redo` (`sequence.c`). Deviation: none but what [`super`] says of all.

use super::{
    Change, Fault,
    page::{Place, Slotted},
};
use crate::key::Page;

/// Marks a sequence's page, at its end.
const MAGIC: u32 = 0x1717;
/// `xl_seq_rec`: the relation, which the block reference repeats.
const RECORD_HEADER_SIZE: usize = 12;

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    if change.record.info != 0 {
        return Err(Fault::NotImplemented);
    }
    let tuple = change.record.main_data.get(RECORD_HEADER_SIZE..).ok_or(Fault::Record("it ends early"))?;
    let mut page = Slotted::new(page);
    page.init(size_of::<u32>());
    page.put_u32(page.special(), MAGIC);
    page.add_item(1, tuple, Place::Insert)
}
