//! Heap: insert, delete, update, lock, speculative confirmation, in-place update (`heapam_xlog.h`).
//!
//! Mirrors `heap_redo` (`heapam.c`). Deviations: command ids, see below; the visibility map and the free space map are pages of their own.
//!
//! Command ids: PostgreSQL does not log them; our compute appends the raw `t_cid` values to the main data and says so by a flag
//! ([`FLAG_COMMAND_ID`]). Records without it get `FirstCommandId`, as in PostgreSQL's own redo.

use super::{
    Change, Fault,
    page::{ALL_VISIBLE, Place, Slotted},
    tuple::{self, HOT_UPDATED, MOVED_PARTITIONS, Tuple},
};
use crate::{
    byte_reader::ByteReader,
    key::Page,
    v17::rmgr::heap::{CONFIRM, DELETE, FLAG_COMMAND_ID, HOT_UPDATE, INIT_PAGE, INPLACE, INSERT, LOCK, OPMASK, UPDATE},
};

/// In `infobits_set`, ours: the command id is a combo command id.
const INFOBIT_COMBO: u8 = 0x80;
/// `XLH_INSERT_ALL_VISIBLE_CLEARED`, `XLH_DELETE_ALL_VISIBLE_CLEARED`, `XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED`.
pub(super) const ALL_VISIBLE_CLEARED: u8 = 0x01;
/// `XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED`.
pub(super) const NEW_ALL_VISIBLE_CLEARED: u8 = 0x02;
const DELETE_IS_SUPER: u8 = 0x08;
const DELETE_IS_PARTITION_MOVE: u8 = 0x10;
const UPDATE_PREFIX_FROM_OLD: u8 = 0x20;
const UPDATE_SUFFIX_FROM_OLD: u8 = 0x40;

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    let page = &mut Slotted::new(page);
    let is_first_block = change.record.page_block_id == 0;
    match change.record.info & OPMASK {
        INSERT if is_first_block => insert(page, change),
        DELETE if is_first_block => delete(page, change),
        UPDATE | HOT_UPDATE => update(page, change),
        CONFIRM if is_first_block => confirm(page, change),
        LOCK if is_first_block => lock(page, change),
        INPLACE if is_first_block => inplace(page, change),
        INSERT | DELETE | CONFIRM | LOCK | INPLACE => change.unknown_block(),
        _ => Err(Fault::NotImplemented),
    }
}

/// The command id that stands `back` places before the end of the main data.
pub(super) fn command_id(main: &[u8], flags: u8, back: usize) -> Result<u32, Fault> {
    if flags & FLAG_COMMAND_ID == 0 {
        return Ok(0);
    }
    let at = main.len().checked_sub(4 * back).ok_or(Fault::Record("its command id is missing"))?;
    Ok(ByteReader::new(&main[at..]).u32()?)
}

/// What WAL stores of a new tuple's header, and the new version's place.
pub(super) struct NewTuple {
    pub infomask2: u16,
    pub infomask: u16,
    pub hoff: u8,
    pub xmin: u32,
    pub xmax: u32,
    pub cid: u32,
    pub ctid: (u32, u16),
}

impl NewTuple {
    /// Fills the header at the start of `tuple`; the null bitmap and the data behind it are the caller's.
    pub(super) fn write_header(&self, tuple: &mut Tuple<'_>) {
        tuple.0[..tuple::HEADER_SIZE].fill(0);
        tuple.put_u32(tuple::XMIN, self.xmin);
        tuple.put_u32(tuple::XMAX, self.xmax);
        tuple.put_u16(tuple::INFOMASK2, self.infomask2);
        tuple.put_u16(tuple::INFOMASK, self.infomask);
        tuple.0[tuple::HOFF] = self.hoff;
        tuple.set_command(self.cid, false);
        tuple.set_ctid(self.ctid);
    }
}

fn insert(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let main = change.record.main_data;
    let mut fields = ByteReader::new(main);
    let (item, flags) = (fields.u16()?, fields.u8()?);
    if change.record.info & INIT_PAGE != 0 {
        page.init(0);
    }
    let mut data = ByteReader::new(change.record.block_data);
    let new = NewTuple {
        infomask2: data.u16()?,
        infomask: data.u16()?,
        hoff: data.u8()?,
        xmin: change.record.xid,
        xmax: 0,
        cid: command_id(main, flags, 1)?,
        ctid: (change.at.block, item),
    };
    add_tuple(page, &new, data.rest())?;
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    Ok(())
}

/// Adds a tuple whose bytes behind the header are `rest`, at the place that its `ctid` names.
pub(super) fn add_tuple(page: &mut Slotted<'_>, new: &NewTuple, rest: &[u8]) -> Result<(), Fault> {
    let len = tuple::HEADER_SIZE + rest.len();
    let at = page.add(new.ctid.1, len, Place::Heap)?;
    let bytes = &mut page.bytes[at..at + len];
    bytes[tuple::HEADER_SIZE..].copy_from_slice(rest);
    new.write_header(&mut Tuple(bytes));
    Ok(())
}

/// `PageSetPrunable`: remembers the oldest transaction whose end may make a tuple removable.
fn set_prunable(page: &mut Slotted<'_>, xid: u32) {
    let old = page.u32_at(20);
    let precedes = if xid < 3 || old < 3 { xid < old } else { (xid.wrapping_sub(old) as i32) < 0 };
    if old == 0 || precedes {
        page.put_u32(20, xid);
    }
}

fn delete(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let main = change.record.main_data;
    let mut fields = ByteReader::new(main);
    let (xmax, item, infobits, flags) = (fields.u32()?, fields.u16()?, fields.u8()?, fields.u8()?);
    let cid = command_id(main, flags, 1)?;
    let mut old = Tuple::at(page, item)?;
    old.set_xmax_bits(infobits);
    old.change_infomask2(HOT_UPDATED, 0);
    if flags & DELETE_IS_SUPER == 0 {
        old.put_u32(tuple::XMAX, xmax);
    } else {
        old.put_u32(tuple::XMIN, 0);
    }
    old.set_command(cid, infobits & INFOBIT_COMBO != 0);
    old.set_ctid(if flags & DELETE_IS_PARTITION_MOVE != 0 { MOVED_PARTITIONS } else { (change.at.block, item) });
    set_prunable(page, change.record.xid);
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    Ok(())
}

/// Main data of update and HOT update (`xl_heap_update`).
struct Update {
    old_xmax: u32,
    old_item: u16,
    old_infobits: u8,
    flags: u8,
    new_xmax: u32,
    new_item: u16,
    old_cid: u32,
    new_cid: u32,
}

impl Update {
    fn read(main: &[u8]) -> Result<Update, Fault> {
        let mut fields = ByteReader::new(main);
        let (old_xmax, old_item, old_infobits, flags) = (fields.u32()?, fields.u16()?, fields.u8()?, fields.u8()?);
        Ok(Update {
            old_xmax,
            old_item,
            old_infobits,
            flags,
            new_xmax: fields.u32()?,
            new_item: fields.u16()?,
            old_cid: command_id(main, flags, 2)?,
            new_cid: command_id(main, flags, 1)?,
        })
    }
}

/// Block 0 is the new version's page; block 1 the old one's, absent when both are on one page.
fn update(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let update = Update::read(change.record.main_data)?;
    let one_page = change.record.block(1).is_none();
    match change.record.page_block_id {
        0 if one_page => {
            update_old(page, change, &update)?;
            update_new(page, change, &update, true)
        }
        0 => {
            if change.record.info & INIT_PAGE != 0 {
                page.init(0);
            }
            update_new(page, change, &update, false)
        }
        1 => update_old(page, change, &update),
        _ => change.unknown_block(),
    }
}

fn update_old(page: &mut Slotted<'_>, change: &Change<'_>, update: &Update) -> Result<(), Fault> {
    let hot = change.record.info & OPMASK == HOT_UPDATE;
    let new_block = change.block(0)?;
    let mut old = Tuple::at(page, update.old_item)?;
    old.set_xmax_bits(update.old_infobits);
    old.change_infomask2(HOT_UPDATED, if hot { HOT_UPDATED } else { 0 });
    old.put_u32(tuple::XMAX, update.old_xmax);
    old.set_command(update.old_cid, update.old_infobits & INFOBIT_COMBO != 0);
    old.set_ctid((new_block, update.new_item));
    set_prunable(page, change.record.xid);
    if update.flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    Ok(())
}

/// The block's data is the new tuple without what its start and end share with the old tuple, which is then on the same page.
fn update_new(page: &mut Slotted<'_>, change: &Change<'_>, update: &Update, one_page: bool) -> Result<(), Fault> {
    let mut data = ByteReader::new(change.record.block_data);
    let prefix = if update.flags & UPDATE_PREFIX_FROM_OLD != 0 { usize::from(data.u16()?) } else { 0 };
    let suffix = if update.flags & UPDATE_SUFFIX_FROM_OLD != 0 { usize::from(data.u16()?) } else { 0 };
    let new = NewTuple {
        infomask2: data.u16()?,
        infomask: data.u16()?,
        hoff: data.u8()?,
        xmin: change.record.xid,
        xmax: update.new_xmax,
        cid: update.new_cid,
        ctid: (change.at.block, update.new_item),
    };
    // Without a prefix the bitmap and the data need no telling apart.
    let bitmap_len = match prefix {
        0 => 0,
        _ => usize::from(new.hoff).checked_sub(tuple::HEADER_SIZE).ok_or(Fault::Record("its tuple has no header"))?,
    };
    let bitmap = data.bytes(bitmap_len)?;
    let middle = data.rest();

    let len = tuple::HEADER_SIZE + bitmap.len() + prefix + middle.len() + suffix;
    let shared =
        if prefix + suffix > 0 { shared_parts(page, update.old_item, prefix, suffix, one_page)? } else { (0, 0) };
    let start = page.add(update.new_item, len, Place::Heap)?;
    let mut at = start + tuple::HEADER_SIZE;
    page.bytes[at..at + bitmap.len()].copy_from_slice(bitmap);
    at += bitmap.len();
    page.bytes.copy_within(shared.0..shared.0 + prefix, at);
    at += prefix;
    page.bytes[at..at + middle.len()].copy_from_slice(middle);
    at += middle.len();
    page.bytes.copy_within(shared.1..shared.1 + suffix, at);
    new.write_header(&mut Tuple(&mut page.bytes[start..start + len]));
    if update.flags & NEW_ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    Ok(())
}

/// Where on the page the shared prefix and suffix of the old tuple start.
fn shared_parts(
    page: &mut Slotted<'_>,
    item: u16,
    prefix: usize,
    suffix: usize,
    one_page: bool,
) -> Result<(usize, usize), Fault> {
    if !one_page {
        return Err(Fault::Record("its tuple shares bytes with a tuple of another page"));
    }
    let range = page.item_range(item)?;
    let hoff = usize::from(Tuple::at(page, item)?.0[tuple::HOFF]);
    if hoff + prefix > range.len() || hoff + suffix > range.len() {
        return Err(Fault::Record("its tuple shares more bytes with the old one than that has"));
    }
    Ok((range.start + hoff, range.end - suffix))
}

/// A speculative insertion becomes a real one.
fn confirm(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let item = ByteReader::new(change.record.main_data).u16()?;
    Tuple::at(page, item)?.set_ctid((change.at.block, item));
    Ok(())
}

fn lock(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let main = change.record.main_data;
    let mut fields = ByteReader::new(main);
    let (xmax, item, infobits, flags) = (fields.u32()?, fields.u16()?, fields.u8()?, fields.u8()?);
    let cid = command_id(main, flags, 1)?;
    let mut locked = Tuple::at(page, item)?;
    locked.set_xmax_bits(infobits);
    if locked.is_only_locked() {
        locked.change_infomask2(HOT_UPDATED, 0);
        locked.set_ctid((change.at.block, item));
    }
    locked.put_u32(tuple::XMAX, xmax);
    locked.set_command(cid, infobits & INFOBIT_COMBO != 0);
    Ok(())
}

/// Overwrites a tuple's data (catalog statistics); its length stays.
fn inplace(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let item = ByteReader::new(change.record.main_data).u16()?;
    let new = change.record.block_data;
    let old = Tuple::at(page, item)?;
    let hoff = usize::from(old.0[tuple::HOFF]);
    match old.0.get_mut(hoff..) {
        Some(data) if data.len() == new.len() => data.copy_from_slice(new),
        _ => return Err(Fault::Page("the tuple has another length")),
    }
    Ok(())
}
