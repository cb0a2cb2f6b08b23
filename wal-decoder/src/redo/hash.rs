//! Hash index (`hash_xlog.h`): the metapage, bitmap pages of free overflow pages, buckets and their chains of overflow pages.
//!
//! Mirrors `hash_xlog.c`. Deviations: no cleanup locks and no snapshot conflicts.

use super::{
    Change, Fault,
    page::{HEADER_SIZE, Place, Slotted, align8},
};
use crate::{
    byte_reader::ByteReader,
    key::{PAGE_SIZE, Page},
};

/// Kinds of records: the high half of `info`.
mod op {
    pub const INIT_META_PAGE: u8 = 0x00;
    pub const INIT_BITMAP_PAGE: u8 = 0x10;
    pub const INSERT: u8 = 0x20;
    pub const ADD_OVERFLOW_PAGE: u8 = 0x30;
    pub const SPLIT_ALLOCATE_PAGE: u8 = 0x40;
    pub const SPLIT_COMPLETE: u8 = 0x60;
    pub const MOVE_PAGE_CONTENTS: u8 = 0x70;
    pub const SQUEEZE_PAGE: u8 = 0x80;
    pub const DELETE: u8 = 0x90;
    pub const SPLIT_CLEANUP: u8 = 0xa0;
    pub const UPDATE_META_PAGE: u8 = 0xb0;
    pub const VACUUM_ONE_PAGE: u8 = 0xc0;
}

/// The area at the end of every page: previous u32, next u32, bucket u32, flags u16, page id u16.
const SPECIAL: usize = PAGE_SIZE - 16;
const PREVIOUS: usize = SPECIAL;
const NEXT: usize = SPECIAL + 4;
const BUCKET: usize = SPECIAL + 8;
const FLAGS: usize = SPECIAL + 12;
const PAGE_ID: usize = SPECIAL + 14;
const HASH_PAGE_ID: u16 = 0xff80;
/// `InvalidBlockNumber` and `InvalidBucket`.
const NONE: u32 = u32::MAX;

/// Bits of the flags.
const OVERFLOW_PAGE: u16 = 1 << 0;
const BUCKET_PAGE: u16 = 1 << 1;
const BITMAP_PAGE: u16 = 1 << 2;
const META_PAGE: u16 = 1 << 3;
const NEEDS_SPLIT_CLEANUP: u16 = 1 << 6;
const HAS_DEAD_TUPLES: u16 = 1 << 7;

/// Offsets in the metapage (`HashMetaPageData`).
mod meta {
    use super::HEADER_SIZE;
    pub const MAGIC: usize = HEADER_SIZE;
    pub const VERSION: usize = HEADER_SIZE + 4;
    pub const TUPLES: usize = HEADER_SIZE + 8;
    pub const FILL_FACTOR: usize = HEADER_SIZE + 16;
    pub const PAGE_BYTES: usize = HEADER_SIZE + 18;
    pub const BITMAP_BYTES: usize = HEADER_SIZE + 20;
    pub const BITMAP_SHIFT: usize = HEADER_SIZE + 22;
    pub const MAX_BUCKET: usize = HEADER_SIZE + 24;
    pub const HIGH_MASK: usize = HEADER_SIZE + 28;
    pub const LOW_MASK: usize = HEADER_SIZE + 32;
    pub const SPLIT_POINT: usize = HEADER_SIZE + 36;
    pub const FIRST_FREE: usize = HEADER_SIZE + 40;
    pub const BITMAP_COUNT: usize = HEADER_SIZE + 44;
    pub const FUNCTION: usize = HEADER_SIZE + 48;
    pub const SPARES: usize = HEADER_SIZE + 52;
    pub const BITMAPS: usize = SPARES + MAX_SPLIT_POINTS * 4;
    pub const END: usize = HEADER_SIZE + 4544;
    pub const MAX_SPLIT_POINTS: usize = 98;
    pub const MAX_BITMAPS: usize = 1024;
}

const WRONG_PAGE: &str = "it is not a page of a hash index";

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    let record = &change.record;
    let page = &mut change.index_page(page, SPECIAL, WRONG_PAGE)?;
    match (record.info, record.page_block_id) {
        (op::INIT_META_PAGE, 0) => init_metapage(page, record.main_data),
        (op::INIT_BITMAP_PAGE, 0) | (op::ADD_OVERFLOW_PAGE, 3) => {
            let bytes = ByteReader::new(record.main_data).u16()?;
            init_bitmap(page, usize::from(bytes))
        }
        (op::INIT_BITMAP_PAGE, 1) => {
            let block = page.u32_at(meta::MAX_BUCKET).wrapping_add(2);
            add_bitmap(page, block)
        }
        (op::INSERT, 0) => page.add_item(ByteReader::new(record.main_data).u16()?, record.block_data, Place::Insert),
        (op::INSERT, 1) => change_tuple_count(page, 1.0),
        (op::ADD_OVERFLOW_PAGE, _) => add_overflow_page(page, change),
        (op::SPLIT_ALLOCATE_PAGE, _) => split_allocate(page, change),
        (op::SPLIT_COMPLETE, id @ (0 | 1)) => {
            let mut flags = ByteReader::new(record.main_data);
            flags.skip(2 * usize::from(id))?;
            page.put_u16(FLAGS, flags.u16()?);
            Ok(())
        }
        // Block 0 is there for its lock alone.
        (op::MOVE_PAGE_CONTENTS | op::SQUEEZE_PAGE | op::DELETE, 0) => Ok(()),
        (op::MOVE_PAGE_CONTENTS, 1) => add_tuples(page, record.block_data, ByteReader::new(record.main_data).u16()?),
        (op::MOVE_PAGE_CONTENTS, 2) => delete_items(page, record.block_data),
        (op::SQUEEZE_PAGE, _) => squeeze(page, change),
        (op::DELETE, 1) => {
            delete_items(page, record.block_data)?;
            if ByteReader::new(record.main_data).u8()? != 0 {
                page.put_u16(FLAGS, page.u16_at(FLAGS) & !HAS_DEAD_TUPLES);
            }
            Ok(())
        }
        (op::SPLIT_CLEANUP, 0) => {
            page.put_u16(FLAGS, page.u16_at(FLAGS) & !NEEDS_SPLIT_CLEANUP);
            Ok(())
        }
        (op::UPDATE_META_PAGE, 0) => {
            let count = ByteReader::new(record.main_data).u64()?;
            page.bytes[meta::TUPLES..meta::TUPLES + 8].copy_from_slice(&count.to_le_bytes());
            Ok(())
        }
        (op::VACUUM_ONE_PAGE, _) => vacuum_one_page(page, change),
        (op::INIT_META_PAGE..=op::SPLIT_ALLOCATE_PAGE | op::SPLIT_COMPLETE..=op::UPDATE_META_PAGE, _) => {
            change.unknown_block()
        }
        // SPLIT_PAGE is always an image.
        _ => Err(Fault::NotImplemented),
    }
}

fn init(page: &mut Slotted<'_>, previous: u32, bucket: u32, flags: u16) {
    page.init(PAGE_SIZE - SPECIAL);
    page.put_u32(PREVIOUS, previous);
    page.put_u32(NEXT, NONE);
    page.put_u32(BUCKET, bucket);
    page.put_u16(FLAGS, flags);
    page.put_u16(PAGE_ID, HASH_PAGE_ID);
}

/// Buckets are allocated in split points: below 2⁹ one each time their number doubles, above four phases of each doubling.
fn split_point(buckets: u32) -> u32 {
    let group = buckets.max(1).next_power_of_two().trailing_zeros();
    if group < 10 { group } else { 10 + (group - 10) * 4 + (((buckets - 1) >> (group - 3)) & 3) }
}

/// Buckets that exist when a split point is full.
fn total_buckets(split_point: u32) -> u32 {
    if split_point < 10 {
        return 1 << split_point;
    }
    let half = 1 << (9 + (split_point - 10) / 4);
    half + half / 4 * ((split_point - 10) % 4 + 1)
}

/// The metapage of a new index (`_hash_init_metabuffer`).
fn init_metapage(page: &mut Slotted<'_>, main: &[u8]) -> Result<(), Fault> {
    const MAGIC: u32 = 0x0644_0640;
    const VERSION: u32 = 4;
    const BITMAP_BYTES_LOG2: u16 = 12;
    let mut fields = ByteReader::new(main);
    let (tuples, function, fill_factor) = (f64::from_bits(fields.u64()?), fields.u32()?, fields.u16()?);
    let wanted = tuples / f64::from(fill_factor);
    let buckets = match wanted {
        wanted if wanted <= 2.0 => 2,
        wanted if wanted >= f64::from(0x4000_0000) => 0x4000_0000,
        wanted => total_buckets(split_point(wanted as u32)),
    };
    init(page, NONE, NONE, META_PAGE);
    page.put_u32(meta::MAGIC, MAGIC);
    page.put_u32(meta::VERSION, VERSION);
    page.put_u16(meta::FILL_FACTOR, fill_factor);
    page.put_u16(meta::PAGE_BYTES, (SPECIAL - HEADER_SIZE) as u16);
    page.put_u16(meta::BITMAP_BYTES, 1 << BITMAP_BYTES_LOG2);
    page.put_u16(meta::BITMAP_SHIFT, BITMAP_BYTES_LOG2 + 3);
    page.put_u32(meta::FUNCTION, function);
    page.put_u32(meta::MAX_BUCKET, buckets - 1);
    let high_mask = (buckets + 1).next_power_of_two() - 1;
    page.put_u32(meta::HIGH_MASK, high_mask);
    page.put_u32(meta::LOW_MASK, high_mask >> 1);
    let point = split_point(buckets);
    page.put_u32(meta::SPARES + point as usize * 4, 1);
    page.put_u32(meta::SPLIT_POINT, point);
    page.set_lower(meta::END);
    Ok(())
}

/// A bitmap page with all overflow pages in use (`_hash_initbitmapbuffer`).
fn init_bitmap(page: &mut Slotted<'_>, bytes: usize) -> Result<(), Fault> {
    if bytes > SPECIAL - HEADER_SIZE {
        return Err(Fault::Record("its bitmap is larger than a page"));
    }
    init(page, NONE, NONE, BITMAP_PAGE);
    page.bytes[HEADER_SIZE..HEADER_SIZE + bytes].fill(0xff);
    page.set_lower(HEADER_SIZE + bytes);
    Ok(())
}

/// Enters a bitmap page into the metapage's list of them.
fn add_bitmap(page: &mut Slotted<'_>, block: u32) -> Result<(), Fault> {
    let count = page.u32_at(meta::BITMAP_COUNT) as usize;
    if count >= meta::MAX_BITMAPS {
        return Err(Fault::Page("the metapage has no room for another bitmap"));
    }
    page.put_u32(meta::BITMAPS + count * 4, block);
    page.put_u32(meta::BITMAP_COUNT, count as u32 + 1);
    Ok(())
}

fn change_tuple_count(page: &mut Slotted<'_>, by: f64) -> Result<(), Fault> {
    let bytes = &mut page.bytes[meta::TUPLES..meta::TUPLES + 8];
    let count = bytes.first_chunk().map_or(0.0, |bytes| f64::from_le_bytes(*bytes));
    bytes.copy_from_slice(&(count + by).to_le_bytes());
    Ok(())
}

fn set_bit(page: &mut Slotted<'_>, data: &[u8], on: bool) -> Result<(), Fault> {
    let bit = ByteReader::new(data).u32()? as usize;
    let byte =
        page.bytes[..SPECIAL].get_mut(HEADER_SIZE + bit / 8).ok_or(Fault::Record("a bit lies outside the bitmap"))?;
    let mask = 1 << (bit % 8);
    *byte = if on { *byte | mask } else { *byte & !mask };
    Ok(())
}

/// Offset of the metapage's count of spare pages of a split point.
fn spares_of(point: u32) -> Result<usize, Fault> {
    if (point as usize) < meta::MAX_SPLIT_POINTS {
        Ok(meta::SPARES + point as usize * 4)
    } else {
        Err(Fault::Page("the metapage names an impossible split point"))
    }
}

/// Block 0 the new overflow page, 1 the page before it in the chain, 2 the bitmap page with its bit, 3 a new bitmap page, 4 the metapage.
fn add_overflow_page(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let data = change.record.block_data;
    match change.record.page_block_id {
        0 => {
            init(page, change.block(1)?, ByteReader::new(data).u32()?, OVERFLOW_PAGE);
            Ok(())
        }
        1 => {
            page.put_u32(NEXT, change.block(0)?);
            Ok(())
        }
        2 => set_bit(page, data, true),
        4 => {
            let mut fields = ByteReader::new(change.record.main_data);
            fields.skip(2)?;
            let reused = fields.u8()? != 0;
            page.put_u32(meta::FIRST_FREE, ByteReader::new(data).u32()?);
            if reused {
                return Ok(());
            }
            let new_bitmap = change.record.block(3);
            let spares = spares_of(page.u32_at(meta::SPLIT_POINT))?;
            page.put_u32(spares, page.u32_at(spares).wrapping_add(if new_bitmap.is_some() { 2 } else { 1 }));
            new_bitmap.map_or(Ok(()), |tag| add_bitmap(page, tag.block))
        }
        _ => change.unknown_block(),
    }
}

/// Block 0 the bucket that is split, 1 the new bucket, 2 the metapage.
fn split_allocate(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    const UPDATES_MASKS: u8 = 1;
    const UPDATES_SPLIT_POINT: u8 = 2;
    let mut fields = ByteReader::new(change.record.main_data);
    let (new_bucket, old_flags, new_flags, flags) = (fields.u32()?, fields.u16()?, fields.u16()?, fields.u8()?);
    match change.record.page_block_id {
        0 => {
            page.put_u16(FLAGS, old_flags);
            page.put_u32(PREVIOUS, new_bucket);
        }
        1 => init(page, new_bucket, new_bucket, new_flags),
        2 => {
            let mut data = ByteReader::new(change.record.block_data);
            page.put_u32(meta::MAX_BUCKET, new_bucket);
            if flags & UPDATES_MASKS != 0 {
                page.put_u32(meta::LOW_MASK, data.u32()?);
                page.put_u32(meta::HIGH_MASK, data.u32()?);
            }
            if flags & UPDATES_SPLIT_POINT != 0 {
                let (point, spares) = (data.u32()?, data.u32()?);
                page.put_u32(spares_of(point)?, spares);
                page.put_u32(meta::SPLIT_POINT, point);
            }
        }
        _ => return change.unknown_block(),
    }
    Ok(())
}

/// `count` item numbers, then the index tuples that go there.
fn add_tuples(page: &mut Slotted<'_>, data: &[u8], count: u16) -> Result<(), Fault> {
    let mut data = ByteReader::new(data);
    let mut numbers = ByteReader::new(data.bytes(2 * usize::from(count))?);
    let mut tuples = data.rest();
    while !numbers.rest().is_empty() {
        let number = numbers.u16()?;
        let info = tuples.get(6..8).ok_or(Fault::Record("an index tuple ends early"))?;
        let len = align8(usize::from(u16::from_le_bytes([info[0], info[1]]) & 0x1fff));
        let (tuple, rest) = tuples.split_at_checked(len).ok_or(Fault::Record("an index tuple ends early"))?;
        page.add_item(number, tuple, Place::Insert)?;
        tuples = rest;
    }
    if tuples.is_empty() { Ok(()) } else { Err(Fault::Record("it has more index tuples than places for them")) }
}

fn delete_items(page: &mut Slotted<'_>, numbers: &[u8]) -> Result<(), Fault> {
    page.delete_many(numbers.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])))
}

/// Block 1 the page that takes the tuples, 2 the overflow page that becomes free, 3 and 4 the pages before and behind it, 5 the bitmap
/// page, 6 the metapage.
fn squeeze(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let (previous, next, count) = (fields.u32()?, fields.u32()?, fields.u16()?);
    fields.skip(1)?;
    let target_is_previous = fields.u8()? != 0;
    let data = change.record.block_data;
    match change.record.page_block_id {
        1 => {
            if count > 0 {
                add_tuples(page, data, count)?;
            }
            if target_is_previous {
                page.put_u32(NEXT, next);
            }
        }
        2 => init(page, NONE, NONE, 0),
        3 => page.put_u32(NEXT, next),
        4 => page.put_u32(PREVIOUS, previous),
        5 => set_bit(page, data, false)?,
        6 => page.put_u32(meta::FIRST_FREE, ByteReader::new(data).u32()?),
        _ => return change.unknown_block(),
    }
    Ok(())
}

/// Block 0 the page that loses dead tuples, 1 the metapage.
fn vacuum_one_page(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    /// Horizon u32, number of tuples u16, catalog flag u8, 1 unused.
    const HEADER: usize = 8;
    let mut fields = ByteReader::new(change.record.main_data);
    fields.skip(4)?;
    let count = fields.u16()?;
    match change.record.page_block_id {
        0 => {
            let mut numbers = ByteReader::new(change.record.main_data);
            numbers.skip(HEADER)?;
            delete_items(page, numbers.bytes(2 * usize::from(count))?)?;
            page.put_u16(FLAGS, page.u16_at(FLAGS) & !HAS_DEAD_TUPLES);
            Ok(())
        }
        1 => change_tuple_count(page, -f64::from(count)),
        _ => change.unknown_block(),
    }
}

/// What is not compared of a page (`hash_mask`), beyond header hints and unused space.
pub(super) fn mask(page: &mut Slotted<'_>, mask_line_states: impl FnOnce(&mut Slotted<'_>)) {
    if page.special() != SPECIAL {
        return;
    }
    let flags = page.u16_at(FLAGS);
    match flags & (OVERFLOW_PAGE | BUCKET_PAGE | BITMAP_PAGE | META_PAGE) {
        0 => {
            page.bytes[HEADER_SIZE..].fill(0);
            page.put_u32(12, 0);
            return;
        }
        BUCKET_PAGE | OVERFLOW_PAGE => mask_line_states(page),
        _ => {}
    }
    page.put_u16(FLAGS, flags & !HAS_DEAD_TUPLES);
}
