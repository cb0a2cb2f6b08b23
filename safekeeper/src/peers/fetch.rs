//! Catching up: WAL from a peer for the acceptor.

use std::{ops::Range, sync::Arc};

use ogel_ids::{Lsn, Term};
use ogel_pgwire::Endpoint;
use quorum::{AcceptorEvent, FetchId};

use super::wal_stream::{FetchError, WalStream};
use crate::timeline::Timeline;

/// Reads `range` from a peer, valid while its last_log_term is `peer_term`, and gives it to the acceptor.
pub async fn fetch(
    timeline: &Arc<Timeline>,
    fetch: FetchId,
    address: Endpoint,
    peer_term: Term,
    range: Range<Lsn>,
) -> Result<(), FetchError> {
    let mut stream = WalStream::open(timeline.key(), address, peer_term, range).await?;
    while let Some((begin, wal)) = stream.next().await? {
        timeline.wait_for_room().await;
        timeline.handle(AcceptorEvent::PeerWal { fetch, begin, wal });
    }
    Ok(())
}
