//! The connection to one safekeeper.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use ogel_ids::{Lsn, NodeId, TenantId, TimelineId};
use ogel_pgwire::{Client, ConnectOptions, CopyBothReader, CopyBothWriter, Endpoint, WireError};
use quorum::{AcceptorMessage, ProposerMessage};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::config::SafekeeperAddress;

/// Before the first try to connect again.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Between later tries.
const RETRY_MAX: Duration = Duration::from_millis(500);
/// A batch of messages goes out when it is this long.
const BATCH_BYTES: usize = 256 << 10;
/// WAL of this size is not copied into the batch.
const LARGE_BYTES: usize = 16 << 10;

/// See [`ProposerMessage::encode_in_two`].
type Message = (Bytes, Bytes);

/// What a link tells the driver.
pub(super) enum LinkEvent {
    /// Messages can be sent.
    Connected,
    /// The safekeeper said something.
    Message(AcceptorMessage),
    /// The connection is gone, or could not be made; why.
    Lost(String),
}

/// A [`LinkEvent`] and whose. `connection` tells news of an earlier connection from news of the current one.
pub(super) struct FromLink {
    pub node: NodeId,
    pub connection: u64,
    pub event: LinkEvent,
}

/// One safekeeper, connected or about to be.
pub(super) struct Link {
    safekeeper: SafekeeperAddress,
    endpoint: Endpoint,
    tenant: TenantId,
    timeline: TimelineId,
    events: mpsc::UnboundedSender<FromLink>,
    connection: u64,
    /// Whether the driver's proposer has been told that this connection stands.
    pub announced: bool,
    retry_after: Duration,
    outgoing: mpsc::UnboundedSender<Message>,
    /// A commit advance that the next append may carry instead.
    held: Option<Message>,
    task: JoinHandle<()>,
    /// Why the last connection ended.
    pub last_error: Option<String>,
    /// It has no disk space, and its flush_lsn since, once it has said that.
    without_space: Option<Option<Lsn>>,
    /// What the safekeeper, or our own side, has against this connection: says more than how it ends.
    blame: Option<String>,
}

impl Link {
    /// Starts connecting.
    pub fn start(
        safekeeper: SafekeeperAddress,
        endpoint: Endpoint,
        tenant: TenantId,
        timeline: TimelineId,
        events: mpsc::UnboundedSender<FromLink>,
    ) -> Self {
        let (outgoing, _unused) = mpsc::unbounded_channel();
        let mut link = Self {
            safekeeper,
            endpoint,
            tenant,
            timeline,
            events,
            connection: 0,
            announced: false,
            retry_after: RETRY_MIN,
            outgoing,
            held: None,
            task: tokio::spawn(async {}),
            last_error: None,
            without_space: None,
            blame: None,
        };
        link.connect(Duration::ZERO);
        link
    }

    /// Whether news with this number is of the current connection.
    pub fn is_current(&self, connection: u64) -> bool {
        self.connection == connection
    }

    /// It does its work: the next loss is answered quickly.
    pub fn works(&mut self) {
        self.retry_after = RETRY_MIN;
        self.last_error = None;
    }

    /// It has answered. One without disk space answers too, but flushes nothing: its reason stays until it does.
    pub fn progresses(&mut self, flush_lsn: Lsn) {
        match &mut self.without_space {
            Some(since) if since.is_none_or(|since| since == flush_lsn) => *since = Some(flush_lsn),
            _ => {
                self.without_space = None;
                self.works();
            }
        }
    }

    /// It has no disk space now.
    pub fn waits_for_space(&mut self) {
        self.without_space.get_or_insert(None);
    }

    /// It cannot be used as it is.
    pub fn blame(&mut self, reason: String) {
        self.say_once(&reason);
        self.last_error = Some(reason.clone());
        self.blame = Some(reason);
    }

    /// The same sentence ten times a second would bury all others.
    fn say_once(&self, reason: &str) {
        if self.last_error.as_deref() != Some(reason) {
            let SafekeeperAddress { node_id, address } = &self.safekeeper;
            tracing::warn!(safekeeper = %node_id, %address, reason, "the safekeeper cannot be used now");
        }
    }

    /// Drops the connection and makes a new one after a back-off.
    pub fn reconnect(&mut self, reason: String) {
        let reason = self.blame.take().unwrap_or(reason);
        self.say_once(&reason);
        self.last_error = Some(reason);
        self.announced = false;
        let after = self.retry_after;
        self.retry_after = (after * 2).min(RETRY_MAX);
        self.connect(after);
    }

    fn connect(&mut self, after: Duration) {
        self.task.abort();
        self.connection += 1;
        let (outgoing, queue) = mpsc::unbounded_channel();
        self.outgoing = outgoing;
        self.held = None;
        let options = ConnectOptions::new(self.endpoint.clone())
            .setting("ogel.tenant", self.tenant)
            .setting("ogel.timeline", self.timeline);
        let (events, node, connection) = (self.events.clone(), self.safekeeper.node_id, self.connection);
        let tell = move |event| {
            let _driver_is_gone = events.send(FromLink { node, connection, event });
        };
        self.task = tokio::spawn(async move {
            pause(after).await;
            if let Err(reason) = serve(options, queue, &tell).await {
                tell(LinkEvent::Lost(reason));
            }
        });
    }

    /// Queues a message; never waits. The proposer bounds what is on its way, so the queue is bounded too.
    ///
    /// With `hold`, a commit advance stays here until [`Link::release`]: an append that follows says the same and makes it
    /// needless. Says whether it stayed.
    pub fn send(&mut self, message: &ProposerMessage, hold: bool) -> bool {
        match message {
            ProposerMessage::Append(append) if append.begin != Lsn::INVALID => {
                self.held = None;
                if hold && append.wal.is_empty() {
                    self.held = Some(message.encode_in_two());
                    return true;
                }
            }
            _ => self.release(),
        }
        let _lost_and_reported = self.outgoing.send(message.encode_in_two());
        false
    }

    /// Whether something is held back.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Sends what was held back.
    pub fn release(&mut self) {
        if let Some(message) = self.held.take() {
            let _lost_and_reported = self.outgoing.send(message);
        }
    }

    /// Lets what is queued go out, for at most `limit`.
    pub async fn close(mut self, limit: Duration) {
        self.release();
        drop(self.outgoing);
        let mut task = self.task;
        if tokio::time::timeout(limit, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// A timer of no time takes a millisecond.
pub(super) async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

async fn serve(
    options: ConnectOptions,
    queue: mpsc::UnboundedReceiver<Message>,
    tell: &impl Fn(LinkEvent),
) -> Result<(), String> {
    let text = |error: WireError| error.to_string();
    let client = Client::connect(&options).await.map_err(text)?;
    let (reader, writer) = client.copy_both("START_WAL_PUSH").await.map_err(text)?;
    tell(LinkEvent::Connected);
    // Two loops that do not wait for each other: a full socket must not keep answers from being read.
    tokio::select! {
        result = receive(reader, tell) => result,
        result = transmit(writer, queue) => result.map_err(text),
    }
}

async fn receive(mut reader: CopyBothReader, tell: &impl Fn(LinkEvent)) -> Result<(), String> {
    while let Some(payload) = reader.receive().await.map_err(|error| error.to_string())? {
        tell(LinkEvent::Message(AcceptorMessage::decode(payload).map_err(|error| error.to_string())?));
    }
    Err("the safekeeper ended the stream".into())
}

/// Ends well when the driver has closed the queue.
async fn transmit(mut writer: CopyBothWriter, mut queue: mpsc::UnboundedReceiver<Message>) -> Result<(), WireError> {
    while let Some(message) = queue.recv().await {
        put(&mut writer, message).await?;
        while writer.pending_bytes() < BATCH_BYTES {
            let Ok(message) = queue.try_recv() else { break };
            put(&mut writer, message).await?;
        }
        writer.flush().await?;
    }
    writer.finish().await
}

/// Small messages are collected; a large one goes out behind them as it is.
async fn put(writer: &mut CopyBothWriter, (head, wal): Message) -> Result<(), WireError> {
    if wal.len() >= LARGE_BYTES {
        return writer.send(&head, &wal).await;
    }
    writer.write(|body| {
        body.put(head);
        body.put(wal);
    });
    Ok(())
}
