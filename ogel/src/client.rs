//! The commands' side of the daemon's socket.

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use crate::{
    layout::Layout,
    protocol::{Reply, Request},
};

/// A connection to the daemon.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects; `None` when no daemon runs.
    pub async fn connect(layout: &Layout) -> anyhow::Result<Option<Client>> {
        if !layout.root().exists() {
            return Ok(None);
        }
        let (_folder, path) = layout.socket()?;
        match UnixStream::connect(&path).await {
            Ok(stream) => Ok(Some(Client { stream: BufReader::new(stream) })),
            Err(error) => match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error).with_context(|| format!("cannot reach the daemon of {}", layout.root().display())),
            },
        }
    }

    /// Connects, and says what to do when no daemon runs.
    pub async fn connect_running(layout: &Layout) -> anyhow::Result<Client> {
        Client::connect(layout).await?.with_context(|| {
            format!("the cluster in {} is not running: start it with `ogel up`", layout.root().display())
        })
    }

    /// Asks, reports progress, returns what was done.
    pub async fn ask(&mut self, request: &Request, mut progress: impl FnMut(&str)) -> anyhow::Result<Value> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).await.context("the daemon went away")?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await.context("the daemon went away")? == 0 {
                bail!("the daemon ended before it answered: see `ogel logs ogel`");
            }
            match serde_json::from_str(&line).context("the daemon's answer is not understood")? {
                Reply::Progress { text } => progress(&text),
                Reply::Done { value } => return Ok(value),
                Reply::Failed { error } => bail!(error),
            }
        }
    }
}
