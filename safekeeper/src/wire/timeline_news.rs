//! News for a pageserver that follows no timeline but wants to know which ones it should: `TIMELINE_STATUS`.

use std::{collections::HashMap, time::Duration};

use bytes::BufMut;
use ogel_ids::Lsn;
use ogel_pgwire::{Connection, ServerMessage, WireError, sqlstate};

use crate::{registry::Registry, timeline::TimelineKey};

/// Version of this stream.
const VERSION: u32 = 1;
/// Progress is told this often.
const INTERVAL: Duration = Duration::from_millis(250);
/// An empty frame goes out when nothing else has for so many intervals.
const QUIET_INTERVALS: u32 = 40;
/// A frame is sent when it has grown to this.
const FRAME_BYTES: usize = 256 << 10;

/// Tells the positions of all open timelines, then what changes, until the reader goes away. Timelines that nobody has asked for since the
/// start do not appear: nothing has happened to them.
pub async fn serve(connection: &mut Connection, version: u32, registry: &Registry) -> Result<(), WireError> {
    if version != VERSION {
        let text = format!("this safekeeper speaks version {VERSION} of the status stream, not {version}");
        let error = ServerMessage::error(sqlstate::FEATURE_NOT_SUPPORTED, text).with_hint("upgrade the older node");
        return connection.refuse(&error).await;
    }
    let (reader, writer) = connection.split();
    writer.copy_both_response();
    writer.flush().await?;
    let mut told: HashMap<TimelineKey, (Lsn, Lsn)> = HashMap::new();
    let mut quiet = 0;
    loop {
        let mut frame = Vec::new();
        for timeline in registry.open_timelines() {
            let (key, status) = (timeline.key(), timeline.status());
            let positions = (status.commit_lsn, status.remote_consistent_lsn);
            if told.insert(key, positions) == Some(positions) {
                continue;
            }
            frame.put_slice(key.tenant.as_bytes());
            frame.put_slice(key.timeline.as_bytes());
            frame.put_u64(positions.0.0);
            frame.put_u64(positions.1.0);
            if frame.len() >= FRAME_BYTES {
                send(writer, &std::mem::take(&mut frame)).await?;
            }
        }
        quiet += 1;
        if !frame.is_empty() || quiet >= QUIET_INTERVALS {
            send(writer, &frame).await?;
            quiet = 0;
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            // It has nothing to say: whatever comes is the end.
            _ = reader.read_frame() => return Ok(()),
        }
    }
}

async fn send(writer: &mut ogel_pgwire::MessageWriter, entries: &[u8]) -> Result<(), WireError> {
    writer.copy_data(|out| {
        out.put_u8(b's');
        out.put_slice(entries);
    });
    writer.flush().await
}
