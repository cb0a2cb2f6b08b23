//! Where the programs are: our own beside this one, PostgreSQL in the cache that `pgxn/pg` filled.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

/// What `pgxn/pg manifest` wrote.
#[derive(Debug, Deserialize)]
struct Manifest {
    patched: PathBuf,
    template: PathBuf,
}

/// Paths of everything that a cluster runs.
#[derive(Debug, Clone)]
pub struct Install {
    bin: PathBuf,
    /// The patched PostgreSQL.
    pub pg_prefix: PathBuf,
    /// Template of new timelines.
    pub template: PathBuf,
    /// Folder of the extension's shared library.
    pub ext_dir: PathBuf,
}

impl Install {
    /// Finds the programs, and says what to do when one is missing.
    pub fn find() -> anyhow::Result<Install> {
        let exe = std::env::current_exe().context("cannot tell where this program lies")?;
        let bin = exe.parent().context("this program has no folder")?.to_path_buf();
        let near = |name: &str| {
            [Some(bin.as_path()), bin.parent()]
                .into_iter()
                .flatten()
                .map(|folder| folder.join(name))
                .find(|path| path.exists())
        };
        let manifest = match std::env::var_os("OGEL_PG_MANIFEST") {
            Some(path) => PathBuf::from(path),
            None => near("pg-install.json").context("PostgreSQL is not built yet: run `make build`")?,
        };
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}: run `make build`", manifest.display()))?;
        let Manifest { patched, template } = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged: remove it and run `make build`", manifest.display()))?;
        let ext_dir = match std::env::var_os("OGEL_EXT_DIR") {
            Some(path) => PathBuf::from(path),
            None => near("ext").context("the extension is not built yet: run `make build`")?,
        };
        let install = Install { bin, pg_prefix: patched, template, ext_dir };
        for path in [install.pg("postgres"), install.template.clone(), install.ext_dir.join("ogel.so")] {
            if !path.exists() {
                bail!("{} is missing: run `make build`", path.display());
            }
        }
        for name in ["safekeeper", "pageserver", "compute"] {
            install.program(name)?;
        }
        Ok(install)
    }

    /// One of our programs.
    pub fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.bin.join(name);
        if !path.exists() {
            bail!("{} is missing: run `make build`", path.display());
        }
        Ok(path)
    }

    /// One of PostgreSQL's programs.
    pub fn pg(&self, name: &str) -> PathBuf {
        self.pg_prefix.join("bin").join(name)
    }
}

/// Whether another user than the owner can reach `path`: every folder above it lets others pass.
pub fn reachable_by_others(path: &Path) -> Result<(), PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    for folder in path.ancestors().skip(1) {
        match std::fs::metadata(folder) {
            Ok(metadata) if metadata.permissions().mode() & 0o001 == 0 => return Err(folder.to_path_buf()),
            _ => {}
        }
    }
    Ok(())
}
