//! News of progress on the wire, version 2: simple query `PEER_STATUS 2`, `CopyBothResponse`, then `CopyData` frames.
//!
//! ```text
//! u8  tag "s"
//! then, up to the end of the frame, any number of
//!     tenant 16, timeline 16, node id u64, store uuid 16, membership generation u32, term u64, flush_lsn u64,
//!     commit_lsn u64, backup_lsn u64, remote_consistent_lsn u64, history: count u32, (term u64, start u64) each
//! ```

use bytes::{Buf, BufMut, Bytes};
use ogel_ids::{Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};
use quorum::{HistoryEntry, HistoryError, MAX_HISTORY_ENTRIES, Member, PeerStatus, TermHistory};

use crate::timeline::TimelineKey;

/// Version of this format.
pub const VERSION: u32 = 2;

/// Bytes that are not news.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Wrong tag.
    #[error("news from a peer begin with tag {0}")]
    Tag(u8),
    /// Cut short.
    #[error("news from a peer end inside a field")]
    Truncated,
    /// No history.
    #[error("news from a peer: {0}")]
    History(#[from] HistoryError),
}

/// Appends one timeline's status.
pub fn encode(out: &mut Vec<u8>, key: TimelineKey, status: &PeerStatus) {
    out.put_slice(key.tenant.as_bytes());
    out.put_slice(key.timeline.as_bytes());
    out.put_u64(status.member.node_id.0);
    out.put_slice(status.member.store_uuid.as_bytes());
    out.put_u32(status.generation.0);
    out.put_u64(status.term.0);
    out.put_u64(status.flush_lsn.0);
    out.put_u64(status.commit_lsn.0);
    out.put_u64(status.backup_lsn.0);
    out.put_u64(status.remote_consistent_lsn.0);
    out.put_u32(status.history.entries().len() as u32);
    for entry in status.history.entries() {
        out.put_u64(entry.term.0);
        out.put_u64(entry.start.0);
    }
}

/// Reads a frame.
pub fn decode(mut frame: Bytes) -> Result<Vec<(TimelineKey, PeerStatus)>, StatusError> {
    match frame.try_get_u8() {
        Ok(b's') => {}
        Ok(tag) => return Err(StatusError::Tag(tag)),
        Err(_) => return Err(StatusError::Truncated),
    }
    let mut statuses = Vec::new();
    while frame.has_remaining() {
        statuses.push(decode_one(&mut frame)?);
    }
    Ok(statuses)
}

const FIXED_BYTES: usize = 16 + 16 + 8 + 16 + 4 + 5 * 8 + 4;

fn decode_one(frame: &mut Bytes) -> Result<(TimelineKey, PeerStatus), StatusError> {
    if frame.remaining() < FIXED_BYTES {
        return Err(StatusError::Truncated);
    }
    let bytes16 = |frame: &mut Bytes| {
        let mut bytes = [0; 16];
        frame.copy_to_slice(&mut bytes);
        bytes
    };
    let tenant = TenantId::from_bytes(bytes16(frame));
    let timeline = TimelineId::from_bytes(bytes16(frame));
    let node_id = NodeId(frame.get_u64());
    let member = Member { node_id, store_uuid: StoreUuid::from_bytes(bytes16(frame)) };
    let generation = Generation(frame.get_u32());
    let (term, flush_lsn, commit_lsn) = (Term(frame.get_u64()), Lsn(frame.get_u64()), Lsn(frame.get_u64()));
    let (backup_lsn, remote_consistent_lsn) = (Lsn(frame.get_u64()), Lsn(frame.get_u64()));
    let count = frame.get_u32() as usize;
    if count > MAX_HISTORY_ENTRIES || frame.remaining() < 16 * count {
        return Err(StatusError::Truncated);
    }
    let entries =
        (0..count).map(|_| HistoryEntry { term: Term(frame.get_u64()), start: Lsn(frame.get_u64()) }).collect();
    let history = TermHistory::from_entries(entries)?;
    let status =
        PeerStatus { member, generation, term, history, flush_lsn, commit_lsn, backup_lsn, remote_consistent_lsn };
    Ok((TimelineKey { tenant, timeline }, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_cuts() {
        let key = TimelineKey { tenant: TenantId::from_bytes([1; 16]), timeline: TimelineId::from_bytes([2; 16]) };
        let status = PeerStatus {
            member: Member { node_id: NodeId(3), store_uuid: StoreUuid::from_bytes([4; 16]) },
            generation: Generation(5),
            term: Term(6),
            history: TermHistory::new(Term(0), Lsn(7)).continued(Term(6), Lsn(8)).unwrap(),
            flush_lsn: Lsn(9),
            commit_lsn: Lsn(8),
            backup_lsn: Lsn(7),
            remote_consistent_lsn: Lsn(6),
        };
        let mut frame = vec![b's'];
        encode(&mut frame, key, &status);
        encode(&mut frame, key, &status);
        let decoded = decode(frame.clone().into()).unwrap();
        assert_eq!(decoded, [(key, status.clone()), (key, status)]);
        let one = 1 + (frame.len() - 1) / 2;
        for length in (0..frame.len()).filter(|length| ![1, one].contains(length)) {
            assert!(decode(Bytes::copy_from_slice(&frame[..length])).is_err(), "cut at {length}");
        }
    }
}
