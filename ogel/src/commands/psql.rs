//! `ogel psql` and `ogel url`.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::Context;
use serde_json::json;

use super::{print, say};
use crate::{
    client::Client,
    cluster::Cluster,
    install::Install,
    layout::Layout,
    protocol::{BranchRequest, Request},
};

/// Options of `ogel psql`.
#[derive(clap::Args)]
pub struct Args {
    /// Branch to connect to
    #[arg(default_value = "main")]
    branch: String,
    /// Look at a moment of the past, read-only: an LSN (0/16B3740) or a time (2026-11-21T10:59:00Z)
    #[arg(long, value_name = "LSN|TIME")]
    at: Option<String>,
    /// Arguments for psql
    #[arg(last = true, value_name = "PSQL ARGUMENTS")]
    psql: Vec<String>,
}

/// Options of `ogel url`.
#[derive(clap::Args)]
pub struct UrlArgs {
    /// Branch to connect to
    #[arg(default_value = "main")]
    branch: String,
}

/// Becomes psql, or runs it on a moment of the past.
pub async fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    let program = Install::find()?.pg("psql");
    let cannot_run = || format!("cannot run {}", program.display());
    let Some(at) = &args.at else {
        let url = Cluster::load_existing(layout)?.branch(&args.branch)?.url();
        let error = Command::new(&program).arg(url).args(&args.psql).exec();
        return Err(error).with_context(cannot_run);
    };
    // What was made for the look goes when this connection ends, however it ends.
    let mut client = Client::connect_running(layout).await?;
    let request = BranchRequest::Look { name: args.branch.clone(), at: at.clone() };
    let look = client.ask(&Request::Branch(request), say).await?;
    say(&format!("{} as of {}", args.branch, look["lsn"].as_str().unwrap_or_default()));
    let url = look["connection_string"].as_str().unwrap_or_default();
    let status =
        tokio::process::Command::new(&program).arg(url).args(&args.psql).status().await.with_context(cannot_run)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Prints the connection string.
pub fn url(layout: &Layout, args: &UrlArgs, json: bool) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::load_existing(layout)?;
    let branch = cluster.branch(&args.branch)?;
    print(json, &json!({ "branch": branch.name, "connection_string": branch.url() }), |_| branch.url());
    Ok(ExitCode::SUCCESS)
}
