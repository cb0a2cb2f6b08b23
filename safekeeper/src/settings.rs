//! The settings of a safekeeper.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use anyhow::{bail, ensure};
use clap::Parser;
use ogel_ids::NodeId;
use ogel_object_store::RemoteArgs;
use ogel_service::{auth::AuthArgs, config::ServiceArgs};

const REMOTE_HELP: &str = "Object store for finished WAL: file:///folder, s3://bucket/prefix, or memory: (tests). Without it all WAL is kept here";

/// Keeps the WAL of many timelines: a commit is durable when a majority of safekeepers has fsynced it
///
/// Settings come from a TOML file (--config), the environment and flags, in rising order of precedence.
#[derive(Debug, Clone, Parser)]
#[command(name = "safekeeper", version)]
#[command(mut_arg("remote", |arg| arg.help(REMOTE_HELP)))]
#[command(after_help = "`safekeeper archive check --help`: checks the WAL in the object store")]
pub struct Settings {
    /// Folder for WAL and state; it is made, with a fresh identity, when it does not exist
    #[arg(long, env = "OGEL_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Number of this node, from 1, unique among the safekeepers
    #[arg(long, env = "OGEL_NODE_ID", value_name = "NUMBER")]
    pub node_id: NodeId,
    /// Where to listen for proposers and readers (PostgreSQL wire protocol) [default: port 5454, everywhere with --auth-keys, else on loopback]
    #[arg(long, env = "OGEL_LISTEN_PG", value_name = "HOST:PORT")]
    pub listen_pg: Option<String>,
    /// Where to listen for HTTP: state, creation of timelines, health, metrics [default: port 7676, likewise]
    #[arg(long, env = "OGEL_LISTEN_HTTP", value_name = "HOST:PORT")]
    pub listen_http: Option<String>,
    /// The other safekeepers with their PostgreSQL-wire ports, for catching up and news of commits: 2=host:5454,3=host:5454
    #[arg(long, env = "OGEL_PEERS", value_name = "ID=HOST:PORT,…", value_delimiter = ',')]
    pub peers: Vec<Peer>,
    /// Recent WAL kept in memory per active timeline for readers that are close behind, in bytes
    #[arg(long, env = "OGEL_WAL_TAIL_BYTES", value_name = "BYTES", default_value = "4194304")]
    pub wal_tail_bytes: usize,
    /// Most disk space for the WAL of one timeline, in bytes; its commits wait while it is used up. 0 = no limit
    #[arg(long, env = "OGEL_TIMELINE_QUOTA_BYTES", value_name = "BYTES", default_value = "0")]
    pub timeline_quota_bytes: u64,
    /// Disk space that stays free for votes and control files, in bytes; commits wait rather than take it. 0 = none
    #[arg(long, env = "OGEL_FREE_SPACE_FLOOR_BYTES", value_name = "BYTES", default_value = "67108864")]
    pub free_space_floor_bytes: u64,
    /// After so many seconds without a compute, the end of a timeline's WAL goes to the object store too and its local WAL is dropped
    #[arg(long, env = "OGEL_IDLE_AFTER_S", value_name = "SECONDS", default_value_t = 300)]
    pub idle_after_s: u64,
    /// Where finished WAL goes; without it all WAL is kept here.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Do not flush anything to disk. ONLY FOR TESTS: a crash of the machine loses commits
    #[arg(long, env = "OGEL_NO_SYNC", hide_env = true)]
    pub no_sync: bool,
    /// Who may do what.
    #[command(flatten)]
    pub auth: AuthArgs,
    /// What all services have.
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// Another safekeeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub node_id: NodeId,
    /// Its PostgreSQL-wire port, `host:port`.
    pub address: String,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not ID=HOST:PORT, such as 2=safekeeper-2:5454");
        let (node_id, address) = text.trim().split_once('=').ok_or_else(wrong)?;
        let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match (node_id.parse(), port) {
            (Ok(node_id), Some((host, _))) if !host.is_empty() => Ok(Self { node_id, address: address.to_owned() }),
            _ => Err(wrong()),
        }
    }
}

impl Settings {
    /// Checks what clap cannot: returns the peers by number, without this node itself.
    pub fn peers_by_id(&self) -> anyhow::Result<BTreeMap<NodeId, String>> {
        ensure!(self.node_id.0 >= 1, "OGEL_NODE_ID (--node-id) is 0: nodes are numbered from 1");
        let mut peers = BTreeMap::new();
        for peer in &self.peers {
            if peer.node_id == self.node_id {
                continue; // the same list may be given to all nodes
            }
            if let Some(other) = peers.insert(peer.node_id, peer.address.clone()) {
                bail!("OGEL_PEERS (--peers) names safekeeper {} twice: {other} and {}", peer.node_id, peer.address);
            }
        }
        Ok(peers)
    }

    /// Checks everything that can be checked without touching the data folder.
    pub fn check(&self) -> anyhow::Result<()> {
        self.peers_by_id()?;
        self.listen_addresses()?;
        self.auth.verifier()?;
        self.auth.token.checked_source()?;
        self.remote.check()?;
        Ok(())
    }

    /// Where to listen: wire protocol, HTTP.
    pub fn listen_addresses(&self) -> anyhow::Result<(String, String)> {
        Ok((
            self.auth.listen_address("OGEL_LISTEN_PG (--listen-pg)", self.listen_pg.as_deref(), 5454)?,
            self.auth.listen_address("OGEL_LISTEN_HTTP (--listen-http)", self.listen_http.as_deref(), 7676)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_checked() {
        let peers = |list: &str| {
            let settings = Settings::try_parse_from(["safekeeper", "--data-dir=x", "--node-id=1", "--peers", list])?;
            settings.peers_by_id()
        };
        assert_eq!(peers("1=a:1,2=b:2,3=[::1]:3").unwrap().len(), 2, "oneself is left out");
        for wrong in ["2", "2=b", "x=b:2", "2=b:99999", "2=:5", "2=b:1,2=c:1"] {
            assert!(peers(wrong).is_err(), "{wrong}");
        }
    }
}
