//! `ogel compute …` and `ogel chaos …`: something is done to one process.

use std::process::ExitCode;

use clap::Subcommand;

use super::{print, say};
use crate::{
    client::Client,
    cluster::Cluster,
    layout::Layout,
    protocol::{NodeAction, Request},
};

/// Options of `ogel compute`.
#[derive(clap::Args)]
pub struct ComputeArgs {
    #[command(subcommand)]
    verb: ComputeVerb,
}

#[derive(Subcommand)]
enum ComputeVerb {
    /// Start it, and wait until SQL works
    Start {
        /// Branch
        #[arg(default_value = "main")]
        branch: String,
    },
    /// Stop it cleanly; connections are closed, open transactions rolled back
    Stop {
        /// Branch
        #[arg(default_value = "main")]
        branch: String,
    },
    /// kill -9 all its processes and delete its folder; nothing acknowledged is lost
    Kill {
        /// Branch
        #[arg(default_value = "main")]
        branch: String,
    },
}

/// Options of `ogel chaos`.
#[derive(clap::Args)]
pub struct ChaosArgs {
    #[command(subcommand)]
    verb: ChaosVerb,
}

#[derive(Subcommand)]
enum ChaosVerb {
    /// kill -9 the process and all its descendants; it stays dead until `resume`
    Kill {
        /// safekeeper-1, safekeeper-2, safekeeper-3, pageserver or compute-BRANCH
        node: String,
    },
    /// Freeze the process (SIGSTOP) until `resume`; the children of a compute's supervisor go on
    Stop {
        /// As for kill
        node: String,
    },
    /// Wake a frozen process, or start a killed one
    Resume {
        /// As for kill
        node: String,
    },
    /// Kill the process, delete its data, start it again
    Wipe {
        /// As for kill
        node: String,
    },
}

/// Carries out `ogel compute`.
pub async fn compute(layout: &Layout, args: &ComputeArgs, json: bool) -> anyhow::Result<ExitCode> {
    let (branch, action, done) = match &args.verb {
        ComputeVerb::Start { branch } => (branch, NodeAction::Start, "runs"),
        ComputeVerb::Stop { branch } => (branch, NodeAction::Stop, "is stopped"),
        ComputeVerb::Kill { branch } => (branch, NodeAction::KillAndForget, "is dead and its folder deleted"),
    };
    let cluster = Cluster::load_existing(layout)?;
    let branch = cluster.branch(branch)?;
    let text = match action {
        NodeAction::Start => format!("the compute of {} {done}: {}", branch.name, branch.url()),
        _ => format!("the compute of {} {done}", branch.name),
    };
    act(layout, branch.node(), action, text, json).await
}

/// Carries out `ogel chaos`.
pub async fn chaos(layout: &Layout, args: &ChaosArgs, json: bool) -> anyhow::Result<ExitCode> {
    let (node, action, done) = match &args.verb {
        ChaosVerb::Kill { node } => (node, NodeAction::Kill, "is dead until `ogel chaos resume`"),
        ChaosVerb::Stop { node } => (node, NodeAction::Freeze, "is frozen until `ogel chaos resume`"),
        ChaosVerb::Resume { node } => (node, NodeAction::Start, "runs"),
        ChaosVerb::Wipe { node } => (node, NodeAction::Wipe, "lost its data and runs again"),
    };
    act(layout, node.clone(), action, format!("{node} {done}"), json).await
}

async fn act(layout: &Layout, node: String, action: NodeAction, text: String, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect_running(layout).await?;
    let value = client.ask(&Request::Node { node, action }, say).await?;
    print(json, &value, |_| text);
    Ok(ExitCode::SUCCESS)
}
