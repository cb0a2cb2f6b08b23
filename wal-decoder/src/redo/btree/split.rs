//! Page splits: block 0 the left half, which was the page; 1 the new right half; 2 the page to the right of both; 3, handled with the
//! insertions, the child whose own split this completes.
//!
//! Mirrors `btree_xlog_split` (`nbtxlog.c`). Deviation: each half is made alone; the left one needs no right one.

use super::{
    CYCLE, FLAGS, INCOMPLETE_SPLIT, LEAF, Links, NEXT, PREVIOUS, check, first_data_item,
    index_tuple::{self, HEAP_POINTER_SIZE},
    init, op, restore_items,
};
use crate::{
    byte_reader::ByteReader,
    key::Page,
    redo::{
        Change, Fault,
        page::{Place, Slotted, align8},
    },
};

/// Main data (`xl_btree_split`).
struct Split {
    level: u32,
    first_right: u16,
    new_item: u16,
    posting_position: u16,
}

pub(super) fn redo(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let split = Split {
        level: fields.u32()?,
        first_right: fields.u16()?,
        new_item: fields.u16()?,
        posting_position: fields.u16()?,
    };
    match change.record.page_block_id {
        0 => left_half(page, change, &split),
        1 => right_half(page, change, &split),
        2 => {
            check(page)?;
            page.put_u32(PREVIOUS, change.block(1)?);
            Ok(())
        }
        _ => change.unknown_block(),
    }
}

fn leaf_flag(split: &Split) -> u16 {
    if split.level == 0 { LEAF } else { 0 }
}

fn right_half(page: &mut Slotted<'_>, change: &Change<'_>, split: &Split) -> Result<(), Fault> {
    let next = change.record.block(2).map_or(0, |tag| tag.block);
    init(page, &Links { previous: change.block(0)?, next, level: split.level, flags: leaf_flag(split) });
    restore_items(page, change.record.block_data)
}

/// Rebuilds the left half item by item, in the order of their numbers, as the split itself did: the items' places must be the same.
fn left_half(page: &mut Slotted<'_>, change: &Change<'_>, split: &Split) -> Result<(), Fault> {
    check(page)?;
    let new_is_left = change.record.info == op::SPLIT_L;
    let mut data = change.record.block_data;
    let new = if new_is_left || split.posting_position != 0 { take_tuple(&mut data)? } else { &[] };
    let high_key = take_tuple(&mut data)?;
    if !data.is_empty() {
        return Err(Fault::Record("bytes follow the high key"));
    }
    let first = first_data_item(page);
    let mut old: Page = *page.bytes;
    let old = Slotted::new(&mut old);
    super::empty(page);

    let mut left = LeftHalf { page, count: 0 };
    left.push(high_key)?;
    let posting = if split.posting_position != 0 { split.new_item.wrapping_sub(1) } else { 0 };
    let new_pointer = match posting {
        0 => None,
        item => Some(index_tuple::last_pointer(old.item(item)?)?),
    };
    for item in first..split.first_right {
        if posting != 0 && item == posting {
            let at = left.push(old.item(item)?)?;
            index_tuple::swap_into_posting(
                &mut left.page.bytes[at],
                index_tuple::heap_pointer(new)?,
                split.posting_position,
            )?;
            continue;
        }
        if new_is_left && item == split.new_item {
            left.push_new(new, new_pointer)?;
        }
        left.push(old.item(item)?)?;
    }
    if new_is_left && split.new_item == split.first_right.max(first) {
        left.push_new(new, new_pointer)?;
    }
    page.put_u16(FLAGS, INCOMPLETE_SPLIT | leaf_flag(split));
    page.put_u32(NEXT, change.block(1)?);
    page.put_u16(CYCLE, 0);
    Ok(())
}

/// Cuts one index tuple, padding included, off the front.
fn take_tuple<'a>(data: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let (tuple, rest) = data.split_at(align8(index_tuple::size(data)?));
    *data = rest;
    Ok(tuple)
}

/// The page that is being filled from its first item on.
struct LeftHalf<'a, 'b> {
    page: &'a mut Slotted<'b>,
    count: u16,
}

impl LeftHalf<'_, '_> {
    fn push(&mut self, item: &[u8]) -> Result<std::ops::Range<usize>, Fault> {
        self.count += 1;
        let at = self.page.add(self.count, item.len(), Place::Insert)?;
        let range = at..at + item.len();
        self.page.bytes[range.clone()].copy_from_slice(item);
        Ok(range)
    }

    /// The new tuple; after a posting list was split it gets the heap pointer that fell out of the list.
    fn push_new(&mut self, new: &[u8], pointer: Option<index_tuple::HeapPointer>) -> Result<(), Fault> {
        let at = self.push(new)?.start;
        if let Some(pointer) = pointer {
            self.page.bytes[at..at + HEAP_POINTER_SIZE].copy_from_slice(&pointer);
        }
        Ok(())
    }
}
