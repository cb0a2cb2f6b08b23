//! `ogel`: the command line of OgelBase. It drives a cluster on this machine: three safekeepers, a pageserver, and a compute for each branch.
//!
//! `ogel up` starts a daemon (`ogel daemon`) that owns the processes; the other commands talk to it over a socket in the cluster's
//! folder. [`layout`] says what lies where in that folder.

mod bootstrap;
mod client;
mod cluster;
mod commands;
mod daemon;
mod http;
mod install;
mod layout;
mod ports;
mod process_tree;
mod protocol;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use ogel_service::config;

/// Runs a local OgelBase cluster: PostgreSQL 17 whose pages live in a pageserver and whose commits survive on 2 of 3 safekeepers.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    /// Folder of the cluster: data, logs, configuration
    #[arg(long, global = true, env = "OGEL_DIR", default_value = ".ogel", value_name = "FOLDER")]
    dir: PathBuf,
    /// Print JSON for scripts
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the cluster (create it the first time) and print how to connect
    Up(commands::up::Args),
    /// Stop the cluster; its data stays
    Down(commands::down::Args),
    /// Show each process, its state and its positions in the WAL
    Status,
    /// Open psql on a branch; arguments after -- go to psql
    Psql(commands::psql::Args),
    /// Print the connection string of a branch
    Url(commands::psql::UrlArgs),
    /// Make, list, reset, rename and delete branches
    Branch(commands::branch::Args),
    /// Show the logs
    Logs(commands::logs::Args),
    /// Start, stop or kill the compute of a branch
    Compute(commands::node::ComputeArgs),
    /// Replace a safekeeper that lost its data
    Safekeeper(commands::safekeeper::Args),
    /// Break things on purpose: kill, freeze or wipe a process
    Chaos(commands::node::ChaosArgs),
    /// Stop the cluster and delete its folder
    Destroy(commands::destroy::Args),
    /// Make a timeline on storage nodes that run elsewhere (containers); safe to repeat
    CreateTimeline(commands::create_timeline::Args),
    /// Make keys with which tokens are signed
    Keys(commands::token::KeysArgs),
    /// Make a token that lets its holder talk to storage nodes
    Token(commands::token::TokenArgs),
    /// Own the cluster's processes (started by `ogel up`)
    #[command(hide = true)]
    Daemon,
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| config::exit_with::<Cli>(error.into()));
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ogel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let layout = layout::Layout::new(&cli.dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let json = cli.json;
    runtime.block_on(async {
        match cli.command {
            Command::Up(args) => commands::up::run(&layout, &args, json).await,
            Command::Down(args) => commands::down::run(&layout, &args, json).await,
            Command::Status => commands::status::run(&layout, json).await,
            Command::Psql(args) => commands::psql::run(&layout, &args).await,
            Command::Branch(args) => commands::branch::run(&layout, &args, json).await,
            Command::Url(args) => commands::psql::url(&layout, &args, json),
            Command::Logs(args) => commands::logs::run(&layout, &args, json).await,
            Command::Compute(args) => commands::node::compute(&layout, &args, json).await,
            Command::Safekeeper(args) => commands::safekeeper::run(&layout, &args, json).await,
            Command::Chaos(args) => commands::node::chaos(&layout, &args, json).await,
            Command::Destroy(args) => commands::destroy::run(&layout, &args, json).await,
            Command::CreateTimeline(args) => commands::create_timeline::run(&args, json).await,
            Command::Keys(args) => commands::token::keys(&args, json),
            Command::Token(args) => commands::token::token(&args, json),
            Command::Daemon => daemon::run(layout).await,
        }
    })
}
