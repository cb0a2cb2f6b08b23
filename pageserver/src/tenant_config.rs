//! Settings of one tenant on this node, which outlive a restart. They concern this node's memory only, so that they are kept here and
//! not in the object store.

use std::path::Path;

use anyhow::{Context, ensure};
use ogel_service::durable_file;
use serde::{Deserialize, Serialize};

const FILE: &str = "config.json";
const VERSION: u32 = 1;

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantConfig {
    version: u32,
    /// Share of the page cache; `None` is together with all others that have none.
    pub page_cache_mb: Option<u32>,
}

impl Default for TenantConfig {
    fn default() -> Self {
        Self::new(None)
    }
}

impl TenantConfig {
    /// With this share of the page cache.
    pub fn new(page_cache_mb: Option<u32>) -> Self {
        Self { version: VERSION, page_cache_mb }
    }

    /// From a tenant's folder; the default when nothing was ever set.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let config: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged: delete it", path.display()))?;
        ensure!(
            config.version == VERSION,
            "{} has version {}, this program knows {VERSION}: delete it, or start the newer program again",
            path.display(),
            config.version
        );
        Ok(config)
    }

    /// Into a tenant's folder, on disk when this returns.
    pub fn store(&self, folder: &Path) -> anyhow::Result<()> {
        durable_file::create_folders(folder)?;
        durable_file::replace(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("{FILE} in {} cannot be written", folder.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_tells_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(TenantConfig::load(folder.path()).unwrap(), TenantConfig::default());
        let config = TenantConfig::new(Some(7));
        config.store(folder.path()).unwrap();
        assert_eq!(TenantConfig::load(folder.path()).unwrap(), config);
        for (text, said) in [("{", "delete it"), (r#"{"version": 2, "page_cache_mb": null}"#, "version 2")] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            assert!(format!("{:#}", TenantConfig::load(folder.path()).unwrap_err()).contains(said));
        }
    }
}
