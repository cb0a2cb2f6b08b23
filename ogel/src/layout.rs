//! What lies where in a cluster's folder.
//!
//! ```text
//! .ogel/
//!   ogel.json            the cluster's configuration (cluster.rs)
//!   daemon.lock          held by the daemon while it lives
//!   ogel.sock            where the daemon listens
//!   safekeeper-1..3/     a store each
//!   pageserver/          a cache of the object store
//!   auth/                keys and tokens, if the nodes ask for them (`ogel up --auth`)
//!   remote/              the object store, unless OGEL_REMOTE names another
//!   compute-BRANCH/      disposable
//!   logs/NODE.log        what each process printed; ogel.log is the daemon's
//! ```

use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// Paths of one cluster's folder.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The folder need not exist yet; the path is made absolute.
    pub fn new(dir: &Path) -> anyhow::Result<Layout> {
        let root = std::path::absolute(dir).with_context(|| format!("{} is not a usable path", dir.display()))?;
        Ok(Layout { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The cluster's configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("ogel.json")
    }

    /// Locked by the daemon.
    pub fn lock(&self) -> PathBuf {
        self.root.join("daemon.lock")
    }

    /// Data folder of a node.
    pub fn data(&self, node: &str) -> PathBuf {
        self.root.join(node)
    }

    /// The local object store, as a URL.
    pub fn remote_url(&self) -> String {
        format!("file://{}", self.root.join("remote").display())
    }

    /// Folder of keys and tokens; nodes ask for tokens if it is there.
    pub fn auth(&self) -> PathBuf {
        self.root.join("auth")
    }

    /// File with the token of `whom`, if nodes ask for tokens.
    pub fn token(&self, whom: &str) -> Option<PathBuf> {
        Some(self.auth().join(format!("{whom}.token"))).filter(|path| path.exists())
    }

    /// Folder of the logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Log of a node, or of the daemon (`ogel`).
    pub fn log(&self, node: &str) -> PathBuf {
        self.logs().join(format!("{node}.log"))
    }

    /// The daemon's socket, reached through an open folder because socket paths are limited to 107 bytes while folders are not.
    /// The returned file must stay open while the path is used.
    pub fn socket(&self) -> anyhow::Result<(File, PathBuf)> {
        let folder = File::open(&self.root).with_context(|| format!("cannot open {}", self.root.display()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/ogel.sock", folder.as_raw_fd()));
        Ok((folder, path))
    }
}
