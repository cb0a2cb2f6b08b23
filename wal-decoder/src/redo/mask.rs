//! What PostgreSQL does not promise to be equal on a page after replay (its `rm_mask` functions, `bufmask.c`): LSN and checksum, unused
//! space, hint bits. Both sides of a comparison are masked and then compared byte for byte.
//!
//! Mirrors `bufmask.c` and each manager's `rm_mask`; `test_runner/tests/test_walcheck.py` compares the two on real pages. Deviations, all of
//! them stricter: pages of the visibility map keep their bits, which `heap_mask` blanks; with [`Strictness::command_ids`] heap tuples keep
//! `t_cid` and the combo bit; a page whose header is damaged is left alone where PostgreSQL raises an error.

use super::{
    brin, btree, gin, gist, hash,
    page::{ALL_VISIBLE, HAS_FREE_LINES, HEADER_SIZE, LineState, PAGE_FULL, Slotted, align8},
    tuple::{self, Tuple},
};
use crate::{
    key::{Fork, Page},
    redo::PageRef,
    v17::rmgr,
};

/// How much to compare beyond what PostgreSQL's own check compares.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Strictness {
    /// The WAL carries command ids: compare `t_cid` and the combo bit of heap tuples too.
    pub command_ids: bool,
}

/// Masks a page after a record of resource manager `rmid`. Pages of the visibility map and of managers without a mask keep all but
/// their LSN and checksum. A page whose header is damaged is left as it is.
pub fn mask(page: &mut Page, rmid: u8, at: PageRef, strictness: Strictness) {
    page[..10].fill(0);
    if at.rel.fork == Fork::VisibilityMap || at.rel.fork == Fork::FreeSpaceMap {
        return;
    }
    let page = &mut Slotted::new(page);
    match rmid {
        rmgr::HEAP | rmgr::HEAP2 => heap(page, at.block, strictness),
        rmgr::BTREE => b_tree(page),
        rmgr::HASH => {
            hint_bits(page);
            // PostgreSQL checks the header before it blanks the content of an unused page, `pd_lower` and `pd_upper` included.
            if page.check_header().is_ok() {
                unused_space(page);
                hash::mask(page, line_states);
            }
        }
        rmgr::GIN => {
            hint_bits(page);
            if gin::is_deleted(page) {
                page.bytes[HEADER_SIZE..].fill(0);
                page.put_u32(12, 0);
            } else if page.lower() > HEADER_SIZE {
                unused_space(page);
            }
        }
        rmgr::GIST => {
            hint_bits(page);
            unused_space(page);
            gist::mask(page, line_states);
        }
        rmgr::SPGIST => {
            hint_bits(page);
            unused_space(page);
        }
        rmgr::BRIN => {
            hint_bits(page);
            if brin::mask(page) {
                unused_space(page);
            }
        }
        rmgr::SEQ | rmgr::GENERIC => unused_space(page),
        _ => {}
    }
}

fn unused_space(page: &mut Slotted<'_>) {
    let (lower, upper) = (page.lower(), page.upper());
    if page.check_header().is_ok() {
        page.bytes[lower..upper].fill(0);
    }
}

fn hint_bits(page: &mut Slotted<'_>) {
    page.put_u32(20, 0);
    page.set_flag(PAGE_FULL | HAS_FREE_LINES | ALL_VISIBLE, false);
}

fn line_states(page: &mut Slotted<'_>) {
    for number in 1..=page.count() as u16 {
        if let Ok(line) = page.line(number)
            && line.state != LineState::Unused
        {
            let at = HEADER_SIZE + usize::from(number - 1) * 4;
            page.put_u32(at, page.u32_at(at) & !(3 << 15));
        }
    }
}

fn heap(page: &mut Slotted<'_>, block: u32, strictness: Strictness) {
    hint_bits(page);
    unused_space(page);
    for number in 1..=page.count() as u16 {
        let (Ok(line), Ok(range)) = (page.line(number), page.item_range(number)) else { continue };
        if let Ok(mut tuple) = Tuple::at(page, number) {
            heap_tuple(&mut tuple, (block, number), strictness);
        }
        let padded = (line.offset + align8(line.len)).min(page.bytes.len());
        page.bytes[range.end..padded].fill(0);
    }
}

fn heap_tuple(tuple: &mut Tuple<'_>, itself: (u32, u16), strictness: Strictness) {
    let infomask = tuple.u16_at(tuple::INFOMASK);
    let combo = if strictness.command_ids { tuple::COMBOCID } else { 0 };
    if infomask & tuple::XMIN_FROZEN == tuple::XMIN_FROZEN {
        tuple.change_infomask(tuple::XMAX_INVALID | tuple::XMAX_COMMITTED, 0);
    } else {
        tuple.change_infomask(tuple::XACT_MASK & !combo, 0);
    }
    if !strictness.command_ids {
        tuple.put_u32(tuple::CID, 0);
    }
    // A speculative insertion's token is never logged.
    if tuple.u16_at(tuple::CTID + 4) == tuple::SPECULATIVE_ITEM {
        tuple.set_ctid(itself);
    }
}

fn b_tree(page: &mut Slotted<'_>) {
    hint_bits(page);
    unused_space(page);
    if page.special() != btree::SPECIAL {
        return;
    }
    let flags = page.u16_at(btree::FLAGS);
    if flags & btree::LEAF != 0 {
        line_states(page);
    }
    page.put_u16(btree::FLAGS, flags & !(btree::HAS_GARBAGE | btree::SPLIT_END));
    page.put_u16(btree::CYCLE, 0);
}
