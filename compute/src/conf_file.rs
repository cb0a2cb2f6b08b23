//! `postgresql.conf` of the current life, and the one setting that changes while Postgres runs.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ogel_service::disk_space;
use parking_lot::Mutex;

use crate::postgres::{
    run_user::RunUser,
    settings::{self, Machine},
};

/// Below this, parallel queries would run out of `/dev/shm`.
const SMALL_SHARED_MEMORY_BYTES: u64 = 256 << 20;

const FILE_CACHE_SIZE: &str = "ogel.file_cache_size";

struct Inner {
    user: BTreeMap<String, String>,
    life: Option<LifeConf>,
}

/// As it was when the life began: some settings cannot change while Postgres runs.
struct LifeConf {
    pgdata: PathBuf,
    machine: Machine,
}

/// Shared by the lives, which write the file, and HTTP, which changes it. A change outlives the life in which it was made, but not
/// the supervisor.
#[derive(Clone)]
pub struct ConfFile {
    pageserver: Arc<str>,
    run_user: RunUser,
    inner: Arc<Mutex<Inner>>,
}

impl ConfFile {
    /// With the user's settings.
    pub fn new(user: BTreeMap<String, String>, pageserver: &str, run_user: RunUser) -> Self {
        let inner = Arc::new(Mutex::new(Inner { user, life: None }));
        Self { pageserver: pageserver.into(), run_user, inner }
    }

    /// Writes the file of a new life.
    pub fn begin(&self, pgdata: PathBuf) -> anyhow::Result<()> {
        let mut inner = self.inner.lock();
        let free_disk_bytes = disk_space::free_bytes(&pgdata).context("asking how much disk space is free")?;
        let machine = Machine { shared_memory_is_small: shared_memory_is_small(), free_disk_bytes };
        inner.life = Some(LifeConf { pgdata, machine });
        self.write(&inner)
    }

    /// Makes the local file cache this large, in the running Postgres (`postmaster`) and in later lives.
    pub fn resize_file_cache(&self, size_mb: u32, postmaster: Option<i32>) -> anyhow::Result<()> {
        let mut inner = self.inner.lock();
        let before = inner.user.insert(FILE_CACHE_SIZE.to_owned(), format!("{size_mb}MB"));
        if inner.life.is_none() {
            return Ok(());
        }
        if let Err(error) = self.write(&inner) {
            match before {
                Some(value) => inner.user.insert(FILE_CACHE_SIZE.to_owned(), value),
                None => inner.user.remove(FILE_CACHE_SIZE),
            };
            return Err(error);
        }
        match postmaster.map(|pid| kill(Pid::from_raw(pid), Signal::SIGHUP)) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => bail!("Postgres cannot be told of the new size: {error}"),
        }
    }

    fn write(&self, inner: &Inner) -> anyhow::Result<()> {
        let Some(LifeConf { pgdata, machine }) = &inner.life else { return Ok(()) };
        let conf = settings::postgresql_conf(&inner.user, &self.pageserver, *machine);
        // Postgres may be reading the old one.
        let (path, beside) = (pgdata.join("postgresql.conf"), pgdata.join("postgresql.conf.new"));
        self.run_user
            .write_file(&beside, conf.as_bytes())
            .and_then(|()| std::fs::rename(&beside, &path))
            .context("writing postgresql.conf")
    }
}

fn shared_memory_is_small() -> bool {
    nix::sys::statvfs::statvfs("/dev/shm")
        .map_or(true, |fs| fs.blocks() * fs.fragment_size() < SMALL_SHARED_MEMORY_BYTES)
}
