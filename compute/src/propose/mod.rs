//! The WAL proposer beside Postgres: carries out what [`quorum::Proposer`] decides, for one postmaster's life.
//!
//! It runs on a thread of its own with a single-threaded runtime, because the path of a commit goes through it twice:
//! walsender → [`driver`] → [`link`]s → safekeepers → links → driver → walsender. Nothing on that path changes threads, takes a
//! lock or waits for anything but sockets; the rest of the supervisor reads atomics.

mod driver;
mod link;
mod progress;
mod walsender;

use std::{path::PathBuf, thread};

use anyhow::Context;
use bytes::Bytes;
use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use ogel_service::auth::TokenSource;
use quorum::{Victory, proposer::NodeStatus};
use tokio::sync::{mpsc, oneshot, watch};

pub use progress::Progress;

use crate::config::SafekeeperAddress;

/// What a reign is started with.
#[derive(Debug, Clone)]
pub struct ReignSpec {
    /// Customer.
    pub tenant: TenantId,
    /// Branch.
    pub timeline: TimelineId,
    /// Where the acceptors are.
    pub safekeepers: Vec<SafekeeperAddress>,
    /// Shown to them.
    pub token: TokenSource,
    /// Highest term that this process has asked for in an earlier life. A higher one seen while campaigning is another
    /// compute's, which must not be deposed (H18). `None` in the first life.
    pub own_highest_term: Option<Term>,
    /// Where progress shows.
    pub progress: Progress,
}

/// Why a reign has ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReignEnd {
    /// Another compute has been elected: Postgres must stop at once, and this process must not campaign again.
    Fenced {
        /// Its term.
        by_term: Term,
    },
    /// A contradiction after which going on could lose data: stop at once.
    Failed(String),
}

/// What the rest of the supervisor waits for. Changes rarely.
#[derive(Debug, Clone, Default)]
pub struct ReignState {
    /// The election is won.
    pub victory: Option<Victory>,
    /// Everything before the start of the term is committed.
    pub start_committed: bool,
    /// The walsender's stream is attached.
    pub attached: bool,
    /// The end.
    pub ended: Option<ReignEnd>,
}

/// Handle of the proposer's thread. Dropping it ends the thread.
pub struct Reign {
    state: watch::Receiver<ReignState>,
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Command {
    /// WAL that the supervisor itself writes.
    Wal { begin: Lsn, wal: Bytes },
    /// Stream from the walsender behind this socket, from `start` or where the proposer's WAL ends.
    Attach { socket: PathBuf, start: Lsn },
    /// Status of the acceptors.
    Nodes(oneshot::Sender<Vec<NodeStatus>>),
    /// The end.
    Finish,
}

impl Reign {
    /// Starts campaigning.
    pub fn start(spec: ReignSpec) -> anyhow::Result<Self> {
        let (state_sender, state) = watch::channel(ReignState::default());
        let (commands, command_receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the proposer's runtime")?;
        let thread = thread::Builder::new()
            .name("proposer".into())
            .spawn(move || runtime.block_on(driver::run(spec, command_receiver, state_sender)))
            .context("starting the proposer's thread")?;
        Ok(Self { state, commands, thread: Some(thread) })
    }

    /// Waits until `done` finds what it looks for. A reign that has ended (or broken down) is the error.
    pub async fn wait_for<T>(&self, mut done: impl FnMut(&ReignState) -> Option<T>) -> Result<T, ReignEnd> {
        let mut state = self.state.clone();
        loop {
            {
                let now = state.borrow_and_update();
                if let Some(end) = &now.ended {
                    return Err(end.clone());
                }
                if let Some(found) = done(&now) {
                    return Ok(found);
                }
            }
            if state.changed().await.is_err() {
                return Err(ReignEnd::Failed("the proposer's thread has ended; this is a bug, report it".into()));
            }
        }
    }

    /// Waits for the end of the reign.
    pub async fn ended(&self) -> ReignEnd {
        match self.wait_for(|_| None::<std::convert::Infallible>).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    /// Hands the term's first WAL to the quorum.
    pub fn append(&self, begin: Lsn, wal: Bytes) {
        self.command(Command::Wal { begin, wal });
    }

    /// Streams Postgres' WAL from `start` on; connects again whenever the connection is lost.
    pub fn attach(&self, socket: PathBuf, start: Lsn) {
        self.command(Command::Attach { socket, start });
    }

    /// For asking where the acceptors stand while others hold the reign.
    pub fn nodes_query(&self) -> NodesQuery {
        NodesQuery(self.commands.clone())
    }

    /// Ends the thread after what was queued for the safekeepers has gone out.
    pub async fn finish(mut self) {
        let thread = self.thread.take();
        drop(self);
        if let Some(thread) = thread {
            let _panic_was_logged = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn command(&self, command: Command) {
        let _ended_already = self.commands.send(command);
    }
}

impl Drop for Reign {
    fn drop(&mut self) {
        self.command(Command::Finish);
    }
}

/// Asks a reign where its acceptors stand.
#[derive(Clone)]
pub struct NodesQuery(mpsc::UnboundedSender<Command>);

impl NodesQuery {
    /// One entry per safekeeper; empty when the reign has ended.
    pub async fn nodes(&self) -> Vec<NodeStatus> {
        let (sender, receiver) = oneshot::channel();
        let _ended = self.0.send(Command::Nodes(sender));
        receiver.await.unwrap_or_default()
    }
}
