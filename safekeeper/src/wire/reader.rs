//! A reader of WAL: `START_REPLICATION`.
//!
//! Stock clients and pageservers get WAL up to commit_lsn, which no cut can take back. Peers that catch up get WAL up to
//! flush_lsn, as long as the sender's log is the one of the term that they name (H3).

use std::{sync::Arc, time::Duration};

use ogel_ids::{Lsn, Term};
use ogel_pgwire::{Connection, FrontendMessage, MessageReader, MessageWriter, ServerMessage, WireError, sqlstate};
use quorum::{AcceptorEvent, HistoryEntry};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::reader_messages::{FromReader, put_history, put_keepalive, xlog_data_head};
use crate::{
    metrics::{Metrics, Present},
    timeline::{FlushReader, Position, Timeline},
};

/// WAL in one message.
const CHUNK_BYTES: usize = 128 << 10;
/// WAL read from a file at once: one hop to a blocking thread for several messages.
const READ_BYTES: usize = 1 << 20;
/// Sign of life when there is nothing to send; an answer is asked for.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A pageserver that keeps up gets small pieces at most this often, unless somebody waits for them: each piece wakes both ends.
const SMALL_PIECE_INTERVAL: Duration = Duration::from_millis(5);
/// A larger piece goes out at once.
const SMALL_PIECE_BYTES: u64 = 64 << 10;
/// A reader that neither answers nor takes what we send is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `pg_receivewal`, a standby.
    Stock,
    /// Gets the term history, tells its progress.
    Pageserver,
    /// Catches up with the log of this term.
    Peer(Term),
}

/// One reader. Everything before `sent` has been sent, and every term that starts at or before it announced.
pub struct Reader {
    timeline: Arc<Timeline>,
    sent: Lsn,
    kind: Kind,
    announced: Vec<HistoryEntry>,
    positions: watch::Receiver<Position>,
    metrics: Arc<Metrics>,
    last_heard: Instant,
    last_sent: Instant,
    /// Somebody waits for WAL up to here.
    needed: Lsn,
    _woken_by_flushes: Option<FlushReader>,
}

/// How a stream ends without a failure of the connection.
enum End {
    /// The client has enough.
    Client,
    /// We cannot go on.
    Error(ServerMessage),
}

impl Reader {
    /// Reads from `start`.
    pub fn new(timeline: Arc<Timeline>, start: Lsn, kind: Kind, metrics: Arc<Metrics>) -> Self {
        let (positions, woken_by_flushes) = match kind {
            Kind::Peer(_) => {
                let (positions, woken) = timeline.watch_flushes();
                (positions, Some(woken))
            }
            Kind::Stock | Kind::Pageserver => (timeline.watch(), None),
        };
        let now = Instant::now();
        Self {
            timeline,
            sent: start,
            kind,
            announced: Vec::new(),
            positions,
            metrics,
            last_heard: now,
            last_sent: now,
            needed: Lsn::INVALID,
            _woken_by_flushes: woken_by_flushes,
        }
    }

    /// Streams until the client ends it or goes away.
    pub async fn serve(mut self, connection: &mut Connection) -> Result<(), WireError> {
        let _present = Present::count(&self.metrics.readers);
        let (reader, writer) = connection.split();
        writer.copy_both_response();
        writer.flush().await?;
        match self.stream(reader, writer).await? {
            End::Client => {
                writer.copy_done();
                writer.command_complete("START_REPLICATION");
                writer.ready_for_query();
                writer.flush().await
            }
            End::Error(error) => connection.refuse(&error).await,
        }
    }

    async fn stream(&mut self, reader: &mut MessageReader, writer: &mut MessageWriter) -> Result<End, WireError> {
        loop {
            // What the client has said comes first, without waiting: it may want to stop in the middle of much WAL.
            while let Some(frame) = reader.buffered_frame()? {
                if self.heard(FrontendMessage::try_from(frame)?, writer)? {
                    return Ok(End::Client);
                }
            }
            let cuts = self.timeline.cuts();
            let position = self.positions.borrow_and_update().clone();
            if let Err(error) = self.check_log(&position) {
                return Ok(End::Error(error));
            }
            self.announce(&position, writer);
            let until = self.limit(&position);
            if let Some(at) = self.may_wait(until, writer) {
                tokio::select! {
                    frame = reader.read_frame() => match frame? {
                        Some(frame) => if self.heard(FrontendMessage::try_from(frame)?, writer)? { return Ok(End::Client) },
                        None => return Err(WireError::Closed),
                    },
                    () = tokio::time::sleep_until(at) => {}
                }
                continue;
            }
            if until > self.sent {
                if let Err(error) = self.send(until, cuts, writer).await? {
                    return Ok(End::Error(error));
                }
                // Lets the client's words in without waiting for them.
                tokio::select! {
                    biased;
                    frame = reader.read_frame() => match frame? {
                        Some(frame) => if self.heard(FrontendMessage::try_from(frame)?, writer)? { return Ok(End::Client) },
                        None => return Err(WireError::Closed),
                    },
                    () = std::future::ready(()) => {}
                }
                continue;
            }
            self.flush(writer).await?;
            tokio::select! {
                frame = reader.read_frame() => match frame? {
                    Some(frame) => if self.heard(FrontendMessage::try_from(frame)?, writer)? { return Ok(End::Client) },
                    None => return Err(WireError::Closed),
                },
                changed = self.positions.changed() => {
                    changed.map_err(|_| WireError::Closed)?;
                }
                () = tokio::time::sleep_until(self.last_sent + KEEPALIVE_INTERVAL) => self.keep_alive(writer, true)?,
            }
        }
    }

    /// Until when WAL up to `until` may be held back to go out with what follows.
    fn may_wait(&self, until: Lsn, writer: &MessageWriter) -> Option<Instant> {
        let pending = until.0.saturating_sub(self.sent.0);
        let small = self.kind == Kind::Pageserver && 0 < pending && pending < SMALL_PIECE_BYTES;
        let at = self.last_sent + SMALL_PIECE_INTERVAL;
        (small && self.needed <= self.sent && writer.pending_bytes() == 0 && at > Instant::now()).then_some(at)
    }

    fn limit(&self, position: &Position) -> Lsn {
        match self.kind {
            Kind::Peer(_) => position.flush_lsn,
            Kind::Stock | Kind::Pageserver => position.commit_lsn,
        }
    }

    fn check_log(&self, position: &Position) -> Result<(), ServerMessage> {
        if let Some(refused) = self.timeline.ended() {
            return Err(ServerMessage::error(sqlstate::UNDEFINED_OBJECT, refused.text));
        }
        match self.kind {
            Kind::Peer(term) if position.last_log_term != term => Err(ServerMessage::error(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the log here is of term {}, not of term {term}", position.last_log_term),
            )),
            _ => Ok(()),
        }
    }

    /// The history up to and including the commit position, before any WAL behind it (H10). A term that starts exactly there
    /// counts: its first page request may come before its first byte of WAL.
    fn announce(&mut self, position: &Position, writer: &mut MessageWriter) {
        if self.kind == Kind::Stock {
            return;
        }
        let limit = self.limit(position);
        let entries = position.history.entries();
        let known = &entries[..entries.partition_point(|entry| entry.start <= limit)];
        if known != self.announced {
            writer.copy_data(|body| put_history(body, known));
            self.announced = known.to_vec();
        }
    }

    /// `cuts` is from before `until` was learnt.
    async fn send(
        &mut self,
        until: Lsn,
        cuts: u64,
        writer: &mut MessageWriter,
    ) -> Result<Result<(), ServerMessage>, WireError> {
        let wal = match self.timeline.read(self.sent, until, READ_BYTES).await {
            Ok(_) if matches!(self.kind, Kind::Peer(_)) && (self.timeline.cuts() != cuts || cuts % 2 == 1) => {
                let text = "the log is being cut: what was read may be gone";
                return Ok(Err(ServerMessage::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, text)));
            }
            Ok(wal) => wal,
            Err(error) => {
                let text = format!("WAL at {} cannot be read: {error}", self.sent);
                tracing::error!(timeline = %self.timeline.key(), text);
                return Ok(Err(ServerMessage::error(sqlstate::DATA_CORRUPTED, text)));
            }
        };
        for chunk in wal.chunks(CHUNK_BYTES) {
            let head = xlog_data_head(self.sent, until);
            timeout(SILENCE, writer.send_copy_data(&head, chunk))
                .await
                .map_err(|_| WireError::TimedOut("sending WAL to a reader"))??;
            self.sent = Lsn(self.sent.0 + chunk.len() as u64);
        }
        self.metrics.wal_sent_bytes.inc_by(wal.len() as u64);
        self.last_sent = Instant::now();
        Ok(Ok(()))
    }

    async fn flush(&mut self, writer: &mut MessageWriter) -> Result<(), WireError> {
        if writer.pending_bytes() > 0 {
            timeout(SILENCE, writer.flush()).await.map_err(|_| WireError::TimedOut("sending to a reader"))??;
            self.last_sent = Instant::now();
        }
        Ok(())
    }

    fn keep_alive(&mut self, writer: &mut MessageWriter, reply_requested: bool) -> Result<(), WireError> {
        if self.last_heard.elapsed() > SILENCE {
            return Err(WireError::TimedOut("waiting for a reader's answer"));
        }
        let available = self.limit(&self.positions.borrow());
        writer.copy_data(|body| put_keepalive(body, available, reply_requested));
        Ok(())
    }

    /// Takes in what the client says; true when it has enough.
    fn heard(&mut self, message: FrontendMessage, writer: &mut MessageWriter) -> Result<bool, WireError> {
        self.last_heard = Instant::now();
        let data = match message {
            FrontendMessage::CopyData(data) => data,
            FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => return Ok(true),
            FrontendMessage::Terminate => return Err(WireError::Closed),
            _ => return Err(WireError::Malformed("a reader sends only CopyData")),
        };
        match FromReader::parse(data)? {
            FromReader::Status { reply_requested: true } => self.keep_alive(writer, false)?,
            FromReader::Needed(lsn) => self.needed = self.needed.max(lsn),
            FromReader::Progress(feedback) if self.kind == Kind::Pageserver => {
                self.timeline.handle(AcceptorEvent::PageserverFeedback(feedback));
            }
            _ => {}
        }
        Ok(false)
    }
}
