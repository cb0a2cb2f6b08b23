//! SMGR, DBASE and RELMAP: relations and databases come, shrink and go.

use super::{Context, InterpretErrorKind, Interpreter, Outcome};
use crate::{
    byte_reader::ByteReader,
    delta,
    effect::{Effect, EffectSink, Version},
    key::{Fork, Rel},
    v17::{HEAP_BLOCKS_PER_VM_PAGE, RELMAP_SIZE, SLOTS_PER_FSM_PAGE, rmgr},
};

impl Interpreter {
    pub(super) fn storage_manager(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let mut r = ByteReader::new(context.record.main_data);
        match context.record.rmgr_info() {
            rmgr::smgr::CREATE => {
                let rel = Rel { spc: r.u32()?, db: r.u32()?, rel: r.u32()? };
                let fork = u8::try_from(r.u32()?).ok().and_then(Fork::from_number);
                let fork = fork.ok_or(InterpretErrorKind::Malformed("unknown fork number"))?;
                sink.effect(Effect::RelCreate { rel: rel.fork(fork) });
            }
            rmgr::smgr::TRUNCATE => {
                let heap_blocks = r.u32()?;
                let rel = Rel { spc: r.u32()?, db: r.u32()?, rel: r.u32()? };
                self.truncate(rel, heap_blocks, r.u32()?, sink);
            }
            _ => return Err(InterpretErrorKind::UnknownInfo),
        }
        Ok(())
    }

    /// The maps shrink with the heap. On the page of a map where the cut falls the entries behind it are cleared: a heap that grows
    /// again would inherit them otherwise, and a stale all-visible bit gives wrong answers.
    fn truncate(&mut self, rel: Rel, heap_blocks: u32, flags: u32, sink: &mut dyn EffectSink) {
        use rmgr::smgr;
        sink.effect(Effect::RelCreate { rel: rel.fork(Fork::Main) });
        if flags & smgr::TRUNCATE_HEAP != 0 {
            sink.effect(Effect::RelTruncate { rel: rel.fork(Fork::Main), blocks: heap_blocks });
        }
        if flags & smgr::TRUNCATE_FSM != 0 {
            let fork = rel.fork(Fork::FreeSpaceMap);
            let leaf = heap_blocks / SLOTS_PER_FSM_PAGE;
            let keep_slots = (heap_blocks % SLOTS_PER_FSM_PAGE) as u16;
            let mut blocks = free_space_map_block(leaf);
            if keep_slots > 0 {
                delta::encode_fsm_cut(&mut self.scratch.delta, keep_slots);
                self.existing_page(fork, blocks, sink);
                blocks += 1;
            }
            sink.effect(Effect::RelTruncate { rel: fork, blocks });
        }
        if flags & smgr::TRUNCATE_VM != 0 {
            let fork = rel.fork(Fork::VisibilityMap);
            let mut blocks = heap_blocks / HEAP_BLOCKS_PER_VM_PAGE;
            let keep_heap_blocks = (heap_blocks % HEAP_BLOCKS_PER_VM_PAGE) as u16;
            if keep_heap_blocks > 0 {
                delta::encode_vm_cut(&mut self.scratch.delta, keep_heap_blocks);
                self.existing_page(fork, blocks, sink);
                blocks += 1;
            }
            sink.effect(Effect::RelTruncate { rel: fork, blocks });
        }
    }

    fn existing_page(&self, rel: crate::key::RelFork, block: u32, sink: &mut dyn EffectSink) {
        let version = Version::Delta { bytes: &self.scratch.delta, will_init: false };
        sink.effect(Effect::Page { rel, block, version, only_existing: true });
    }

    pub(super) fn database(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let mut r = ByteReader::new(context.record.main_data);
        match context.record.rmgr_info() {
            rmgr::dbase::CREATE_FILE_COPY => {
                let (db, spc, from_db, from_spc) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
                sink.effect(Effect::DatabaseCreate { spc, db, copy_of: Some((from_spc, from_db)) });
            }
            rmgr::dbase::CREATE_WAL_LOG => {
                let (db, spc) = (r.u32()?, r.u32()?);
                sink.effect(Effect::DatabaseCreate { spc, db, copy_of: None });
            }
            rmgr::dbase::DROP => {
                let (db, count) = (r.u32()?, r.u32()? as usize);
                let (tablespaces, _) = r.bytes(count.saturating_mul(4))?.as_chunks();
                for spc in tablespaces {
                    sink.effect(Effect::DatabaseDrop { spc: u32::from_le_bytes(*spc), db });
                }
            }
            _ => return Err(InterpretErrorKind::UnknownInfo),
        }
        Ok(())
    }

    pub(super) fn relmap(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        if context.record.rmgr_info() != rmgr::relmap::UPDATE {
            return Err(InterpretErrorKind::UnknownInfo);
        }
        let mut r = ByteReader::new(context.record.main_data);
        let (db, spc, size) = (r.u32()?, r.u32()?, r.u32()? as usize);
        if size != RELMAP_SIZE {
            return Err(InterpretErrorKind::Malformed("relation map is not of 524 bytes"));
        }
        sink.effect(Effect::RelMap { spc, db, image: r.bytes(size)? });
        Ok(())
    }
}

/// Where a leaf of the free space map is in its fork (`fsm_logical_to_physical`): the tree is stored depth first, three levels deep.
fn free_space_map_block(leaf: u32) -> u32 {
    let level_1 = leaf / SLOTS_PER_FSM_PAGE;
    let level_2 = level_1 / SLOTS_PER_FSM_PAGE;
    // Leaves before this one, and the inner pages in front of them and of itself.
    leaf + (level_1 + 1) + (level_2 + 1)
}
