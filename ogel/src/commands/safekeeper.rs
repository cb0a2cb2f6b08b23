//! `ogel safekeeper …`: safekeepers as members of the quorum.

use std::process::ExitCode;

use clap::Subcommand;

use super::{print, say};
use crate::{client::Client, layout::Layout, protocol::Request};

/// Options of `ogel safekeeper`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Give a safekeeper that lost its data its place again: the others name its new store, their WAL is copied to it. Safe to repeat
    Replace {
        /// Number of the safekeeper
        number: u64,
    },
}

/// Carries it out.
pub async fn run(layout: &Layout, args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let Verb::Replace { number } = args.verb;
    let mut client = Client::connect_running(layout).await?;
    let value = client.ask(&Request::ReplaceSafekeeper { number }, say).await?;
    print(json, &value, |value| {
        let timelines = value["timelines"].as_array().map_or(0, Vec::len);
        format!("safekeeper-{number} votes and counts again in {timelines} timeline(s)")
    });
    Ok(ExitCode::SUCCESS)
}
