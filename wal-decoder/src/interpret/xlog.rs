//! XLOG: images of whole pages, checkpoints and settings.

use super::{Context, InterpretErrorKind, Interpreter, Outcome};
use crate::{
    byte_reader::ByteReader,
    control_file::Checkpoint,
    effect::{Effect, EffectSink, Version},
    key::{PAGE_SIZE, SlruKind},
    slru::{locate, xid_precedes},
    v17::rmgr::xlog,
};

impl Interpreter {
    pub(super) fn xlog(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let record = context.record;
        let info = record.rmgr_info();
        if matches!(info, xlog::FPI | xlog::FPI_FOR_HINT) {
            return self.page_images(context, info == xlog::FPI, sink);
        }
        if !record.blocks().is_empty() {
            return Err(InterpretErrorKind::Malformed("block references where this kind of record has none"));
        }
        let mut r = ByteReader::new(record.main_data);
        let checkpoint = &mut self.state.checkpoint;
        match info {
            xlog::NEXTOID => checkpoint.next_oid = r.u32()?,
            xlog::CHECKPOINT_SHUTDOWN => self.shutdown_checkpoint(context)?,
            xlog::CHECKPOINT_ONLINE => self.online_checkpoint(context)?,
            xlog::PARAMETER_CHANGE => self.parameter_change(r, sink)?,
            xlog::FPW_CHANGE => checkpoint.full_page_writes = r.u8()? != 0,
            xlog::END_OF_RECOVERY => {
                r.skip(8)?; // When.
                (checkpoint.timeline_id, checkpoint.prev_timeline_id) = (r.u32()?, r.u32()?);
                let wal_level = r.i32()?;
                checkpoint.wal_level = wal_level;
                self.state.settings.wal_level = wal_level;
            }
            xlog::NOOP
            | xlog::SWITCH
            | xlog::BACKUP_END
            | xlog::RESTORE_POINT
            | xlog::OVERWRITE_CONTRECORD
            | xlog::CHECKPOINT_REDO => {}
            _ => return Err(InterpretErrorKind::UnknownInfo),
        }
        Ok(())
    }

    /// FPI_FOR_HINT without an image changes nothing: full-page writes were off.
    fn page_images(&mut self, context: &Context<'_>, required: bool, sink: &mut dyn EffectSink) -> Outcome {
        for block in context.record.blocks() {
            match block.applied_image() {
                Some(image) => self.scratch.image(context, block, &image, sink)?,
                None if required => return Err(InterpretErrorKind::Malformed("full-page image is missing")),
                None => {}
            }
        }
        Ok(())
    }

    /// Nothing runs: all counters are taken as they are, the oldest ids only forwards.
    fn shutdown_checkpoint(&mut self, context: &Context<'_>) -> Outcome {
        let new = Checkpoint::parse(context.record.main_data)?;
        let old = self.state.checkpoint;
        self.state.last_checkpoint = context.start;
        self.state.checkpoint =
            Checkpoint { oldest_multi: old.oldest_multi, oldest_multi_db: old.oldest_multi_db, ..new };
        self.state.advance_oldest_multi(new.oldest_multi, new.oldest_multi_db);
        Ok(())
    }

    /// The values are as of the checkpoint's beginning: counters are minima. The OID counter is tracked by its own records alone.
    fn online_checkpoint(&mut self, context: &Context<'_>) -> Outcome {
        let new = Checkpoint::parse(context.record.main_data)?;
        let state = &mut self.state;
        state.last_checkpoint = context.start;
        state.advance_multi(new.next_multi, new.next_multi_offset);
        state.advance_oldest_multi(new.oldest_multi, new.oldest_multi_db);
        state.advance_oldest_xid(new.oldest_xid, new.oldest_xid_db);
        let checkpoint = &mut state.checkpoint;
        checkpoint.redo = new.redo;
        checkpoint.timeline_id = new.timeline_id;
        checkpoint.prev_timeline_id = new.prev_timeline_id;
        checkpoint.full_page_writes = new.full_page_writes;
        checkpoint.wal_level = new.wal_level;
        checkpoint.next_xid = checkpoint.next_xid.max(new.next_xid);
        checkpoint.time_s = new.time_s;
        checkpoint.oldest_active_xid = new.oldest_active_xid;
        if checkpoint.oldest_commit_ts_xid == 0
            || xid_precedes(checkpoint.oldest_commit_ts_xid, new.oldest_commit_ts_xid)
        {
            checkpoint.oldest_commit_ts_xid = new.oldest_commit_ts_xid;
        }
        if xid_precedes(checkpoint.newest_commit_ts_xid, new.newest_commit_ts_xid) {
            checkpoint.newest_commit_ts_xid = new.newest_commit_ts_xid;
        }
        Ok(())
    }

    fn parameter_change(&mut self, mut r: ByteReader<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let settings = &mut self.state.settings;
        let tracked_before = settings.track_commit_timestamp;
        settings.max_connections = r.i32()?;
        settings.max_worker_processes = r.i32()?;
        settings.max_wal_senders = r.i32()?;
        settings.max_prepared_xacts = r.i32()?;
        settings.max_locks_per_xact = r.i32()?;
        settings.wal_level = r.i32()?;
        settings.wal_log_hints = r.u8()? != 0;
        settings.track_commit_timestamp = r.u8()? != 0;
        self.state.checkpoint.wal_level = settings.wal_level;
        match (tracked_before, settings.track_commit_timestamp) {
            (false, true) => self.begin_commit_timestamps(sink),
            (true, false) => self.end_commit_timestamps(sink),
            _ => {}
        }
        Ok(())
    }

    /// As `ActivateCommitTs`: the page of the next transaction is made without a record of its own.
    fn begin_commit_timestamps(&mut self, sink: &mut dyn EffectSink) {
        let checkpoint = &mut self.state.checkpoint;
        let next = checkpoint.next_xid as u32;
        if checkpoint.oldest_commit_ts_xid == 0 {
            (checkpoint.oldest_commit_ts_xid, checkpoint.newest_commit_ts_xid) = (next, next);
        }
        let (page, _) = locate(SlruKind::CommitTs, next);
        sink.effect(Effect::Slru { kind: SlruKind::CommitTs, page, version: Version::Image(&[0; PAGE_SIZE]) });
    }

    /// As `DeactivateCommitTs`: all files go, so that none is found stale when the setting comes back.
    fn end_commit_timestamps(&mut self, sink: &mut dyn EffectSink) {
        let checkpoint = &mut self.state.checkpoint;
        (checkpoint.oldest_commit_ts_xid, checkpoint.newest_commit_ts_xid) = (0, 0);
        let kind = SlruKind::CommitTs;
        let last = kind.max_segment();
        sink.effect(Effect::SlruDropSegments { kind, first: 0, end: last });
        sink.effect(Effect::SlruDropSegments { kind, first: last, end: 0 });
    }
}
