//! The free space map: a page is a binary tree of maxima in an array, 4,095 inner nodes before 4,069 leaves (`fsm_internals.h`).
//!
//! Mirrors `FreeSpaceMapPrepareTruncateRel` (`freespace.c`, `fsmpage.c`). Deviation: redo of other records keeps no free space in the map,
//! as it is a hint that the first vacuum mends.

use super::page::{HEADER_SIZE, Slotted};
use crate::key::{PAGE_SIZE, Page};

/// Nodes follow the page header and a hint of 4 bytes.
const FIRST_NODE: usize = HEADER_SIZE + 4;
const NODES: usize = PAGE_SIZE - FIRST_NODE;
const INNER_NODES: usize = PAGE_SIZE / 2 - 1;

/// Sets the leaves from `keep_slots` on to 0 and recomputes the inner nodes.
pub(super) fn cut(page: &mut Page, keep_slots: u16) {
    if Slotted::new(page).is_new() {
        return;
    }
    let nodes = &mut page[FIRST_NODE..];
    nodes[INNER_NODES + usize::from(keep_slots)..].fill(0);
    for node in (0..INNER_NODES).rev() {
        let child = |at: usize| if at < NODES { nodes[at] } else { 0 };
        nodes[node] = child(2 * node + 1).max(child(2 * node + 2));
    }
}
