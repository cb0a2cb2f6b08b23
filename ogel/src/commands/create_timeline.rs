//! `ogel create-timeline`: for storage nodes that something else runs, such as docker-compose.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::future::join_all;
use ogel_ids::{TenantId, TimelineId};
use ogel_service::auth::TokenArgs;
use serde_json::Value;

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
    #[arg(long, env = "OGEL_SAFEKEEPERS_HTTP", value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
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

/// Makes the timeline wherever it is missing.
pub async fn run(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    check_addresses("OGEL_PAGESERVER_HTTP (--pageserver)", std::slice::from_ref(&args.pageserver))?;
    check_addresses("OGEL_SAFEKEEPERS_HTTP (--safekeepers)", &args.safekeepers)?;
    let http = Http::new(&args.token.source())?;
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
    let made = match wait_for_nodes(&http, &wanted, Duration::from_secs(args.wait)).await? {
        Some(existing) => existing,
        None => bootstrap::create_timeline(&http, &wanted).await?,
    };
    print(json, &made, |_| format!("timeline {} is there", args.timeline));
    Ok(ExitCode::SUCCESS)
}

fn check_addresses(variable: &str, addresses: &[String]) -> anyhow::Result<()> {
    for address in addresses {
        let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        anyhow::ensure!(
            port.is_some_and(|(host, port)| !host.is_empty() && port > 0),
            "{variable} names {address:?}, which is not HOST:PORT, such as safekeeper-1:7676"
        );
    }
    Ok(())
}

/// Until all nodes serve, or the timeline is found on the pageserver and on a majority of the safekeepers: a compute that starts again must not
/// wait for a safekeeper that is away. The timeline if it was found.
async fn wait_for_nodes(http: &Http, wanted: &bootstrap::Wanted, limit: Duration) -> anyhow::Result<Option<Value>> {
    let began = Instant::now();
    let mut said = false;
    loop {
        let all = wanted.safekeepers.iter().chain([&wanted.pageserver]);
        let ready = join_all(all.map(async |address| (address, http.ready(address).await))).await;
        let missing: Vec<_> =
            ready.into_iter().filter_map(|(address, is_ready)| (!is_ready).then_some(address)).collect();
        if missing.is_empty() {
            return Ok(None);
        }
        if !missing.contains(&&wanted.pageserver)
            && let Some(existing) = bootstrap::find_timeline(http, wanted).await
        {
            return Ok(Some(existing));
        }
        let list = missing.iter().map(|address| address.as_str()).collect::<Vec<_>>().join(", ");
        if began.elapsed() > limit {
            let (mut variables, s) = (Vec::new(), if missing.len() == 1 { "s" } else { "" });
            if missing.contains(&&wanted.pageserver) {
                variables.push("OGEL_PAGESERVER_HTTP");
            }
            if missing.iter().any(|address| **address != wanted.pageserver) {
                variables.push("OGEL_SAFEKEEPERS_HTTP");
            }
            anyhow::bail!(
                "{list} serve{s} nothing after {} s: correct {}, or start what should answer there",
                limit.as_secs(),
                variables.join(" and ")
            );
        }
        if !said {
            say(&format!("waiting for {list}"));
            said = true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
