//! One token that every task of a process can wait for.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Says when the process (or, as a child token, a part of it) shall stop. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A token that only [`Shutdown::begin`] sets off.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token set off by SIGTERM or SIGINT; the second signal ends the process at once with code 130.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let token = shutdown.clone();
        tokio::spawn(async move {
            for first in [true, false] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if !first {
                    tracing::warn!(signal = name, "second signal: leaving at once");
                    std::process::exit(130);
                }
                tracing::info!(signal = name, "shutting down");
                token.begin();
            }
        });
        Ok(shutdown)
    }

    /// Sets it off.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether it has been set off.
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it is set off.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// A token that is set off with this one, or alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }
}
