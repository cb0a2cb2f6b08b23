//! What Postgres cannot know by itself, for its views `ogel.lsn` and `ogel.safekeepers`: a small JSON file in the data directory.

use std::{fs, io, path::PathBuf, time::Duration};

use ogel_ids::Lsn;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use crate::{
    postgres::run_user::RunUser,
    propose::{NodesQuery, Progress},
};

/// The extension reads it under this name.
const FILE: &str = "ogel_status.json";
/// How old the file may be.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Serialize, PartialEq)]
struct Status {
    commit_lsn: Lsn,
    last_record_lsn: Lsn,
    disk_consistent_lsn: Lsn,
    remote_consistent_lsn: Lsn,
    safekeepers: Vec<Node>,
}

#[derive(Serialize, PartialEq)]
struct Node {
    node_id: u64,
    state: &'static str,
    flush_lsn: Lsn,
    error: Option<String>,
}

/// Where it is written, and from what.
pub struct StatusFile {
    /// The data directory.
    pub pgdata: PathBuf,
    /// Who reads it.
    pub run_user: RunUser,
    /// Positions.
    pub progress: Progress,
    /// Safekeepers.
    pub nodes: NodesQuery,
}

impl StatusFile {
    /// Keeps the file up to date until dropped. It is written only when something has changed.
    pub async fn keep(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut written, mut complained) = (None, false);
        loop {
            ticks.tick().await;
            let status = self.status().await;
            if written.as_ref() == Some(&status) {
                continue;
            }
            match self.write(&status) {
                Ok(()) => written = Some(status),
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(%error, file = FILE, "the status for SQL cannot be written: ogel.lsn and ogel.safekeepers show old positions");
                }
                Err(_) => {}
            }
        }
    }

    async fn status(&self) -> Status {
        let nodes = self.nodes.nodes().await.into_iter().map(|node| Node {
            node_id: node.node.0,
            state: node.state.as_str(),
            flush_lsn: node.flush_lsn,
            error: node.error,
        });
        Status {
            safekeepers: nodes.collect(),
            commit_lsn: self.progress.commit_lsn(),
            last_record_lsn: self.progress.last_record_lsn(),
            disk_consistent_lsn: self.progress.disk_consistent_lsn(),
            remote_consistent_lsn: self.progress.remote_consistent_lsn(),
        }
    }

    /// Whole or not at all: Postgres may be reading it.
    fn write(&self, status: &Status) -> io::Result<()> {
        let (path, beside) = (self.pgdata.join(FILE), self.pgdata.join(format!("{FILE}.new")));
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.run_user.write_file(&beside, &serde_json::to_vec(status)?)?;
        fs::rename(&beside, &path)
    }
}
