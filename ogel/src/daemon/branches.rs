//! Branches: timelines under names, each with a compute of its own.
//!
//! What is begun is written down first (`unfinished` in `ogel.json`): a branch is in the list of branches as long as it is whole, and what is
//! neither whole nor gone is removed when the cluster comes up.

use std::{sync::Arc, sync::PoisonError, time::Duration};

use anyhow::{Context, bail};
use ogel_ids::TimelineId;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Daemon,
    bring_up::local,
    join_all,
    node::{Node, Phase},
    specs::{self, Use},
};
use crate::{
    bootstrap,
    cluster::{Branch, Cluster},
    protocol::BranchRequest,
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Names of computes that look into the past begin with this, which no branch's name can.
const LOOK_PREFIX: &str = "look.";

impl Daemon {
    /// Carries out `ogel branch …` and `ogel psql --at`.
    pub(super) async fn branch(
        &self,
        request: BranchRequest,
        progress: &UnboundedSender<String>,
    ) -> anyhow::Result<Value> {
        let _one_at_a_time = self.branching.lock().await;
        match request {
            BranchRequest::Create { name, from, at } => self.create_branch(&name, &from, at.as_deref()).await,
            BranchRequest::List => {
                let cluster = self.cluster.lock().await.clone();
                Ok(json!({ "branches": self.branch_list(&cluster).await }))
            }
            BranchRequest::Delete { name } => self.delete_branch(&name).await,
            BranchRequest::Rename { name, to } => self.rename_branch(&name, &to).await,
            BranchRequest::Reset { name, to } => self.reset_branch(&name, to.as_deref()).await,
            BranchRequest::Look { name, at } => {
                let _ = progress.send(format!("starting a compute at {at}"));
                self.look(&name, &at).await
            }
        }
    }

    async fn create_branch(&self, name: &str, from: &str, at: Option<&str>) -> anyhow::Result<Value> {
        let cluster = self.cluster.lock().await.clone();
        let source = cluster.branch(from)?.timeline;
        let branch = cluster.new_branch(name, source)?;
        let made = self.make(&branch, source, at).await?;
        self.adopt(branch.clone()).await?;
        Ok(json!({
            "branch": name, "from": from, "timeline": branch.timeline, "lsn": made["start_lsn"],
            "ancestor": made["ancestor"], "connection_string": branch.url(),
        }))
    }

    /// Makes the timeline of a branch on all storage nodes; nothing stays when that fails.
    async fn make(&self, branch: &Branch, source: TimelineId, at: Option<&str>) -> anyhow::Result<Value> {
        let id = branch.timeline;
        let wanted = self.note_unfinished(id, bootstrap::branch_source(source, at)).await?;
        match bootstrap::create_timeline(&self.http, &wanted).await {
            Ok(made) => Ok(made),
            Err(error) => {
                if let Err(rest) = self.remove_timeline(id).await {
                    eprintln!("ogel: what is left of timeline {id} is removed when the cluster comes up: {rest:#}");
                }
                Err(error)
            }
        }
    }

    async fn note_unfinished(&self, id: TimelineId, source: Value) -> anyhow::Result<bootstrap::Wanted> {
        let mut cluster = self.cluster.lock().await;
        cluster.unfinished.push(id);
        cluster.save(&self.layout)?;
        Ok(bootstrap::Wanted {
            tenant: cluster.tenant,
            timeline: id,
            pageserver: local(cluster.pageserver.http_port),
            safekeepers: cluster.safekeepers.iter().map(|node| local(node.http_port)).collect(),
            source,
        })
    }

    /// The branch is whole: from now on it is one of the cluster's.
    async fn adopt(&self, branch: Branch) -> anyhow::Result<()> {
        let mut cluster = self.cluster.lock().await;
        cluster.unfinished.retain(|id| *id != branch.timeline);
        cluster.branches.push(branch.clone());
        cluster.save(&self.layout)?;
        self.add_compute(&cluster, &branch, Use::ReadWrite).map(drop)
    }

    fn add_compute(&self, cluster: &Cluster, branch: &Branch, purpose: Use) -> anyhow::Result<Arc<Node>> {
        let node = Arc::new(Node::spawn(specs::compute(&self.layout, cluster, &self.install, branch, purpose)?));
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(branch.node(), node.clone());
        Ok(node)
    }

    /// Ends a compute and forgets it with its folder. Tells whether it was wanted to run.
    async fn remove_compute(&self, name: &str, cleanly: bool) -> anyhow::Result<bool> {
        let Ok(node) = self.node(name) else { return Ok(false) };
        let ran = !matches!(node.state().phase, Phase::Stopped | Phase::Failed | Phase::Fenced);
        if cleanly {
            node.stop(false).await?;
        }
        node.kill(true).await?;
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(ran)
    }

    async fn delete_branch(&self, name: &str) -> anyhow::Result<Value> {
        let cluster = self.cluster.lock().await.clone();
        let branch = cluster.branch(name)?.clone();
        if name == "main" {
            bail!("main is the branch that `ogel up` starts: it stays; `ogel destroy` removes the whole cluster");
        }
        let state = self.timeline_state(&cluster, branch.timeline).await?;
        let children: Vec<String> = state["branches"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(id, lsn)| {
                let name = id.parse().ok().and_then(|id| cluster.name_of(id)).unwrap_or(id);
                format!("{name} (from {})", lsn.as_str().unwrap_or_default())
            })
            .collect();
        if !children.is_empty() {
            bail!("branch {name} has branches of its own: {}; delete those first", children.join(", "));
        }
        {
            let mut cluster = self.cluster.lock().await;
            cluster.branches.retain(|other| other.timeline != branch.timeline);
            cluster.unfinished.push(branch.timeline);
            cluster.save(&self.layout)?;
        }
        self.remove_compute(&branch.node(), false).await?;
        self.remove_timeline(branch.timeline)
            .await
            .with_context(|| format!("branch {name} is gone, but not all of its data; `ogel up` removes the rest"))?;
        Ok(json!({ "branch": name, "deleted": branch.timeline }))
    }

    /// Removes a timeline from all storage nodes, then from the list of unfinished ones.
    async fn remove_timeline(&self, id: TimelineId) -> anyhow::Result<()> {
        let cluster = self.cluster.lock().await.clone();
        let path = format!("/v1/tenant/{}/timeline/{id}", cluster.tenant);
        self.http.delete(&local(cluster.pageserver.http_port), &path).await.context("pageserver")?;
        for node in &cluster.safekeepers {
            let deleted = self.http.delete(&local(node.http_port), &path).await;
            deleted.with_context(|| format!("safekeeper-{}", node.id))?;
        }
        let mut cluster = self.cluster.lock().await;
        cluster.unfinished.retain(|other| *other != id);
        cluster.save(&self.layout)
    }

    /// Carries on what the last daemon left.
    pub(super) async fn remove_unfinished(&self) {
        let _one_at_a_time = self.branching.lock().await;
        let unfinished = self.cluster.lock().await.unfinished.clone();
        for id in unfinished {
            if let Err(error) = self.remove_timeline(id).await {
                eprintln!("ogel: timeline {id} cannot be removed, the next `ogel up` tries again: {error:#}");
            }
        }
    }

    async fn rename_branch(&self, name: &str, to: &str) -> anyhow::Result<Value> {
        let mut cluster = self.cluster.lock().await;
        let branch = cluster.branch(name)?.clone();
        if name == "main" {
            bail!("main is the branch that `ogel up` starts: it keeps its name");
        }
        cluster.new_branch(to, branch.timeline)?; // whether the name can be had
        let ran = self.remove_compute(&branch.node(), true).await?;
        let renamed = Branch { name: to.to_owned(), ..branch };
        for other in cluster.branches.iter_mut().filter(|other| other.timeline == renamed.timeline) {
            *other = renamed.clone();
        }
        cluster.save(&self.layout)?;
        self.add_compute(&cluster, &renamed, Use::ReadWrite)?;
        drop(cluster);
        self.start_again(ran, &renamed).await?;
        Ok(json!({ "branch": to, "was": name, "connection_string": renamed.url() }))
    }

    /// A reset is a new timeline under the old name: nothing that knows the old one by its id can confuse the two.
    async fn reset_branch(&self, name: &str, to: Option<&str>) -> anyhow::Result<Value> {
        let cluster = self.cluster.lock().await.clone();
        let old = cluster.branch(name)?.clone();
        let source = match (to, old.parent) {
            (Some(_), _) => old.timeline,
            (None, Some(parent)) => parent,
            (None, None) => {
                bail!("{name} has no parent to go back to: say where in its own past with --to LSN or --to TIME")
            }
        };
        let kept_name = (1..)
            .map(|number| format!("{name}-before-{number}"))
            .find(|kept| !cluster.branches.iter().any(|branch| branch.name == *kept))
            .context("no free name for the old state")?;
        let kept_ports = cluster.new_branch(&kept_name, source)?;
        let fresh = cluster.new_branch(&format!("{kept_name}-new"), source)?.timeline;
        let new = Branch { timeline: fresh, parent: old.parent, ..old.clone() };
        let made = self.make(&new, source, to).await?;
        let ran = self.remove_compute(&old.node(), true).await?;
        let kept =
            Branch { name: kept_name.clone(), sql_port: kept_ports.sql_port, http_port: kept_ports.http_port, ..old };
        {
            let mut cluster = self.cluster.lock().await;
            cluster.unfinished.retain(|id| *id != fresh);
            cluster.branches.retain(|branch| branch.name != name);
            cluster.branches.extend([new.clone(), kept.clone()]);
            cluster.save(&self.layout)?;
            self.add_compute(&cluster, &new, Use::ReadWrite)?;
            self.add_compute(&cluster, &kept, Use::ReadWrite)?;
        }
        self.start_again(ran, &new).await?;
        Ok(json!({
            "branch": name, "timeline": fresh, "lsn": made["start_lsn"], "kept_as": kept_name,
            "connection_string": new.url(),
        }))
    }

    async fn start_again(&self, ran: bool, branch: &Branch) -> anyhow::Result<()> {
        if ran {
            self.node(&branch.node())?.start().await?;
            self.wait_until_ready(&branch.node()).await?;
        }
        Ok(())
    }

    /// A compute on a throw-away branch at that moment: what it writes (reading prunes pages) is in nobody's history.
    async fn look(&self, name: &str, at: &str) -> anyhow::Result<Value> {
        let cluster = self.cluster.lock().await.clone();
        let source = cluster.branch(name)?.timeline;
        let free = cluster.new_branch("look", source).or_else(|_| cluster.new_branch("look-at-it", source))?;
        let branch = Branch { name: format!("{LOOK_PREFIX}{}", free.timeline), ..free };
        let made = self.make(&branch, source, Some(at)).await?;
        let node = self.add_compute(&cluster, &branch, Use::Look)?;
        let started = async {
            node.start().await?;
            self.wait_until_ready(&branch.node()).await
        };
        if let Err(error) = started.await {
            self.clear_look(&branch.name).await?;
            return Err(error);
        }
        Ok(json!({ "look": branch.name, "lsn": made["start_lsn"], "connection_string": branch.url() }))
    }

    /// Removes a look and all that it wrote.
    pub(super) async fn end_look(&self, name: &str) -> anyhow::Result<()> {
        let _one_at_a_time = self.branching.lock().await;
        self.clear_look(name).await
    }

    async fn clear_look(&self, name: &str) -> anyhow::Result<()> {
        self.remove_compute(&format!("compute-{name}"), false).await?;
        let _ = std::fs::remove_file(self.layout.log(&format!("compute-{name}")));
        let id = name.strip_prefix(LOOK_PREFIX).context("not a look")?.parse()?;
        self.remove_timeline(id).await
    }

    async fn timeline_state(&self, cluster: &Cluster, id: TimelineId) -> anyhow::Result<Value> {
        let path = format!("/v1/tenant/{}/timeline/{id}", cluster.tenant);
        self.http.get(&local(cluster.pageserver.http_port), &path, ANSWER_TIMEOUT).await.context("pageserver")
    }

    /// All branches with what the pageserver tells of them.
    pub(super) async fn branch_list(&self, cluster: &Cluster) -> Vec<Value> {
        join_all(cluster.branches.iter().map(|branch| async move {
            let state = self.timeline_state(cluster, branch.timeline).await.unwrap_or_default();
            let ancestor = &state["ancestor"];
            let parent = ancestor["timeline"].as_str().and_then(|id| id.parse().ok()).or(branch.parent);
            json!({
                "name": branch.name,
                "timeline": branch.timeline,
                "parent": parent.and_then(|id| cluster.name_of(id)),
                "branched_at": ancestor["lsn"],
                "last_record_lsn": state["last_record_lsn"],
                "logical_size_bytes": state["logical_size_bytes"],
                "compute": self.node(&branch.node()).ok().map(|node| json!(node.state().phase)),
                "connection_string": branch.url(),
            })
        }))
        .await
    }
}
