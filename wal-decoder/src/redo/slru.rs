//! Pages of the transaction logs: clog, multixact offsets and members, commit timestamps. They have no header and no LSN.
//!
//! Mirrors the redo of `clog.c`, `multixact.c` and `commit_ts.c`. Deviations: a transaction's entries come page by page; a page that is not
//! there counts as zeros.

use super::RedoError;
use crate::{
    delta::DeltaView,
    key::{Page, SlruKind},
};

const COMMITTED: u8 = 1;
const SUB_COMMITTED: u8 = 3;
/// Bytes of a commit timestamp: time i64, origin u16.
const COMMIT_TS_SIZE: usize = 10;
/// Four members: a byte of status each, then four transaction ids.
const MEMBER_GROUP_SIZE: usize = 20;

/// The delta's indexes have been checked against the page's size when it was parsed.
pub(super) fn apply(kind: SlruKind, page: &mut Page, delta: DeltaView<'_>) -> Result<(), RedoError> {
    match (kind, delta) {
        (_, DeltaView::Zero) => page.fill(0),
        (SlruKind::Clog, DeltaView::ClogStatus(ended)) => {
            ended.entries().for_each(|index| set_status(page, usize::from(index), ended.status))
        }
        (SlruKind::MultixactOffsets, DeltaView::MultixactOffsets(offsets)) => {
            for (index, offset) in offsets.entries() {
                let at = usize::from(index) * size_of::<u32>();
                page[at..at + size_of::<u32>()].copy_from_slice(&offset.to_le_bytes());
            }
        }
        (SlruKind::MultixactMembers, DeltaView::MultixactMembers(members)) => {
            for (index, (xid, status)) in (usize::from(members.first_index)..).zip(members.entries()) {
                let (group, at) = (index / 4 * MEMBER_GROUP_SIZE, index % 4);
                page[group + at] = status;
                page[group + 4 + at * 4..group + 8 + at * 4].copy_from_slice(&xid.to_le_bytes());
            }
        }
        (SlruKind::CommitTs, DeltaView::CommitTs(times)) => {
            for index in times.entries() {
                let at = usize::from(index) * COMMIT_TS_SIZE;
                page[at..at + 8].copy_from_slice(&times.at_us.to_le_bytes());
                page[at + 8..at + COMMIT_TS_SIZE].copy_from_slice(&times.origin.to_le_bytes());
            }
        }
        _ => return Err(RedoError::WrongPage),
    }
    Ok(())
}

fn set_status(page: &mut Page, index: usize, status: u8) {
    let (at, shift) = (index / 4, index % 4 * 2);
    // A commit record sets subtransactions of other pages sub-committed first; replayed twice, that must not undo the commit.
    if status == SUB_COMMITTED && page[at] >> shift & 3 == COMMITTED {
        return;
    }
    page[at] = page[at] & !(3 << shift) | (status & 3) << shift;
}
