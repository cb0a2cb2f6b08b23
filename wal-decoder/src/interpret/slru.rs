//! CLOG and COMMIT_TS: pages that begin, and segments that are no longer needed.

use super::{Context, InterpretErrorKind, Interpreter, Outcome};
use crate::{
    byte_reader::ByteReader,
    effect::{Effect, EffectSink, Version},
    key::{PAGE_SIZE, SlruKind},
    slru::{locate, page_precedes, xid_precedes},
    v17::rmgr,
};

/// Page numbers take 64 bits in PostgreSQL 17's records, but 32-bit ids fill only the lowest of them.
pub(super) fn page_number(r: &mut ByteReader<'_>, kind: SlruKind) -> Result<u32, InterpretErrorKind> {
    let page = u32::try_from(r.i64()?).ok().filter(|page| *page <= kind.max_page());
    page.ok_or(InterpretErrorKind::Malformed("page number beyond the last page"))
}

pub(super) fn zero_page(kind: SlruKind, page: u32, sink: &mut dyn EffectSink) {
    sink.effect(Effect::Slru { kind, page, version: Version::Image(&[0; PAGE_SIZE]) });
}

impl Interpreter {
    pub(super) fn clog(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let mut r = ByteReader::new(context.record.main_data);
        let kind = SlruKind::Clog;
        match context.record.rmgr_info() {
            rmgr::clog::ZEROPAGE => zero_page(kind, page_number(&mut r, kind)?, sink),
            rmgr::clog::TRUNCATE => {
                let cutoff_page = page_number(&mut r, kind)?;
                let (oldest_xid, db) = (r.u32()?, r.u32()?);
                self.state.advance_oldest_xid(oldest_xid, db);
                self.truncate_slru(kind, self.state.checkpoint.next_xid as u32, cutoff_page, sink);
            }
            _ => return Err(InterpretErrorKind::UnknownInfo),
        }
        Ok(())
    }

    pub(super) fn commit_ts(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let mut r = ByteReader::new(context.record.main_data);
        let kind = SlruKind::CommitTs;
        match context.record.rmgr_info() {
            rmgr::commit_ts::ZEROPAGE => zero_page(kind, page_number(&mut r, kind)?, sink),
            rmgr::commit_ts::TRUNCATE => {
                let cutoff_page = page_number(&mut r, kind)?;
                let oldest_xid = r.u32()?;
                let oldest = &mut self.state.checkpoint.oldest_commit_ts_xid;
                if *oldest != 0 && xid_precedes(*oldest, oldest_xid) {
                    *oldest = oldest_xid;
                }
                sink.effect(Effect::SlruTruncate { kind, cutoff_page });
            }
            _ => return Err(InterpretErrorKind::UnknownInfo),
        }
        Ok(())
    }

    /// As `SimpleLruTruncate`: when the newest page itself precedes the cutoff the numbers have wrapped, and nothing goes.
    pub(super) fn truncate_slru(&self, kind: SlruKind, newest: u32, cutoff_page: u32, sink: &mut dyn EffectSink) {
        if !page_precedes(kind, locate(kind, newest).0, cutoff_page) {
            sink.effect(Effect::SlruTruncate { kind, cutoff_page });
        }
    }
}
