//! From nothing to SQL: storage nodes, the first timeline, the compute.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep},
};

use crate::{bootstrap, cluster::Cluster};

use super::{
    Daemon, join_all,
    node::{Phase, State},
};

/// How long a node may take to serve; long enough for a machine under load.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at a node that is not ready yet.
const POLL: Duration = Duration::from_millis(10);

/// Address of a port on this machine.
pub fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

impl Daemon {
    /// Starts what does not run, makes the first timeline when there is none, and answers when SQL works.
    pub async fn bring_up(&self, compute: bool, progress: &UnboundedSender<String>) -> anyhow::Result<Value> {
        let _one_at_a_time = self.up.lock().await;
        let say = |text: &str| {
            let _ = progress.send(text.to_owned());
        };
        say("starting safekeepers and pageserver");
        for (name, node) in self.all_nodes() {
            if !name.starts_with("compute-") && node.state().phase != Phase::Running {
                node.start().await?;
            }
        }
        let storage = self.all_nodes().into_iter().filter(|(name, _)| !name.starts_with("compute-"));
        join_all(storage.map(|(name, _)| async move { self.wait_until_ready(&name).await }))
            .await
            .into_iter()
            .collect::<anyhow::Result<Vec<_>>>()?;

        let mut cluster = self.cluster.lock().await;
        if !cluster.created {
            say("creating the first timeline");
            self.create(&mut cluster).await.context("the first timeline could not be made; `ogel up` tries again")?;
        }
        let main = cluster.branch("main")?.clone();
        drop(cluster);
        self.remove_unfinished().await;
        if compute {
            say("starting the compute");
            let node = self.node(&main.node())?;
            if node.state().phase != Phase::Running {
                node.start().await?;
            }
            self.wait_until_ready(&main.node()).await?;
        }
        Ok(json!({
            "branch": main.name, "connection_string": main.url(),
            "data": self.layout.root(), "logs": self.layout.logs(),
        }))
    }

    /// Waits until a node serves; its end, or a failure that a restart does not mend, is reported with its last words.
    pub async fn wait_until_ready(&self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        let port = node.spec.http_port;
        let since = Instant::now();
        let restarts = node.state().restarts;
        loop {
            if self.http.ready(&local(port)).await {
                return Ok(());
            }
            let State { phase, last_exit, restarts: now, .. } = node.state();
            let ended = matches!(phase, Phase::Failed | Phase::Stopped | Phase::Fenced) || now > restarts + 3;
            if ended || since.elapsed() > READY_TIMEOUT {
                let how = match (ended, &last_exit) {
                    (true, Some(exit)) => format!("ended ({exit})"),
                    (true, None) => "was stopped".into(),
                    (false, _) => format!("does not serve after {} s", READY_TIMEOUT.as_secs()),
                };
                let reason = self.doing(name, port).await;
                bail!("{name} {how}: {reason} (whole log: `ogel logs {name}`)");
            }
            sleep(POLL).await;
        }
    }

    /// What the node says that it waits for, or else the last line of its log.
    async fn doing(&self, name: &str, port: u16) -> String {
        if let Ok(status) = self.http.get(&local(port), "/v1/status", Duration::from_secs(1)).await
            && let Some(error) = status["error"].as_str()
        {
            return error.to_owned();
        }
        let log = std::fs::read(self.layout.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it printed nothing").trim().to_owned()
    }

    /// Makes the timeline of `main` on the nodes of this cluster. Every step can be repeated; once `created` is recorded it is never done again.
    async fn create(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let wanted = bootstrap::Wanted {
            tenant: cluster.tenant,
            timeline: cluster.branch("main")?.timeline,
            pageserver: local(cluster.pageserver.http_port),
            safekeepers: cluster.safekeepers.iter().map(|node| local(node.http_port)).collect(),
            source: "template".into(),
        };
        bootstrap::create_timeline(&self.http, &wanted).await?;
        cluster.created = true;
        cluster.save(&self.layout)
    }
}
