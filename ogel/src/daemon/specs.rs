//! The command line of each node.

use std::{ffi::OsString, time::Duration};

use crate::{
    cluster::{Branch, Cluster},
    install::Install,
    layout::Layout,
};

use super::node::Spec;

/// How long storage nodes, and computes, may take to stop cleanly.
const STOP_TIMEOUT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

/// All nodes of the cluster.
pub fn all(layout: &Layout, cluster: &Cluster, install: &Install) -> anyhow::Result<Vec<Spec>> {
    let mut specs = Vec::new();
    let mut add = |name: String, program: &str, http_port: u16, args: Vec<OsString>| -> anyhow::Result<()> {
        let (data, log) = (layout.data(&name), layout.log(&name));
        let args = [OsString::from("--data-dir"), data.clone().into()].into_iter().chain(args).collect();
        let program = install.program(program)?;
        specs.push(Spec { name, program, args, data, log, stop_timeout: STOP_TIMEOUT.0, http_port });
        Ok(())
    };
    for node in &cluster.safekeepers {
        let peers: Vec<_> = cluster
            .safekeepers
            .iter()
            .filter(|peer| peer.id != node.id)
            .map(|peer| format!("{}=127.0.0.1:{}", peer.id, peer.pg_port))
            .collect();
        let mut args = words([
            ("--node-id", node.id.to_string()),
            ("--listen-pg", format!("127.0.0.1:{}", node.pg_port)),
            ("--listen-http", format!("127.0.0.1:{}", node.http_port)),
            ("--peers", peers.join(",")),
        ]);
        args.extend(remote(layout));
        args.extend(auth(layout, "safekeeper"));
        add(format!("safekeeper-{}", node.id), "safekeeper", node.http_port, args)?;
    }
    let safekeepers: Vec<_> = cluster.safekeepers.iter().map(|node| format!("127.0.0.1:{}", node.pg_port)).collect();
    let mut args = words([
        ("--node-id", cluster.pageserver.id.to_string()),
        ("--listen-pg", format!("127.0.0.1:{}", cluster.pageserver.pg_port)),
        ("--listen-http", format!("127.0.0.1:{}", cluster.pageserver.http_port)),
        ("--safekeepers", safekeepers.join(",")),
    ]);
    args.extend(["--template".into(), install.template.clone().into()]);
    args.extend(remote(layout));
    args.extend(auth(layout, "pageserver"));
    add("pageserver".into(), "pageserver", cluster.pageserver.http_port, args)?;

    for branch in &cluster.branches {
        specs.push(compute(layout, cluster, install, branch, Use::ReadWrite)?);
    }
    Ok(specs)
}

/// What a branch's compute is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Anything.
    ReadWrite,
    /// Looking: transactions are read-only unless the user insists, and the branch is thrown away.
    Look,
}

/// The compute of a branch.
pub fn compute(
    layout: &Layout,
    cluster: &Cluster,
    install: &Install,
    branch: &Branch,
    purpose: Use,
) -> anyhow::Result<Spec> {
    let (name, data) = (branch.node(), layout.data(&branch.node()));
    let safekeepers: Vec<_> =
        cluster.safekeepers.iter().map(|node| format!("{}=127.0.0.1:{}", node.id, node.pg_port)).collect();
    let mut args = vec!["run".into(), "--data-dir".into(), data.clone().into()];
    args.extend(words([
        ("--tenant", cluster.tenant.to_string()),
        ("--timeline", branch.timeline.to_string()),
        ("--safekeepers", safekeepers.join(",")),
        ("--pageserver", format!("127.0.0.1:{}", cluster.pageserver.pg_port)),
        ("--sql-listen", format!("127.0.0.1:{}", branch.sql_port)),
        ("--http-listen", format!("127.0.0.1:{}", branch.http_port)),
    ]));
    args.extend(["--pg-prefix".into(), install.pg_prefix.clone().into()]);
    args.extend(["--ext-dir".into(), install.ext_dir.clone().into()]);
    args.extend(token(layout, "compute"));
    let settings = std::env::var("OGEL_PG_SETTINGS").unwrap_or_default();
    let look = ["default_transaction_read_only=on", "autovacuum=off"];
    for setting in settings.split_whitespace().chain(look.into_iter().filter(|_| purpose == Use::Look)) {
        args.extend(["--pg-setting".into(), setting.into()]);
    }
    let (program, log) = (install.program("compute")?, layout.log(&name));
    Ok(Spec { name, program, args, data, log, stop_timeout: STOP_TIMEOUT.1, http_port: branch.http_port })
}

/// The object store; one that is named in the environment is for the nodes to read there.
fn remote(layout: &Layout) -> Vec<OsString> {
    match std::env::var_os("OGEL_REMOTE") {
        Some(_) => Vec::new(),
        None => words([("--remote", layout.remote_url())]),
    }
}

/// Keys to check tokens with, and the token to show.
fn auth(layout: &Layout, whom: &str) -> Vec<OsString> {
    let mut args = token(layout, whom);
    if !args.is_empty() {
        args.extend(["--auth-keys".into(), layout.auth().join("key.pub").into()]);
    }
    args
}

fn token(layout: &Layout, whom: &str) -> Vec<OsString> {
    layout.token(whom).map_or(Vec::new(), |file| vec!["--auth-token-file".into(), file.into()])
}

fn words<const N: usize>(pairs: [(&str, String); N]) -> Vec<OsString> {
    pairs.into_iter().flat_map(|(flag, value)| [OsString::from(flag), OsString::from(value)]).collect()
}
