//! Replays one seed with a readable trace, or runs many.

use std::process::ExitCode;

use clap::Parser;
use quorum_sim::{Bug, Tally, Trace, World, run_many};

/// A line is printed after so many.
const PROGRESS_RUNS: u64 = 1_000;

/// Deterministic simulator of the consensus core.
#[derive(Debug, Parser)]
struct Arguments {
    /// Replay this seed and print everything that happens.
    #[arg(long, conflicts_with_all = ["runs", "from"])]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 2_000)]
    runs: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Put a known bug back in (those in the core need the feature `mutations`).
    #[arg(long)]
    bug: Option<Bug>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorum-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if cfg!(not(feature = "mutations")) && arguments.bug.is_some_and(Bug::is_in_core) {
        anyhow::bail!("this bug lies in the core: build with --features mutations");
    }
    if let Some(seed) = arguments.seed {
        let outcome = World::new(seed, arguments.bug, Trace::Printed).run();
        println!("{:?}, counts: {}", outcome.happened, outcome.happened.counts());
        return outcome.violation.map_or(Ok(()), |violation| Err(anyhow::anyhow!(violation)));
    }
    let progress = |tally: &Tally| {
        if tally.runs.is_multiple_of(PROGRESS_RUNS) {
            eprintln!("{} of {} runs without a violation, {} count", tally.runs, arguments.runs, tally.counted);
        }
    };
    let seeds = arguments.from..arguments.from.saturating_add(arguments.runs);
    match run_many(seeds, arguments.bug, progress) {
        Ok(tally) => {
            println!("{} runs without a violation, {} count: {:?}", tally.runs, tally.counted, tally.total);
            Ok(())
        }
        Err(outcome) => anyhow::bail!(
            "seed {}: {}\nreplay with: quorum-sim --seed {}",
            outcome.seed,
            outcome.violation.unwrap_or_default(),
            outcome.seed
        ),
    }
}
