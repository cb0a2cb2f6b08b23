//! The command line of each node.

use std::{ffi::OsString, time::Duration};

use crate::{cluster::Cluster, install::Install, layout::Layout};

use super::node::Spec;

/// How long storage nodes, and computes, may take to stop cleanly.
const STOP_TIMEOUT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

/// All nodes of the cluster.
pub fn all(layout: &Layout, cluster: &Cluster, install: &Install) -> anyhow::Result<Vec<Spec>> {
    let mut specs = Vec::new();
    let mut add = |name: String, program: &str, stop_timeout, args: Vec<OsString>| -> anyhow::Result<()> {
        let (data, log) = (layout.data(&name), layout.log(&name));
        let data_args = [OsString::from("--data-dir"), data.clone().into()];
        let args = match program {
            "compute" => std::iter::once("run".into()).chain(data_args).chain(args).collect(),
            _ => data_args.into_iter().chain(args).collect(),
        };
        specs.push(Spec { name, program: install.program(program)?, args, data, log, stop_timeout });
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
        add(format!("safekeeper-{}", node.id), "safekeeper", STOP_TIMEOUT.0, args)?;
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
    add("pageserver".into(), "pageserver", STOP_TIMEOUT.0, args)?;

    let safekeepers: Vec<_> =
        cluster.safekeepers.iter().map(|node| format!("{}=127.0.0.1:{}", node.id, node.pg_port)).collect();
    for branch in &cluster.branches {
        let mut args = words([
            ("--tenant", cluster.tenant.to_string()),
            ("--timeline", branch.timeline.to_string()),
            ("--safekeepers", safekeepers.join(",")),
            ("--pageserver", format!("127.0.0.1:{}", cluster.pageserver.pg_port)),
            ("--sql-listen", format!("127.0.0.1:{}", branch.sql_port)),
            ("--http-listen", format!("127.0.0.1:{}", branch.http_port)),
        ]);
        args.extend(["--pg-prefix".into(), install.pg_prefix.clone().into()]);
        args.extend(["--ext-dir".into(), install.ext_dir.clone().into()]);
        for setting in std::env::var("OGEL_PG_SETTINGS").unwrap_or_default().split_whitespace() {
            args.extend(["--pg-setting".into(), setting.into()]);
        }
        add(branch.node(), "compute", STOP_TIMEOUT.1, args)?;
    }
    Ok(specs)
}

/// The object store; one that is named in the environment is for the nodes to read there.
fn remote(layout: &Layout) -> Vec<OsString> {
    match std::env::var_os("OGEL_REMOTE") {
        Some(_) => Vec::new(),
        None => words([("--remote", layout.remote_url())]),
    }
}

fn words<const N: usize>(pairs: [(&str, String); N]) -> Vec<OsString> {
    pairs.into_iter().flat_map(|(flag, value)| [OsString::from(flag), OsString::from(value)]).collect()
}
