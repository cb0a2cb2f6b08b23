//! `ogel create-timeline`: for storage nodes that something else runs, such as docker-compose.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use ogel_ids::{TenantId, TimelineId};
use ogel_service::auth::TokenArgs;

use super::{print, say};
use crate::{bootstrap, http::Http};

/// Options of `ogel create-timeline`.
#[derive(clap::Args)]
pub struct Args {
    /// Tenant, 32 hexadecimal digits
    #[arg(long, env = "OGEL_TENANT", value_name = "ID")]
    tenant: TenantId,
    /// Timeline, 32 hexadecimal digits
    #[arg(long, env = "OGEL_TIMELINE", value_name = "ID")]
    timeline: TimelineId,
    /// The pageserver's HTTP address
    #[arg(long, env = "OGEL_PAGESERVER_HTTP", value_name = "HOST:PORT")]
    pageserver: String,
    /// The safekeepers' HTTP addresses, separated by commas
    #[arg(long, env = "OGEL_SAFEKEEPERS_HTTP", value_name = "HOST:PORT,…", value_delimiter = ',')]
    safekeepers: Vec<String>,
    /// Make it a branch of this timeline instead of a fresh database
    #[arg(long, env = "OGEL_ANCESTOR", value_name = "ID")]
    ancestor: Option<TimelineId>,
    /// Where to branch off: an LSN (0/16B3740) or a time (2026-11-21T10:59:00Z) [default: the ancestor's head]
    #[arg(long, requires = "ancestor", value_name = "LSN|TIME")]
    at: Option<String>,
    /// What is shown to them.
    #[command(flatten)]
    token: TokenArgs,
    /// How long to wait for the nodes to serve, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait: u64,
}

/// Waits for the nodes, then makes the timeline wherever it is missing.
pub async fn run(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let http = Http::new(&args.token.source())?;
    for address in std::iter::once(&args.pageserver).chain(&args.safekeepers) {
        let serves = async {
            while !http.ready(address).await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        say(&format!("waiting for {address}"));
        tokio::time::timeout(Duration::from_secs(args.wait), serves).await.with_context(|| {
            format!("{address} does not serve after {} s: check that it runs and that its name is right", args.wait)
        })?;
    }
    let wanted = bootstrap::Wanted {
        tenant: args.tenant,
        timeline: args.timeline,
        pageserver: args.pageserver.clone(),
        safekeepers: args.safekeepers.clone(),
        source: match args.ancestor {
            Some(ancestor) => bootstrap::branch_source(ancestor, args.at.as_deref()),
            None => "template".into(),
        },
    };
    let made = bootstrap::create_timeline(&http, &wanted).await?;
    print(json, &made, |_| format!("timeline {} is there", args.timeline));
    Ok(ExitCode::SUCCESS)
}
