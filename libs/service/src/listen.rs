//! Listening sockets.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;

/// Listens on `host:port`. `[::]:port` takes IPv4 as well, and falls back to `0.0.0.0` on a machine without IPv6.
pub async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    let listener = match TcpListener::bind(address).await {
        Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) && address.starts_with("[::]:") => {
            TcpListener::bind(address.replacen("[::]", "0.0.0.0", 1)).await
        }
        other => other,
    };
    listener.with_context(|| format!("cannot listen on {address}: is it a host:port of this machine, and free?"))
}

/// `EAFNOSUPPORT` on Linux.
const EAFNOSUPPORT: i32 = 97;

/// The address that was really bound (the port may have been 0).
pub fn bound(listener: &TcpListener) -> anyhow::Result<SocketAddr> {
    listener.local_addr().context("the listening socket has no address")
}
