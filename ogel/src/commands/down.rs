//! `ogel down`.

use std::process::ExitCode;

use serde_json::json;

use super::{print, say, up};
use crate::{client::Client, cluster::Cluster, layout::Layout, protocol::Request};

/// Options of `ogel down`.
#[derive(clap::Args)]
pub struct Args {
    /// Kill everything at once; the next start recovers as after a power cut
    #[arg(long)]
    immediate: bool,
}

/// Stops the cluster, if it runs.
pub async fn run(layout: &Layout, args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    Cluster::load_existing(layout)?;
    let was_running = stop(layout, args.immediate).await?;
    print(json, &json!({ "was_running": was_running }), |_| {
        if was_running { "stopped; the data stays".into() } else { "it was not running".into() }
    });
    Ok(ExitCode::SUCCESS)
}

/// Stops the daemon and waits for its end. Tells whether there was one.
pub async fn stop(layout: &Layout, immediate: bool) -> anyhow::Result<bool> {
    let Some(mut client) = Client::connect(layout).await? else { return Ok(false) };
    client.ask(&Request::Down { immediate }, say).await?;
    up::wait_for_end(layout).await?;
    Ok(true)
}
