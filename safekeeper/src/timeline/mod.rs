//! One timeline: the shell around its [`Acceptor`].
//!
//! ```text
//! proposer ─┐                        ┌─▶ replies ([`Outbox`] per connection)
//! peers    ─┼─▶ event ─▶ Acceptor ─▶ ┼─▶ disk work ([`disk_queue`], one blocking thread at a time) ─▶ event …
//! readers  ─┘    (under a lock)      └─▶ position ([`Position`], watched by readers)
//! ```
//!
//! The lock is held only while the acceptor thinks, never across I/O: readers and new appends do not wait for a flush. An idle
//! timeline has no task, no thread and no open file.

pub mod creation;
pub mod disk_queue;
mod ended;
mod outbox;
mod turn;
mod wal_tail;

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use quorum::{
    Acceptor, AcceptorAction, AcceptorEvent, AcceptorState, ConnectionId, FetchId, Member, PageserverFeedback,
    PeerStatus, Refused, TermHistory,
    acceptor::{RestoreError, TimelineIdentity},
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

pub use outbox::Outbox;

use crate::{
    disk::{
        recovery::{self, RecoveryError},
        segments::{SegmentFolder, SegmentReader},
        space::SpaceLimits,
    },
    metrics::Metrics,
    peers::Peers,
};
use disk_queue::{Disk, DiskWork, crash_by_bug};
use wal_tail::WalTail;

/// WAL that may wait in memory for the disk, per timeline; a proposer that is faster is not read from.
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// A proposer that does not take its answers is not read from beyond this many.
const MAX_QUEUED_ANSWERS: usize = 64;

/// Names a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimelineKey {
    /// Customer.
    pub tenant: TenantId,
    /// Branch.
    pub timeline: TimelineId,
}

impl std::fmt::Display for TimelineKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.tenant, self.timeline)
    }
}

/// How far the log durably is: what readers may have. Taken as a whole under the lock, so that the history belongs to the
/// positions.
#[derive(Debug, Clone)]
pub struct Position {
    /// Term of the log up to `flush_lsn`.
    pub last_log_term: Term,
    /// End of the last whole durable record.
    pub flush_lsn: Lsn,
    /// Known to be committed.
    pub commit_lsn: Lsn,
    /// Cut at `flush_lsn`; a term that starts exactly there is in it.
    pub history: Arc<TermHistory>,
}

/// What the whole node shares with its timelines.
#[derive(Debug, Clone)]
pub struct Shared {
    /// This node.
    pub me: Member,
    /// The other safekeepers.
    pub peers: Arc<Peers>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Flushes are done.
    pub sync: bool,
    /// Recent WAL in memory per timeline.
    pub wal_tail_bytes: usize,
    /// Disk space per timeline, and what stays free.
    pub limits: SpaceLimits,
}

/// Why a timeline on disk cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// Its acceptor.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// One timeline on this node.
pub struct Timeline {
    key: TimelineKey,
    identity: TimelineIdentity,
    folder: Arc<SegmentFolder>,
    inner: Mutex<Inner>,
    position: watch::Sender<Position>,
    tail: Mutex<WalTail>,
    cuts: Arc<AtomicU64>,
    /// The queue got shorter, or an outbox did.
    room: Notify,
    next_connection: AtomicU64,
    shared: Shared,
}

struct Inner {
    acceptor: Acceptor,
    queue: VecDeque<DiskWork>,
    queued_bytes: usize,
    /// Not here while a turn runs.
    disk: Option<Box<Disk>>,
    /// The next try waits for its time.
    out_of_space: bool,
    /// Why there was no space for the last try, until one succeeds.
    space_lack: Option<String>,
    connections: HashMap<ConnectionId, Arc<Outbox>>,
    fetches: HashMap<FetchId, AbortHandle>,
    /// commit_lsn when what is persisted lazily was last persisted.
    checkpointed: Lsn,
    /// It was deleted: nothing is thought, written or answered any more.
    ended: Option<Refused>,
}

impl Timeline {
    /// Opens a timeline's folder. Blocks while it reads the end of the WAL.
    pub fn open(path: &Path, key: TimelineKey, shared: Shared) -> Result<Arc<Self>, OpenError> {
        let recovered = recovery::recover(path, shared.sync)?;
        let identity = recovered.state.identity;
        if (identity.tenant, identity.timeline) != (key.tenant, key.timeline) {
            let found = format!("{}/{}", identity.tenant, identity.timeline);
            return Err(RecoveryError::WrongFolder { found }.into());
        }
        let acceptor = Acceptor::restore(shared.me, recovered.state.clone(), recovered.flush_lsn)?;
        tracing::info!(timeline = %key, flush_lsn = %acceptor.flush_lsn(), commit_lsn = %acceptor.commit_lsn(), "timeline opened");
        let commit_lsn = acceptor.commit_lsn();
        let position = position_of(&acceptor, None);
        let folder = SegmentFolder::new(path.to_owned(), identity.wal_segment_size_bytes.into(), shared.sync);
        let folder = Arc::new(folder.with_limits(shared.limits));
        let cuts = Arc::new(AtomicU64::new(0));
        let disk = Box::new(Disk::new(recovered, folder.clone(), cuts.clone()));
        let inner = Inner {
            acceptor,
            queue: VecDeque::new(),
            queued_bytes: 0,
            disk: Some(disk),
            out_of_space: false,
            space_lack: None,
            connections: HashMap::new(),
            fetches: HashMap::new(),
            checkpointed: commit_lsn,
            ended: None,
        };
        Ok(Arc::new(Self {
            key,
            identity,
            folder,
            inner: Mutex::new(inner),
            position: watch::Sender::new(position),
            tail: Mutex::new(WalTail::new(shared.wal_tail_bytes)),
            cuts,
            room: Notify::new(),
            next_connection: AtomicU64::new(1),
            shared,
        }))
    }

    /// Its name.
    pub fn key(&self) -> TimelineKey {
        self.key
    }

    /// Its parameters.
    pub fn identity(&self) -> &TimelineIdentity {
        &self.identity
    }

    /// How far the log is, now and whenever it moves.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// The acceptor's state as it would be persisted now.
    pub fn state(&self) -> AcceptorState {
        self.lock().acceptor.state().clone()
    }

    /// For the peers.
    pub fn status(&self) -> PeerStatus {
        self.lock().acceptor.status()
    }

    /// Whether an elected proposer is connected, and what the pageserver has said.
    pub fn connected(&self) -> (bool, PageserverFeedback) {
        let inner = self.lock();
        (inner.acceptor.proposer_connected(), inner.acceptor.pageserver_feedback())
    }

    /// Why nothing is acknowledged for lack of space, if that is so.
    pub fn space_lack(&self) -> Option<String> {
        self.lock().space_lack.clone()
    }

    /// Adds a proposer's connection; its answers come through the outbox.
    pub fn connect(&self) -> (ConnectionId, Arc<Outbox>) {
        let id = ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::default());
        self.lock().connections.insert(id, outbox.clone());
        (id, outbox)
    }

    /// Removes a proposer's connection. With the last one the timeline goes to rest.
    pub fn disconnect(self: &Arc<Self>, connection: ConnectionId) {
        self.lock().connections.remove(&connection);
        self.handle(AcceptorEvent::Disconnected { connection });
        if self.lock().connections.is_empty() {
            self.rest();
        }
    }

    /// Persists what is persisted lazily, and closes the files.
    pub fn rest(self: &Arc<Self>) {
        self.handle(AcceptorEvent::Checkpoint);
        let mut inner = self.lock();
        inner.queue.push_back(DiskWork::Rest);
        self.start_turn(&mut inner);
    }

    /// Waits until everything queued so far is on disk.
    pub async fn settled(&self) {
        loop {
            let room = self.room.notified();
            {
                let inner = self.lock();
                if inner.queue.is_empty() && inner.disk.is_some() {
                    return;
                }
            }
            room.await;
        }
    }

    /// Waits until the disk has caught up and the proposer has taken its answers, so that memory stays bounded.
    pub async fn wait_for_room(&self, outbox: Option<&Outbox>) {
        loop {
            let room = self.room.notified();
            let has_answers_room = outbox.is_none_or(|outbox| outbox.len() < MAX_QUEUED_ANSWERS);
            if has_answers_room && self.lock().queued_bytes < MAX_QUEUED_BYTES {
                return;
            }
            room.await;
        }
    }

    /// An outbox was emptied.
    pub fn answers_taken(&self) {
        self.room.notify_waiters();
    }

    /// Gives an event to the acceptor and carries out what it says.
    pub fn handle(self: &Arc<Self>, event: AcceptorEvent) {
        let mut inner = self.lock();
        self.apply(&mut inner, event);
        self.start_turn(&mut inner);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|_| crash_by_bug())
    }

    fn lock_tail(&self) -> MutexGuard<'_, WalTail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(self: &Arc<Self>, inner: &mut Inner, event: AcceptorEvent) {
        if inner.ended.is_some() {
            return;
        }
        for action in inner.acceptor.handle(event) {
            self.carry_out(inner, action);
        }
        self.position.send_if_modified(|position| {
            let now = position_of(&inner.acceptor, Some(position));
            let changed = (now.flush_lsn, now.commit_lsn, now.last_log_term)
                != (position.flush_lsn, position.commit_lsn, position.last_log_term);
            if changed {
                *position = now;
            }
            changed
        });
    }

    fn carry_out(self: &Arc<Self>, inner: &mut Inner, action: AcceptorAction) {
        let work = match action {
            AcceptorAction::WriteWal { token, at, wal } => DiskWork::Write { token, at, wal },
            AcceptorAction::Flush { token } => DiskWork::Flush { token },
            AcceptorAction::TruncateZero { token, at } => {
                tracing::info!(timeline = %self.key, lsn = %at, "cutting the log");
                DiskWork::Cut { token, at }
            }
            AcceptorAction::PersistState { version, state } => DiskWork::Persist { version, state },
            AcceptorAction::DropWal(tail) => {
                tracing::info!(timeline = %self.key, lsn = %tail.end, "all WAL is in the object store: dropping the local copy");
                DiskWork::Drop { tail }
            }
            AcceptorAction::Reply { connection, message } => {
                if let Some(outbox) = inner.connections.get(&connection) {
                    outbox.push(message);
                }
                return;
            }
            AcceptorAction::Close { connection, reason } => {
                if let Some(outbox) = inner.connections.remove(&connection) {
                    outbox.close(reason);
                }
                return;
            }
            AcceptorAction::CommitAdvanced { .. } => return, // readers watch the position
            AcceptorAction::StatusChanged => return self.shared.peers.status_changed(self),
            AcceptorAction::FetchFromPeer { fetch, peer, peer_term, from, to } => {
                let handle = self.shared.peers.fetch(self.clone(), fetch, peer, peer_term, from..to);
                inner.fetches.insert(fetch, handle);
                return;
            }
            AcceptorAction::CancelFetch { fetch } => {
                if let Some(task) = inner.fetches.remove(&fetch) {
                    task.abort();
                }
                return;
            }
        };
        inner.queued_bytes += work.size_bytes();
        inner.queue.push_back(work);
    }

    /// A fetch from a peer is over.
    pub fn fetch_ended(self: &Arc<Self>, fetch: FetchId) {
        self.lock().fetches.remove(&fetch);
        self.handle(AcceptorEvent::FetchEnded { fetch });
    }

    /// Counts cuts of the log: up when one begins, and again when the acceptor knows that it is done. Odd: one is under way.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    /// WAL from `from` on: at most `max_bytes`, not beyond `to`. The caller knows that `[from, to)` was written. What lies beyond
    /// commit_lsn may be cut meanwhile: compare [`Timeline::cuts`] from before `to` was learnt with that after the read.
    pub async fn read(self: &Arc<Self>, from: Lsn, to: Lsn, max_bytes: usize) -> io::Result<Bytes> {
        let to = Lsn(to.0.min(from.0.saturating_add(max_bytes as u64)));
        let recent = self.lock_tail().read(from, to);
        match recent {
            Some(bytes) => Ok(bytes),
            None => {
                let folder = self.folder.clone();
                tokio::task::spawn_blocking(move || read_file(&folder, from, to)).await.map_err(io::Error::other)?
            }
        }
    }

    /// First byte that is still here.
    pub fn first_available(&self) -> Lsn {
        self.identity.start_lsn.segment_start(self.identity.wal_segment_size_bytes.into())
    }
}

fn read_file(folder: &SegmentFolder, from: Lsn, to: Lsn) -> io::Result<Bytes> {
    let mut bytes = vec![0; to.bytes_since(from) as usize];
    let (mut reader, mut done) = (SegmentReader::default(), 0);
    while done < bytes.len() {
        done += reader.read(folder, Lsn(from.0 + done as u64), &mut bytes[done..])?;
    }
    Ok(bytes.into())
}

/// Durable facts only. The history is shared with the previous position while the last log term is the same: a term's history
/// never changes.
fn position_of(acceptor: &Acceptor, previous: Option<&Position>) -> Position {
    let last_log_term = acceptor.last_log_term();
    let history = match previous {
        Some(previous) if previous.last_log_term == last_log_term => previous.history.clone(),
        _ => Arc::new(acceptor.status().history),
    };
    Position { last_log_term, flush_lsn: acceptor.flush_lsn(), commit_lsn: acceptor.commit_lsn(), history }
}
