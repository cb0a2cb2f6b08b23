//! Postgres refuses to run as root: then it runs as a user of its own, which owns the files of its life.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::Path,
};

use anyhow::{Context, bail};
use nix::unistd::{Uid, User};

/// Who owns Postgres' files and process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunUser {
    /// The user that the supervisor itself is.
    Same,
    /// Another one; the supervisor is root.
    Other {
        /// User.
        uid: u32,
        /// Its primary group.
        gid: u32,
    },
}

impl RunUser {
    /// The user of that name when this is root, else this user.
    pub fn find(name: &str) -> anyhow::Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self::Same);
        }
        let user = User::from_name(name).with_context(|| format!("looking up the user {name}"))?;
        match user {
            Some(user) if user.uid.is_root() => {
                bail!(
                    "OGEL_RUN_USER (--run-user) {name} is root, and PostgreSQL refuses to run as root; name another user"
                )
            }
            Some(user) => Ok(Self::Other { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
            None => bail!(
                "started as root, and there is no user {name} that PostgreSQL could run as (it refuses root); \
                 make one with: useradd --system --no-create-home {name} (or name another with OGEL_RUN_USER, --run-user)"
            ),
        }
    }

    /// Makes a folder that only this user can enter.
    pub fn create_dir(self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path)?;
        self.own(path)
    }

    /// Makes a new file that only this user can read.
    pub fn create_file(self, path: &Path) -> io::Result<fs::File> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        if let Self::Other { uid, gid } = self {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file)
    }

    /// Makes a new file with this content.
    pub fn write_file(self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.create_file(path)?.write_all(content)
    }

    /// Gives a path to this user.
    pub fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Same => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }
}
