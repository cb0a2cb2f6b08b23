//! `walcheck DIR`: compares native redo with PostgreSQL's over the WAL of a cluster that ran with `wal_consistency_checking = all`.

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use ogel_ids::Lsn;
use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};
use wal_decoder::{redo::mask::Strictness, stream::StreamDecoder};
use walcheck::{Checker, Options, Range, WalFiles, WalStream};

/// Applies the WAL of a cluster that ran with wal_consistency_checking=all and full_page_writes=off, and compares every page with the
/// image that PostgreSQL logged.
///
/// Exit code 0: no difference. 1: differences, or pages without redo. 2: the WAL cannot be read.
#[derive(Debug, Parser)]
struct Args {
    /// A data directory, a folder of WAL segment files, or '-': segments one behind the other on standard input.
    #[arg(required_unless_present = "mask")]
    dir: Option<PathBuf>,
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
    /// The cluster's data directory from before this WAL, or a copy of its pg_xact, pg_multixact and pg_commit_ts.
    #[arg(long, value_name = "DATA")]
    base: Option<PathBuf>,
    /// The data directory after a clean shutdown at the end of this WAL: visibility maps and transaction logs are compared with it.
    #[arg(long, value_name = "DATA", requires = "base")]
    files: Option<PathBuf>,
    /// Masks pages from standard input for this resource manager, for tests.
    #[arg(long, hide = true, value_name = "RMID")]
    mask: Option<u8>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.mask {
        Some(rmid) => {
            walcheck::mask_pages(rmid, &mut io::stdin().lock(), &mut io::stdout().lock()).map(|()| ExitCode::SUCCESS)
        }
        None => run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("walcheck: {error:#}");
        ExitCode::from(2)
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let mut checker = Checker::new(Options { strictness: Strictness { command_ids: args.command_ids } });
    if let Some(base) = &args.base {
        checker.start_from(base)?;
    }
    let dir = args.dir.as_deref().context("which WAL? Name a data directory")?;
    if dir == Path::new("-") {
        let stream = WalStream::open(io::stdin().lock())?;
        let (start, segment_size) = (stream.start(), stream.segment_size());
        check(args, &mut checker, start, segment_size, stream)?;
        // The writer must not break on a pipe that nobody reads.
        io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    } else {
        check_folder(args, &mut checker, &WalFiles::open(dir)?)?;
    }
    if let Some(data) = &args.files {
        checker.compare_files(data)?;
    }
    let report = checker.finish();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if args.list_unreached {
        eprintln!("unreached: {}", report.unreached.join(", "));
    }
    let clean = report.difference_count == 0 && report.not_implemented == 0;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn check_folder(args: &Args, checker: &mut Checker, files: &WalFiles) -> Result<()> {
    let start = args.start.unwrap_or(files.start());
    let first_page = Lsn(start.0 - start.page_offset());
    let segment_count = files.segments(start).count() as u64;
    let chunks = files.segments(start).zip(1u64..).map(|(segment, number)| {
        let (at, content) = segment?;
        progress(number * 100 / segment_count, "%");
        Ok(if at < first_page { content.slice((first_page.0 - at.0) as usize..) } else { content })
    });
    check(args, checker, first_page, files.segment_size(), chunks)
}

fn check(
    args: &Args,
    checker: &mut Checker,
    first_page: Lsn,
    segment_size: u32,
    chunks: impl Iterator<Item = Result<Bytes>>,
) -> Result<()> {
    let start = args.start.unwrap_or(first_page);
    let range = Range { start, end: args.end.unwrap_or(Lsn::MAX), stop_at_first: args.stop_at_first };
    let mut decoder = StreamDecoder::find_first(first_page, segment_size, None)?;
    for chunk in chunks {
        decoder.feed(chunk?);
        if walcheck::check(checker, &mut decoder, range)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// How far the check has come, on a terminal.
fn progress(done: u64, unit: &str) {
    let mut screen = io::stderr();
    if screen.is_terminal() {
        // A progress bar that cannot be drawn is no reason to end.
        let _ = io::Write::write_fmt(
            &mut screen,
            format_args!("\r{done:>3} {unit} {}", if done == 100 { "\n" } else { "" }),
        );
    }
}
