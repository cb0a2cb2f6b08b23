//! `walcheck DIR`: compares native redo with PostgreSQL's over the WAL of a cluster that ran with `wal_consistency_checking = all`.

use anyhow::Result;
use clap::Parser;
use ogel_ids::Lsn;
use std::{path::PathBuf, process::ExitCode};
use wal_decoder::{redo::mask::Strictness, stream::StreamDecoder};
use walcheck::{Checker, Options, Range, WalFiles};

/// Applies the WAL of a cluster that ran with wal_consistency_checking=all and full_page_writes=off, and compares every page with the
/// image that PostgreSQL logged.
///
/// Exit code 0: no difference. 1: differences, or pages without redo. 2: the WAL cannot be read.
#[derive(Debug, Parser)]
struct Args {
    /// A data directory, or a folder of WAL segment files.
    dir: PathBuf,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
    /// Ends after the first record with a difference.
    #[arg(long)]
    stop_at_first: bool,
    /// The first record at or behind this LSN; the start of the first segment by default.
    #[arg(long)]
    start: Option<Lsn>,
    /// Ends before this LSN; the end of the WAL by default.
    #[arg(long)]
    end: Option<Lsn>,
    /// Lists record kinds that no page of this WAL reached.
    #[arg(long)]
    list_unreached: bool,
    /// The WAL carries command ids (our patched PostgreSQL): compares them too.
    #[arg(long)]
    command_ids: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("walcheck: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let files = WalFiles::open(&args.dir)?;
    let mut checker = Checker::new(Options { strictness: Strictness { command_ids: args.command_ids } });
    check(args, &files, &mut checker)?;
    let report = checker.report();
    if args.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        println!("{report}");
    }
    if args.list_unreached {
        eprintln!("unreached: {}", report.unreached().join(", "));
    }
    let clean = report.difference_count == 0 && report.not_implemented == 0;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn check(args: &Args, files: &WalFiles, checker: &mut Checker) -> Result<()> {
    let start = args.start.unwrap_or(files.start());
    let first_page = Lsn(start.0 - start.page_offset());
    let range = Range { start, end: args.end.unwrap_or(Lsn::MAX), stop_at_first: args.stop_at_first };
    let mut decoder = StreamDecoder::find_first(first_page, files.segment_size(), None)?;
    for segment in files.segments(start) {
        let (at, mut content) = segment?;
        if at < first_page {
            content = content.slice((first_page.0 - at.0) as usize..);
        }
        decoder.feed(content);
        if walcheck::check(checker, &mut decoder, range)?.is_break() {
            return Ok(());
        }
    }
    Ok(())
}
