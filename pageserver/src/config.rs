//! Settings of a pageserver.

use std::{path::PathBuf, time::Duration};

use anyhow::{bail, ensure};
use clap::Parser;
use ogel_object_store::RemoteArgs;
use ogel_pgwire::{Address, Endpoint};
use ogel_service::{auth::AuthArgs, config::ServiceArgs};

/// Serves every page of its timelines at every LSN, from the WAL that safekeepers hold.
#[derive(Debug, Clone, Parser)]
#[command(name = "pageserver", version, after_help = crate::tools::HELP)]
pub struct Config {
    /// Settings that every service has.
    #[command(flatten)]
    pub service: ServiceArgs,
    /// Who may do what.
    #[command(flatten)]
    pub auth: AuthArgs,
    /// Number of this node, unique among pageservers
    #[arg(long, env = "OGEL_NODE_ID", default_value_t = 1)]
    pub node_id: u64,
    /// Folder for everything that is stored
    #[arg(long, env = "OGEL_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address for computes (PostgreSQL wire protocol) [default: port 6400, everywhere with --auth-keys, else on loopback]
    #[arg(long, env = "OGEL_LISTEN_PG", value_name = "HOST:PORT")]
    pub listen_pg: Option<String>,
    /// Address for HTTP [default: port 9898, likewise]
    #[arg(long, env = "OGEL_LISTEN_HTTP", value_name = "HOST:PORT")]
    pub listen_http: Option<String>,
    /// Safekeepers to take WAL from
    #[arg(long, env = "OGEL_SAFEKEEPERS", value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    pub safekeepers: Vec<String>,
    /// Where the object store is.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Template from which timelines are created (tar.zst, made by `pgxn/pg template`)
    #[arg(long, env = "OGEL_TEMPLATE", value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// How long a request waits for WAL that has not arrived, seconds
    #[arg(long, env = "OGEL_WAIT_LSN_TIMEOUT_S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait_lsn_timeout_s: u64,
    /// Memory of one timeline's open layer before it is written to a file, MiB
    #[arg(long, env = "OGEL_FREEZE_SIZE_MB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub freeze_size_mb: u64,
    /// WAL covered by one timeline's open layer before it is written to a file, MiB
    #[arg(long, env = "OGEL_FREEZE_WAL_MB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub freeze_wal_mb: u64,
    /// Age of an open layer before it is written to a file, seconds
    #[arg(long, env = "OGEL_FREEZE_AGE_S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub freeze_age_s: u64,
    /// Memory of all open layers together, MiB
    #[arg(long, env = "OGEL_OPEN_LAYERS_MB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..=1_048_576))]
    pub open_layers_mb: u64,
    /// Memory for rebuilt pages, MiB
    #[arg(long, env = "OGEL_PAGE_CACHE_MB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub page_cache_mb: u64,
    /// Memory for blocks of layer files, MiB
    #[arg(long, env = "OGEL_BLOCK_CACHE_MB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub block_cache_mb: u64,
    /// Layers of one timeline that may wait for the object store, MiB; beyond it, ingest waits too
    #[arg(long, env = "OGEL_UPLOAD_QUEUE_MB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub upload_queue_mb: u64,
    /// A timeline that is neither read nor written is closed after this many seconds
    #[arg(long, env = "OGEL_IDLE_TIMEOUT_S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub idle_timeout_s: u64,
    /// Layer files of a timeline that was closed longer ago than this leave the local disk; the object store has them, seconds
    #[arg(long, env = "OGEL_ARCHIVE_AFTER_S", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(0..=3_153_600_000))]
    pub archive_after_s: u64,
    /// Local disk that layer files may take, MiB; those read longest ago are then read from the object store (0 = no limit)
    #[arg(long, env = "OGEL_DISK_BUDGET_MB", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1 << 30))]
    pub disk_budget_mb: u64,
    /// Local disk that layer files leave free, MiB
    #[arg(long, env = "OGEL_DISK_FREE_MB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(0..=1 << 30))]
    pub disk_free_mb: u64,
    /// Age up to which history is kept, seconds; branches and leases keep what they need beyond
    #[arg(long, env = "OGEL_RETENTION_S", default_value_t = 604_800, value_parser = clap::value_parser!(u64).range(0..=3_153_600_000))]
    pub retention_s: u64,
    /// WAL whose history is kept whatever its age, bytes
    #[arg(long, env = "OGEL_RETENTION_BYTES", default_value_t = 0)]
    pub retention_bytes: u64,
    /// Write layer files without compression
    #[arg(long, env = "OGEL_NO_COMPRESSION")]
    pub no_compression: bool,
}

impl Config {
    /// Checks what single settings cannot tell.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.node_id >= 1, "OGEL_NODE_ID (--node-id) is 0: nodes are numbered from 1");
        for address in &self.safekeepers {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            ensure!(
                port.is_some_and(|port| port > 0),
                "OGEL_SAFEKEEPERS (--safekeepers) names {address:?}, which is not host:port, such as safekeeper-1:5454"
            );
        }
        let doubled = (1..self.safekeepers.len()).find(|&i| self.safekeepers[..i].contains(&self.safekeepers[i]));
        if let Some(index) = doubled {
            bail!(
                "OGEL_SAFEKEEPERS (--safekeepers) names {} twice: name each safekeeper once",
                self.safekeepers[index]
            );
        }
        self.listen_addresses()?;
        self.auth.verifier()?;
        self.auth.token.checked_source()?;
        self.remote.check()?;
        if let Some(template) = &self.template {
            ensure!(
                template.is_file(),
                "OGEL_TEMPLATE (--template): {} is not there; build it with `pgxn/pg template`",
                template.display()
            );
        }
        Ok(())
    }

    /// Where to listen: wire protocol, HTTP.
    pub fn listen_addresses(&self) -> anyhow::Result<(String, String)> {
        Ok((
            self.auth.listen_address("OGEL_LISTEN_PG (--listen-pg)", self.listen_pg.as_deref(), 6400)?,
            self.auth.listen_address("OGEL_LISTEN_HTTP (--listen-http)", self.listen_http.as_deref(), 9898)?,
        ))
    }

    /// Where the safekeepers listen.
    pub fn safekeeper_endpoints(&self) -> Vec<Endpoint> {
        let token = self.auth.token.source();
        let endpoint = |address: &String| {
            let token = token.clone();
            Endpoint::new(Address::Tcp(address.clone()), move || token.current())
        };
        self.safekeepers.iter().map(endpoint).collect()
    }

    /// How long a request waits for WAL.
    pub fn wait_lsn_timeout(&self) -> Duration {
        Duration::from_secs(self.wait_lsn_timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> anyhow::Result<Config> {
        let arguments = [&["pageserver", "--data-dir", "/nowhere"], arguments].concat();
        let config: Config = ogel_service::config::parse_from(arguments)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn mistakes_are_found_before_anything_is_touched() {
        assert!(config(&["--safekeepers", "a:5454,b:5454"]).is_ok());
        assert!(config(&[]).is_err(), "no safekeepers");
        assert!(config(&["--safekeepers", "a"]).is_err(), "no port");
        assert!(config(&["--safekeepers", "a:0"]).is_err(), "port 0");
        assert!(config(&["--safekeepers", "a:1", "--template", "/nowhere/t"]).is_err(), "no template");
        assert!(config(&["--safekeepers", "a:1", "--freeze-size-mb", "0"]).is_err(), "no memory");
    }
}
