//! What the supervisor shows of itself.

use std::{sync::Arc, time::Instant};

use ogel_ids::{Lsn, Term};
use ogel_service::http::Readiness;
use parking_lot::Mutex;
use serde::Serialize;

use crate::propose::NodesQuery;

/// Where a life stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Asking the safekeepers for their votes.
    Electing,
    /// Fetching the data directory.
    Basebackup,
    /// Writing the start checkpoint, starting Postgres.
    Starting,
    /// Clients can connect.
    Running,
    /// Stopping as asked.
    Stopping,
    /// Another compute has taken over.
    Fenced,
    /// Failed; a new try may follow.
    Failed,
}

/// One step of a start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// Which.
    pub name: &'static str,
    /// Milliseconds it took (or has taken, if it is the current one).
    pub ms: f64,
}

/// Steps of the last start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Startup {
    /// In order.
    pub phases: Vec<Phase>,
    /// Milliseconds from the first to now, or to the end of the last.
    pub total_ms: f64,
}

/// A copy of everything shown.
#[derive(Clone)]
pub struct Shown {
    /// Where the life stands.
    pub state: State,
    /// Won.
    pub term: Option<Term>,
    /// Start of the term.
    pub start_lsn: Option<Lsn>,
    /// Of the postmaster.
    pub pid: Option<i32>,
    /// What went wrong last, or what is waited for.
    pub error: Option<String>,
    /// Of the current reign.
    pub nodes: Option<NodesQuery>,
}

struct Inner {
    shown: Shown,
    began: Instant,
    phases: Vec<(&'static str, Instant)>,
    finished: Option<Instant>,
}

/// Shared by the supervisor, which writes, and HTTP, which reads.
#[derive(Clone)]
pub struct Board {
    inner: Arc<Mutex<Inner>>,
    /// For `/readyz`.
    pub readiness: Readiness,
}

impl Default for Board {
    fn default() -> Self {
        let shown = Shown { state: State::Electing, term: None, start_lsn: None, pid: None, error: None, nodes: None };
        let inner = Inner { shown, began: Instant::now(), phases: Vec::new(), finished: None };
        Self { inner: Arc::new(Mutex::new(inner)), readiness: Readiness::starting() }
    }
}

impl Board {
    /// A new life begins.
    pub fn begin(&self, nodes: NodesQuery) {
        let mut inner = self.inner.lock();
        let error = inner.shown.error.take();
        inner.shown =
            Shown { state: State::Electing, term: None, start_lsn: None, pid: None, error, nodes: Some(nodes) };
        inner.began = Instant::now();
        inner.phases.clear();
        inner.finished = None;
    }

    /// The next step of the start begins.
    pub fn phase(&self, state: State, name: &'static str) {
        let mut inner = self.inner.lock();
        inner.shown.state = state;
        inner.phases.push((name, Instant::now()));
    }

    /// The start is done: clients can connect.
    pub fn running(&self) {
        let mut inner = self.inner.lock();
        inner.shown.state = State::Running;
        inner.shown.error = None;
        inner.finished = Some(Instant::now());
        self.readiness.set_ready();
    }

    /// Clients cannot connect, or soon cannot.
    pub fn leave(&self, state: State, why: Option<String>) {
        let mut inner = self.inner.lock();
        inner.shown.state = state;
        inner.finished.get_or_insert_with(Instant::now);
        self.readiness.set_not_ready(why.clone().unwrap_or_else(|| "stopping".into()));
        inner.shown.error = why;
    }

    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.inner.lock().shown);
    }

    /// Shows what is waited for; says it in the log when it is new.
    pub fn waiting(&self, why: String) {
        let mut inner = self.inner.lock();
        if inner.shown.error.as_ref() != Some(&why) {
            tracing::warn!(reason = %why, "waiting");
            self.readiness.set_not_ready(why.clone());
            inner.shown.error = Some(why);
        }
    }

    /// A copy of what is shown.
    pub fn shown(&self) -> Shown {
        self.inner.lock().shown.clone()
    }

    /// Steps of the last start.
    pub fn startup(&self) -> Startup {
        let inner = self.inner.lock();
        let end = inner.finished.unwrap_or_else(Instant::now);
        let ends = inner.phases.iter().skip(1).map(|(_, began)| *began).chain([end]);
        let phases = inner.phases.iter().zip(ends);
        Startup {
            phases: phases.map(|((name, began), ended)| Phase { name, ms: millis(*began, ended) }).collect(),
            total_ms: millis(inner.began, end),
        }
    }
}

fn millis(from: Instant, to: Instant) -> f64 {
    (to.saturating_duration_since(from).as_secs_f64() * 1e6).round() / 1e3
}
