//! One timeline: the shell around its [`Acceptor`].
//!
//! ```text
//! proposer ─┐                        ┌─▶ replies ([`Outbox`] per connection)
//! peers    ─┼─▶ event ─▶ Acceptor ─▶ ┼─▶ disk work ([`disk_queue`], one thread at a time) ─▶ event …
//! readers  ─┘    (under a lock)      └─▶ position ([`Position`], watched by readers)
//! ```
//!
//! The lock is held only while the acceptor thinks, never across I/O: readers and new appends do not wait for a flush. A timeline
//! without a proposer has no task, no thread and no open file. Disk work is done by the thread that reads the proposer, right
//! after it has taken in what came; much work, and what others bring about, by a blocking thread.

pub mod creation;
pub mod disk_queue;
mod ended;
mod membership;
mod outbox;
mod turn;
mod wal_tail;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::TcpStream,
    ops::{Deref, DerefMut},
    path::Path,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
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

pub use membership::AdoptionError;
pub use outbox::Outbox;

use crate::{
    archive::{Archive, plan::View, rank},
    disk::{
        recovery::{self, Checks, RecoveryError},
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
/// WAL beyond this is written by another thread, so that more can be received meanwhile.
const WORK_HERE_BYTES: usize = 256 << 10;

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

impl FromStr for TimelineKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not TENANT/TIMELINE");
        let (tenant, timeline) = text.split_once('/').ok_or_else(wrong)?;
        match (tenant.parse(), timeline.parse()) {
            (Ok(tenant), Ok(timeline)) => Ok(Self { tenant, timeline }),
            _ => Err(wrong()),
        }
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
    /// The object store, if there is one: without it all WAL stays here.
    pub archive: Option<Arc<Archive>>,
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
    /// Readers that are woken by flush_lsn too, and not by commit_lsn alone.
    flush_readers: AtomicU64,
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
    /// Term and last log term as the peers were told last.
    told_term: (Term, Term),
    /// Have answers to send when the lock is given back.
    answering: Vec<Arc<Outbox>>,
    /// commit_lsn when what is persisted lazily was last persisted.
    checkpointed: Lsn,
    /// It was deleted: nothing is thought, written or answered any more.
    ended: Option<Refused>,
    /// Since when no proposer is connected; `None` while one is.
    quiet_since: Option<Instant>,
    /// Segments of commit_lsn, backup_lsn and remote_consistent_lsn when the archive was last told.
    archive_told: [u64; 3],
}

impl Timeline {
    /// Opens a timeline's folder. Blocks while it reads the end of the WAL.
    pub fn open(path: &Path, key: TimelineKey, shared: Shared, checks: Checks) -> Result<Arc<Self>, OpenError> {
        let recovered = recovery::recover(path, shared.sync, checks)?;
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
        let disk = Box::new(Disk::new(recovered, folder.clone(), cuts.clone(), shared.archive.clone()));
        let inner = Inner {
            acceptor,
            queue: VecDeque::new(),
            queued_bytes: 0,
            disk: Some(disk),
            out_of_space: false,
            space_lack: None,
            connections: HashMap::new(),
            fetches: HashMap::new(),
            told_term: (Term(0), Term(0)),
            answering: Vec::new(),
            checkpointed: commit_lsn,
            ended: None,
            quiet_since: Some(Instant::now()),
            archive_told: [0; 3],
        };
        Ok(Arc::new(Self {
            key,
            identity,
            folder,
            inner: Mutex::new(inner),
            position: watch::Sender::new(position),
            tail: Mutex::new(WalTail::new(shared.wal_tail_bytes)),
            cuts,
            flush_readers: AtomicU64::new(0),
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

    /// How far the log is; woken when commit_lsn or the log's term moves.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// As [`Timeline::watch`], woken by flush_lsn too.
    pub fn watch_flushes(self: &Arc<Self>) -> (watch::Receiver<Position>, FlushReader) {
        self.flush_readers.fetch_add(1, Ordering::SeqCst);
        (self.position.subscribe(), FlushReader(self.clone()))
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
    pub fn connect(&self, socket: Arc<TcpStream>) -> (ConnectionId, Arc<Outbox>) {
        let id = ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::new(socket));
        let mut inner = self.lock();
        inner.connections.insert(id, outbox.clone());
        inner.quiet_since = None;
        (id, outbox)
    }

    /// Removes a proposer's connection. With the last one the timeline goes to rest.
    pub fn disconnect(self: &Arc<Self>, connection: ConnectionId) {
        let mut inner = self.lock();
        inner.connections.remove(&connection);
        self.apply(&mut inner, AcceptorEvent::Disconnected { connection });
        if inner.connections.is_empty() {
            inner.quiet_since = Some(Instant::now());
            self.plan_rest(&mut inner);
            self.wake_archive();
        }
        self.start_turn(&mut inner);
        self.room.notify_waiters();
    }

    /// Persists what is persisted lazily, and closes the files.
    pub fn rest(self: &Arc<Self>) {
        let mut inner = self.lock();
        self.plan_rest(&mut inner);
        self.start_turn(&mut inner);
    }

    fn plan_rest(self: &Arc<Self>, inner: &mut Inner) {
        if inner.ended.is_none() {
            self.apply(inner, AcceptorEvent::Checkpoint);
            inner.queue.push_back(DiskWork::Rest);
        }
    }

    /// Waits until every proposer is gone and everything queued is on disk.
    pub async fn settled(&self) {
        loop {
            let room = self.room.notified();
            {
                let inner = self.lock();
                if inner.connections.is_empty() && inner.queue.is_empty() && inner.disk.is_some() {
                    return;
                }
            }
            room.await;
        }
    }

    /// Whether the disk keeps up, so that more may be taken in.
    pub fn has_room(&self) -> bool {
        self.lock().queued_bytes < MAX_QUEUED_BYTES
    }

    /// Waits until the disk has caught up, so that memory stays bounded.
    pub async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            if self.has_room() {
                return;
            }
            room.await;
        }
    }

    /// Gives an event to the acceptor; what the disk must do waits for [`Timeline::work`].
    pub fn take_in(self: &Arc<Self>, event: AcceptorEvent) {
        let mut inner = self.lock();
        self.apply(&mut inner, event);
    }

    /// Does the disk's work on this thread; much of it, or what another thread has begun, is left to another. Blocks.
    pub fn work(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.queued_bytes > WORK_HERE_BYTES {
            return self.start_turn(&mut inner);
        }
        if let Some(disk) = inner.take_turn() {
            drop(inner);
            self.clone().turn(disk);
        }
    }

    /// Gives an event to the acceptor and carries out what it says.
    pub fn handle(self: &Arc<Self>, event: AcceptorEvent) {
        let mut inner = self.lock();
        self.apply(&mut inner, event);
        self.start_turn(&mut inner);
    }

    fn lock(&self) -> Locked<'_> {
        Locked(Some(self.inner.lock().unwrap_or_else(|_| crash_by_bug())))
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
        self.tell_archive(inner);
        self.position.send_if_modified(|position| {
            let now = position_of(&inner.acceptor, Some(position));
            let changed = (now.flush_lsn, now.commit_lsn, now.last_log_term)
                != (position.flush_lsn, position.commit_lsn, position.last_log_term);
            let awaited = (now.commit_lsn, now.last_log_term) != (position.commit_lsn, position.last_log_term)
                || self.flush_readers.load(Ordering::SeqCst) > 0;
            if changed {
                *position = now;
            }
            changed && awaited
        });
    }

    /// Tells the archive when a segment was finished, or may have become removable.
    fn tell_archive(self: &Arc<Self>, inner: &mut Inner) {
        let state = inner.acceptor.state();
        let size = self.folder.segment_size_bytes();
        let segments =
            [state.commit_lsn, state.backup_lsn, state.remote_consistent_lsn].map(|lsn| lsn.segment_number(size));
        if segments != std::mem::replace(&mut inner.archive_told, segments) {
            self.wake_archive();
        }
    }

    /// Has the archive look whether there is something to do.
    pub fn wake_archive(self: &Arc<Self>) {
        if let Some(archive) = &self.shared.archive {
            archive.wake(self);
        }
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
                    inner.answering.push(outbox.clone());
                }
                return;
            }
            AcceptorAction::Close { connection, reason } => {
                if let Some(outbox) = inner.connections.remove(&connection) {
                    outbox.close(reason);
                    inner.answering.push(outbox);
                }
                return;
            }
            AcceptorAction::CommitAdvanced { .. } => return, // readers watch the position
            AcceptorAction::StatusChanged => {
                let term = (inner.acceptor.state().term, inner.acceptor.last_log_term());
                let soon =
                    std::mem::replace(&mut inner.told_term, term) != term || !inner.acceptor.proposer_connected();
                return self.shared.peers.status_changed(self, soon);
            }
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

    /// WAL from `from` on: at most `max_bytes`, not beyond `to`; what is not here any more comes from the object store, in pieces
    /// that it chooses. The caller knows that `[from, to)` was written. What lies beyond commit_lsn may be cut meanwhile: compare [`Timeline::cuts`] from before `to` was learnt with that after the read.
    pub async fn read(self: &Arc<Self>, from: Lsn, to: Lsn, max_bytes: usize) -> io::Result<Bytes> {
        let to = Lsn(to.0.min(from.0.saturating_add(max_bytes as u64)));
        let recent = self.lock_tail().read(from, to);
        match recent {
            Some(bytes) => Ok(bytes),
            None => {
                let folder = self.folder.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&folder, from, to)).await;
                match read.map_err(io::Error::other)? {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => self.read_archived(from, to).await,
                    read => read,
                }
            }
        }
    }

    async fn read_archived(&self, from: Lsn, to: Lsn) -> io::Result<Bytes> {
        let Some(archive) = &self.shared.archive else {
            let text = "it was archived and removed here; start this safekeeper with --remote";
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        };
        let tail = self.lock().acceptor.state().archived_tail;
        let size = self.folder.segment_size_bytes();
        archive.read(self.key, size, tail, (from, to)).await.map_err(io::Error::other)
    }

    /// Its segment files.
    pub fn folder(&self) -> &Arc<SegmentFolder> {
        &self.folder
    }

    /// How things are for the archive, and for how long nobody has been connected, if nobody is.
    pub async fn archive_view(&self) -> io::Result<(View, Option<Duration>)> {
        let folder = self.folder.clone();
        let numbers = tokio::task::spawn_blocking(move || folder.numbers()).await.map_err(io::Error::other)??;
        let inner = self.lock();
        let (acceptor, state) = (&inner.acceptor, inner.acceptor.state());
        let view = View {
            segment_size_bytes: self.folder.segment_size_bytes(),
            rank: rank(self.key.timeline, &state.membership, self.shared.me.node_id),
            flush_lsn: acceptor.flush_lsn(),
            commit_lsn: state.commit_lsn,
            backup_lsn: state.backup_lsn,
            remote_consistent_lsn: state.remote_consistent_lsn,
            horizon_lsn: acceptor.removal_horizon(),
            first_segment: numbers.first().copied().filter(|_| state.archived_tail.is_none()),
            idle: acceptor.is_idle() && inner.connections.is_empty(),
        };
        Ok((view, inner.quiet_since.map(|since| since.elapsed())))
    }

    /// Waits until what was handed to the disk before has moved [`Acceptor::removal_horizon`].
    pub async fn horizon_moves_from(&self, lsn: Lsn) {
        loop {
            let room = self.room.notified();
            if self.lock().acceptor.removal_horizon() != lsn {
                return;
            }
            room.await;
        }
    }

    /// Removes segments below `number` that nobody needs here; returns how many there were.
    pub async fn remove_segments(&self, number: u64) -> io::Result<u64> {
        let horizon = self.lock().acceptor.removal_horizon().segment_number(self.folder.segment_size_bytes());
        let folder = self.folder.clone();
        let remove = move || folder.remove_below(number.min(horizon));
        tokio::task::spawn_blocking(remove).await.map_err(io::Error::other)?
    }

    /// First byte that can be read, here or from the object store.
    pub fn first_available(&self) -> Lsn {
        self.identity.start_lsn.segment_start(self.identity.wal_segment_size_bytes.into())
    }
}

/// Has its watch woken by each flush while it lives: a commit then costs one more wake-up.
pub struct FlushReader(Arc<Timeline>);

impl Drop for FlushReader {
    fn drop(&mut self) {
        self.0.flush_readers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The lock. Answers leave when it is given back: nobody waits for a socket while holding it.
struct Locked<'a>(Option<MutexGuard<'a, Inner>>);

impl Deref for Locked<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        self.0.as_ref().expect("it is given back only when dropped")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        self.0.as_mut().expect("it is given back only when dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut outboxes = std::mem::take(&mut self.answering);
        self.0 = None;
        outboxes.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for outbox in outboxes {
            outbox.send(); // what the socket does not take, its thread sends
        }
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
