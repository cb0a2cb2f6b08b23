//! Reading WAL from a peer.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use ogel_ids::{Lsn, NodeId, Term};
use ogel_pgwire::{Address, Client, ConnectOptions, WireError};
use quorum::{AcceptorEvent, FetchId, MAX_APPEND_BYTES};
use tokio::time::timeout;

use crate::timeline::Timeline;

/// A peer has all that is asked for: silence means that something is wrong.
const SILENCE: Duration = Duration::from_secs(15);

/// Why WAL did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not configured.
    #[error("safekeeper {0} is a member of the timeline but not in --peers")]
    UnknownPeer(NodeId),
    /// The connection.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Silence.
    #[error("nothing came for {SILENCE:?}")]
    Silence,
    /// The peer ended the stream early.
    #[error("the stream ended at {0}")]
    Ended(Lsn),
    /// Not what was asked for.
    #[error("the peer sent WAL at {got} where {expected} was due")]
    Gap {
        /// Where it should begin.
        expected: Lsn,
        /// Where it begins.
        got: Lsn,
    },
}

/// Reads `range` from a peer, valid while its last_log_term is `peer_term`, and gives it to the acceptor.
pub async fn fetch(
    timeline: &Arc<Timeline>,
    fetch: FetchId,
    address: Address,
    peer_term: Term,
    range: Range<Lsn>,
) -> Result<(), FetchError> {
    let key = timeline.key();
    let options = ConnectOptions::new(address)
        .parameter("replication", "true")
        .setting("ogel.tenant", key.tenant)
        .setting("ogel.timeline", key.timeline)
        .setting("ogel.reader", "peer")
        .setting("ogel.term", peer_term);
    let client = Client::connect(&options).await?;
    let (mut reader, _writer) = client.copy_both(&format!("START_REPLICATION PHYSICAL {}", range.start)).await?;
    let mut at = range.start;
    while at < range.end {
        let frame = timeout(SILENCE, reader.receive()).await.map_err(|_| FetchError::Silence)??;
        let mut frame = frame.ok_or(FetchError::Ended(at))?;
        if frame.first() != Some(&b'w') {
            continue; // keepalives and histories
        }
        if frame.len() < 25 {
            return Err(WireError::Malformed("XLogData is too short").into());
        }
        frame.advance(1);
        let begin = Lsn(frame.get_u64());
        frame.advance(16);
        if begin != at {
            return Err(FetchError::Gap { expected: at, got: begin });
        }
        frame.truncate(range.end.bytes_since(at) as usize);
        while frame.has_remaining() {
            let wal: Bytes = frame.split_to(frame.len().min(MAX_APPEND_BYTES));
            timeline.wait_for_room().await;
            let begin = at;
            at = Lsn(at.0 + wal.len() as u64);
            timeline.handle(AcceptorEvent::PeerWal { fetch, begin, wal });
        }
    }
    Ok(())
}
