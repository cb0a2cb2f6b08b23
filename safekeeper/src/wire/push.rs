//! A proposer's connection: `START_WAL_PUSH`.

use std::{sync::Arc, time::Duration};

use bytes::BufMut;
use ogel_pgwire::{Connection, FrontendMessage, MessageReader, MessageWriter, WireError};
use quorum::{AcceptorEvent, AcceptorMessage, ConnectionId, ProposerMessage, Refused};
use tokio::time::timeout;

use crate::{
    metrics::{Metrics, Present},
    timeline::{Outbox, Timeline},
};

/// A proposer that is not elected yet may have nothing to say for so long.
const SILENCE_BEFORE_WAL: Duration = Duration::from_secs(60);
/// An elected proposer sends a heartbeat each second: one that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(10);
/// A proposer that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves one proposer, or tells it why not.
pub async fn serve(
    mut connection: Connection,
    timeline: Result<Arc<Timeline>, Refused>,
    metrics: &Metrics,
) -> Result<(), WireError> {
    connection.writer().copy_both_response();
    connection.writer().flush().await?;
    let timeline = match timeline {
        Ok(timeline) => timeline,
        Err(refused) => {
            let refused = AcceptorMessage::Refused(refused).encode();
            connection.writer().copy_data(|body| body.put_slice(&refused));
            connection.writer().copy_done();
            return connection.writer().flush().await;
        }
    };
    let _present = Present::count(&metrics.proposers);
    let (id, outbox) = timeline.connect();
    let _connected = Connected { timeline: timeline.clone(), id };
    let (reader, writer) = connection.split();
    tokio::select! {
        result = receive(reader, &timeline, id, &outbox) => result,
        result = send(writer, &timeline, &outbox) => result,
    }
}

/// Tells the timeline when the connection is gone, however it ends.
struct Connected {
    timeline: Arc<Timeline>,
    id: ConnectionId,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.timeline.disconnect(self.id);
    }
}

async fn receive(
    reader: &mut MessageReader,
    timeline: &Arc<Timeline>,
    connection: ConnectionId,
    outbox: &Outbox,
) -> Result<(), WireError> {
    let mut silence = SILENCE_BEFORE_WAL;
    loop {
        timeline.wait_for_room(Some(outbox)).await;
        let frame = timeout(silence, reader.read_frame())
            .await
            .map_err(|_| WireError::TimedOut("waiting for the proposer"))??;
        let Some(frame) = frame else { return Ok(()) };
        let data = match FrontendMessage::try_from(frame)? {
            FrontendMessage::CopyData(data) => data,
            FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) | FrontendMessage::Terminate => return Ok(()),
            _ => return Err(WireError::Malformed("a proposer sends only CopyData")),
        };
        match ProposerMessage::decode(data) {
            Ok(message) => {
                if let ProposerMessage::Append(_) = &message {
                    silence = SILENCE;
                }
                timeline.handle(AcceptorEvent::Message { connection, message });
            }
            Err(error) => {
                tracing::warn!(timeline = %timeline.key(), %error, "a proposer's message cannot be read");
                outbox.push(AcceptorMessage::Refused(error.refusal()));
                outbox.close(error.to_string());
                // The sending half says it and ends the connection.
                return std::future::pending().await;
            }
        }
    }
}

async fn send(writer: &mut MessageWriter, timeline: &Timeline, outbox: &Outbox) -> Result<(), WireError> {
    loop {
        let outgoing = outbox.take().await;
        for message in outgoing.messages {
            writer.copy_data(|body| body.put_slice(&message.encode()));
        }
        if outgoing.closed.is_some() {
            writer.copy_done();
        }
        timeout(SEND_TIMEOUT, writer.flush()).await.map_err(|_| WireError::TimedOut("answering the proposer"))??;
        timeline.answers_taken();
        if let Some(reason) = outgoing.closed {
            tracing::info!(timeline = %timeline.key(), reason, "closing a proposer's connection");
            return Ok(());
        }
    }
}
