//! A proposer's connection: `START_WAL_PUSH`.
//!
//! Each has a thread of its own, because the path of a commit goes through it: the thread sleeps in the kernel until WAL comes,
//! writes and flushes it itself, and answers itself. Every hop to another thread would add two wake-ups to each commit.

use std::{
    net,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::BufMut;
use ogel_pgwire::{BlockingReader, Connection, FrontendMessage, Received, WireError, wait_to_send};
use quorum::{AcceptorEvent, AcceptorMessage, ConnectionId, ProposerMessage, Refused};
use tokio::{runtime::Handle, sync::oneshot};

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
/// How often a thread that waits looks whether it still should.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// Of a connection's thread.
const STACK_BYTES: usize = 1 << 20;
/// Bytes received at most before they are worked on.
const ROUND_BYTES: usize = 1 << 20;

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
    let reader = connection.into_blocking()?;
    let _hang_up = HangUp(reader.socket().clone());
    let (result, ended) = oneshot::channel();
    let runtime = Handle::current();
    let thread = thread::Builder::new().name("push".into()).stack_size(STACK_BYTES).spawn(move || {
        let _entered = runtime.enter();
        let _session_is_gone = result.send(Push::new(reader, timeline).and_then(Push::run));
    });
    match thread {
        Ok(_) => ended.await.unwrap_or(Err(WireError::Closed)),
        Err(error) => {
            tracing::error!(%error, "no thread can be started for a proposer: its timeline cannot commit here; raise the limit of threads");
            Err(error.into())
        }
    }
}

/// Ends the thread when nobody waits for it any more.
struct HangUp(Arc<net::TcpStream>);

impl Drop for HangUp {
    fn drop(&mut self) {
        let _ended_already = self.0.shutdown(net::Shutdown::Both);
    }
}

/// The thread's end of the connection.
struct Push {
    reader: BlockingReader,
    outbox: Arc<Outbox>,
    connected: Connected,
    last_heard: Instant,
    silence: Duration,
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

impl Push {
    fn new(reader: BlockingReader, timeline: Arc<Timeline>) -> Result<Self, WireError> {
        reader.socket().set_read_timeout(Some(LOOK_AROUND))?;
        let (id, outbox) = timeline.connect(reader.socket().clone());
        Ok(Self {
            reader,
            outbox,
            connected: Connected { timeline, id },
            last_heard: Instant::now(),
            silence: SILENCE_BEFORE_WAL,
        })
    }

    fn run(mut self) -> Result<(), WireError> {
        let timeline = self.connected.timeline.clone();
        loop {
            let ended = self.take_in()?;
            timeline.work();
            if ended {
                return Ok(());
            }
            self.answer()?;
            if let Some(reason) = self.outbox.closed() {
                tracing::info!(timeline = %timeline.key(), reason, "closing a proposer's connection");
                return Ok(());
            }
            self.wait_for_room();
            if !self.receive()? && self.outbox.closed().is_none() {
                return Ok(());
            }
        }
    }

    /// Sleeps until bytes come; then takes in all that are there, within a limit. `false` at the end of the stream.
    fn receive(&mut self) -> Result<bool, WireError> {
        let (mut wait, mut received_bytes) = (true, 0);
        while received_bytes < ROUND_BYTES {
            match self.reader.receive(wait)? {
                Received::Bytes { count, more } => {
                    self.last_heard = Instant::now();
                    received_bytes += count;
                    if !more {
                        break;
                    }
                }
                Received::Nothing if self.last_heard.elapsed() >= self.silence => {
                    return Err(WireError::TimedOut("waiting for the proposer"));
                }
                Received::Nothing => break,
                Received::End => return Ok(received_bytes > 0), // what came is worked on first
            }
            wait = false;
        }
        Ok(true)
    }

    /// Gives all whole messages to the acceptor; `true` when the proposer has ended the stream.
    fn take_in(&mut self) -> Result<bool, WireError> {
        while let Some(frame) = self.reader.next_frame()? {
            let data = match FrontendMessage::try_from(frame)? {
                FrontendMessage::CopyData(data) => data,
                FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) | FrontendMessage::Terminate => {
                    return Ok(true);
                }
                _ => return Err(WireError::Malformed("a proposer sends only CopyData")),
            };
            let Connected { timeline, id } = &self.connected;
            match ProposerMessage::decode(data) {
                Ok(message) => {
                    if let ProposerMessage::Append(_) = &message {
                        self.silence = SILENCE;
                    }
                    timeline.take_in(AcceptorEvent::Message { connection: *id, message });
                }
                Err(error) => {
                    tracing::warn!(timeline = %timeline.key(), %error, "a proposer's message cannot be read");
                    self.outbox.push(AcceptorMessage::Refused(error.refusal()));
                    self.outbox.close(error.to_string());
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// Sends what others could not. A proposer that does not take its answers is not read from.
    fn answer(&self) -> Result<(), WireError> {
        let began = Instant::now();
        while !self.outbox.send() {
            if !wait_to_send(self.reader.socket(), LOOK_AROUND)? && began.elapsed() >= SEND_TIMEOUT {
                return Err(WireError::TimedOut("answering the proposer"));
            }
        }
        Ok(())
    }

    /// Waits until the disk has caught up, so that memory stays bounded.
    fn wait_for_room(&self) {
        let timeline = &self.connected.timeline;
        while !timeline.has_room() && self.outbox.closed().is_none() {
            let room = tokio::time::timeout(LOOK_AROUND, timeline.wait_for_room());
            let _looks_around = Handle::current().block_on(room);
        }
    }
}
