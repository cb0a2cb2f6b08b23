//! Up to its flush_lsn, an acceptor's durable bytes are what the terms of its history wrote, not a byte more or other.

use ogel_ids::Lsn;

use super::{Observed, Verdict};
use crate::{node::Safekeeper, toy_wal::offset};

pub(super) fn check(observed: &Observed, node: &mut Safekeeper) -> Verdict {
    let Some(status) = node.acceptor.as_ref().map(|acceptor| acceptor.status()) else { return Ok(()) };
    let flush = status.flush_lsn;
    let from = node.matched_to.min(flush);
    let entries = status.history.entries();
    for (i, entry) in entries.iter().enumerate() {
        let end = entries.get(i + 1).map_or(flush, |next| next.start.min(flush));
        let begin = entry.start.max(from);
        if begin >= end {
            continue;
        }
        let written = observed.reigns.get(&entry.term).and_then(|reign| {
            let at = |lsn: Lsn| lsn.0.checked_sub(reign.start.0).map(|offset| offset as usize);
            reign.wal.get(at(begin)?..at(end)?)
        });
        if written.is_none() || written != node.disk.durable.get(offset(begin)..offset(end)) {
            return Err(format!(
                "log matching: node {} claims {begin}..{end} of term {}, but its disk holds other bytes than that term wrote",
                node.id(),
                entry.term
            ));
        }
    }
    node.matched_to = flush;
    Ok(())
}
