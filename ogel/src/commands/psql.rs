//! `ogel psql` and `ogel url`.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::Context;
use serde_json::json;

use super::print;
use crate::{cluster::Cluster, install::Install, layout::Layout};

/// Options of `ogel psql`.
#[derive(clap::Args)]
pub struct Args {
    /// Branch to connect to
    #[arg(default_value = "main")]
    branch: String,
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

/// Becomes psql.
pub fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    let url = Cluster::load_existing(layout)?.branch(&args.branch)?.url();
    let program = Install::find()?.pg("psql");
    let error = Command::new(&program).arg(url).args(&args.psql).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Prints the connection string.
pub fn url(layout: &Layout, args: &UrlArgs, json: bool) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::load_existing(layout)?;
    let branch = cluster.branch(&args.branch)?;
    print(json, &json!({ "branch": branch.name, "connection_string": branch.url() }), |_| branch.url());
    Ok(ExitCode::SUCCESS)
}
