//! What the person who starts a compute can say.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use ogel_ids::{NodeId, TenantId, TimelineId};
use ogel_pgwire::{Address, Endpoint};
use ogel_service::{
    auth::{TokenArgs, TokenSource},
    config::ServiceArgs,
};

use crate::{
    exit_code,
    postgres::{SUPERUSER, settings},
};

/// Runs PostgreSQL for one branch until it is stopped, fenced off by a newer compute of the branch, or fails.
#[derive(Debug, Clone, Parser)]
#[command(name = "compute run", version, after_help = exit_code::HELP)]
pub struct Args {
    /// Folder of this compute; holds nothing that its loss would lose. Postgres' log is kept in it
    #[arg(long, env = "OGEL_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Tenant that the branch belongs to: 32 hexadecimal digits
    #[arg(long, env = "OGEL_TENANT", value_name = "ID")]
    pub tenant: TenantId,
    /// Timeline of the branch: 32 hexadecimal digits
    #[arg(long, env = "OGEL_TIMELINE", value_name = "ID")]
    pub timeline: TimelineId,
    /// Safekeepers of the branch, by node id: 1=host:5454,2=host:5454,3=host:5454
    #[arg(long, env = "OGEL_SAFEKEEPERS", value_name = "ID=HOST:PORT,…", value_delimiter = ',', required = true)]
    pub safekeepers: Vec<SafekeeperAddress>,
    /// Wire port of the pageserver
    #[arg(long, env = "OGEL_PAGESERVER", value_name = "HOST:PORT")]
    pub pageserver: String,
    /// Where the patched PostgreSQL 17 is installed (bin/postgres below it)
    #[arg(long, env = "OGEL_PG_PREFIX", value_name = "DIR")]
    pub pg_prefix: PathBuf,
    /// Folder that holds the extension ogel.so [default: PostgreSQL's own library folder]
    #[arg(long, env = "OGEL_EXT_DIR", value_name = "DIR")]
    pub ext_dir: Option<PathBuf>,
    /// Where SQL clients connect; several addresses must share one port
    #[arg(
        long,
        env = "OGEL_SQL_LISTEN",
        value_name = "ADDR:PORT,…",
        value_delimiter = ',',
        default_value = "127.0.0.1:55432,[::1]:55432"
    )]
    pub sql_listen: Vec<String>,
    /// Where status, metrics and stop are served [default: not served]
    #[arg(long, env = "OGEL_HTTP_LISTEN", value_name = "ADDR:PORT")]
    pub http_listen: Option<String>,
    /// User that Postgres runs as when this is started by root, which Postgres refuses
    #[arg(long, env = "OGEL_RUN_USER", value_name = "NAME", default_value = "ogel")]
    pub run_user: String,
    /// How SQL clients over TCP prove who they are [default: trust while only loopback listens, else scram-sha-256]
    #[arg(long, env = "OGEL_AUTH", value_name = "METHOD")]
    pub auth: Option<Auth>,
    /// File with the password that the role postgres gets if it has none yet (or put it into OGEL_PASSWORD)
    #[arg(long, env = "OGEL_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// PostgreSQL setting, may be repeated: --pg-setting shared_buffers=1GB (those that safety rests on are refused)
    #[arg(long = "pg-setting", env = "OGEL_PG_SETTING", value_name = "NAME=VALUE", value_delimiter = ';')]
    pub pg_settings: Vec<String>,
    /// What is shown to safekeepers and pageserver.
    #[command(flatten)]
    pub token: TokenArgs,
    /// A stop waits this many seconds for a quorum to take the last WAL before it stops Postgres without it
    #[arg(long, env = "OGEL_STOP_TIMEOUT", value_name = "SECONDS", default_value_t = 10)]
    pub stop_timeout: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub service: ServiceArgs,
}

/// How clients over TCP are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Auth {
    /// Everybody who can connect is whoever they say.
    #[value(name = "trust")]
    Trust,
    /// PostgreSQL's password exchange.
    #[value(name = "scram-sha-256")]
    Scram,
}

impl Auth {
    /// The method's name in `pg_hba.conf`.
    pub fn hba_method(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Scram => "scram-sha-256",
        }
    }
}

/// A secret: never shown, never logged.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    fn find(file: Option<&std::path::Path>) -> anyhow::Result<Option<Self>> {
        let text = match (file, std::env::var("OGEL_PASSWORD")) {
            (Some(path), _) => std::fs::read_to_string(path)
                .with_context(|| format!("OGEL_PASSWORD_FILE (--password-file) {}", path.display()))?,
            (None, Ok(text)) => text,
            (None, Err(_)) => return Ok(None),
        };
        let text = text.trim_end_matches(['\r', '\n']);
        ensure!(!text.contains('\0'), "the password contains a zero byte, which PostgreSQL cannot store");
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

/// One acceptor and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafekeeperAddress {
    /// Its configured number.
    pub node_id: NodeId,
    /// `host:port` of its wire protocol.
    pub address: String,
}

impl FromStr for SafekeeperAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hint = || format!("{text:?} is not ID=HOST:PORT, such as 1=safekeeper-1:5454");
        let (id, address) = text.trim().split_once('=').ok_or_else(hint)?;
        let node_id: NodeId = id.parse().map_err(|_| hint())?;
        if node_id.0 == 0 {
            return Err(format!("node id 0 in {text:?}: safekeepers are numbered from 1"));
        }
        check_host_port(address).map_err(|_| hint())?;
        Ok(Self { node_id, address: address.to_owned() })
    }
}

/// Settings that have been checked.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // as in `Args`
pub struct Config {
    pub data_dir: PathBuf,
    pub tenant: TenantId,
    pub timeline: TimelineId,
    /// Distinct node ids, in rising order.
    pub safekeepers: Vec<SafekeeperAddress>,
    pub pageserver: String,
    pub pg_prefix: PathBuf,
    pub ext_dir: Option<PathBuf>,
    pub sql_listen: SqlListen,
    pub http_listen: Option<String>,
    pub run_user: String,
    pub auth: Auth,
    pub password: Option<Password>,
    pub pg_settings: BTreeMap<String, String>,
    pub token: TokenSource,
    pub stop_timeout: Duration,
}

/// Addresses that Postgres listens on; all share one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlListen {
    /// Distinct, not empty.
    pub addresses: Vec<SocketAddr>,
    /// The port of each, ≥ 1.
    pub port: u16,
}

impl SqlListen {
    fn resolve(texts: &[String]) -> anyhow::Result<Self> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for text in texts {
            let found = text.to_socket_addrs().with_context(|| {
                format!("OGEL_SQL_LISTEN (--sql-listen) {text:?} is not an ADDR:PORT that can be resolved")
            })?;
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        let port =
            addresses.first().context("OGEL_SQL_LISTEN (--sql-listen) is empty: name at least one ADDR:PORT")?.port();
        ensure!(port != 0, "OGEL_SQL_LISTEN (--sql-listen) needs a port: Postgres cannot choose one by itself");
        ensure!(
            addresses.iter().all(|a| a.port() == port),
            "OGEL_SQL_LISTEN (--sql-listen) names several ports: Postgres listens on one, use the same for every address"
        );
        Ok(Self { addresses, port })
    }

    /// What a client on this machine gives to its driver.
    pub fn connection_string(&self) -> String {
        let first = self.addresses.iter().find(|address| address.is_ipv4()).or(self.addresses.first());
        let host = match first {
            Some(address) if address.ip().is_unspecified() => "localhost".to_owned(),
            Some(SocketAddr::V6(address)) => format!("[{}]", address.ip()),
            Some(SocketAddr::V4(address)) => address.ip().to_string(),
            None => "localhost".to_owned(),
        };
        format!("postgresql://{SUPERUSER}@{host}:{}/postgres", self.port)
    }

    /// Whether only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        self.addresses.iter().all(|address| address.ip().is_loopback())
    }
}

impl Config {
    /// A storage node, with the token that is shown to it.
    pub fn endpoint(&self, address: &str) -> Endpoint {
        endpoint(address, &self.token)
    }
}

/// A storage node, with the token that is shown to it.
pub fn endpoint(address: &str, token: &TokenSource) -> Endpoint {
    let token = token.clone();
    Endpoint::new(Address::Tcp(address.to_owned()), move || token.current())
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        let mut safekeepers = args.safekeepers;
        safekeepers.sort_by_key(|safekeeper| safekeeper.node_id);
        if let Some(pair) = safekeepers.windows(2).find(|pair| pair[0].node_id == pair[1].node_id) {
            bail!(
                "OGEL_SAFEKEEPERS (--safekeepers) names node {} twice: a vote must not be counted twice",
                pair[0].node_id
            );
        }
        if let Some(pair) = all_pairs(&safekeepers).find(|(a, b)| a.address == b.address) {
            bail!(
                "OGEL_SAFEKEEPERS (--safekeepers): {} and {} are one address: each must be a process with its own disk",
                pair.0.node_id,
                pair.1.node_id
            );
        }
        check_host_port(&args.pageserver)
            .with_context(|| format!("OGEL_PAGESERVER (--pageserver) {:?}", args.pageserver))?;
        let sql_listen = SqlListen::resolve(&args.sql_listen)?;
        let auth = args.auth.unwrap_or(if sql_listen.is_loopback() { Auth::Trust } else { Auth::Scram });
        Ok(Self {
            data_dir: std::path::absolute(&args.data_dir).context("OGEL_DATA_DIR (--data-dir)")?,
            tenant: args.tenant,
            timeline: args.timeline,
            safekeepers,
            pageserver: args.pageserver,
            pg_prefix: std::path::absolute(&args.pg_prefix).context("OGEL_PG_PREFIX (--pg-prefix)")?,
            ext_dir: args.ext_dir.map(std::path::absolute).transpose().context("OGEL_EXT_DIR (--ext-dir)")?,
            sql_listen,
            http_listen: args.http_listen,
            run_user: args.run_user,
            auth,
            password: Password::find(args.password_file.as_deref())?,
            pg_settings: settings::parse_user_settings(&args.pg_settings)?,
            token: args.token.checked_source()?,
            stop_timeout: Duration::from_secs(args.stop_timeout),
        })
    }
}

fn all_pairs<T>(items: &[T]) -> impl Iterator<Item = (&T, &T)> {
    items.iter().enumerate().flat_map(|(i, a)| items[i + 1..].iter().map(move |b| (a, b)))
}

fn check_host_port(text: &str) -> anyhow::Result<()> {
    let (host, port) = text.rsplit_once(':').context("a HOST:PORT is expected")?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    ensure!(!host.is_empty() && !bare_ipv6, "a HOST:PORT is expected (an IPv6 address in square brackets)");
    ensure!(port.parse::<u16>().is_ok_and(|port| port != 0), "{port:?} is not a port");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> anyhow::Result<Config> {
        let id = "0123456789abcdef0123456789abcdef";
        let base = [
            "compute run",
            "--data-dir=/d",
            "--pageserver=ps:6400",
            "--pg-prefix=/pg",
            "--tenant",
            id,
            "--timeline",
            id,
        ];
        Args::try_parse_from(base.iter().chain(extra))?.try_into()
    }

    #[test]
    fn defaults_listen_on_loopback_and_trust_it() {
        let config = parse(&["--safekeepers", "2=b:5454,1=a:5454,3=[::1]:5454"]).expect("good settings");
        assert_eq!(config.safekeepers.iter().map(|s| s.node_id.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((config.sql_listen.port, config.auth), (55432, Auth::Trust));
    }

    #[test]
    fn an_open_port_asks_for_a_password() {
        let config = parse(&["--safekeepers=1=a:1", "--sql-listen=0.0.0.0:5432"]).expect("good settings");
        assert_eq!(config.auth, Auth::Scram);
    }

    #[test]
    fn a_vote_cannot_be_counted_twice() {
        for doubled in ["1=a:1,1=b:1", "1=a:1,2=a:1"] {
            assert!(parse(&["--safekeepers", doubled]).is_err(), "{doubled}");
        }
    }

    #[test]
    fn unusable_addresses_are_refused() {
        for bad in ["a:5454", "0=a:1", "1=a", "1=:5", "1=a:0", "1=a:99999", "1=::1:5"] {
            assert!(parse(&["--safekeepers", bad]).is_err(), "{bad}");
        }
        assert!(parse(&["--safekeepers=1=a:1", "--sql-listen=127.0.0.1:1,127.0.0.1:2"]).is_err());
        assert!(parse(&["--safekeepers=1=a:1", "--pg-setting=fsync=on"]).is_err());
    }
}
