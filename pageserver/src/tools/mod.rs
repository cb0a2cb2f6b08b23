//! Tools for people who must look inside: `pageserver layer dump|check`, `pageserver check`.

mod layer;
mod remote_check;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
pub use remote_check::{Problem, Report, check};

/// Looks into layer files and object stores; nothing is changed.
#[derive(Debug, Parser)]
#[command(name = "pageserver", version)]
struct Tool {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Looks into a layer file
    #[command(subcommand)]
    Layer(layer::LayerCommand),
    /// Checks a whole object store: everything that manifests name is there and sound, and nothing else is. Exit code 0: it is. 1: it is not.
    /// 2: it could not be checked
    Check(remote_check::CheckArgs),
}

/// What `pageserver --help` says about them.
pub const HELP: &str =
    "Tools: pageserver layer dump FILE, pageserver layer check FILE, pageserver check --remote URL (each with --help)";

/// Runs the tool that the command line names; `None` when it names none, and the server is meant.
pub fn run_named() -> Option<ExitCode> {
    let named = std::env::args_os().nth(1)?;
    if named != "layer" && named != "check" {
        return None;
    }
    let done = match Tool::parse().command {
        Command::Layer(command) => layer::run(&command),
        Command::Check(args) => remote_check::run(&args),
    };
    Some(done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    }))
}
