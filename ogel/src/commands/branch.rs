//! `ogel branch …`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::{print, say};
use crate::{
    client::Client,
    layout::Layout,
    protocol::{BranchRequest, Request},
};

/// Options of `ogel branch`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a branch: at once, whatever the size; the parent goes on undisturbed
    Create {
        /// Its name: a-z, 0-9, - and _
        name: String,
        /// The branch to branch from
        #[arg(long, default_value = "main", value_name = "BRANCH")]
        from: String,
        /// A moment of its past: an LSN (0/16B3740) or a time (2026-11-21T10:59:00Z) [default: now]
        #[arg(long, value_name = "LSN|TIME")]
        at: Option<String>,
    },
    /// Show all branches as a tree
    List,
    /// Delete a branch that has no branches of its own, for good
    Delete {
        /// Its name
        name: String,
    },
    /// Give a branch another name; its compute is restarted
    Rename {
        /// As it is
        name: String,
        /// As it will be
        to: String,
    },
    /// Take a branch back to its parent's present, or to its own past; the state it had is kept as a branch beside it
    Reset {
        /// Its name
        name: String,
        /// A moment of its own past: an LSN or a time [default: the present of its parent]
        #[arg(long, value_name = "LSN|TIME")]
        to: Option<String>,
    },
}

/// Carries out `ogel branch`.
pub async fn run(layout: &Layout, args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let request = match &args.verb {
        Verb::Create { name, from, at } => {
            BranchRequest::Create { name: name.clone(), from: from.clone(), at: at.clone() }
        }
        Verb::List => BranchRequest::List,
        Verb::Delete { name } => BranchRequest::Delete { name: name.clone() },
        Verb::Rename { name, to } => BranchRequest::Rename { name: name.clone(), to: to.clone() },
        Verb::Reset { name, to } => BranchRequest::Reset { name: name.clone(), to: to.clone() },
    };
    let mut client = Client::connect_running(layout).await?;
    let value = client.ask(&Request::Branch(request), say).await?;
    print(json, &value, |value| {
        let text = |name: &str| value[name].as_str().unwrap_or_default();
        match &args.verb {
            Verb::Create { name, from, .. } => format!(
                "branch {name} of {from} at {}\n{}\nstart its compute with `ogel compute start {name}`",
                text("lsn"),
                text("connection_string")
            ),
            Verb::List => tree(&value["branches"]),
            Verb::Delete { name } => format!("branch {name} is deleted"),
            Verb::Rename { name, to } => format!("branch {name} is {to} now: {}", text("connection_string")),
            Verb::Reset { name, .. } => {
                format!("branch {name} is at {} now; the state that it had is branch {}", text("lsn"), text("kept_as"))
            }
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// The branches, children below their parents.
pub fn tree(branches: &Value) -> String {
    let all: Vec<&Value> = branches.as_array().into_iter().flatten().collect();
    let is_known = |name: &Value| name.is_string() && all.iter().any(|branch| branch["name"] == *name);
    let mut lines = Vec::new();
    let mut open: Vec<(usize, &Value)> =
        all.iter().rev().filter(|branch| !is_known(&branch["parent"])).map(|branch| (0, *branch)).collect();
    while let Some((depth, branch)) = open.pop() {
        lines.push(line(depth, branch));
        let children = all.iter().rev().filter(|child| child["parent"] == branch["name"]);
        open.extend(children.map(|child| (depth + 1, *child)));
    }
    lines.join("\n")
}

fn line(depth: usize, branch: &Value) -> String {
    let text = |name: &str| branch[name].as_str().unwrap_or("-").to_owned();
    let name = format!("{}{}", "  ".repeat(depth), text("name"));
    let branched = branch["branched_at"].as_str().map_or(String::new(), |lsn| format!("from {lsn}, "));
    let size = branch["logical_size_bytes"].as_u64().map_or(String::new(), |size| format!(", {} MiB", size >> 20));
    format!(
        "{name:<24} {branched}at {}{size}, compute {}  {}",
        text("last_record_lsn"),
        text("compute"),
        text("connection_string")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn children_stand_below_their_parents() {
        let branch = |name: &str, parent: Option<&str>| json!({ "name": name, "parent": parent, "compute": "stopped" });
        let branches = json!([
            branch("main", None),
            branch("dev", Some("main")),
            branch("test", Some("main")),
            branch("deep", Some("dev")),
            branch("orphan", Some("gone"))
        ]);
        let tree = super::tree(&branches);
        let names: Vec<&str> =
            tree.lines().map(|line| &line[..line.find(" at").unwrap_or(0)]).map(str::trim_end).collect();
        assert_eq!(names, ["main", "  dev", "    deep", "  test", "orphan"]);
    }
}
