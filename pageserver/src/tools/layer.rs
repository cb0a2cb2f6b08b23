//! `pageserver layer dump|check`.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    keyspace::KEY_SIZE,
    layer::{
        VersionKind,
        file::{Examined, ExaminedVersion, LayerHeader, examine},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum LayerCommand {
    /// Lists what a layer file holds
    Dump(DumpArgs),
    /// Checks every checksum, order and bound of a layer file. Exit code 0: it is sound. 1: it is not. 2: it could not be read
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(super) struct DumpArgs {
    /// The layer file
    file: PathBuf,
    /// Only keys that begin so, hexadecimal (36 digits are one key)
    #[arg(long, value_name = "HEX")]
    key: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The layer file
    file: PathBuf,
    /// The answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &LayerCommand) -> anyhow::Result<ExitCode> {
    match command {
        LayerCommand::Dump(args) => dump(args),
        LayerCommand::Check(args) => check(args),
    }
}

fn read(file: &PathBuf) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn dump(args: &DumpArgs) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut outcome = Ok(());
    let wanted = args.key.as_deref().unwrap_or("").to_lowercase();
    ensure!(
        wanted.len() <= 2 * KEY_SIZE && wanted.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "no key begins with {wanted:?}: --key takes up to 36 hexadecimal digits, as the dump shows them"
    );
    let examined = examine(&bytes, |version| {
        if outcome.is_ok() && version.key.to_string().starts_with(&wanted) {
            outcome = put_version(&mut out, &version, args.json);
        }
    });
    let examined = examined.map_err(|error| anyhow::anyhow!("{}: {error}", args.file.display()))?;
    match outcome.and_then(|()| put_rest(&mut out, &examined, args.json)).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        written => written?,
    }
    examined.problems.iter().for_each(|problem| eprintln!("damaged: {problem}"));
    Ok(if examined.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn put_version(out: &mut impl Write, version: &ExaminedVersion<'_>, json: bool) -> io::Result<()> {
    let ExaminedVersion { key, lsn, kind, value } = version;
    let (what, len) = (key.describe(), value.map(<[u8]>::len));
    let kind = match kind {
        VersionKind::Image => "image",
        VersionKind::Delta => "delta",
        VersionKind::InitDelta => "init-delta",
    };
    if json {
        let line = json!({"key": key.to_string(), "what": what, "lsn": lsn, "kind": kind, "value_bytes": len});
        return writeln!(out, "{line}");
    }
    let len = len.map_or("damaged".to_owned(), |len| format!("{len} bytes"));
    writeln!(out, "{key} {lsn} {kind:<10} {len:>10}  {what}")
}

fn put_rest(out: &mut impl Write, examined: &Examined, json: bool) -> io::Result<()> {
    for tombstone in &examined.tombstones {
        let (start, end, lsn) = (tombstone.range.start, tombstone.range.end, tombstone.lsn);
        match json {
            true => {
                let line = json!({"tombstone": {"start": start.to_string(), "end": end.to_string()}, "lsn": lsn});
                writeln!(out, "{line}")?;
            }
            false => writeln!(out, "{start} {lsn} tombstone  up to {end}")?,
        }
    }
    match json {
        true => writeln!(out, "{}", json!({"header": header(&examined.header), "summary": examined})),
        false => writeln!(out, "{}", summary(examined)),
    }
}

fn header(header: &LayerHeader) -> serde_json::Value {
    json!({
        "kind": header.kind, "tenant": header.tenant, "timeline": header.timeline,
        "start_lsn": header.lsns.start, "end_lsn": header.lsns.end,
        "start_key": header.keys.start.to_string(), "end_key": header.keys.end.to_string(),
    })
}

fn summary(examined: &Examined) -> String {
    let LayerHeader { kind, tenant, timeline, lsns, keys } = examined.header;
    format!(
        "{kind:?} of tenant {tenant}, timeline {timeline}\nLSNs {} to {}, keys {} to {}\n{} versions in {} data blocks, {} tombstones",
        lsns.start,
        lsns.end,
        keys.start,
        keys.end,
        examined.versions,
        examined.data_blocks,
        examined.tombstones.len()
    )
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let (problems, examined) = match examine(&bytes, |_| {}) {
        Ok(examined) => (examined.problems.clone(), Some(examined)),
        Err(error) => (vec![error], None),
    };
    if args.json {
        let header = examined.as_ref().map(|examined| header(&examined.header));
        let versions = examined.as_ref().map(|examined| examined.versions);
        println!(
            "{}",
            json!({"sound": problems.is_empty(), "problems": problems, "header": header, "versions": versions})
        );
    } else {
        if let Some(examined) = &examined {
            println!("{}", summary(examined));
        }
        problems.iter().for_each(|problem| println!("damaged: {problem}"));
        if problems.is_empty() {
            println!("sound");
        }
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
