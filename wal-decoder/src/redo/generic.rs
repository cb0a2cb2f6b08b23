//! Generic records, which extensions such as bloom write: pieces of bytes at offsets (`generic_xlog.c`).
//!
//! Mirrors `generic_redo` (`generic_xlog.c`). Deviation: none but what [`super`] says of all.

use super::{Change, Fault, page::Slotted};
use crate::{byte_reader::ByteReader, key::Page};

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    let mut data = ByteReader::new(change.record.block_data);
    while !data.rest().is_empty() {
        let (offset, len) = (usize::from(data.u16()?), usize::from(data.u16()?));
        let piece = data.bytes(len)?;
        page.get_mut(offset..offset + len)
            .ok_or(Fault::Record("a piece lies outside the page"))?
            .copy_from_slice(piece);
    }
    // The pieces say nothing about the unused space, which the writer zeroed.
    let page = Slotted::new(page);
    let (lower, upper) = (page.lower(), page.upper());
    page.bytes.get_mut(lower..upper).ok_or(Fault::Page("its header is damaged"))?.fill(0);
    Ok(())
}
