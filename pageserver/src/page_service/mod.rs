//! The page service: pages, sizes and basebackups over PostgreSQL's wire protocol (`docs/protocols.md` §4 and §5).
//!
//! - [`protocol`]: requests and answers as bytes. Pure.
//! - [`command`]: the simple queries that start a stream.
//! - `session`: one connection.
//! - `pagestream`: requests of a connection, answered in order; `read_pool`: threads for what is not in memory.

pub mod command;
mod pagestream;
pub mod protocol;
mod read_pool;
mod session;

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinSet};

use read_pool::ReadPool;

use crate::pageserver::Pageserver;

/// A connection that cannot be accepted (out of file descriptors) is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections get this long to end when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until shutdown begins and the connections have ended.
pub async fn serve(listener: TcpListener, pageserver: Arc<Pageserver>) {
    let mut sessions = JoinSet::new();
    let pool = Arc::new(ReadPool::new());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (pageserver, pool) = (pageserver.clone(), pool.clone());
                    sessions.spawn(async move {
                        let connections = pageserver.metrics().connections.clone();
                        connections.inc();
                        if let Err(error) = session::run(stream, &pageserver, &pool).await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                        connections.dec();
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = sessions.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection failed inside the server: report this");
                }
            }
            () = pageserver.shutdown.wait() => break,
        }
    }
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async { while sessions.join_next().await.is_some() {} });
    if drained.await.is_err() {
        sessions.abort_all();
    }
}
