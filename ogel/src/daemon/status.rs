//! What `ogel status` shows.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Daemon, bring_up::local, join_all};

/// A node that does not answer within this time is shown without its positions.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

impl Daemon {
    /// Every node's process, and what it says of the timeline of `main`.
    pub async fn status(&self) -> anyhow::Result<Value> {
        let cluster = self.cluster.lock().await.clone();
        let main = cluster.branch("main")?;
        let timeline = format!("/v1/tenant/{}/timeline/{}", cluster.tenant, main.timeline);
        let mut asks: Vec<(String, u16, String)> = cluster
            .safekeepers
            .iter()
            .map(|node| (format!("safekeeper-{}", node.id), node.http_port, timeline.clone()))
            .collect();
        asks.push(("pageserver".into(), cluster.pageserver.http_port, timeline));
        asks.extend(cluster.branches.iter().map(|branch| (branch.node(), branch.http_port, "/v1/status".into())));
        let answers = join_all(asks.iter().map(|(name, port, path)| async move {
            let process = self.node(name)?.state();
            let detail = match process.pid {
                Some(_) => self
                    .http
                    .get(&local(*port), path, ANSWER_TIMEOUT)
                    .await
                    .unwrap_or_else(|error| json!({ "error": format!("{error:#}") })),
                None => Value::Null,
            };
            anyhow::Ok(json!({ "name": name, "process": process, "http_port": port, "detail": detail }))
        }));
        let nodes = answers.await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        Ok(json!({
            "dir": self.layout.root(), "tenant": cluster.tenant, "created": cluster.created, "nodes": nodes,
            "branches": self.branch_list(&cluster).await,
        }))
    }
}
