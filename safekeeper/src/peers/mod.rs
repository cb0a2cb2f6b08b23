//! The other safekeepers: news of progress, and WAL for whoever is behind.
//!
//! Each node keeps one connection to each peer and sends on it what has changed, for all timelines together ([`status`]); a
//! timeline at rest costs nothing. What the news means is decided by the acceptors alone.

pub mod ask;
mod fetch;
pub mod report;
pub mod status;
pub mod wal_stream;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::BufMut;
use ogel_ids::{Lsn, NodeId, Term};
use ogel_pgwire::{Address, Client, ConnectOptions, CopyBothWriter, Endpoint, WireError};
use ogel_service::{Shutdown, auth::TokenSource};
use quorum::FetchId;
use tokio::{sync::Notify, task::AbortHandle, time::timeout};

use crate::{
    registry::Registry,
    timeline::{Timeline, TimelineKey},
};

/// News are sent at most this often; what changed in between goes out together.
const NEWS_INTERVAL: Duration = Duration::from_millis(20);
/// Progress that a connected proposer brings about is told after this: it needs no help from the peers.
const LATER: Duration = Duration::from_millis(250);
/// What changed lately is told again this often: news may cross the opening of a timeline, or a failed fetch.
const REPEAT_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a change is told again.
const REPEAT_FOR: Duration = Duration::from_secs(30);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// A frame of news is sent when it has grown to this.
const FRAME_BYTES: usize = 512 << 10;

/// The other safekeepers, from configuration.
#[derive(Debug)]
pub struct Peers {
    links: BTreeMap<NodeId, Arc<Link>>,
}

/// One of them.
struct Link {
    node_id: NodeId,
    address: Endpoint,
    /// Changed and not told yet.
    news: Mutex<HashMap<TimelineKey, Arc<Timeline>>>,
    wake: Notify,
    /// There are news that need not go out at once.
    wake_later: Notify,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.node_id, self.address)
    }
}

impl Peers {
    /// From node numbers and PostgreSQL-wire addresses; `token` is shown to them.
    pub fn new(addresses: BTreeMap<NodeId, String>, token: &TokenSource) -> Self {
        let endpoint = |address| {
            let token = token.clone();
            Endpoint::new(Address::Tcp(address), move || token.current())
        };
        let link = |(node_id, address)| {
            let link = Link {
                node_id,
                address: endpoint(address),
                news: Mutex::default(),
                wake: Notify::new(),
                wake_later: Notify::new(),
            };
            (node_id, Arc::new(link))
        };
        Self { links: addresses.into_iter().map(link).collect() }
    }

    /// Where a peer's PostgreSQL-wire port is.
    pub fn address(&self, node_id: NodeId) -> Option<Endpoint> {
        self.links.get(&node_id).map(|link| link.address.clone())
    }

    /// All that are configured.
    pub fn addresses(&self) -> Vec<(NodeId, Endpoint)> {
        self.links.iter().map(|(&node_id, link)| (node_id, link.address.clone())).collect()
    }

    /// Has the timeline's status told to all peers, `soon` or with other news. Does not block.
    pub fn status_changed(&self, timeline: &Arc<Timeline>, soon: bool) {
        for link in self.links.values() {
            let mut news = link.news.lock().unwrap_or_else(PoisonError::into_inner);
            let first = news.insert(timeline.key(), timeline.clone()).is_none();
            drop(news);
            if soon {
                link.wake.notify_one();
            } else if first {
                link.wake_later.notify_one();
            }
        }
    }

    /// Starts to read WAL from a peer for this timeline; it ends with `FetchEnded`.
    pub fn fetch(
        &self,
        timeline: Arc<Timeline>,
        fetch: FetchId,
        peer: NodeId,
        peer_term: Term,
        range: Range<Lsn>,
    ) -> AbortHandle {
        let address = self.links.get(&peer).map(|link| link.address.clone());
        let task = tokio::spawn(async move {
            let result = match address {
                Some(address) => fetch::fetch(&timeline, fetch, address, peer_term, range.clone()).await,
                None => Err(wal_stream::FetchError::UnknownPeer(peer)),
            };
            match result {
                Ok(()) => {
                    tracing::info!(timeline = %timeline.key(), %peer, from = %range.start, to = %range.end, "caught up from a peer")
                }
                Err(error) => {
                    tracing::warn!(timeline = %timeline.key(), %peer, %error, "catching up from a peer failed; it is tried again")
                }
            }
            timeline.fetch_ended(fetch);
        });
        task.abort_handle()
    }

    /// Keeps a connection to each peer until shutdown.
    pub fn start(&self, registry: &Arc<Registry>, shutdown: &Shutdown) {
        for link in self.links.values() {
            let (link, registry, shutdown) = (link.clone(), registry.clone(), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = link.keep_connected(&registry) => {}
                    () = shutdown.wait() => {}
                }
            });
        }
    }
}

impl Link {
    async fn keep_connected(&self, registry: &Registry) {
        let mut said = false;
        loop {
            match self.tell_news(registry).await {
                // Said once per outage: a peer may be down for long.
                Err(error) if !said => {
                    tracing::warn!(peer = %self.node_id, address = %self.address, %error, "no connection to a peer; trying again");
                    said = true;
                }
                Err(_) => {}
                Ok(()) => said = false,
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Returns when the connection has ended after it had worked; an error when it never did.
    async fn tell_news(&self, registry: &Registry) -> Result<(), WireError> {
        let client =
            Client::connect(&ConnectOptions::new(self.address.clone()).parameter("replication", "true")).await?;
        let (mut reader, mut writer) = client.copy_both(&format!("PEER_STATUS {}", status::VERSION)).await?;
        tracing::info!(peer = %self.node_id, address = %self.address, "connected to a peer");
        {
            let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
            news.extend(registry.open_timelines().into_iter().map(|timeline| (timeline.key(), timeline)));
        }
        self.wake.notify_one();
        let ended = tokio::select! {
            result = self.send_news(&mut writer) => result,
            // The peer never sends anything but the end.
            result = reader.receive() => result.map(|_| ()),
        };
        if let Err(error) = ended {
            tracing::info!(peer = %self.node_id, %error, "connection to a peer ended");
        }
        Ok(())
    }

    /// Waits until news are to go out.
    async fn news(&self) {
        tokio::select! {
            () = self.wake.notified() => {}
            () = async {
                self.wake_later.notified().await;
                tokio::time::sleep(LATER).await;
            } => {}
        }
    }

    async fn send_news(&self, writer: &mut CopyBothWriter) -> Result<(), WireError> {
        let mut recent: HashMap<TimelineKey, (Arc<Timeline>, Instant)> = HashMap::new();
        loop {
            let woken = timeout(REPEAT_INTERVAL, self.news()).await.is_ok();
            let now = Instant::now();
            let news = std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner));
            let mut told: Vec<Arc<Timeline>> = news.values().cloned().collect();
            if !woken {
                recent.retain(|_, (_, changed)| now.duration_since(*changed) < REPEAT_FOR);
                told.extend(
                    recent.iter().filter(|(key, _)| !news.contains_key(key)).map(|(_, (timeline, _))| timeline.clone()),
                );
            }
            recent.extend(news.into_iter().map(|(key, timeline)| (key, (timeline, now))));
            if let Err(_elapsed) = timeout(SEND_TIMEOUT, send_statuses(writer, &told)).await {
                return Err(WireError::TimedOut("sending news to a peer"));
            }
            tokio::time::sleep(NEWS_INTERVAL).await;
        }
    }
}

/// An empty frame too, so that a dead connection shows.
async fn send_statuses(writer: &mut CopyBothWriter, timelines: &[Arc<Timeline>]) -> Result<(), WireError> {
    let mut timelines = timelines.iter().peekable();
    loop {
        let mut frame = Vec::new();
        while let Some(timeline) = timelines.next_if(|_| frame.len() < FRAME_BYTES) {
            status::encode(&mut frame, timeline.key(), &timeline.status());
        }
        writer.write(|body| {
            body.put_u8(b's');
            body.put_slice(&frame);
        });
        writer.flush().await?;
        if timelines.peek().is_none() {
            return Ok(());
        }
    }
}
