//! Writing deltas. Each function replaces the content of `out`, a buffer that the caller keeps from record to record.

use super::{DELTA_VERSION, kind};
use crate::record::{BlockRef, FLAG_SAME_REL, ParsedRecord};

fn start(out: &mut Vec<u8>, kind: u8) {
    out.clear();
    out.extend_from_slice(&[DELTA_VERSION, kind]);
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A record as seen by `page`, one of its blocks. `main_data` is what redo reads of the record's main data: two pieces that are joined.
pub fn encode_record(out: &mut Vec<u8>, record: &ParsedRecord<'_>, page: &BlockRef, main_data: (&[u8], &[u8])) {
    let [xid_0, xid_1, xid_2, xid_3] = record.xid.to_le_bytes();
    let count = record.blocks().len() as u8;
    out.clear();
    out.extend_from_slice(&[
        DELTA_VERSION,
        kind::RECORD,
        record.rmid,
        record.rmgr_info(),
        xid_0,
        xid_1,
        xid_2,
        xid_3,
        page.id,
        count,
    ]);
    for block in record.blocks() {
        let applies = if block.image().is_some_and(|image| image.apply) { FLAG_SAME_REL } else { 0 };
        let [block_0, block_1, block_2, block_3] = block.block.to_le_bytes();
        let flags = block.fork_flags & !FLAG_SAME_REL | applies;
        out.extend_from_slice(&[block.id, flags, block_0, block_1, block_2, block_3]);
    }
    varint(out, main_data.0.len() + main_data.1.len());
    out.extend_from_slice(main_data.0);
    if !main_data.1.is_empty() {
        out.extend_from_slice(main_data.1);
    }
    out.extend_from_slice(record.block_data(page));
}

/// Clears visibility map bits: (heap block's index on the page, bits).
pub fn encode_vm_clear(out: &mut Vec<u8>, entries: &[(u16, u8)]) {
    start(out, kind::VM_CLEAR);
    for &(index, bits) in entries {
        out.extend_from_slice(&index.to_le_bytes());
        out.push(bits);
    }
}

/// Clears the visibility map bits behind the first `keep_heap_blocks` heap blocks of the page.
pub fn encode_vm_cut(out: &mut Vec<u8>, keep_heap_blocks: u16) {
    start(out, kind::VM_CUT);
    out.extend_from_slice(&keep_heap_blocks.to_le_bytes());
}

/// Clears the free space map's leaf slots behind the first `keep_slots` of the page.
pub fn encode_fsm_cut(out: &mut Vec<u8>, keep_slots: u16) {
    start(out, kind::FSM_CUT);
    out.extend_from_slice(&keep_slots.to_le_bytes());
}

/// Sets the status of the transactions with these indexes on a clog page.
pub fn encode_clog_status(out: &mut Vec<u8>, status: u8, indexes: impl Iterator<Item = u16>) {
    start(out, kind::CLOG_STATUS);
    out.push(status);
    indexes.for_each(|index| out.extend_from_slice(&index.to_le_bytes()));
}

/// Sets entries of a multixact offsets page: (index, offset).
pub fn encode_multixact_offsets(out: &mut Vec<u8>, entries: &[(u16, u32)]) {
    start(out, kind::MULTIXACT_OFFSETS);
    for (index, offset) in entries {
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
    }
}

/// Sets consecutive members on a multixact members page: (transaction, status).
pub fn encode_multixact_members(out: &mut Vec<u8>, first_index: u16, members: impl Iterator<Item = (u32, u8)>) {
    start(out, kind::MULTIXACT_MEMBERS);
    out.extend_from_slice(&first_index.to_le_bytes());
    for (xid, status) in members {
        out.extend_from_slice(&xid.to_le_bytes());
        out.push(status);
    }
}

/// Sets the commit time and origin of the transactions with these indexes on a commit timestamp page.
pub fn encode_commit_ts(out: &mut Vec<u8>, at_us: i64, origin: u16, indexes: impl Iterator<Item = u16>) {
    start(out, kind::COMMIT_TS);
    out.extend_from_slice(&at_us.to_le_bytes());
    out.extend_from_slice(&origin.to_le_bytes());
    indexes.for_each(|index| out.extend_from_slice(&index.to_le_bytes()));
}

/// The page becomes all zeros.
pub fn encode_zero(out: &mut Vec<u8>) {
    start(out, kind::ZERO);
}
