//! The cluster's configuration file, `ogel.json`.

use std::{
    fs::{self, File},
    io::Write,
};

use anyhow::{Context, bail};
use ogel_ids::{NodeId, TenantId, TimelineId};
use serde::{Deserialize, Serialize};

use crate::{layout::Layout, ports};

/// Version of the file and of the folder's layout.
const VERSION: u32 = 1;

/// Addresses of a storage node; both ports are on loopback.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageNode {
    /// Its number among its kind.
    pub id: NodeId,
    /// Port of the PostgreSQL wire protocol.
    pub pg_port: u16,
    /// Port of HTTP.
    pub http_port: u16,
}

/// A branch and the addresses of its compute.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its WAL history.
    pub timeline: TimelineId,
    /// Port on which its compute serves SQL.
    pub sql_port: u16,
    /// Port of its supervisor's HTTP.
    pub http_port: u16,
    /// The timeline that it was branched from, as it was asked for; none for the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TimelineId>,
}

/// Content of `ogel.json`.
///
/// The first timeline is made on the nodes only while `created` is false: a safekeeper that lost its store must not be handed an empty one again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    version: u32,
    /// The only tenant.
    pub tenant: TenantId,
    /// Nodes 1 to 3.
    pub safekeepers: Vec<StorageNode>,
    /// The pageserver.
    pub pageserver: StorageNode,
    /// Branches by name.
    pub branches: Vec<Branch>,
    /// Whether the first timeline exists on all nodes.
    pub created: bool,
    /// Timelines that are being made or deleted, and those of looks into the past: whatever is left of them is removed when the cluster
    /// comes up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<TimelineId>,
}

/// Longest name of a branch.
const MAX_NAME_BYTES: usize = 63;

/// 16 bytes of the system's randomness.
fn random_id() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    Ok(bytes)
}

impl Cluster {
    /// A new cluster with one branch, `main`.
    pub fn generate(sql_port: u16) -> anyhow::Result<Cluster> {
        let mut free = ports::FreePorts::default();
        let mut node = |id| -> anyhow::Result<StorageNode> {
            Ok(StorageNode { id: NodeId(id), pg_port: free.take()?, http_port: free.take()? })
        };
        let safekeepers = (1..=3).map(&mut node).collect::<anyhow::Result<_>>()?;
        let pageserver = node(1)?;
        let sql_port = if sql_port == 0 { free.take()? } else { sql_port };
        let main = Branch {
            name: "main".into(),
            timeline: TimelineId::from_bytes(random_id()?),
            sql_port,
            http_port: free.take()?,
            parent: None,
        };
        Ok(Cluster {
            version: VERSION,
            tenant: TenantId::from_bytes(random_id()?),
            safekeepers,
            pageserver,
            branches: vec![main],
            created: false,
            unfinished: Vec::new(),
        })
    }

    /// A branch under a free name, with an id and ports of its own. It is not in the cluster yet.
    pub fn new_branch(&self, name: &str, parent: TimelineId) -> anyhow::Result<Branch> {
        let usable = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.starts_with('-') || !name.bytes().all(usable) {
            bail!(
                "{name:?} is no name for a branch: use up to {MAX_NAME_BYTES} of a-z, 0-9, - and _, and no - in front"
            );
        }
        if self.branches.iter().any(|branch| branch.name == name) {
            bail!(
                "there is a branch {name:?} already: take another name, or delete it with `ogel branch delete {name}`"
            );
        }
        let mut free = ports::FreePorts::default();
        let known: Vec<u16> = self.branches.iter().flat_map(|branch| [branch.sql_port, branch.http_port]).collect();
        let mut port = || loop {
            match free.take() {
                Ok(port) if known.contains(&port) => {}
                other => return other,
            }
        };
        Ok(Branch {
            name: name.to_owned(),
            timeline: TimelineId::from_bytes(random_id()?),
            sql_port: port()?,
            http_port: port()?,
            parent: Some(parent),
        })
    }

    /// Name of the branch with this timeline.
    pub fn name_of(&self, timeline: TimelineId) -> Option<&str> {
        self.branches.iter().find(|branch| branch.timeline == timeline).map(|branch| branch.name.as_str())
    }

    /// Reads the file; `None` when there is no cluster in the folder.
    pub fn load(layout: &Layout) -> anyhow::Result<Option<Cluster>> {
        let path = layout.config();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged =
            || format!("{} is damaged: restore it, or remove the cluster with `ogel destroy`", path.display());
        let Versioned { version } = serde_json::from_str(&text).with_context(damaged)?;
        if version != VERSION {
            bail!(
                "{} was made by another version of ogel (layout {version}, this one reads {VERSION}): use that version, or another --dir",
                layout.root().display()
            );
        }
        Ok(Some(serde_json::from_str(&text).with_context(damaged)?))
    }

    /// Reads the file and demands that there is one.
    pub fn load_existing(layout: &Layout) -> anyhow::Result<Cluster> {
        Cluster::load(layout)?
            .with_context(|| format!("there is no cluster in {}: start one with `ogel up`", layout.root().display()))
    }

    /// Writes the file durably: the old or the new content survives a crash, never a mixture.
    pub fn save(&self, layout: &Layout) -> anyhow::Result<()> {
        let path = layout.config();
        let write = || -> std::io::Result<()> {
            let temporary = path.with_extension("json.new");
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(layout.root())?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives each internal port that another program has taken meanwhile a new number. The SQL port of `main` stays: people have written it down.
    pub fn refresh_ports(&mut self) -> anyhow::Result<()> {
        let mut free = ports::FreePorts::default();
        let storage = self.safekeepers.iter_mut().chain([&mut self.pageserver]);
        let storage = storage.flat_map(|node| [&mut node.pg_port, &mut node.http_port]);
        let computes = self.branches.iter_mut().flat_map(|branch| match branch.name.as_str() {
            "main" => vec![&mut branch.http_port],
            _ => vec![&mut branch.http_port, &mut branch.sql_port],
        });
        for port in storage.chain(computes) {
            if !ports::is_free(*port) {
                *port = free.take()?;
            }
        }
        Ok(())
    }

    /// The branch with this name.
    pub fn branch(&self, name: &str) -> anyhow::Result<&Branch> {
        self.branches.iter().find(|branch| branch.name == name).with_context(|| {
            let known: Vec<_> = self.branches.iter().map(|branch| branch.name.as_str()).collect();
            format!("there is no branch {name:?}; there are: {}", known.join(", "))
        })
    }
}

impl Branch {
    /// How to connect to it with libpq.
    pub fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres", self.sql_port)
    }

    /// Name of its compute among the cluster's nodes.
    pub fn node(&self) -> String {
        format!("compute-{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip_and_refuses_others() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let layout = Layout::new(folder.path()).expect("layout");
        assert!(Cluster::load(&layout).expect("empty folder").is_none());
        let cluster = Cluster::generate(0).expect("cluster");
        cluster.save(&layout).expect("saved");
        let loaded = Cluster::load_existing(&layout).expect("loaded");
        assert_eq!(loaded.tenant, cluster.tenant);
        assert_eq!(loaded.branch("main").expect("main").timeline, cluster.branches[0].timeline);

        let text = fs::read_to_string(layout.config()).expect("text");
        fs::write(layout.config(), text.replace("\"version\": 1", "\"version\": 9")).expect("written");
        let error = Cluster::load(&layout).expect_err("another version");
        assert!(error.to_string().contains("another version"), "{error}");
        fs::write(layout.config(), &text[..text.len() / 2]).expect("written");
        let error = Cluster::load(&layout).expect_err("torn");
        assert!(error.to_string().contains("ogel destroy"), "{error}");
    }
}
