//! `walcheck DIR`: compares native redo with PostgreSQL's over the WAL of a cluster that ran with `wal_consistency_checking = all`.

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use ogel_ids::Lsn;
use progress::Progress;
use std::{
    fs::File,
    io::{self, BufRead, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
};
use wal_decoder::{redo::mask::Strictness, stream::StreamDecoder};
use walcheck::{Checker, Options, Range, WalDump, WalFiles, WalStream};

mod progress;

/// How zstd data begins.
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// The largest window of `zstd --long`.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Applies the WAL of a cluster that ran with wal_consistency_checking=all and full_page_writes=off, and compares every page with the
/// image that PostgreSQL logged.
///
/// Exit code 0: no difference. 1: differences, or pages without redo. 2: the WAL cannot be read.
#[derive(Debug, Parser)]
struct Args {
    /// A data directory, a folder of WAL segment files, or '-': segments one behind the other on standard input, also compressed with zstd.
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
    /// The pg_waldump that describes the records of differences; by default the one in PATH, if any.
    #[arg(long, value_name = "PROGRAM")]
    pg_waldump: Option<PathBuf>,
    /// Writes one redone page of each kind instead of the report, for tests; see `PageKinds::write`.
    #[arg(long, hide = true)]
    page_kinds: bool,
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
    if args.page_kinds {
        checker.keep_page_kinds();
    }
    let dir = args.dir.as_deref().context("which WAL? Name a data directory")?;
    if dir == Path::new("-") {
        check_stream(args, &mut checker)?;
    } else {
        check_folder(args, &mut checker, &WalFiles::open(dir)?)?;
    }
    if let Some(kinds) = checker.page_kinds() {
        kinds.write(&mut io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
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

fn check_stream(args: &Args, checker: &mut Checker) -> Result<()> {
    let mut input = io::stdin().lock();
    let checked = check_input(args, checker, &mut input);
    // Whatever was found, the writer must not hang on a pipe that nobody reads.
    io::copy(&mut input, &mut io::sink())?;
    checked
}

fn check_input(args: &Args, checker: &mut Checker, input: &mut impl BufRead) -> Result<()> {
    let is_compressed = input.fill_buf()?.starts_with(&ZSTD_MAGIC);
    // Of a file the length is known, of a pipe and of what is compressed it is not.
    let metadata = File::from(io::stdin().as_fd().try_clone_to_owned()?).metadata()?;
    let size_bytes = Some(metadata.len()).filter(|_| metadata.is_file() && !is_compressed);
    let reader: Box<dyn Read> = if is_compressed {
        let mut decoder = zstd::Decoder::new(input)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Box::new(decoder)
    } else {
        Box::new(input)
    };
    let stream = WalStream::open(reader)?;
    let wal = Wal { first_page: stream.start(), segment_size: stream.segment_size(), size_bytes };
    check(args, checker, wal, stream)
}

fn check_folder(args: &Args, checker: &mut Checker, files: &WalFiles) -> Result<()> {
    let start = args.start.unwrap_or(files.start());
    let first_page = Lsn(start.0 - start.page_offset());
    let wal = Wal { first_page, segment_size: files.segment_size(), size_bytes: Some(files.size_from(start)) };
    let chunks = files.segments(start).map(|segment| {
        let (at, content) = segment?;
        Ok(if at < first_page { content.slice((first_page.0 - at.0) as usize..) } else { content })
    });
    check(args, checker, wal, chunks)
}

/// What is known of the WAL beforehand.
struct Wal {
    first_page: Lsn,
    segment_size: u32,
    size_bytes: Option<u64>,
}

fn check(args: &Args, checker: &mut Checker, wal: Wal, chunks: impl Iterator<Item = Result<Bytes>>) -> Result<()> {
    checker.describe_with(WalDump::find(args.pg_waldump.as_deref(), wal.segment_size));
    let start = args.start.unwrap_or(wal.first_page);
    let range = Range { start, end: args.end.unwrap_or(Lsn::MAX), stop_at_first: args.stop_at_first };
    let mut decoder = StreamDecoder::find_first(wal.first_page, wal.segment_size, None)?;
    let mut progress = Progress::new(wal.size_bytes);
    for chunk in chunks {
        let chunk = chunk?;
        let size = chunk.len();
        decoder.feed(chunk);
        let end = walcheck::check(checker, &mut decoder, range)?;
        progress.advance(size, checker.report());
        if end.is_break() {
            break;
        }
    }
    progress.finish(checker.report());
    Ok(())
}
