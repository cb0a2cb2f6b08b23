//! GiST index (`gistxlog.h`).
//!
//! Mirrors `gistxlog.c`. Deviation: [`finish_image`] completes images with what PostgreSQL changes on the page after it has logged them.

use super::{
    Change, Fault,
    page::{HEADER_SIZE, Place, Slotted},
};
use crate::{
    byte_reader::ByteReader,
    key::{PAGE_SIZE, Page},
};

/// Kinds of records: the high half of `info`.
mod op {
    pub const PAGE_UPDATE: u8 = 0x00;
    pub const DELETE: u8 = 0x10;
    pub const PAGE_SPLIT: u8 = 0x30;
    pub const PAGE_DELETE: u8 = 0x60;
}

/// The area at the end of every page: sequence number (high, low u32), right link u32, flags u16, page id u16.
const SPECIAL: usize = PAGE_SIZE - 16;
const SEQUENCE_NUMBER: usize = SPECIAL;
const RIGHT_LINK: usize = SPECIAL + 8;
const FLAGS: usize = SPECIAL + 12;
const PAGE_ID: usize = SPECIAL + 14;
const GIST_PAGE_ID: u16 = 0xff81;

/// Bits of the flags.
const LEAF: u16 = 1 << 0;
const DELETED: u16 = 1 << 1;
const TUPLES_DELETED: u16 = 1 << 2;
const FOLLOW_RIGHT: u16 = 1 << 3;
const HAS_GARBAGE: u16 = 1 << 4;

const ROOT_BLOCK: u32 = 0;
const NONE: u32 = u32::MAX;

const WRONG_PAGE: &str = "it is not a page of a GiST index";

pub(super) fn redo(page: &mut Page, change: &Change<'_>, end: u64) -> Result<(), Fault> {
    let record = &change.record;
    let page = &mut change.index_page(page, SPECIAL, WRONG_PAGE)?;
    match (record.info, record.page_block_id) {
        (op::PAGE_UPDATE, 0) => update(page, change),
        (op::PAGE_UPDATE, 1) | (op::PAGE_SPLIT, 0) => {
            clear_follow_right(page, end);
            Ok(())
        }
        (op::DELETE, 0) => delete(page, change),
        (op::PAGE_SPLIT, id) => split(page, change, id),
        (op::PAGE_DELETE, _) => delete_page(page, change),
        (op::PAGE_UPDATE | op::DELETE, _) => change.unknown_block(),
        _ => Err(Fault::NotImplemented),
    }
}

fn change_flags(page: &mut Slotted<'_>, clear: u16, set: u16) {
    page.put_u16(FLAGS, page.u16_at(FLAGS) & !clear | set);
}

fn set_sequence_number(page: &mut Slotted<'_>, number: u64) {
    page.put_u32(SEQUENCE_NUMBER, (number >> 32) as u32);
    page.put_u32(SEQUENCE_NUMBER + 4, number as u32);
}

/// The left half of a split has got its downlink.
fn clear_follow_right(page: &mut Slotted<'_>, end: u64) {
    set_sequence_number(page, end);
    change_flags(page, FOLLOW_RIGHT, 0);
}

/// PostgreSQL completes a split's left half after it has logged the page's image, so an image that replaces the page still lacks that.
pub(super) fn finish_image(page: &mut Page, info: u8, block_id: u8, end: u64) {
    let page = &mut Slotted::new(page);
    if matches!((info, block_id), (op::PAGE_UPDATE, 1) | (op::PAGE_SPLIT, 0))
        && page.check_special(SPECIAL, WRONG_PAGE).is_ok()
    {
        clear_follow_right(page, end);
    }
}

fn delete_items(page: &mut Slotted<'_>, numbers: &[u8]) -> Result<(), Fault> {
    page.delete_many(numbers.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])))
}

/// Cuts the index tuple off the front of `bytes`.
fn take_tuple<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let info = bytes.get(6..8).ok_or(Fault::Record("an index tuple ends early"))?;
    let size = usize::from(u16::from_le_bytes([info[0], info[1]]) & 0x1fff);
    let (tuple, rest) = bytes
        .split_at_checked(size)
        .filter(|_| size >= 8)
        .ok_or(Fault::Record("an index tuple has an impossible size"))?;
    *bytes = rest;
    Ok(tuple)
}

/// The block's data: numbers of the items that go, then the new tuples.
fn update(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let (deleted, inserted) = (fields.u16()?, fields.u16()?);
    let mut data = ByteReader::new(change.record.block_data);
    let numbers = data.bytes(2 * usize::from(deleted))?;
    let mut tuples = data.rest();
    if (deleted, inserted) == (1, 1) {
        // One for one: the item is replaced where it lies.
        return page.overwrite(u16::from_le_bytes([numbers[0], numbers[1]]), take_tuple(&mut tuples)?);
    }
    if deleted > 0 {
        delete_items(page, numbers)?;
        if page.u16_at(FLAGS) & LEAF != 0 {
            change_flags(page, 0, TUPLES_DELETED);
        }
    }
    append_tuples(page, tuples)
}

fn append_tuples(page: &mut Slotted<'_>, mut tuples: &[u8]) -> Result<(), Fault> {
    while !tuples.is_empty() {
        let tuple = take_tuple(&mut tuples)?;
        page.add_item(page.count() as u16 + 1, tuple, Place::Insert)?;
    }
    Ok(())
}

/// Main data: conflict horizon u32, number of items u16, catalog flag u8, 1 unused, item numbers.
fn delete(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    fields.skip(4)?;
    let count = usize::from(fields.u16()?);
    fields.skip(2)?;
    delete_items(page, fields.bytes(2 * count)?)?;
    change_flags(page, HAS_GARBAGE, TUPLES_DELETED);
    Ok(())
}

/// The pages that a split makes are blocks 1 and up, from left to right; each block's data: number of tuples u32, tuples.
fn split(page: &mut Slotted<'_>, change: &Change<'_>, id: u8) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let right_link = fields.u32()?;
    fields.skip(4)?;
    let (sequence_number, was_leaf) = (fields.u64()?, fields.u8()? != 0);
    fields.skip(1)?;
    let (pages, mark_follow_right) = (fields.u16()?, fields.u8()? != 0);
    let is_root = change.block(id)? == ROOT_BLOCK;
    let is_root_split = change.block(1)? == ROOT_BLOCK;
    let is_last = u16::from(id) >= pages;

    page.init(PAGE_SIZE - SPECIAL);
    page.put_u16(PAGE_ID, GIST_PAGE_ID);
    page.put_u16(FLAGS, if was_leaf && !is_root { LEAF } else { 0 });
    page.put_u32(
        RIGHT_LINK,
        match (is_root, is_last) {
            (true, _) => NONE,
            (false, true) => right_link,
            (false, false) => change.block(id + 1)?,
        },
    );
    set_sequence_number(page, sequence_number);
    if !is_root && !is_last && !is_root_split && mark_follow_right {
        change_flags(page, 0, FOLLOW_RIGHT);
    }
    let mut data = ByteReader::new(change.record.block_data);
    data.skip(4)?;
    append_tuples(page, data.rest())
}

/// Block 0 the leaf that goes, 1 its parent.
fn delete_page(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let (xid, downlink) = (fields.u64()?, fields.u16()?);
    match change.record.page_block_id {
        0 => {
            change_flags(page, 0, DELETED);
            page.set_lower(HEADER_SIZE + 8);
            page.bytes[HEADER_SIZE..HEADER_SIZE + 8].copy_from_slice(&xid.to_le_bytes());
            Ok(())
        }
        1 => page.delete(downlink),
        _ => change.unknown_block(),
    }
}

/// What is not compared of a page (`gist_mask`), beyond header hints and unused space.
pub(super) fn mask(page: &mut Slotted<'_>, mask_line_states: impl FnOnce(&mut Slotted<'_>)) {
    if page.special() != SPECIAL {
        return;
    }
    set_sequence_number(page, 0);
    if page.u16_at(FLAGS) & LEAF != 0 {
        mask_line_states(page);
    }
    // Set on both sides, not cleared, as PostgreSQL does.
    change_flags(page, HAS_GARBAGE, FOLLOW_RIGHT);
}
