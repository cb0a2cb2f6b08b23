//! GIN index (`ginxlog.h`): an entry tree of keys, posting trees of heap pointers, and a list of pending insertions.
//!
//! Mirrors `ginxlog.c`. Deviations: the halves of a split are images in the record and need no redo; the incomplete-split flag of a child
//! goes with the child's own page.

use super::{
    Change, Fault,
    page::{HEADER_SIZE, Place, Slotted},
};
use crate::{
    byte_reader::ByteReader,
    key::{PAGE_SIZE, Page},
};

mod posting_list;

/// Kinds of records: the high half of `info`.
mod op {
    pub const CREATE_POSTING_TREE: u8 = 0x10;
    pub const INSERT: u8 = 0x20;
    pub const SPLIT: u8 = 0x30;
    pub const VACUUM_PAGE: u8 = 0x40;
    pub const DELETE_PAGE: u8 = 0x50;
    pub const UPDATE_META_PAGE: u8 = 0x60;
    pub const INSERT_LIST_PAGE: u8 = 0x70;
    pub const DELETE_LIST_PAGE: u8 = 0x80;
    pub const VACUUM_DATA_LEAF_PAGE: u8 = 0x90;
}

/// The area at the end of every page: right link u32, number of entries u16, flags u16.
pub(super) const SPECIAL: usize = PAGE_SIZE - 8;
const RIGHT_LINK: usize = SPECIAL;
const COUNT: usize = SPECIAL + 4;
const FLAGS: usize = SPECIAL + 6;

/// Bits of the flags.
const DATA: u16 = 1 << 0;
const LEAF: u16 = 1 << 1;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const LIST: u16 = 1 << 4;
const LIST_FULL_ROW: u16 = 1 << 5;
const INCOMPLETE_SPLIT: u16 = 1 << 6;
const COMPRESSED: u16 = 1 << 7;

/// Bits of an insertion's flags.
const IS_DATA: u16 = 0x01;
const IS_LEAF: u16 = 0x02;

/// Bytes of `GinMetaPageData`.
const METADATA_SIZE: usize = 56;
/// Where a posting tree page's content starts, behind its right bound.
const CONTENT: usize = HEADER_SIZE + 8;
/// An inner item of a posting tree: child block 4 bytes, key 6 bytes.
const POSTING_ITEM_SIZE: usize = 10;
const NONE: u32 = u32::MAX;

const WRONG_PAGE: &str = "it is not a page of a GIN index";

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    let record = &change.record;
    let page = &mut change.index_page(page, SPECIAL, WRONG_PAGE)?;
    match (record.info, record.page_block_id) {
        (op::CREATE_POSTING_TREE, 0) => create_posting_tree(page, record.main_data),
        (op::INSERT, 0) => insert(page, change),
        (op::INSERT, 1) | (op::SPLIT, 3) => {
            page.put_u16(FLAGS, page.u16_at(FLAGS) & !INCOMPLETE_SPLIT);
            Ok(())
        }
        (op::DELETE_PAGE, _) => delete_page(page, change),
        (op::UPDATE_META_PAGE, _) => update_metapage(page, change),
        (op::INSERT_LIST_PAGE, 0) => insert_list_page(page, change),
        (op::DELETE_LIST_PAGE, 0) => metapage(page, record.main_data),
        (op::DELETE_LIST_PAGE, _) => {
            init(page, DELETED);
            Ok(())
        }
        (op::VACUUM_DATA_LEAF_PAGE, 0) => posting_list::recompress(page, record.block_data),
        (op::CREATE_POSTING_TREE..=op::SPLIT | op::INSERT_LIST_PAGE..=op::VACUUM_DATA_LEAF_PAGE, _) => {
            change.unknown_block()
        }
        // The pages of SPLIT and VACUUM_PAGE are always images.
        (op::VACUUM_PAGE, _) => Err(Fault::Record("it has no image of its page")),
        _ => Err(Fault::NotImplemented),
    }
}

fn init(page: &mut Slotted<'_>, flags: u16) {
    page.init(PAGE_SIZE - SPECIAL);
    page.put_u32(RIGHT_LINK, NONE);
    page.put_u16(FLAGS, flags);
}

fn create_posting_tree(page: &mut Slotted<'_>, main: &[u8]) -> Result<(), Fault> {
    let mut fields = ByteReader::new(main);
    let size = fields.u32()? as usize;
    let content = fields.bytes(size)?;
    init(page, DATA | LEAF | COMPRESSED);
    if CONTENT + size > SPECIAL {
        return Err(Fault::Record("its posting list does not fit a page"));
    }
    page.bytes[CONTENT..CONTENT + size].copy_from_slice(content);
    page.set_lower(CONTENT + size);
    Ok(())
}

fn insert(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let flags = fields.u16()?;
    let data = change.record.block_data;
    // An insertion above the leaves finishes a split below: the old downlink now leads to the right half.
    let right_child = if flags & IS_LEAF == 0 {
        fields.skip(4)?;
        Some(fields.bytes(4)?)
    } else {
        None
    };
    match (flags & IS_DATA != 0, right_child) {
        (true, None) => posting_list::recompress(page, data),
        (true, Some(right_child)) => insert_posting_item(page, data, right_child),
        (false, right_child) => insert_entry(page, data, right_child),
    }
}

fn insert_entry(page: &mut Slotted<'_>, data: &[u8], right_child: Option<&[u8]>) -> Result<(), Fault> {
    let mut data = ByteReader::new(data);
    let (item, replaces) = (data.u16()?, data.u8()? != 0);
    data.skip(1)?;
    if let Some(right_child) = right_child {
        // The downlink is the heap pointer field, with item number 0.
        let link = page.item_mut(item)?.get_mut(..6).ok_or(Fault::Page("an index tuple ends early"))?;
        link[..4].copy_from_slice(right_child);
        link[4..].fill(0);
    }
    if replaces {
        page.delete(item)?;
    }
    page.add_item(item, first_tuple(data.rest())?, Place::Insert)
}

/// The index tuple at the start of `bytes`.
fn first_tuple(bytes: &[u8]) -> Result<&[u8], Fault> {
    let info = bytes.get(6..8).ok_or(Fault::Record("an index tuple ends early"))?;
    let size = usize::from(u16::from_le_bytes([info[0], info[1]]) & 0x1fff);
    if size < 8 {
        return Err(Fault::Record("an index tuple has an impossible size"));
    }
    bytes.get(..size).ok_or(Fault::Record("an index tuple ends early"))
}

/// Offset of an inner item of a posting tree.
fn posting_item(number: u16) -> Result<usize, Fault> {
    let at = CONTENT + usize::from(number.checked_sub(1).ok_or(Fault::Record("it names item 0"))?) * POSTING_ITEM_SIZE;
    if at + POSTING_ITEM_SIZE > SPECIAL { Err(Fault::Record("an item lies outside the page")) } else { Ok(at) }
}

fn insert_posting_item(page: &mut Slotted<'_>, data: &[u8], right_child: &[u8]) -> Result<(), Fault> {
    let mut data = ByteReader::new(data);
    let item = data.u16()?;
    let new = data.bytes(POSTING_ITEM_SIZE)?;
    let count = page.u16_at(COUNT);
    if item == 0 || item > count {
        return Err(Fault::Page("an item that the record names does not exist"));
    }
    let (at, end) = (posting_item(item)?, posting_item(count + 1)?);
    page.bytes[at..at + 4].copy_from_slice(right_child);
    page.bytes.copy_within(at..end, at + POSTING_ITEM_SIZE);
    page.bytes[at..at + POSTING_ITEM_SIZE].copy_from_slice(new);
    page.put_u16(COUNT, count + 1);
    page.set_lower(end + POSTING_ITEM_SIZE);
    Ok(())
}

/// Block 0 the page of a posting tree that goes, 1 its parent, 2 its left sibling.
fn delete_page(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let item = fields.u16()?;
    fields.skip(2)?;
    let (right_link, xid) = (fields.u32()?, fields.u32()?);
    match change.record.page_block_id {
        0 => {
            page.put_u16(FLAGS, page.u16_at(FLAGS) | DELETED);
            // The transaction that must be gone before the page is reused stands in `pd_prune_xid`.
            page.put_u32(20, xid);
        }
        1 => {
            let count = page.u16_at(COUNT);
            if item == 0 || item > count {
                return Err(Fault::Page("an item that the record names does not exist"));
            }
            let (at, last) = (posting_item(item)?, posting_item(count)?);
            page.bytes.copy_within(at + POSTING_ITEM_SIZE..last + POSTING_ITEM_SIZE, at);
            page.put_u16(COUNT, count - 1);
            page.set_lower(last);
        }
        2 => page.put_u32(RIGHT_LINK, right_link),
        _ => return change.unknown_block(),
    }
    Ok(())
}

fn metapage(page: &mut Slotted<'_>, metadata: &[u8]) -> Result<(), Fault> {
    let metadata = ByteReader::new(metadata).bytes(METADATA_SIZE)?;
    init(page, META);
    page.bytes[HEADER_SIZE..HEADER_SIZE + METADATA_SIZE].copy_from_slice(metadata);
    page.set_lower(HEADER_SIZE + METADATA_SIZE);
    Ok(())
}

/// Block 0 the metapage, 1 the last page of the pending list: it takes tuples, or gets a right neighbour.
fn update_metapage(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    /// The relation, aligned to 8, stands before the metadata.
    const METADATA: usize = 16;
    let mut fields = ByteReader::new(change.record.main_data);
    fields.skip(METADATA)?;
    let metadata = fields.bytes(METADATA_SIZE)?;
    let (_previous_tail, new_right_link, tuples) = (fields.u32()?, fields.u32()?, fields.u32()?);
    match change.record.page_block_id {
        0 => metapage(page, metadata),
        1 if tuples as i32 > 0 => {
            append_tuples(page, change.record.block_data)?;
            page.put_u16(COUNT, page.u16_at(COUNT).wrapping_add(1));
            Ok(())
        }
        1 => {
            page.put_u32(RIGHT_LINK, new_right_link);
            Ok(())
        }
        _ => change.unknown_block(),
    }
}

fn append_tuples(page: &mut Slotted<'_>, mut tuples: &[u8]) -> Result<(), Fault> {
    while !tuples.is_empty() {
        let tuple = first_tuple(tuples)?;
        page.add_item(page.count() as u16 + 1, tuple, Place::Insert)?;
        tuples = &tuples[tuple.len()..];
    }
    Ok(())
}

/// A new page of the pending list.
fn insert_list_page(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let right_link = ByteReader::new(change.record.main_data).u32()?;
    let is_tail = right_link == NONE;
    init(page, LIST | if is_tail { LIST_FULL_ROW } else { 0 });
    page.put_u32(RIGHT_LINK, right_link);
    page.put_u16(COUNT, u16::from(is_tail));
    append_tuples(page, change.record.block_data)
}

/// Whether the page is deleted: then nothing of its content is compared (`gin_mask`).
pub(super) fn is_deleted(page: &Slotted<'_>) -> bool {
    page.special() == SPECIAL && page.u16_at(FLAGS) & DELETED != 0
}
