//! Transactions: status, commit times, dropped relations, prepared transactions.

use super::{Context, InterpretErrorKind, Interpreter, Outcome, set_origin};
use crate::{
    byte_reader::{ByteReader, ShortInput},
    delta,
    effect::{Effect, EffectSink},
    key::{Rel, SlruKind},
    slru::{locate, xid_precedes},
    v17::rmgr::xact,
};
use ogel_ids::Lsn;

const COMMITTED: u8 = 1;
const ABORTED: u8 = 2;
/// `TWOPHASE_MAGIC` of PostgreSQL 17.
const TWO_PHASE_MAGIC: u32 = 0x57f9_4534;
const RELATION_SIZE: usize = 12;
const DROPPED_STATISTICS_SIZE: usize = 12;
const INVALIDATION_SIZE: usize = 16;

/// A commit or abort record taken apart.
struct Completion<'a> {
    at_us: i64,
    subxids: &'a [u8],
    relations: &'a [u8],
    two_phase_xid: Option<u32>,
    /// Position at the origin and commit time there.
    origin: Option<(Lsn, i64)>,
}

fn array<'a>(r: &mut ByteReader<'a>, element_size: usize) -> Result<&'a [u8], ShortInput> {
    let count = r.u32()? as usize;
    r.bytes(count.saturating_mul(element_size))
}

fn xids(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

impl<'a> Completion<'a> {
    fn parse(info: u8, main_data: &'a [u8]) -> Result<Self, InterpretErrorKind> {
        let mut r = ByteReader::new(main_data);
        let at_us = r.i64()?;
        let xinfo = if info & xact::HAS_INFO != 0 { r.u32()? } else { 0 };
        let has = |bit| xinfo & bit != 0;
        if has(xact::XINFO_HAS_DBINFO) {
            r.skip(8)?;
        }
        let subxids = if has(xact::XINFO_HAS_SUBXACTS) { array(&mut r, 4)? } else { &[] };
        let relations = if has(xact::XINFO_HAS_RELFILELOCATORS) { array(&mut r, RELATION_SIZE)? } else { &[] };
        if has(xact::XINFO_HAS_DROPPED_STATS) {
            array(&mut r, DROPPED_STATISTICS_SIZE)?;
        }
        if has(xact::XINFO_HAS_INVALS) {
            array(&mut r, INVALIDATION_SIZE)?;
        }
        let mut two_phase_xid = None;
        if has(xact::XINFO_HAS_TWOPHASE) {
            two_phase_xid = Some(r.u32()?);
            if has(xact::XINFO_HAS_GID) {
                // A C string without padding behind it: what follows is not aligned.
                let length = r.rest().iter().position(|&byte| byte == 0);
                r.skip(length.ok_or(InterpretErrorKind::Malformed("the transaction's GID has no end"))? + 1)?;
            }
        }
        let origin = if has(xact::XINFO_HAS_ORIGIN) { Some((Lsn(r.u64()?), r.i64()?)) } else { None };
        Ok(Self { at_us, subxids, relations, two_phase_xid, origin })
    }
}

impl Interpreter {
    pub(super) fn xact(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let record = context.record;
        match record.rmgr_info() & xact::OPMASK {
            xact::COMMIT => self.complete(context, record.xid, COMMITTED, sink),
            xact::ABORT => self.complete(context, record.xid, ABORTED, sink),
            xact::COMMIT_PREPARED => self.complete_prepared(context, COMMITTED, sink),
            xact::ABORT_PREPARED => self.complete_prepared(context, ABORTED, sink),
            xact::PREPARE => self.prepare(context, sink),
            xact::ASSIGNMENT => {
                let mut r = ByteReader::new(record.main_data);
                self.state.advance_past_xid(r.u32()?);
                xids(array(&mut r, 4)?).for_each(|xid| self.state.advance_past_xid(xid));
                Ok(())
            }
            xact::INVALIDATIONS => Ok(()), // Concerns caches of sessions only.
            _ => Err(InterpretErrorKind::UnknownInfo),
        }
    }

    /// The record's own xid is 0 or that of the session that ends the transaction; the transaction's is in the data.
    fn complete_prepared(&mut self, context: &Context<'_>, status: u8, sink: &mut dyn EffectSink) -> Outcome {
        let completion = Completion::parse(context.record.info, context.record.main_data)?;
        let xid = completion.two_phase_xid;
        let xid = xid.ok_or(InterpretErrorKind::Malformed("the prepared transaction is not named"))?;
        self.complete(context, xid, status, sink)?;
        sink.effect(Effect::TwoPhaseRemove { xid: self.state.full_xid(xid) });
        Ok(())
    }

    fn complete(&mut self, context: &Context<'_>, xid: u32, status: u8, sink: &mut dyn EffectSink) -> Outcome {
        let completion = Completion::parse(context.record.info, context.record.main_data)?;
        if xid == 0 {
            return Err(InterpretErrorKind::Malformed("the transaction has no id"));
        }
        self.state.advance_past_xid(xid);
        xids(completion.subxids).for_each(|xid| self.state.advance_past_xid(xid));
        // Sorted by page, so that a page gets one version only.
        self.scratch.xids.clear();
        self.scratch.xids.push(xid);
        self.scratch.xids.extend(xids(completion.subxids));
        self.scratch.xids.sort_unstable();
        self.set_status(status, sink);
        let origin = context.record.origin;
        if status == COMMITTED {
            let at_us = completion.origin.map_or(completion.at_us, |(_, at_us)| at_us);
            self.set_commit_ts(at_us, origin.unwrap_or(0), xid, completion.subxids, sink);
            sink.effect(Effect::CommitTime { at_us: completion.at_us });
        }
        if let Some((remote_lsn, _)) = completion.origin {
            let origin = origin.ok_or(InterpretErrorKind::Malformed("progress of an origin that is not named"))?;
            set_origin(sink, origin, remote_lsn);
        }
        let mut relations = ByteReader::new(completion.relations);
        while !relations.rest().is_empty() {
            let rel = Rel { spc: relations.u32()?, db: relations.u32()?, rel: relations.u32()? };
            sink.effect(Effect::RelDrop { rel });
        }
        Ok(())
    }

    fn set_status(&mut self, status: u8, sink: &mut dyn EffectSink) {
        let scratch = &mut self.scratch;
        let page_of = |xid: u32| locate(SlruKind::Clog, xid).0;
        for group in scratch.xids.chunk_by(|a, b| page_of(*a) == page_of(*b)) {
            let indexes = group.iter().map(|xid| locate(SlruKind::Clog, *xid).1);
            delta::encode_clog_status(&mut scratch.delta, status, indexes);
            let version = crate::effect::Version::Delta { bytes: &scratch.delta, will_init: false };
            sink.effect(Effect::Slru { kind: SlruKind::Clog, page: page_of(group[0]), version });
        }
    }

    /// Only while the cluster keeps commit timestamps: otherwise the pages do not exist.
    fn set_commit_ts(&mut self, at_us: i64, origin: u16, xid: u32, subxids: &[u8], sink: &mut dyn EffectSink) {
        if !self.state.settings.track_commit_timestamp {
            return;
        }
        let scratch = &mut self.scratch;
        let page_of = |xid: u32| locate(SlruKind::CommitTs, xid).0;
        for group in scratch.xids.chunk_by(|a, b| page_of(*a) == page_of(*b)) {
            let indexes = group.iter().map(|xid| locate(SlruKind::CommitTs, *xid).1);
            delta::encode_commit_ts(&mut scratch.delta, at_us, origin, indexes);
            let version = crate::effect::Version::Delta { bytes: &scratch.delta, will_init: false };
            sink.effect(Effect::Slru { kind: SlruKind::CommitTs, page: page_of(group[0]), version });
        }
        let newest = xids(subxids).last().unwrap_or(xid);
        let checkpoint = &mut self.state.checkpoint;
        if xid_precedes(checkpoint.newest_commit_ts_xid, newest) {
            checkpoint.newest_commit_ts_xid = newest;
        }
    }

    /// The main data is the transaction's state file without its checksum.
    fn prepare(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let data = context.record.main_data;
        let mut r = ByteReader::new(data);
        let (magic, total_length, xid) = (r.u32()?, r.u32()?, r.u32()?);
        r.skip(4 + 8 + 4)?; // Database, time, owner.
        let subxid_count = r.u32()? as usize;
        r.skip(4 * 5 + 2)?; // Four other counts, invalidations and their flag.
        let gid_length = usize::from(r.u16()?);
        let origin_lsn = Lsn(r.u64()?);
        r.skip(8)?; // Time at the origin.
        if magic != TWO_PHASE_MAGIC || total_length as usize != data.len() + 4 || xid == 0 {
            return Err(InterpretErrorKind::Malformed(
                "the state of the prepared transaction is not one of PostgreSQL 17",
            ));
        }
        r.skip(gid_length.next_multiple_of(8))?;
        let subxids = r.bytes(subxid_count.saturating_mul(4))?;
        self.state.advance_past_xid(xid);
        xids(subxids).for_each(|xid| self.state.advance_past_xid(xid));
        sink.effect(Effect::TwoPhasePut { xid: self.state.full_xid(xid), data });
        if let Some(origin) = context.record.origin {
            set_origin(sink, origin, origin_lsn);
        }
        Ok(())
    }
}
