//! B-tree: insertions, splits, deduplication, deletions, page deletion, the metapage (`nbtxlog.h`).
//!
//! Mirrors `nbtxlog.c`. Deviations: no snapshot conflicts, no cleanup locks: there is one page and nobody else on it.

use super::{
    Change, Fault,
    page::{HEADER_SIZE, LINE_POINTER_SIZE, LinePointer, LineState, Place, Slotted, align8},
};
use crate::{
    byte_reader::ByteReader,
    key::{PAGE_SIZE, Page},
};

mod index_tuple;
mod page_deletion;
mod rewrite;
mod split;

/// Kinds of records: the high half of `info`.
mod op {
    pub const INSERT_LEAF: u8 = 0x00;
    pub const INSERT_UPPER: u8 = 0x10;
    pub const INSERT_META: u8 = 0x20;
    pub const SPLIT_L: u8 = 0x30;
    pub const SPLIT_R: u8 = 0x40;
    pub const INSERT_POST: u8 = 0x50;
    pub const DEDUP: u8 = 0x60;
    pub const DELETE: u8 = 0x70;
    pub const UNLINK_PAGE: u8 = 0x80;
    pub const UNLINK_PAGE_META: u8 = 0x90;
    pub const NEWROOT: u8 = 0xa0;
    pub const MARK_PAGE_HALFDEAD: u8 = 0xb0;
    pub const VACUUM: u8 = 0xc0;
    pub const META_CLEANUP: u8 = 0xe0;
}

/// Bits of `btpo_flags`.
pub(super) const LEAF: u16 = 1 << 0;
const ROOT: u16 = 1 << 1;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const HALF_DEAD: u16 = 1 << 4;
pub(super) const SPLIT_END: u16 = 1 << 5;
pub(super) const HAS_GARBAGE: u16 = 1 << 6;
const INCOMPLETE_SPLIT: u16 = 1 << 7;
const HAS_FULL_XID: u16 = 1 << 8;

/// The area at the end of every page: previous u32, next u32, level u32, flags u16, vacuum cycle u16.
pub(super) const SPECIAL: usize = PAGE_SIZE - 16;
const PREVIOUS: usize = SPECIAL;
const NEXT: usize = SPECIAL + 4;
const LEVEL: usize = SPECIAL + 8;
pub(super) const FLAGS: usize = SPECIAL + 12;
pub(super) const CYCLE: usize = SPECIAL + 14;

const METAPAGE_MAGIC: u32 = 0x0005_3162;
/// Bytes of `BTMetaPageData`.
const METADATA_SIZE: usize = 48;

/// Leaves of the page only its special area, as before a rewrite.
fn empty(page: &mut Slotted<'_>) {
    page.bytes[..SPECIAL].fill(0);
    page.set_lower(HEADER_SIZE);
    page.set_upper(SPECIAL);
    page.put_u16(16, SPECIAL as u16);
    page.put_u16(18, PAGE_SIZE as u16 | 4);
}

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    let page = &mut Slotted::new(page);
    let record = &change.record;
    match (record.info, record.page_block_id) {
        (op::INSERT_LEAF | op::INSERT_UPPER | op::INSERT_META, 0) => insert(page, change),
        (op::INSERT_POST, 0) => insert_into_posting(page, change),
        (op::INSERT_UPPER | op::INSERT_META | op::NEWROOT, 1) | (op::SPLIT_L | op::SPLIT_R, 3) => finish_split(page),
        (op::INSERT_META | op::NEWROOT, 2) | (op::UNLINK_PAGE_META, 4) | (op::META_CLEANUP, 0) => {
            metapage(page, record.block_data)
        }
        (op::SPLIT_L | op::SPLIT_R, _) => split::redo(page, change),
        (op::DEDUP, 0) => rewrite::deduplicate(page, change),
        (op::DELETE | op::VACUUM, 0) => rewrite::delete(page, change),
        (op::MARK_PAGE_HALFDEAD, _) => page_deletion::mark_half_dead(page, change),
        (op::UNLINK_PAGE | op::UNLINK_PAGE_META, _) => page_deletion::unlink(page, change),
        (op::NEWROOT, 0) => new_root(page, change),
        (op::INSERT_LEAF..=op::VACUUM | op::META_CLEANUP, _) => change.unknown_block(),
        _ => Err(Fault::NotImplemented),
    }
}

/// An existing page must have the special area of a B-tree page before it is read or changed.
fn check(page: &Slotted<'_>) -> Result<(), Fault> {
    page.check_special(SPECIAL, "it is not a B-tree page")
}

/// Fields of the special area.
struct Links {
    previous: u32,
    next: u32,
    level: u32,
    flags: u16,
}

/// Makes the page an empty one (`_bt_pageinit`) with these links.
fn init(page: &mut Slotted<'_>, links: &Links) {
    page.init(PAGE_SIZE - SPECIAL);
    page.put_u32(PREVIOUS, links.previous);
    page.put_u32(NEXT, links.next);
    page.put_u32(LEVEL, links.level);
    page.put_u16(FLAGS, links.flags);
}

/// Number of the first item that is not the high key.
fn first_data_item(page: &Slotted<'_>) -> u16 {
    if page.u32_at(NEXT) == 0 { 1 } else { 2 }
}

fn insert(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    check(page)?;
    let item = ByteReader::new(change.record.main_data).u16()?;
    page.add_item(item, change.record.block_data, Place::Insert)
}

/// The new tuple's heap pointer belongs into a posting list: it takes its place there, and the list's last one goes into the new tuple.
fn insert_into_posting(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    check(page)?;
    let item = ByteReader::new(change.record.main_data).u16()?;
    let mut data = ByteReader::new(change.record.block_data);
    let position = data.u16()?;
    let new = data.rest();
    let posting = page.item_mut(item.wrapping_sub(1))?;
    let last = index_tuple::swap_into_posting(posting, index_tuple::heap_pointer(new)?, position)?;
    page.add_item(item, new, Place::Insert)?;
    page.item_mut(item)?[..index_tuple::HEAP_POINTER_SIZE].copy_from_slice(&last);
    Ok(())
}

/// The downlink to the right half of a split has been inserted.
fn finish_split(page: &mut Slotted<'_>) -> Result<(), Fault> {
    check(page)?;
    page.put_u16(FLAGS, page.u16_at(FLAGS) & !INCOMPLETE_SPLIT);
    Ok(())
}

/// Rebuilds the metapage from `xl_btree_metadata`.
fn metapage(page: &mut Slotted<'_>, data: &[u8]) -> Result<(), Fault> {
    let mut data = ByteReader::new(data);
    let (version, root, level) = (data.u32()?, data.u32()?, data.u32()?);
    let (fast_root, fast_level, deleted_pages, all_equal_image) = (data.u32()?, data.u32()?, data.u32()?, data.u8()?);
    init(page, &Links { previous: 0, next: 0, level: 0, flags: META });
    let fields = [METAPAGE_MAGIC, version, root, level, fast_root, fast_level, deleted_pages];
    for (index, field) in fields.into_iter().enumerate() {
        page.put_u32(HEADER_SIZE + index * 4, field);
    }
    page.bytes[HEADER_SIZE + 32..HEADER_SIZE + 40].copy_from_slice(&(-1.0f64).to_le_bytes());
    page.bytes[HEADER_SIZE + 40] = all_equal_image;
    page.set_lower(HEADER_SIZE + METADATA_SIZE);
    Ok(())
}

fn new_root(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    fields.skip(4)?;
    let level = fields.u32()?;
    let leaf = if level == 0 { LEAF } else { 0 };
    init(page, &Links { previous: 0, next: 0, level, flags: ROOT | leaf });
    if level > 0 { restore_items(page, change.record.block_data) } else { Ok(()) }
}

/// Fills an empty page with what was the item area of a page: its first item there is the one with the highest number.
fn restore_items(page: &mut Slotted<'_>, data: &[u8]) -> Result<(), Fault> {
    let mut count = 0usize;
    let mut at = 0;
    while at < data.len() {
        at += align8(index_tuple::size(&data[at..])?);
        count += 1;
    }
    let lower = HEADER_SIZE + count * LINE_POINTER_SIZE;
    if at != data.len() || lower + data.len() > SPECIAL {
        return Err(Fault::Record("its items do not fit a page"));
    }
    let upper = SPECIAL - data.len();
    page.bytes[upper..SPECIAL].copy_from_slice(data);
    page.set_lower(lower);
    page.set_upper(upper);
    let mut at = 0;
    for number in (1..=count as u16).rev() {
        let len = align8(index_tuple::size(&data[at..])?);
        page.set_line(number, LinePointer { offset: upper + at, state: LineState::Normal, len })?;
        at += len;
    }
    Ok(())
}
