//! MULTIXACT: the offsets log says where the members of a multixact begin; the next one's entry says where they end.

use super::{Context, InterpretErrorKind, Interpreter, Outcome, slru};
use crate::{
    byte_reader::ByteReader,
    delta,
    effect::{Effect, EffectSink, Version},
    key::SlruKind,
    slru::locate,
    v17::{FIRST_MULTIXACT, rmgr::multixact},
};

const OFFSETS: SlruKind = SlruKind::MultixactOffsets;
const MEMBERS: SlruKind = SlruKind::MultixactMembers;
const MEMBER_SIZE: usize = 8;
const MAX_STATUS: u32 = 5;

impl Interpreter {
    pub(super) fn multixact(&mut self, context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let mut r = ByteReader::new(context.record.main_data);
        match context.record.rmgr_info() {
            multixact::ZERO_OFF_PAGE => {
                let page = slru::page_number(&mut r, OFFSETS)?;
                // A page that a CREATE_ID has begun already holds the end of that multixact: zeroing it would lose that.
                if self.state.early_offsets_page.take() != Some(page) {
                    slru::zero_page(OFFSETS, page, sink);
                    self.state.last_offsets_page = Some(page);
                }
            }
            multixact::ZERO_MEM_PAGE => slru::zero_page(MEMBERS, slru::page_number(&mut r, MEMBERS)?, sink),
            multixact::CREATE_ID => self.create_multixact(r, sink)?,
            multixact::TRUNCATE_ID => self.truncate_multixacts(r, sink)?,
            _ => return Err(InterpretErrorKind::UnknownInfo),
        }
        Ok(())
    }

    fn create_multixact(&mut self, mut r: ByteReader<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let (multi, offset, count) = (r.u32()?, r.u32()?, r.u32()?);
        let (members, _) = r.bytes((count as usize).saturating_mul(MEMBER_SIZE))?.as_chunks::<MEMBER_SIZE>();
        let members = members
            .iter()
            .map(|&[a, b, c, d, e, f, g, h]| (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])));
        if multi == 0 || count == 0 || members.clone().any(|(_, status)| status > MAX_STATUS) {
            return Err(InterpretErrorKind::Malformed("multixact without an id or members, or with an unknown status"));
        }
        self.set_offsets(multi, offset, offset.wrapping_add(count), sink);
        self.set_members(offset, members.clone().map(|(xid, status)| (xid, status as u8)), count, sink);
        self.state.advance_multi(multi.wrapping_add(1), offset.wrapping_add(count));
        members.for_each(|(xid, _)| self.state.advance_past_xid(xid));
        Ok(())
    }

    /// Sets the multixact's offset and, as PostgreSQL does since 17.7, the next one's, which may be on the next page.
    fn set_offsets(&mut self, multi: u32, offset: u32, end: u32, sink: &mut dyn EffectSink) {
        let (page, index) = locate(OFFSETS, multi);
        let (next_page, next_index) = locate(OFFSETS, multi.wrapping_add(1).max(FIRST_MULTIXACT));
        let end = end.max(1); // Offset 0 means "not set" and is never given out.
        let scratch = &mut self.scratch;
        self.state.early_offsets_page = None;
        if page == next_page {
            delta::encode_multixact_offsets(&mut scratch.delta, &[(index, offset), (next_index, end)]);
            return scratch.slru_delta(OFFSETS, page, sink);
        }
        delta::encode_multixact_offsets(&mut scratch.delta, &[(index, offset)]);
        scratch.slru_delta(OFFSETS, page, sink);
        match self.state.last_offsets_page {
            // WAL of an older minor version: the next page has not been begun, and its own record must not zero it later.
            Some(last) if last == page => {
                scratch.page.fill(0);
                let at = usize::from(next_index) * 4;
                scratch.page[at..at + 4].copy_from_slice(&end.to_le_bytes());
                let version = Version::Image(&scratch.page);
                sink.effect(Effect::Slru { kind: OFFSETS, page: next_page, version });
                self.state.early_offsets_page = Some(next_page);
                self.state.last_offsets_page = Some(next_page);
            }
            last => {
                delta::encode_multixact_offsets(&mut scratch.delta, &[(next_index, end)]);
                scratch.slru_delta(OFFSETS, next_page, sink);
                // No page record has been seen: if the page does not exist the entry begins it, and its record would come next.
                if last.is_none() {
                    self.state.early_offsets_page = Some(next_page);
                }
            }
        }
    }

    /// Member offsets wrap at 2³², in the middle of the last page: a run ends at a page's end and at the wrap.
    fn set_members(
        &mut self,
        first: u32,
        mut members: impl Iterator<Item = (u32, u8)>,
        count: u32,
        sink: &mut dyn EffectSink,
    ) {
        let mut offset = first;
        let mut left = count;
        while left > 0 {
            let (page, index) = locate(MEMBERS, offset);
            let to_wrap = (u32::MAX - offset).saturating_add(1);
            let run = left.min(MEMBERS.entries_per_page() - u32::from(index)).min(to_wrap);
            delta::encode_multixact_members(&mut self.scratch.delta, index, members.by_ref().take(run as usize));
            self.scratch.slru_delta(MEMBERS, page, sink);
            offset = offset.wrapping_add(run);
            left -= run;
        }
    }

    fn truncate_multixacts(&mut self, mut r: ByteReader<'_>, sink: &mut dyn EffectSink) -> Outcome {
        let db = r.u32()?;
        r.skip(4)?; // Where the offsets begin that go; their end alone matters.
        let (oldest_multi, first_member, end_member) = (r.u32()?, r.u32()?, r.u32()?);
        let checkpoint = &mut self.state.checkpoint;
        (checkpoint.oldest_multi, checkpoint.oldest_multi_db) = (oldest_multi, db);
        let segment = |offset| locate(MEMBERS, offset).0 / SlruKind::PAGES_PER_SEGMENT;
        let (first, end) = (segment(first_member), segment(end_member));
        sink.effect(Effect::SlruDropSegments { kind: MEMBERS, first, end });
        // One back, since the page of the oldest one itself may not exist yet.
        let previous = if oldest_multi <= FIRST_MULTIXACT { u32::MAX } else { oldest_multi - 1 };
        self.truncate_slru(OFFSETS, self.state.checkpoint.next_multi, locate(OFFSETS, previous).0, sink);
        Ok(())
    }
}
