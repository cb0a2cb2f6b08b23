//! The heap tuple header (`HeapTupleHeaderData`) and the bits of it that redo changes.
//!
//! ```text
//!  0 xmin u32 | 4 xmax u32 | 8 command id u32 | 12 ctid: block high u16, block low u16, item u16
//! 18 infomask2 u16 | 20 infomask u16 | 22 offset of the data u8 | 23 null bitmap …
//! ```

use super::{
    Fault,
    page::{LineState, Slotted},
};

/// Bytes before the null bitmap (`SizeofHeapTupleHeader`).
pub(crate) const HEADER_SIZE: usize = 23;

pub(crate) const XMIN: usize = 0;
pub(crate) const XMAX: usize = 4;
pub(crate) const CID: usize = 8;
pub(crate) const CTID: usize = 12;
pub(crate) const INFOMASK2: usize = 18;
pub(crate) const INFOMASK: usize = 20;
pub(crate) const HOFF: usize = 22;

/// Bits of `t_infomask`.
pub(crate) const XMAX_KEYSHR_LOCK: u16 = 0x0010;
pub(crate) const COMBOCID: u16 = 0x0020;
pub(crate) const XMAX_EXCL_LOCK: u16 = 0x0040;
pub(crate) const XMAX_LOCK_ONLY: u16 = 0x0080;
pub(crate) const XMIN_COMMITTED: u16 = 0x0100;
pub(crate) const XMIN_INVALID: u16 = 0x0200;
pub(crate) const XMIN_FROZEN: u16 = XMIN_COMMITTED | XMIN_INVALID;
pub(crate) const XMAX_COMMITTED: u16 = 0x0400;
pub(crate) const XMAX_INVALID: u16 = 0x0800;
pub(crate) const XMAX_IS_MULTI: u16 = 0x1000;
const MOVED: u16 = 0xc000;
/// `HEAP_XMAX_BITS | HEAP_MOVED`: what a new `xmax` replaces.
const XMAX_BITS: u16 =
    XMAX_COMMITTED | XMAX_INVALID | XMAX_IS_MULTI | XMAX_EXCL_LOCK | XMAX_KEYSHR_LOCK | XMAX_LOCK_ONLY | MOVED;
/// `HEAP_XACT_MASK`: all bits about visibility.
pub(crate) const XACT_MASK: u16 = 0xfff0;

/// Bits of `t_infomask2`.
const KEYS_UPDATED: u16 = 0x2000;
pub(crate) const HOT_UPDATED: u16 = 0x4000;

/// Item number in `t_ctid` of a tuple whose insertion is speculative.
pub(crate) const SPECULATIVE_ITEM: u16 = 0xfffe;
/// `t_ctid` of a tuple that was moved to another partition.
pub(crate) const MOVED_PARTITIONS: (u32, u16) = (0xffff_ffff, 0xfffd);

/// A tuple's bytes, header included.
pub(crate) struct Tuple<'a>(pub &'a mut [u8]);

impl<'a> Tuple<'a> {
    /// The tuple behind a line pointer, which must be in state normal.
    pub(crate) fn at(page: &'a mut Slotted<'_>, item: u16) -> Result<Tuple<'a>, Fault> {
        if page.line(item)?.state != LineState::Normal {
            return Err(Fault::Page("the line pointer that the record names has no tuple"));
        }
        let bytes = page.item_mut(item)?;
        if bytes.len() < HEADER_SIZE {
            return Err(Fault::Page("a tuple is shorter than its header"));
        }
        Ok(Tuple(bytes))
    }

    pub(crate) fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn put_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn set_ctid(&mut self, (block, item): (u32, u16)) {
        self.put_u16(CTID, (block >> 16) as u16);
        self.put_u16(CTID + 2, block as u16);
        self.put_u16(CTID + 4, item);
    }

    pub(crate) fn change_infomask(&mut self, clear: u16, set: u16) {
        self.put_u16(INFOMASK, self.u16_at(INFOMASK) & !clear | set);
    }

    pub(crate) fn change_infomask2(&mut self, clear: u16, set: u16) {
        self.put_u16(INFOMASK2, self.u16_at(INFOMASK2) & !clear | set);
    }

    /// Replaces all that the tuple says about its `xmax`, from the record's `infobits_set`.
    pub(crate) fn set_xmax_bits(&mut self, infobits: u8) {
        let bit = |mask: u8, value: u16| if infobits & mask != 0 { value } else { 0 };
        let set = bit(0x01, XMAX_IS_MULTI)
            | bit(0x02, XMAX_LOCK_ONLY)
            | bit(0x04, XMAX_EXCL_LOCK)
            | bit(0x08, XMAX_KEYSHR_LOCK);
        self.change_infomask(XMAX_BITS, set);
        self.change_infomask2(KEYS_UPDATED, bit(0x10, KEYS_UPDATED));
    }

    /// The command id, and whether it stands for a pair of them (`HeapTupleHeaderSetCmax`).
    pub(crate) fn set_command(&mut self, cid: u32, combo: bool) {
        self.put_u32(CID, cid);
        self.change_infomask(COMBOCID, if combo { COMBOCID } else { 0 });
    }

    /// `HEAP_XMAX_IS_LOCKED_ONLY`: `xmax` locks, and neither deletes nor updates.
    pub(crate) fn is_only_locked(&self) -> bool {
        let mask = self.u16_at(INFOMASK);
        mask & XMAX_LOCK_ONLY != 0 || mask & (XMAX_IS_MULTI | XMAX_EXCL_LOCK | XMAX_KEYSHR_LOCK) == XMAX_EXCL_LOCK
    }
}
