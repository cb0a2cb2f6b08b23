//! What a record does to the stored state: its page versions and its metadata, in the order in which they are to be applied.
//!
//! Every built-in resource manager of PostgreSQL 17 is here. An unknown manager, an unknown kind of record or one that does not fit its
//! format is an error, after which nothing of this timeline may be ingested further: a record that is skipped silently is data lost.
//!
//! A record yields at most one version of each page. Effects go straight to the sink while the record is read; after an error the caller
//! discards what it has got of this record.

mod aux_files;
mod blocks;
mod error;
mod heap;
mod multixact;
mod slru;
mod storage;
mod xact;
mod xlog;

use crate::{
    byte_reader::ByteReader,
    checkpoint_state::{CheckpointState, RunningXacts},
    effect::{Effect, EffectSink},
    key::Page,
    record::ParsedRecord,
    stream::Record,
    v17::rmgr,
};
use ogel_ids::Lsn;

pub use aux_files::{AUX_FILES_PREFIX, MAX_AUX_PATH_BYTES, is_aux_path};
pub use error::{InterpretError, InterpretErrorKind};

/// Interprets records in order. `state` is what the WAL up to the last interpreted record says.
#[derive(Debug)]
pub struct Interpreter {
    /// The running checkpoint state; kept up to date with each record.
    pub state: CheckpointState,
    scratch: Scratch,
}

/// Buffers that are kept from record to record.
#[derive(Debug)]
struct Scratch {
    delta: Vec<u8>,
    page: Box<Page>,
    xids: Vec<u32>,
}

/// A record and where it is.
struct Context<'a> {
    record: &'a ParsedRecord<'a>,
    start: Lsn,
    end: Lsn,
}

type Outcome = Result<(), InterpretErrorKind>;

impl Interpreter {
    /// Goes on from a state, which a control file or the stored form gives.
    pub fn new(state: CheckpointState) -> Self {
        let scratch = Scratch { delta: Vec::new(), page: Box::new([0; crate::key::PAGE_SIZE]), xids: Vec::new() };
        Self { state, scratch }
    }

    /// Delivers the effects of one record.
    pub fn interpret(&mut self, record: &Record, sink: &mut dyn EffectSink) -> Result<(), InterpretError> {
        self.interpret_bytes(record.start, record.end, &record.bytes, sink)
    }

    /// [`Interpreter::interpret`] for a record that is not a [`Record`].
    pub fn interpret_bytes(
        &mut self,
        start: Lsn,
        end: Lsn,
        bytes: &[u8],
        sink: &mut dyn EffectSink,
    ) -> Result<(), InterpretError> {
        let mut record = ParsedRecord::empty();
        let parsed = record.fill(bytes).map_err(InterpretErrorKind::Record);
        parsed.and_then(|()| self.dispatch(&Context { record: &record, start, end }, sink)).map_err(|kind| {
            let header = |at: usize| bytes.get(at).copied().unwrap_or(0);
            InterpretError { start, rmid: header(17), info: header(16), kind }
        })
    }

    fn dispatch(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let record = context.record;
        self.state.advance_past_xid(record.xid);
        self.state.advance_past_xid(record.toplevel_xid.unwrap_or(0));
        let info = record.rmgr_info();
        match record.rmid {
            rmgr::HEAP | rmgr::HEAP2 => return self.heap(context, sink),
            rmgr::BTREE if info <= 0xe0 => return self.block_references(context, sink),
            rmgr::HASH if info <= 0xc0 => return self.block_references(context, sink),
            rmgr::GIN if (0x10..=0x90).contains(&info) => return self.block_references(context, sink),
            rmgr::GIST if matches!(info, 0x00..=0x30 | 0x60 | 0x70) => return self.block_references(context, sink),
            rmgr::SPGIST if (0x10..=0x80).contains(&info) => return self.block_references(context, sink),
            rmgr::BRIN if info & 0x70 <= 0x50 => return self.block_references(context, sink),
            rmgr::SEQ | rmgr::GENERIC if info == 0 => return self.block_references(context, sink),
            rmgr::XLOG => return self.xlog(context, sink),
            _ => {}
        }
        if !record.blocks().is_empty() {
            return Err(InterpretErrorKind::Malformed("block references where this resource manager has none"));
        }
        match record.rmid {
            rmgr::XACT => self.xact(context, sink),
            rmgr::SMGR => self.storage_manager(context, sink),
            rmgr::CLOG => self.clog(context, sink),
            rmgr::DBASE => self.database(context, sink),
            rmgr::MULTIXACT => self.multixact(context, sink),
            rmgr::RELMAP => self.relmap(context, sink),
            rmgr::STANDBY => self.standby(context),
            rmgr::COMMIT_TS => self.commit_ts(context, sink),
            rmgr::REPLORIGIN => self.replication_origin(context, sink),
            // The link in pg_tblspc; what is in the tablespace names its OID in the keys.
            rmgr::TBLSPC if matches!(info, rmgr::tblspc::CREATE | rmgr::tblspc::DROP) => Ok(()),
            rmgr::LOGICALMSG => aux_files::logical_message(context, sink),
            0..=rmgr::MAX_BUILTIN => Err(InterpretErrorKind::UnknownInfo),
            _ => Err(InterpretErrorKind::UnknownManager),
        }
    }

    /// Locks and invalidations concern sessions of a hot standby only.
    fn standby(&mut self, context: &Context<'_>) -> Outcome {
        match context.record.rmgr_info() {
            rmgr::standby::LOCK | rmgr::standby::INVALIDATIONS => Ok(()),
            rmgr::standby::RUNNING_XACTS => {
                let mut r = ByteReader::new(context.record.main_data);
                let (xact_count, subxact_count) = (r.u32()?, r.u32()?);
                let subxids_overflowed = r.u8()? != 0;
                r.skip(3)?;
                let (next_xid, oldest_running_xid, latest_completed_xid) = (r.u32()?, r.u32()?, r.u32()?);
                // The one before the next was given out; nothing is said of the next itself.
                self.state.advance_past_xid(match next_xid.wrapping_sub(1) {
                    0..crate::v17::FIRST_NORMAL_XID => u32::MAX,
                    xid => xid,
                });
                self.state.checkpoint.oldest_active_xid = oldest_running_xid;
                self.state.running = Some(RunningXacts {
                    xact_count,
                    subxact_count,
                    subxids_overflowed,
                    next_xid,
                    oldest_running_xid,
                    latest_completed_xid,
                });
                Ok(())
            }
            _ => Err(InterpretErrorKind::UnknownInfo),
        }
    }

    fn replication_origin(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let mut r = ByteReader::new(context.record.main_data);
        match context.record.rmgr_info() {
            rmgr::replorigin::SET => {
                let (remote_lsn, origin) = (Lsn(r.u64()?), r.u16()?);
                set_origin(sink, origin, remote_lsn);
            }
            rmgr::replorigin::DROP => sink.effect(Effect::OriginDrop { origin: r.u16()? }),
            _ => return Err(InterpretErrorKind::UnknownInfo),
        }
        Ok(())
    }
}

/// Progress of a replication origin. `DoNotReplicateId` marks records and has no progress.
fn set_origin(sink: &mut dyn EffectSink, origin: u16, remote_lsn: Lsn) {
    if origin != u16::MAX {
        sink.effect(Effect::OriginSet { origin, remote_lsn });
    }
}

#[cfg(test)]
mod tests;
