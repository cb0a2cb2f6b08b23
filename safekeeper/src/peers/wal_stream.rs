//! WAL as a peer sends it.

use std::{ops::Range, time::Duration};

use bytes::{Buf, Bytes};
use ogel_ids::{Lsn, NodeId, Term};
use ogel_pgwire::{Client, ConnectOptions, CopyBothReader, CopyBothWriter, Endpoint, WireError};
use quorum::MAX_APPEND_BYTES;
use tokio::time::timeout;

use crate::timeline::TimelineKey;

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

/// A range of WAL on its way from a peer.
pub struct WalStream {
    reader: CopyBothReader,
    _writer: CopyBothWriter,
    at: Lsn,
    end: Lsn,
    rest: Bytes,
}

impl WalStream {
    /// Asks for `range`, valid while the peer's last_log_term is `peer_term`.
    pub async fn open(
        key: TimelineKey,
        address: Endpoint,
        peer_term: Term,
        range: Range<Lsn>,
    ) -> Result<Self, FetchError> {
        let options = ConnectOptions::new(address)
            .parameter("replication", "true")
            .setting("ogel.tenant", key.tenant)
            .setting("ogel.timeline", key.timeline)
            .setting("ogel.reader", "peer")
            .setting("ogel.term", peer_term);
        let client = Client::connect(&options).await?;
        let (reader, writer) = client.copy_both(&format!("START_REPLICATION PHYSICAL {}", range.start)).await?;
        Ok(Self { reader, _writer: writer, at: range.start, end: range.end, rest: Bytes::new() })
    }

    /// The next piece and its position, at most 1 MiB; `None` when the range is complete.
    pub async fn next(&mut self) -> Result<Option<(Lsn, Bytes)>, FetchError> {
        while self.rest.is_empty() {
            if self.at >= self.end {
                return Ok(None);
            }
            self.receive().await?;
        }
        let wal = self.rest.split_to(self.rest.len().min(MAX_APPEND_BYTES));
        let begin = self.at;
        self.at.0 += wal.len() as u64;
        Ok(Some((begin, wal)))
    }

    async fn receive(&mut self) -> Result<(), FetchError> {
        let frame = timeout(SILENCE, self.reader.receive()).await.map_err(|_| FetchError::Silence)??;
        let mut frame = frame.ok_or(FetchError::Ended(self.at))?;
        if frame.first() != Some(&b'w') {
            return Ok(()); // keepalives and histories
        }
        if frame.len() < 25 {
            return Err(WireError::Malformed("XLogData is too short").into());
        }
        frame.advance(1);
        let begin = Lsn(frame.get_u64());
        frame.advance(16);
        if begin != self.at {
            return Err(FetchError::Gap { expected: self.at, got: begin });
        }
        frame.truncate(self.end.bytes_since(self.at) as usize);
        self.rest = frame;
        Ok(())
    }
}
