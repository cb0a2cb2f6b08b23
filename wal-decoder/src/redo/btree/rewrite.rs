//! Deduplication, and deletion of items and of parts of posting lists, on one leaf page.
//!
//! Mirrors `btree_xlog_dedup`, `_vacuum` and `_delete` (`nbtxlog.c`, `nbtdedup.c`). Deviation: none but what [`super`] says.

use super::{
    FLAGS, HAS_GARBAGE, NEXT, check, first_data_item,
    index_tuple::{self, HEAP_POINTER_SIZE, Pointers},
    op,
};
use crate::{
    byte_reader::ByteReader,
    key::Page,
    redo::{
        Change, Fault,
        page::{Place, Slotted},
    },
};

fn clear_garbage_flag(page: &mut Slotted<'_>) {
    page.put_u16(FLAGS, page.u16_at(FLAGS) & !HAS_GARBAGE);
}

/// Merges runs of items with equal keys into one item with a posting list each. The block's data names the runs:
/// (first item u16, number of items u16).
pub(super) fn deduplicate(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    check(page)?;
    let count = usize::from(ByteReader::new(change.record.main_data).u16()?);
    let mut intervals = ByteReader::new(ByteReader::new(change.record.block_data).bytes(count * 4)?);
    let mut old: Page = *page.bytes;
    let old = Slotted::new(&mut old);
    super::empty(page);

    let mut added = 0;
    let first = first_data_item(page);
    if page.u32_at(NEXT) != 0 {
        added += 1;
        page.add_item(added, old.item(1)?, Place::Insert)?;
    }
    let mut next_interval = || match intervals.rest().is_empty() {
        true => Ok::<_, Fault>((0, 0)),
        false => Ok((intervals.u16()?, intervals.u16()?)),
    };
    let mut interval = next_interval()?;
    let mut item = first;
    while usize::from(item) <= old.count() {
        added += 1;
        if item != interval.0 {
            let tuple = old.item(item)?;
            page.add_item(added, &tuple[..index_tuple::size(tuple)?], Place::Insert)?;
            item += 1;
            continue;
        }
        let end = item.checked_add(interval.1).filter(|&end| interval.1 > 0 && usize::from(end) <= old.count() + 1);
        let end = end.ok_or(Fault::Record("it merges items that do not exist"))?;
        merge(page, added, &old, item..end)?;
        item = end;
        interval = next_interval()?;
    }
    if interval.0 != 0 {
        return Err(Fault::Record("it merges items that do not exist"));
    }
    clear_garbage_flag(page);
    Ok(())
}

/// Adds one item with the first one's key and the heap pointers of all.
fn merge(page: &mut Slotted<'_>, number: u16, old: &Slotted<'_>, items: std::ops::Range<u16>) -> Result<(), Fault> {
    let base = old.item(items.start)?;
    let key_size = Pointers::of(base)?.key_size;
    let mut count = 0;
    for item in items.clone() {
        count += Pointers::of(old.item(item)?)?.count;
    }
    let len = index_tuple::size_with(key_size, count);
    let at = page.add(number, len, Place::Insert)?;
    let tuple = &mut page.bytes[at..at + len];
    tuple[..key_size].copy_from_slice(&base[..key_size]);
    let mut to = if count > 1 { key_size } else { 0 };
    for item in items {
        let tuple_of_item = old.item(item)?;
        let pointers = Pointers::of(tuple_of_item)?;
        let bytes = &tuple_of_item[pointers.start..pointers.start + pointers.byte_len()];
        tuple[to..to + bytes.len()].copy_from_slice(bytes);
        to += bytes.len();
    }
    index_tuple::finish(tuple, key_size, count);
    Ok(())
}

/// Delete and vacuum: the block's data is the items that go, the items that lose some heap pointers, and for each of the latter which
/// ones (count u16, positions u16 …).
pub(super) fn delete(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    check(page)?;
    let mut fields = ByteReader::new(change.record.main_data);
    if change.record.info == op::DELETE {
        // The horizon for conflicts with queries on a standby.
        fields.skip(4)?;
    }
    let (deleted, updated) = (usize::from(fields.u16()?), usize::from(fields.u16()?));
    let mut data = ByteReader::new(change.record.block_data);
    let deleted = data.bytes(deleted * 2)?;
    let mut updated = ByteReader::new(data.bytes(updated * 2)?);
    while !updated.rest().is_empty() {
        let item = updated.u16()?;
        let gone = usize::from(data.u16()?);
        remove_pointers(page, item, data.bytes(gone * 2)?)?;
    }
    page.delete_many(deleted.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])))?;
    clear_garbage_flag(page);
    Ok(())
}

/// Removes the heap pointers at `positions` (ascending) from an item's posting list; at least one must stay.
fn remove_pointers(page: &mut Slotted<'_>, item: u16, positions: &[u8]) -> Result<(), Fault> {
    let tuple = page.item_mut(item)?;
    let pointers = Pointers::of(tuple)?;
    let mut gone = positions.chunks_exact(2).map(|pair| usize::from(u16::from_le_bytes([pair[0], pair[1]]))).peekable();
    let left = pointers.count - gone.len().min(pointers.count);
    if left == 0 || pointers.start == 0 {
        return Err(Fault::Record("it removes all heap pointers of an item"));
    }
    // Of one remaining pointer the place is the tuple's header.
    let mut to = if left > 1 { pointers.start } else { 0 };
    let mut kept = 0;
    for position in 0..pointers.count {
        if gone.next_if_eq(&position).is_some() {
            continue;
        }
        kept += 1;
        if kept > left {
            break;
        }
        let from = pointers.start + position * HEAP_POINTER_SIZE;
        tuple.copy_within(from..from + HEAP_POINTER_SIZE, to);
        to += HEAP_POINTER_SIZE;
    }
    if kept != left || gone.next().is_some() {
        return Err(Fault::Record("the heap pointers to remove are not in ascending order or do not exist"));
    }
    let len = index_tuple::size_with(pointers.key_size, left);
    let at = page.resize(item, len)?;
    index_tuple::finish(&mut page.bytes[at..at + len], pointers.key_size, left);
    Ok(())
}
