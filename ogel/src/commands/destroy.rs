//! `ogel destroy`.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde_json::json;

use super::{down, print};
use crate::layout::Layout;

/// Options of `ogel destroy`.
#[derive(clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Stops the cluster and deletes its folder, after asking.
pub async fn run(layout: &Layout, args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let root = layout.root();
    // Only a folder that holds a cluster is deleted; its configuration may be damaged, that is one reason to delete it.
    if !layout.config().exists() {
        bail!("there is no cluster in {}: nothing to destroy", root.display());
    }
    if !args.yes {
        if !io::stdin().is_terminal() {
            bail!("this deletes all data in {}: say so with `ogel destroy --yes`", root.display());
        }
        eprint!("Delete all data in {}? Type yes: ", root.display());
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if answer.trim() != "yes" {
            bail!("nothing was deleted");
        }
    }
    down::stop(layout, true).await?;
    // The configuration goes last: after an interruption the folder is still known as a cluster's, and can be destroyed again.
    for entry in fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))? {
        let path = entry?.path();
        if path == layout.config() {
            continue;
        }
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(|| format!("cannot delete {}", path.display()))?;
    }
    fs::remove_dir_all(root).with_context(|| format!("cannot delete {}", root.display()))?;
    print(json, &json!({ "destroyed": root }), |_| format!("{} is gone", root.display()));
    Ok(ExitCode::SUCCESS)
}
