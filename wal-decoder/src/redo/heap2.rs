//! Heap, second part: prune and freeze, visible, multi-insert, lock of an updated version (`heapam_xlog.h`).
//!
//! Mirrors `heap2_redo` (`heapam.c`) and `heap_page_prune_execute` (`pruneheap.c`). Deviations: command ids of multi-inserts, see
//! [`super::heap`]; no snapshot conflicts; the maps are pages of their own.

use super::{
    Change, Fault, heap,
    page::{ALL_VISIBLE, LinePointer, LineState, Slotted},
    tuple::{self, Tuple},
};
use crate::{
    byte_reader::ByteReader,
    key::Page,
    v17::rmgr::{
        heap::{INIT_PAGE, OPMASK},
        heap2::{LOCK_UPDATED, MULTI_INSERT, PRUNE_ON_ACCESS, PRUNE_VACUUM_CLEANUP, PRUNE_VACUUM_SCAN, VISIBLE},
    },
};

/// `XLH_INSERT_ALL_FROZEN_SET`.
const ALL_FROZEN_SET: u8 = 0x20;

/// `XLHP_*`: which parts a prune record has.
const CLEANUP_LOCK: u8 = 0x04;
const HAS_FREEZE_PLANS: u8 = 0x10;
const HAS_REDIRECTIONS: u8 = 0x20;
const HAS_DEAD_ITEMS: u8 = 0x40;
const HAS_NOW_UNUSED_ITEMS: u8 = 0x80;
/// Bytes of `xlhp_freeze_plan`: xmax u32, infomask2 u16, infomask u16, flags u8, 1 unused, number of tuples u16.
const FREEZE_PLAN_SIZE: usize = 12;
const FREEZE_XVAC: u8 = 0x02;
const INVALID_XVAC: u8 = 0x04;

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    let page = &mut Slotted::new(page);
    match (change.record.info & OPMASK, change.record.page_block_id) {
        (PRUNE_ON_ACCESS | PRUNE_VACUUM_SCAN | PRUNE_VACUUM_CLEANUP, 0) => prune(page, change),
        (MULTI_INSERT, 0) => multi_insert(page, change),
        (LOCK_UPDATED, 0) => lock_updated(page, change),
        // Block 0 is the visibility map.
        (VISIBLE, 1) => {
            page.set_flag(ALL_VISIBLE, true);
            Ok(())
        }
        (PRUNE_ON_ACCESS | PRUNE_VACUUM_SCAN | PRUNE_VACUUM_CLEANUP | MULTI_INSERT | LOCK_UPDATED | VISIBLE, _) => {
            change.unknown_block()
        }
        _ => Err(Fault::NotImplemented),
    }
}

fn u16s(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
}

/// A counted list of item numbers, `per_entry` of them for each entry; empty when the flag says that it is absent.
fn items<'a>(data: &mut ByteReader<'a>, present: bool, per_entry: usize) -> Result<&'a [u8], Fault> {
    if !present {
        return Ok(&[]);
    }
    let count = usize::from(data.u16()?);
    Ok(data.bytes(count * per_entry * 2)?)
}

fn prune(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut main = ByteReader::new(change.record.main_data);
    let (_reason, flags) = (main.u8()?, main.u8()?);
    let mut data = ByteReader::new(change.record.block_data);
    let plans = if flags & HAS_FREEZE_PLANS != 0 {
        let count = usize::from(data.u16()?);
        data.skip(2)?;
        data.bytes(count * FREEZE_PLAN_SIZE)?
    } else {
        &[]
    };
    let redirected = items(&mut data, flags & HAS_REDIRECTIONS != 0, 2)?;
    let dead = items(&mut data, flags & HAS_DEAD_ITEMS != 0, 1)?;
    let unused = items(&mut data, flags & HAS_NOW_UNUSED_ITEMS != 0, 1)?;

    for pair in redirected.chunks_exact(4) {
        let (from, to) = (u16::from_le_bytes([pair[0], pair[1]]), u16::from_le_bytes([pair[2], pair[3]]));
        page.line(to)?;
        page.set_line(from, LinePointer { offset: usize::from(to), state: LineState::Redirect, len: 0 })?;
    }
    for item in u16s(dead) {
        page.set_line(item, LinePointer::DEAD)?;
    }
    for item in u16s(unused) {
        page.set_line(item, LinePointer::UNUSED)?;
    }
    if redirected.len() + dead.len() + unused.len() > 0 {
        if flags & CLEANUP_LOCK == 0 {
            page.truncate_lines()?;
        } else {
            page.repair_fragmentation()?;
        }
    }
    freeze(page, plans, &mut data)
}

/// Each plan says what becomes of its tuples' headers; the item numbers of all plans follow each other.
fn freeze(page: &mut Slotted<'_>, plans: &[u8], items: &mut ByteReader<'_>) -> Result<(), Fault> {
    for plan in plans.chunks_exact(FREEZE_PLAN_SIZE) {
        let mut plan = ByteReader::new(plan);
        let (xmax, infomask2, infomask, flags) = (plan.u32()?, plan.u16()?, plan.u16()?, plan.u8()?);
        plan.skip(1)?;
        let count = usize::from(plan.u16()?);
        for item in u16s(items.bytes(count * 2)?) {
            let mut frozen = Tuple::at(page, item)?;
            frozen.put_u32(tuple::XMAX, xmax);
            if flags & FREEZE_XVAC != 0 {
                frozen.put_u32(tuple::CID, 2);
            }
            if flags & INVALID_XVAC != 0 {
                frozen.put_u32(tuple::CID, 0);
            }
            frozen.put_u16(tuple::INFOMASK, infomask);
            frozen.put_u16(tuple::INFOMASK2, infomask2);
        }
    }
    if items.rest().is_empty() { Ok(()) } else { Err(Fault::Record("bytes follow its last part")) }
}

/// The block's data is a row of (length u16, infomask2 u16, infomask u16, hoff u8, bytes), each aligned to 2.
fn multi_insert(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let main = change.record.main_data;
    let init = change.record.info & INIT_PAGE != 0;
    let mut fields = ByteReader::new(main);
    let flags = fields.u8()?;
    fields.skip(1)?;
    let count = fields.u16()?;
    let cid = heap::command_id(main, flags, 1)?;
    if init {
        page.init(0);
    }
    let data = change.record.block_data;
    let mut at = 0usize;
    for index in 0..count {
        let item = if init { index + 1 } else { fields.u16()? };
        at += at % 2;
        let mut header = ByteReader::new(data.get(at..).ok_or(Fault::Record("it ends early"))?);
        let len = usize::from(header.u16()?);
        let new = heap::NewTuple {
            infomask2: header.u16()?,
            infomask: header.u16()?,
            hoff: header.u8()?,
            xmin: change.record.xid,
            xmax: 0,
            cid,
            ctid: (change.at.block, item),
        };
        heap::add_tuple(page, &new, header.bytes(len)?)?;
        at += 7 + len;
    }
    if at != data.len() {
        return Err(Fault::Record("its tuples do not fill its data"));
    }
    if flags & heap::ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    if flags & ALL_FROZEN_SET != 0 {
        page.set_flag(ALL_VISIBLE, true);
    }
    Ok(())
}

fn lock_updated(page: &mut Slotted<'_>, change: &Change<'_>) -> Result<(), Fault> {
    let mut fields = ByteReader::new(change.record.main_data);
    let (xmax, item, infobits) = (fields.u32()?, fields.u16()?, fields.u8()?);
    let mut locked = Tuple::at(page, item)?;
    locked.set_xmax_bits(infobits);
    locked.put_u32(tuple::XMAX, xmax);
    Ok(())
}
