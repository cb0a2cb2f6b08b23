//! Checks the protocol within given bounds and prints how many states there are.

use std::process::ExitCode;

use clap::Parser;
use quorum_model::{Bounds, Protocol, Removed, state, state::State};

/// Exhaustive check of the consensus protocol within bounds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Highest term.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=state::MAX_TERMS as i64))]
    terms: u8,
    /// Longest log, in records.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=state::MAX_RECORDS as i64))]
    records: u8,
    /// Leave a rule out: a violation must be found.
    #[arg(long)]
    remove: Option<Removed>,
    /// Begin where two terms have written different records, instead of at the creation.
    #[arg(long)]
    contested: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let Arguments { terms, records, remove, contested, threads } = Arguments::parse();
    let start = if contested { State::contested() } else { State::created() };
    let report = Protocol { bounds: Bounds { terms, records }, removed: remove, start }.check(threads);
    println!(
        "{} states, {} steps, depth {}, with {terms} terms and {records} records",
        report.states, report.steps, report.depth
    );
    if !report.unreached.is_empty() {
        println!("never reached: {}", report.unreached.join(", "));
    }
    match report.violation {
        None => ExitCode::SUCCESS,
        Some((invariant, way)) => {
            println!("VIOLATION {invariant}, after\n{way}");
            ExitCode::FAILURE
        }
    }
}
