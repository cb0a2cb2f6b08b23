//! `safekeeper archive check`: is the WAL in the object store all there, and good?
//!
//! | file | what it does |
//! |---|---|
//! | `timeline.rs` | one timeline: gaps, sizes, records, tails |
//! | `local.rs` | what a safekeeper's folder says about it |
//! | `report.rs` | what was found, for people and for machines |

mod local;
mod report;
mod timeline;

use std::{collections::BTreeSet, io::IsTerminal, path::PathBuf};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use ogel_ids::{TenantId, TimelineId};
use ogel_object_store::{ObjectStore, RemoteArgs, StoreMetrics};

use crate::timeline::TimelineKey;
use local::LocalStore;
pub use report::{Finding, Report, TimelineReport};
use timeline::Checker;

/// WAL in the object store
#[derive(Debug, Parser)]
#[command(name = "safekeeper archive", version)]
pub struct ArchiveCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Reads all WAL in the object store: no segment missing, every record's CRC and predecessor right, tails whole
    ///
    /// Exit status: 0 all is good, 1 something is not, 2 it could not be checked.
    Check(CheckArgs),
}

/// What to check.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("remote", |arg| arg.help("Object store: file:///folder or s3://bucket/prefix")))]
pub struct CheckArgs {
    /// Where the WAL is.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Only this tenant
    #[arg(long, value_name = "ID")]
    pub tenant: Option<TenantId>,
    /// Only this timeline
    #[arg(long, value_name = "ID")]
    pub timeline: Option<TimelineId>,
    /// Folder of a safekeeper, running or not: its WAL is compared with the object store's
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl ArchiveCommand {
    /// Does it and prints the result; false if something is not good.
    pub async fn run(self) -> anyhow::Result<bool> {
        let Action::Check(args) = self.action;
        let report = check(&args).await?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{report}");
        }
        Ok(report.good)
    }
}

/// Checks what the arguments name.
pub async fn check(args: &CheckArgs) -> anyhow::Result<Report> {
    let url =
        args.remote.remote.as_deref().context("--remote is missing: give file:///folder or s3://bucket/prefix")?;
    if let Some(folder) = url.strip_prefix("file://") {
        ensure!(std::path::Path::new(folder).is_dir(), "{url} is not a folder");
    }
    let store = ObjectStore::open(&args.remote, std::path::Path::new("."), StoreMetrics::default())?;
    let local = args.data_dir.as_deref().map(LocalStore::open).transpose()?;
    let mut keys = archived(&store, args).await?;
    keys.extend(local.iter().flat_map(LocalStore::keys));
    let wanted = |key: &TimelineKey| {
        args.tenant.is_none_or(|tenant| tenant == key.tenant)
            && args.timeline.is_none_or(|timeline| timeline == key.timeline)
    };
    keys.retain(wanted);
    ensure!(!keys.is_empty(), "{}: there is no WAL of what was asked for", store.url());
    let shows_progress = std::io::stderr().is_terminal();
    let mut timelines = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let progress = |what: String| {
            if shows_progress {
                eprint!("\r\x1b[K{}/{} {}: {what}", index + 1, keys.len(), key.timeline);
            }
        };
        let checker = Checker::new(&store, *key, local.as_ref().and_then(|local| local.timeline(*key)), &progress);
        timelines.extend(checker.check().await?);
    }
    if shows_progress {
        eprint!("\r\x1b[K");
    }
    let good = timelines.iter().all(|timeline| timeline.findings.is_empty());
    Ok(Report { url: store.url().to_owned(), good, timelines })
}

/// Timelines below `tenants/`; the pageserver's objects are there too.
async fn archived(store: &ObjectStore, args: &CheckArgs) -> anyhow::Result<BTreeSet<TimelineKey>> {
    let mut keys = BTreeSet::new();
    for tenant in store.folders("tenants").await? {
        let Ok(tenant) = tenant.parse::<TenantId>() else { continue };
        if args.tenant.is_some_and(|wanted| wanted != tenant) {
            continue;
        }
        for timeline in store.folders(&format!("tenants/{tenant}/timelines")).await? {
            keys.extend(timeline.parse().ok().map(|timeline| TimelineKey { tenant, timeline }));
        }
    }
    Ok(keys)
}
