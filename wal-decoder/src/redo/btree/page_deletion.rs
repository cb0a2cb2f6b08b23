//! Deletion of empty pages, in two steps: the leaf becomes half dead and leaves its parent; then pages leave the chain of siblings,
//! top of the subtree first.
//!
//! Mirrors `btree_xlog_mark_page_halfdead` and `btree_xlog_unlink_page` (`nbtxlog.c`). Deviation: none but what [`super`] says.

use super::{
    DELETED, HALF_DEAD, HAS_FULL_XID, HEADER_SIZE, LEAF, Links, NEXT, PREVIOUS, check,
    index_tuple::{downlink, top_parent},
    init,
};
use crate::{
    byte_reader::ByteReader,
    redo::{
        Change, Fault,
        page::{Place, Slotted},
    },
};

/// Block 0 is the leaf, block 1 the parent that loses a downlink.
pub(super) fn mark_half_dead(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let item = fields.u16()?;
    fields.skip(2)?;
    let (_leaf, previous, next, parent) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
    match change.record.page_block_id {
        0 => half_dead_leaf(page, previous, next, parent),
        1 => {
            check(page)?;
            // The item takes over its right neighbour's downlink, and the neighbour goes: so the key between them goes.
            let right = item.checked_add(1).ok_or(Fault::Record("it names an impossible item"))?;
            let link = downlink(page.item(right)?)?;
            page.item_mut(item)?
                .get_mut(..link.len())
                .ok_or(Fault::Page("an index tuple ends early"))?
                .copy_from_slice(&link);
            page.delete(right)
        }
        _ => change.unknown_block(),
    }
}

/// An empty leaf whose high key points to the top of the subtree that goes with it.
fn half_dead_leaf(page: &mut Slotted<'_>, previous: u32, next: u32, parent: u32) -> Result<(), Fault> {
    init(page, &Links { previous, next, level: 0, flags: HALF_DEAD | LEAF });
    page.add_item(1, &top_parent(parent), Place::Insert)
}

/// Block 0 is the page that goes, 1 and 2 its left and right sibling, 3 the subtree's leaf where that is another page.
pub(super) fn unlink(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let (previous, next, level) = (fields.u32()?, fields.u32()?, fields.u32()?);
    fields.skip(4)?;
    let safe_xid = fields.u64()?;
    let (leaf_previous, leaf_next, leaf_parent) = (fields.u32()?, fields.u32()?, fields.u32()?);
    match change.record.page_block_id {
        0 => {
            let leaf = if level == 0 { LEAF } else { 0 };
            init(page, &Links { previous, next, level, flags: DELETED | HAS_FULL_XID | leaf });
            page.bytes[HEADER_SIZE..HEADER_SIZE + 8].copy_from_slice(&safe_xid.to_le_bytes());
            page.set_lower(HEADER_SIZE + 8);
            Ok(())
        }
        1 => set_link(page, NEXT, next),
        2 => set_link(page, PREVIOUS, previous),
        3 => half_dead_leaf(page, leaf_previous, leaf_next, leaf_parent),
        _ => change.unknown_block(),
    }
}

fn set_link(page: &mut Slotted<'_>, link: usize, block: u32) -> Result<(), Fault> {
    check(page)?;
    page.put_u32(link, block);
    Ok(())
}
