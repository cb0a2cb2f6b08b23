//! `ogel status`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{print, say};
use crate::{client::Client, cluster::Cluster, layout::Layout, protocol::Request};

/// Shows the cluster, whether it runs or not. The exit code is 0 when everything that should run does and no safekeeper lacks
/// disk space, else 3.
pub async fn run(layout: &Layout, json: bool) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::load_existing(layout)?;
    let Some(mut client) = Client::connect(layout).await? else {
        let value = json!({ "dir": layout.root(), "running": false, "tenant": cluster.tenant, "nodes": [] });
        print(json, &value, |_| {
            format!("the cluster in {} is not running: start it with `ogel up`", layout.root().display())
        });
        return Ok(ExitCode::from(3));
    };
    let mut value = client.ask(&Request::Status, say).await?;
    value["running"] = true.into();
    // Only the compute of main runs unless somebody starts another one.
    let idle = |node: &Value| {
        let name = node["name"].as_str().unwrap_or_default();
        name.starts_with("compute-") && name != "compute-main" && node["process"]["phase"] == "stopped"
    };
    let well = |node: &Value| node["process"]["phase"] == "running" && node["detail"]["waits_for_space"].is_null();
    let healthy = value["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| well(node) || idle(node)));
    print(json, &value, table);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn table(status: &Value) -> String {
    let mut lines = vec![format!("{:<16} {:<12} {:>8} {:>9}  {}", "node", "state", "pid", "restarts", "positions")];
    for node in status["nodes"].as_array().into_iter().flatten() {
        let process = &node["process"];
        lines.push(format!(
            "{:<16} {:<12} {:>8} {:>9}  {}",
            text(&node["name"]),
            text(&process["phase"]),
            text(&process["pid"]),
            text(&process["restarts"]),
            positions(&node["detail"])
        ));
    }
    lines.push(format!("\n{}", super::branch::tree(&status["branches"])));
    lines.join("\n")
}

/// The positions that a node tells, and its complaints if it has any; a compute's about its safekeepers too.
fn positions(detail: &Value) -> String {
    let names = [
        "state",
        "term",
        "flush_lsn",
        "commit_lsn",
        "last_record_lsn",
        "disk_consistent_lsn",
        "waits_for",
        "waits_for_space",
        "error",
    ];
    let own = names.iter().filter(|name| !detail[**name].is_null());
    let mut shown: Vec<_> = own.map(|name| format!("{name} {}", text(&detail[*name]))).collect();
    for safekeeper in detail["safekeepers"].as_array().into_iter().flatten() {
        if let Some(error) = safekeeper["error"].as_str() {
            shown.push(format!("safekeeper {}: {error}", safekeeper["node_id"]));
        }
    }
    shown.join(", ")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
