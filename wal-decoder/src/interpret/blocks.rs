//! Block references: an image that applies becomes the page, all others become deltas.

use super::{Context, InterpretErrorKind, Interpreter, Outcome, Scratch};
use crate::{
    delta,
    effect::{Effect, EffectSink, Version},
    key::{Page, SlruKind},
    record::{BlockRef, ImageRef, ParsedRecord},
    redo,
    v17::rmgr,
};
use ogel_ids::Lsn;

/// Bytes of the fixed parts of `xl_heap_delete` and `xl_heap_update`, and where their flags are.
const HEAP_DELETE_SIZE: usize = 8;
const HEAP_UPDATE_SIZE: usize = 14;
const HEAP_FLAGS_AT: usize = 7;

impl Interpreter {
    /// All block references of a record that has no other effects.
    pub(super) fn block_references(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        for block in context.record.blocks() {
            self.scratch.block(context, block, sink)?;
        }
        Ok(())
    }
}

impl Scratch {
    /// One block reference: the image if it applies, else the record as a delta.
    pub(super) fn block(&mut self, context: &Context<'_>, block: &BlockRef, sink: &mut dyn EffectSink) -> Outcome {
        if let Some(image) = block.applied_image() {
            return self.image(context, block, &image, sink);
        }
        let main_data = data_for_redo(context.record)?;
        delta::encode_record(&mut self.delta, context.record, block, main_data);
        let version = Version::Delta { bytes: &self.delta, will_init: block.will_init() };
        sink.effect(Effect::Page { rel: block.rel, block: block.block, version, only_existing: false });
        Ok(())
    }

    pub(super) fn image(
        &mut self,
        context: &Context<'_>,
        block: &BlockRef,
        image: &ImageRef,
        sink: &mut dyn EffectSink,
    ) -> Outcome {
        context
            .record
            .restore_image(image, &mut self.page)
            .map_err(|error| InterpretErrorKind::Image { block_id: block.id, error })?;
        redo::finish_image(&mut self.page, context.record.rmid, context.record.rmgr_info(), block.id, context.end);
        stamp_lsn(&mut self.page, context.end);
        let version = Version::Image(&self.page);
        sink.effect(Effect::Page { rel: block.rel, block: block.block, version, only_existing: false });
        Ok(())
    }

    /// The delta that was just encoded, as the new version of an SLRU page.
    pub(super) fn slru_delta(&self, kind: SlruKind, page: u32, sink: &mut dyn EffectSink) {
        let version = Version::Delta { bytes: &self.delta, will_init: false };
        sink.effect(Effect::Slru { kind, page, version });
    }
}

/// `PageSetLSN`, which leaves new pages (`pd_upper` = 0) alone.
fn stamp_lsn(page: &mut Page, lsn: Lsn) {
    if page[14..16] != [0, 0] {
        page[..4].copy_from_slice(&((lsn.0 >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn.0 as u32).to_le_bytes());
    }
}

/// What redo reads of the main data. Heap deletes and updates may carry the whole old tuple for logical decoding: it is left out, while the
/// command ids behind it stay.
fn data_for_redo<'a>(record: &ParsedRecord<'a>) -> Result<(&'a [u8], &'a [u8]), InterpretErrorKind> {
    use rmgr::heap;
    let main = record.main_data;
    if record.rmid != rmgr::HEAP {
        return Ok((main, &[]));
    }
    let (fixed, command_ids) = match record.rmgr_info() & heap::OPMASK {
        heap::DELETE => (HEAP_DELETE_SIZE, 4),
        heap::UPDATE | heap::HOT_UPDATE => (HEAP_UPDATE_SIZE, 8),
        _ => return Ok((main, &[])),
    };
    let (head, tail) =
        main.split_at_checked(fixed).ok_or(InterpretErrorKind::Malformed("main data is shorter than its struct"))?;
    if head[HEAP_FLAGS_AT] & heap::FLAG_COMMAND_ID == 0 {
        return Ok((head, &[]));
    }
    let from = tail.len().checked_sub(command_ids);
    let ids = from.ok_or(InterpretErrorKind::Malformed("announced command ids are missing"))?;
    Ok((head, &tail[ids..]))
}
