//! The WAL before a branch's first byte, in its segment: a safekeeper's first segment is whole (H14).

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes};
use ogel_pgwire::{Client, ConnectOptions, Endpoint};
use tokio::time::timeout;

use crate::timeline::{Ancestor, Timeline};

/// Silence after which another safekeeper is asked.
const SILENCE: Duration = Duration::from_secs(5);

/// WAL from the start of the segment in which the timeline begins, up to there: its own, or its ancestor's from a safekeeper.
pub async fn wal_prefix(timeline: &Timeline, safekeepers: &[Endpoint]) -> anyhow::Result<Vec<u8>> {
    let Some(ancestor) = &timeline.ancestor else {
        return tokio::task::block_in_place(|| timeline.wal_prefix()).context("the WAL prefix cannot be read");
    };
    let mut reasons = Vec::new();
    for address in safekeepers {
        match copy(ancestor, address).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => reasons.push(format!("{address}: {error:#}")),
        }
    }
    bail!(
        "no safekeeper gives the WAL of timeline {} before {}: {}",
        ancestor.timeline.id,
        ancestor.lsn,
        reasons.join("; ")
    )
}

async fn copy(ancestor: &Ancestor, safekeeper: &Endpoint) -> anyhow::Result<Vec<u8>> {
    let Ancestor { timeline, lsn: end } = ancestor;
    let size = u64::from(timeline.wal_segment_size);
    let (begin, length) = (end.segment_start(size), usize::try_from(end.segment_offset(size))?);
    let mut bytes = Vec::with_capacity(length);
    if length == 0 {
        return Ok(bytes);
    }
    let options = ConnectOptions::new(safekeeper.clone())
        .parameter("replication", "true")
        .parameter("application_name", "pageserver")
        .setting("ogel.tenant", timeline.tenant)
        .setting("ogel.timeline", timeline.id);
    let client = Client::connect(&options).await?;
    let (mut reader, _writer) = client.copy_both(&format!("START_REPLICATION PHYSICAL {begin} TIMELINE 1")).await?;
    while bytes.len() < length {
        let piece = timeout(SILENCE, reader.receive()).await.context("it is silent")??;
        let Some((position, wal)) = wal_of(piece.context("it ended the stream")?) else { continue };
        ensure!(position == begin.0 + bytes.len() as u64, "it left WAL out");
        bytes.extend_from_slice(&wal[..wal.len().min(length - bytes.len())]);
    }
    Ok(bytes)
}

/// Position and bytes of an XLogData; keepalives are nothing.
fn wal_of(mut message: Bytes) -> Option<(u64, Bytes)> {
    if message.first() != Some(&b'w') || message.len() < 25 {
        return None;
    }
    message.advance(1);
    let position = message.get_u64();
    message.advance(16);
    Some((position, message))
}
