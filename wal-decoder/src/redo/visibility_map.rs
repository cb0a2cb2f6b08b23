//! The visibility map: two bits per heap block behind the page header.
//!
//! Mirrors `visibilitymap_set`, `_clear` and `visibilitymap_prepare_truncate` (`visibilitymap.c`) as redo calls them. Deviation, see below: clears.
//!
//! Clears come as a list of bits, never as the heap record: PostgreSQL 17.11 registers the map page whose bits a record clears, older
//! minor releases only set a flag, and the delta is the same for both.

use super::{
    Change, Fault,
    page::{HEADER_SIZE, Slotted},
};
use crate::{
    byte_reader::ByteReader,
    key::Page,
    v17::{
        HEAP_BLOCKS_PER_VM_PAGE,
        rmgr::{self, heap, heap2},
    },
};

/// Both bits of a heap block: all visible 1, all frozen 2.
const BOTH: u8 = 3;

/// Byte and shift of a heap block's bits.
fn position(index: u32) -> (usize, u32) {
    (HEADER_SIZE + index as usize / 4, index % 4 * 2)
}

/// Clears bits of one heap block; `index` counts from the page's first heap block and is below [`HEAP_BLOCKS_PER_VM_PAGE`].
pub(super) fn clear(page: &mut Page, index: u32, bits: u8) {
    let (at, shift) = position(index);
    page[at] &= !(bits << shift);
}

/// Clears all bits from the heap block with this index on.
pub(super) fn cut(page: &mut Page, keep_heap_blocks: u16) {
    let (at, shift) = position(u32::from(keep_heap_blocks));
    page[at] &= (1 << shift) - 1;
    page[at + 1..].fill(0);
}

/// A heap block became all visible. Block 0 is the map's page, which may still be all zeros; block 1 the heap's.
pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    if (change.record.rmid, change.record.info & heap::OPMASK) != (rmgr::HEAP2, heap2::VISIBLE) {
        return Err(Fault::NotImplemented);
    }
    let mut fields = ByteReader::new(change.record.main_data);
    fields.skip(4)?;
    let bits = fields.u8()? & BOTH;
    let heap_block = change.block(1)?;
    if heap_block / HEAP_BLOCKS_PER_VM_PAGE != change.at.block {
        return Err(Fault::Record("its heap block belongs to another page of the visibility map"));
    }
    let mut slotted = Slotted::new(page);
    if slotted.is_new() {
        slotted.init(0);
    }
    let (at, shift) = position(heap_block % HEAP_BLOCKS_PER_VM_PAGE);
    page[at] |= bits << shift;
    Ok(())
}
