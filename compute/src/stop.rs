//! The wish to stop, from a signal or over HTTP.

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How Postgres is to be stopped. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum StopMode {
    /// Not at all.
    #[default]
    Run,
    /// Sessions are ended, a shutdown checkpoint is written and reaches the quorum: the next start has nothing to append.
    Fast,
    /// At once. No acknowledged commit is lost; the next start appends the checkpoint.
    Immediate,
}

/// Shared by all who may ask and all who must obey.
#[derive(Debug, Clone, Default)]
pub struct Stop(watch::Sender<StopMode>);

impl Stop {
    /// SIGTERM and SIGINT ask for a fast stop, a second one for an immediate one.
    pub fn on_signals() -> anyhow::Result<Self> {
        let stop = Self::default();
        let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
        let asked = stop.clone();
        tokio::spawn(async move {
            for mode in [StopMode::Fast, StopMode::Immediate] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                tracing::info!(signal = name, ?mode, "stopping");
                asked.ask(mode);
            }
        });
        Ok(stop)
    }

    /// Asks for a stop; a weaker wish than an earlier one changes nothing.
    pub fn ask(&self, mode: StopMode) {
        self.0.send_if_modified(|current| {
            let stronger = mode > *current;
            *current = mode.max(*current);
            stronger
        });
    }

    /// Whether a stop was asked for.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow() > StopMode::Run
    }

    /// Waits until at least this is asked for.
    pub async fn wait(&self, mode: StopMode) {
        let reached = self.0.subscribe().wait_for(|current| *current >= mode).await.is_ok();
        debug_assert!(reached, "the sender lives as long as self");
    }
}
