//! From nothing to SQL: storage nodes, the first timeline, the compute.

use std::time::Duration;

use anyhow::{Context, bail};
use ogel_ids::{NodeId, StoreUuid};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep},
};

use crate::cluster::{Cluster, Member};

use super::{
    Daemon, join_all,
    node::{Phase, State},
};

/// How long a node may take to serve; long enough for a machine under load.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at a node that is not ready yet.
const POLL: Duration = Duration::from_millis(10);

impl Daemon {
    /// Starts what does not run, makes the first timeline when there is none, and answers when SQL works.
    pub async fn bring_up(&self, compute: bool, progress: &UnboundedSender<String>) -> anyhow::Result<Value> {
        let _one_at_a_time = self.up.lock().await;
        let say = |text: &str| {
            let _ = progress.send(text.to_owned());
        };
        say("starting safekeepers and pageserver");
        for (name, node) in &self.nodes {
            if !name.starts_with("compute-") && node.state().phase != Phase::Running {
                node.start().await?;
            }
        }
        let storage = self.nodes.keys().filter(|name| !name.starts_with("compute-"));
        join_all(storage.map(|name| self.wait_until_ready(name))).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;

        let mut cluster = self.cluster.lock().await;
        if !cluster.created {
            say("creating the first timeline");
            self.create(&mut cluster).await.context("the first timeline could not be made; `ogel up` tries again")?;
        }
        let main = cluster.branch("main")?.clone();
        drop(cluster);
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

    /// Port of a node's HTTP.
    async fn http_port(&self, name: &str) -> Option<u16> {
        let cluster = self.cluster.lock().await;
        if name == "pageserver" {
            return Some(cluster.pageserver.http_port);
        }
        let safekeepers = cluster.safekeepers.iter().map(|node| (format!("safekeeper-{}", node.id), node.http_port));
        let computes = cluster.branches.iter().map(|branch| (branch.node(), branch.http_port));
        safekeepers.chain(computes).find(|(node, _)| node == name).map(|(_, port)| port)
    }

    /// Waits until a node serves; its end, or a failure that a restart does not mend, is reported with its last words.
    pub async fn wait_until_ready(&self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        let port = self.http_port(name).await.context("a node without a port")?;
        let since = Instant::now();
        let restarts = node.state().restarts;
        loop {
            if self.http.ready(port).await {
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
        if let Ok(status) = self.http.get(port, "/v1/status", Duration::from_secs(1)).await
            && let Some(error) = status["error"].as_str()
        {
            return error.to_owned();
        }
        let log = std::fs::read(self.layout.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it printed nothing").trim().to_owned()
    }

    /// Makes the timeline of `main` from the template, on the pageserver and then on each safekeeper, bound to the stores that they
    /// have now. Every step can be repeated. Once `created` is recorded it is never done again: a safekeeper that lost its store
    /// must not be handed an empty timeline, with which it could vote acknowledged commits away.
    async fn create(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let path = format!("/v1/tenant/{}/timeline/{}", cluster.tenant, cluster.branch("main")?.timeline);
        let pageserver = cluster.pageserver.http_port;
        let made = self.http.put(pageserver, &path, &json!({ "source": "template" })).await.context("pageserver")?;
        let prefix = self.http.get_bytes(pageserver, &format!("{path}/wal_prefix")).await.context("pageserver")?;
        let mut members = Vec::new();
        for node in &cluster.safekeepers {
            let status = self.http.get(node.http_port, "/v1/status", Duration::from_secs(10)).await?;
            let store: StoreUuid =
                status["store_uuid"].as_str().with_context(|| format!("safekeeper-{} names no store", node.id))?.parse()?;
            members.push(Member { node: node.id, store });
        }
        cluster.members = members;
        cluster.save(&self.layout)?;
        let field = |name: &str| -> anyhow::Result<String> {
            match &made[name] {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) => Ok(number.to_string()),
                _ => bail!("the pageserver's answer lacks {name}"),
            }
        };
        let list: Vec<_> =
            cluster.members.iter().map(|Member { node: NodeId(id), store }| format!("{id}:{store}")).collect();
        let query = format!(
            "system_identifier={}&pg_version_num={}&wal_segment_size={}&start_lsn={}&generation=1&members={}",
            field("system_identifier")?,
            field("pg_version_num")?,
            field("wal_segment_size")?,
            field("start_lsn")?,
            list.join(",")
        );
        for node in &cluster.safekeepers {
            self.http
                .put_bytes(node.http_port, &format!("{path}?{query}"), prefix.clone())
                .await
                .with_context(|| format!("safekeeper-{}", node.id))?;
        }
        cluster.created = true;
        cluster.save(&self.layout)
    }
}
