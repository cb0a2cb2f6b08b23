//! `pagecheck OURS DATA`: every page of every relation, as the pageserver has it and as a cluster of PostgreSQL's has it.

use anyhow::Result;
use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

/// Compares relations that were dumped from a pageserver with a data directory after a clean shutdown, page for page.
///
/// Exit code 0: no difference. 1: differences. 2: it could not be compared.
#[derive(Debug, Parser)]
struct Args {
    /// A file for each fork, named as in 1663/5/16384_vm.
    ours: PathBuf,
    /// The data directory.
    data: PathBuf,
}

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|error| {
        eprintln!("pagecheck: {error:#}");
        ExitCode::from(2)
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let report = walcheck::compare_relations(&args.ours, &args.data)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(if report.different == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
