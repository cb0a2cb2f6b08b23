//! Heap and Heap2: besides their pages, changes clear bits of the visibility map.
//!
//! Until 17.10 the map's page was not a block reference: a flag in the main data says that its bits go. Since 17.11 it is one, when its bits
//! really changed. Both forms become the same delta here, one per map page, since the old and the new version of a row may be covered by
//! different map pages, or by the same one.

use super::{Context, InterpretErrorKind, Interpreter, Outcome};
use crate::{
    delta,
    effect::{Effect, EffectSink, Version},
    key::Fork,
    record::ParsedRecord,
    v17::{HEAP_BLOCKS_PER_VM_PAGE, rmgr},
};

const ALL_VISIBLE_AND_FROZEN: u8 = 3;
const ALL_FROZEN: u8 = 2;
const NEW_CLEARED: u8 = 2;
const OLD_CLEARED: u8 = 1;

/// Heap blocks whose map bits go; at most the new and the old one of an update.
#[derive(Default)]
struct Cleared {
    blocks: [(u32, u8); 2],
    count: usize,
}

impl Cleared {
    fn add(&mut self, heap_block: u32, bits: u8) {
        if !self.as_slice().contains(&(heap_block, bits)) {
            self.blocks[self.count] = (heap_block, bits);
            self.count += 1;
        }
    }

    fn as_slice(&self) -> &[(u32, u8)] {
        &self.blocks[..self.count]
    }
}

impl Interpreter {
    pub(super) fn heap(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let record = context.record;
        use rmgr::heap2;
        if record.rmid == rmgr::HEAP2 {
            match record.rmgr_info() & heap2::OPMASK {
                // For logical decoding only. REWRITE writes mapping files, which no page depends on.
                heap2::REWRITE | heap2::NEW_CID => return Ok(()),
                // Here the map is a page like any other: redo sets its bits.
                heap2::VISIBLE => return self.block_references(context, sink),
                _ => {}
            }
        } else if record.rmgr_info() & rmgr::heap::OPMASK == rmgr::heap::TRUNCATE {
            return Ok(()); // For logical decoding only.
        }
        let cleared = cleared_blocks(record)?;
        for block in record.blocks() {
            if block.rel.fork != Fork::VisibilityMap {
                self.scratch.block(context, block, sink)?;
            } else if let Some(image) = block.applied_image() {
                self.scratch.image(context, block, &image, sink)?;
            }
        }
        self.clear_map_bits(context, &cleared, sink);
        Ok(())
    }

    /// One delta per map page, except those that came as images.
    fn clear_map_bits(&mut self, context: &Context<'_>, cleared: &Cleared, sink: &mut dyn EffectSink) {
        let Some(heap) = context.record.block(0) else { return };
        let map = heap.rel.rel.fork(Fork::VisibilityMap);
        let page_of = |heap_block: u32| heap_block / HEAP_BLOCKS_PER_VM_PAGE;
        let mut done = None;
        for &(first, _) in cleared.as_slice() {
            let page = page_of(first);
            if done == Some(page) {
                continue;
            }
            done = Some(page);
            let reference = context.record.blocks().iter().find(|block| block.rel == map && block.block == page);
            if reference.is_some_and(|block| block.applied_image().is_some()) {
                continue;
            }
            let mut entries = [(0, 0); 2];
            let mut count = 0;
            for &(heap_block, bits) in cleared.as_slice().iter().filter(|(block, _)| page_of(*block) == page) {
                entries[count] = ((heap_block % HEAP_BLOCKS_PER_VM_PAGE) as u16, bits);
                count += 1;
            }
            delta::encode_vm_clear(&mut self.scratch.delta, &entries[..count]);
            let version = Version::Delta { bytes: &self.scratch.delta, will_init: false };
            sink.effect(Effect::Page { rel: map, block: page, version, only_existing: reference.is_none() });
        }
    }
}

/// Reads the flags. The blocks are found by id, not by position: 0 is the (new) heap block, 1 of an update the old one if it differs.
fn cleared_blocks(record: &ParsedRecord<'_>) -> Result<Cleared, InterpretErrorKind> {
    use rmgr::{heap, heap2};
    let mut cleared = Cleared::default();
    let flags_at = match (record.rmid, record.rmgr_info() & heap::OPMASK) {
        (rmgr::HEAP, heap::INSERT) => 2,
        (rmgr::HEAP, heap::DELETE | heap::UPDATE | heap::HOT_UPDATE | heap::LOCK) => 7,
        (rmgr::HEAP2, heap2::MULTI_INSERT) => 0,
        (rmgr::HEAP2, heap2::LOCK_UPDATED) => 7,
        _ => return Ok(cleared),
    };
    let flags =
        *record.main_data.get(flags_at).ok_or(InterpretErrorKind::Malformed("main data ends before its flags"))?;
    let new = record.block(0).ok_or(InterpretErrorKind::Malformed("the heap block is missing"))?.block;
    match (record.rmid, record.rmgr_info() & heap::OPMASK) {
        (rmgr::HEAP, heap::UPDATE | heap::HOT_UPDATE) => {
            let old = record.block(1).map_or(new, |block| block.block);
            if flags & NEW_CLEARED != 0 {
                cleared.add(new, ALL_VISIBLE_AND_FROZEN);
            }
            if flags & OLD_CLEARED != 0 {
                cleared.add(old, ALL_VISIBLE_AND_FROZEN);
            }
        }
        (rmgr::HEAP, heap::LOCK) | (rmgr::HEAP2, heap2::LOCK_UPDATED) if flags & 1 != 0 => {
            cleared.add(new, ALL_FROZEN);
        }
        _ if flags & 1 != 0 => cleared.add(new, ALL_VISIBLE_AND_FROZEN),
        _ => {}
    }
    Ok(cleared)
}
