//! BRIN index (`brin_xlog.h`): the metapage, pages of the range map, and regular pages with summaries.
//!
//! Mirrors `brin_xlog.c`. Deviation: none but what [`super`] says of all.

use super::{
    Change, Fault,
    page::{HEADER_SIZE, Place, Slotted},
};
use crate::{
    byte_reader::ByteReader,
    key::{PAGE_SIZE, Page},
};

/// Kinds of records, without [`INIT_PAGE`].
mod op {
    pub const CREATE_INDEX: u8 = 0x00;
    pub const INSERT: u8 = 0x10;
    pub const UPDATE: u8 = 0x20;
    pub const SAME_PAGE_UPDATE: u8 = 0x30;
    pub const REVMAP_EXTEND: u8 = 0x40;
    pub const DESUMMARIZE: u8 = 0x50;
    pub const MASK: u8 = 0x70;
}
const INIT_PAGE: u8 = 0x80;

/// The area at the end of every page: 4 unused bytes, flags u16, kind of page u16.
const SPECIAL: usize = PAGE_SIZE - 8;
const FLAGS: usize = SPECIAL + 4;
const KIND: usize = SPECIAL + 6;
const KIND_META: u16 = 0xf091;
const KIND_REVMAP: u16 = 0xf092;
const KIND_REGULAR: u16 = 0xf093;
/// Flag: the page is being emptied to become a range map page.
const EVACUATE: u16 = 1;

const MAGIC: u32 = 0xa810_9cfa;
/// The metapage: magic, version, pages per range, last range map page, u32 each.
const LAST_REVMAP: usize = HEADER_SIZE + 12;
const METADATA_END: usize = HEADER_SIZE + 16;
const POINTER_SIZE: usize = 6;
const POINTERS_PER_PAGE: usize = (SPECIAL - HEADER_SIZE) / POINTER_SIZE;

const WRONG_PAGE: &str = "it is not a page of a BRIN index";

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    let record = &change.record;
    let mut fields = ByteReader::new(record.main_data);
    let page = &mut change.index_page(page, SPECIAL, WRONG_PAGE)?;
    match (record.info & op::MASK, record.page_block_id) {
        (op::CREATE_INDEX, 0) => create(page, fields.u32()?, fields.u16()?),
        (op::UPDATE, 2) => page.delete_keeping_numbers(fields.u16()?),
        (op::INSERT | op::UPDATE, id @ (0 | 1)) => {
            if record.info & op::MASK == op::UPDATE {
                fields.skip(4)?;
            }
            let (heap_block, pages_per_range, item) = (fields.u32()?, fields.u32()?, fields.u16()?);
            if id == 1 {
                return set_pointer(page, heap_block, pages_per_range, (change.block(0)?, item));
            }
            if record.info & INIT_PAGE != 0 {
                init(page, KIND_REGULAR);
            }
            page.add_item(item, record.block_data, Place::Overwrite)
        }
        (op::SAME_PAGE_UPDATE, 0) => page.overwrite(fields.u16()?, record.block_data),
        (op::REVMAP_EXTEND, 0) => {
            page.put_u32(LAST_REVMAP, change.block(1)?);
            page.set_lower(METADATA_END);
            Ok(())
        }
        (op::REVMAP_EXTEND, 1) => {
            init(page, KIND_REVMAP);
            Ok(())
        }
        (op::DESUMMARIZE, id @ (0 | 1)) => {
            let (pages_per_range, heap_block, item) = (fields.u32()?, fields.u32()?, fields.u16()?);
            if id == 0 {
                return set_pointer(page, heap_block, pages_per_range, (u32::MAX, 0));
            }
            page.delete_keeping_numbers(item)
        }
        (op::CREATE_INDEX..=op::DESUMMARIZE, _) => change.unknown_block(),
        _ => Err(Fault::NotImplemented),
    }
}

fn init(page: &mut Slotted<'_>, kind: u16) {
    page.init(PAGE_SIZE - SPECIAL);
    page.put_u16(KIND, kind);
}

fn create(page: &mut Slotted<'_>, pages_per_range: u32, version: u16) -> Result<(), Fault> {
    init(page, KIND_META);
    for (index, field) in [MAGIC, u32::from(version), pages_per_range, 0].into_iter().enumerate() {
        page.put_u32(HEADER_SIZE + index * 4, field);
    }
    page.set_lower(METADATA_END);
    Ok(())
}

/// Lets the range map lead from a range of heap blocks to its summary.
fn set_pointer(
    page: &mut Slotted<'_>,
    heap_block: u32,
    pages_per_range: u32,
    (block, item): (u32, u16),
) -> Result<(), Fault> {
    let range = heap_block.checked_div(pages_per_range).ok_or(Fault::Record("its ranges have no pages"))?;
    let at = HEADER_SIZE + range as usize % POINTERS_PER_PAGE * POINTER_SIZE;
    page.put_u16(at, (block >> 16) as u16);
    page.put_u16(at + 2, block as u16);
    page.put_u16(at + 4, item);
    Ok(())
}

/// Whether the page has unused space between its line pointers and its items; a range map page has not. Masks what else is not compared.
pub(super) fn mask(page: &mut Slotted<'_>) -> bool {
    if page.special() != SPECIAL {
        return false;
    }
    page.put_u16(FLAGS, page.u16_at(FLAGS) & !EVACUATE);
    match page.u16_at(KIND) {
        KIND_REGULAR => true,
        KIND_META => page.lower() > HEADER_SIZE,
        _ => false,
    }
}
