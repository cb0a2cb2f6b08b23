//! `ogel logs`.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::json;

use super::print;
use crate::{cluster::Cluster, layout::Layout};

/// How much of a log's end is searched for its last lines.
const TAIL_BYTES: u64 = 1 << 20;

/// Options of `ogel logs`.
#[derive(clap::Args)]
pub struct Args {
    /// Which logs: safekeeper-1, pageserver, compute-main, postgres-main, ogel [default: all]
    nodes: Vec<String>,
    /// Lines from the end of each log
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
    /// Go on printing what is added, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

/// Prints the end of the logs, and follows them when asked.
pub async fn run(layout: &Layout, args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::load_existing(layout)?;
    let logs = find(layout, &cluster, &args.nodes)?;
    if json {
        let map: serde_json::Map<_, _> = logs.iter().map(|(name, path)| (name.clone(), json!(path))).collect();
        print(true, &map.into(), |_| String::new());
        return Ok(ExitCode::SUCCESS);
    }
    let mut followed = Vec::new();
    for (name, path) in logs {
        let mut file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        println!("==> {name} ({}) <==", path.display());
        for line in &lines[lines.len().saturating_sub(args.lines)..] {
            println!("{line}");
        }
        followed.push((name, file));
    }
    if args.follow {
        follow(followed).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what is added to the logs until Ctrl-C.
async fn follow(mut logs: Vec<(String, File)>) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        for (name, file) in &mut logs {
            let mut added = Vec::new();
            file.read_to_end(&mut added)?;
            for line in String::from_utf8_lossy(&added).lines() {
                println!("{name}: {line}");
            }
        }
        std::io::stdout().flush()?;
    }
}

/// The logs of our processes, and what each compute's PostgreSQL printed.
fn find(layout: &Layout, cluster: &Cluster, wanted: &[String]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut logs: Vec<_> = std::fs::read_dir(layout.logs())
        .with_context(|| format!("cannot read {}", layout.logs().display()))?
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            (path.extension()? == "log").then(|| Some((path.file_stem()?.to_str()?.to_owned(), path.clone())))?
        })
        .collect();
    for branch in &cluster.branches {
        let path = layout.data(&branch.node()).join("postgres.log");
        if path.exists() {
            logs.push((format!("postgres-{}", branch.name), path));
        }
    }
    logs.sort();
    for name in wanted {
        if !logs.iter().any(|(known, _)| known == name) {
            let known: Vec<_> = logs.iter().map(|(known, _)| known.as_str()).collect();
            bail!("there is no log of {name:?}; there are: {}", known.join(", "));
        }
    }
    logs.retain(|(name, _)| wanted.is_empty() || wanted.contains(name));
    Ok(logs)
}
