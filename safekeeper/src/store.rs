//! The node's data folder: who this node is, and where its timelines are.
//!
//! ```text
//! DIR/lock                                     held by the running process
//! DIR/store.json                               format version, node id, store uuid
//! DIR/tenants/TENANT/timelines/TIMELINE/       one folder per timeline
//! DIR/tenants/TENANT/timelines/.making-…       a timeline being made; swept at start
//! DIR/tenants/TENANT/timelines/.deleting-…     a timeline being removed; swept at start
//! DIR/tombstones                               what was deleted and must not come back (tombstones.rs)
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ogel_ids::{NodeId, StoreUuid, TenantId, TimelineId};
use ogel_service::{DataFolder, DataFolderError, durable_file};
use serde::{Deserialize, Serialize};

use crate::{
    timeline::TimelineKey,
    tombstones::{TombstoneError, Tombstones},
};

/// Version of the folder's layout and of the files in it.
pub const FORMAT_VERSION: u32 = 1;

const STORE_FILE: &str = "store.json";
/// Names of folders of timelines that are being made begin so.
pub const MAKING_PREFIX: &str = ".making-";
/// Names of folders of timelines that are being removed begin so.
const DELETING_PREFIX: &str = ".deleting-";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Locked by another process, or not accessible.
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    /// A file in it cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The identity file does not parse.
    #[error(
        "{path} is damaged ({reason}): the node's identity is unknown, so it must not vote; \
         restore the file, or give this node a new folder as a new member"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Made by another version.
    #[error(
        "{path} has format version {found}, this safekeeper reads {FORMAT_VERSION}: run the version that made it, or convert it"
    )]
    Version {
        /// The folder.
        path: PathBuf,
        /// Version found.
        found: u32,
    },
    /// Belongs to another node.
    #[error(
        "{path} belongs to safekeeper {found}, but OGEL_NODE_ID (--node-id) says {given}: check it and OGEL_DATA_DIR (--data-dir, or the mounted volume)"
    )]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who we are.
        given: NodeId,
    },
    /// What was deleted is not known.
    #[error(transparent)]
    Tombstones(#[from] TombstoneError),
    /// There are timelines but no identity.
    #[error(
        "{path} has timelines but no {STORE_FILE}: the node's identity is unknown, so it must not vote; \
         restore the file; or OGEL_DATA_DIR (--data-dir) is another program's folder: correct it, or the volume that is mounted there"
    )]
    IdentityLost {
        /// The folder.
        path: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct StoreFile {
    format_version: u32,
    node_id: NodeId,
    store_uuid: StoreUuid,
}

/// The opened data folder of this node.
#[derive(Debug)]
pub struct Store {
    folder: DataFolder,
    store_uuid: StoreUuid,
    tombstones: Tombstones,
}

impl Store {
    /// Takes the folder; makes it, with a fresh store uuid, when there is none. Blocks.
    pub fn open(path: &Path, node_id: NodeId) -> Result<Self, StoreError> {
        let folder = DataFolder::take(path)?;
        let file = path.join(STORE_FILE);
        let failed = |error| StoreError::Io { path: file.clone(), error };
        let identity = match fs::read(&file) {
            Ok(bytes) => parse_identity(&file, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.join("tenants").exists() {
                    return Err(StoreError::IdentityLost { path: path.to_owned() });
                }
                let mut uuid = [0; 16];
                getrandom::fill(&mut uuid).map_err(|error| failed(io::Error::other(error.to_string())))?;
                let store_uuid = StoreUuid::from_bytes(uuid);
                let identity = StoreFile { format_version: FORMAT_VERSION, node_id, store_uuid };
                let text = serde_json::to_vec_pretty(&identity).map_err(|error| failed(error.into()))?;
                durable_file::replace(&file, &text).map_err(failed)?;
                identity
            }
            Err(error) => return Err(failed(error)),
        };
        if identity.node_id != node_id {
            return Err(StoreError::OtherNode { path: path.to_owned(), found: identity.node_id, given: node_id });
        }
        let tenants = path.join("tenants");
        durable_file::create_folders(&tenants).map_err(|error| StoreError::Io { path: tenants, error })?;
        let tombstones = Tombstones::open(path)?;
        Ok(Self { folder, store_uuid: identity.store_uuid, tombstones })
    }

    /// Identity of this folder.
    pub fn store_uuid(&self) -> StoreUuid {
        self.store_uuid
    }

    /// What was deleted.
    pub fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Where a tenant's timelines are.
    pub fn timelines_path(&self, tenant: TenantId) -> PathBuf {
        self.folder.path().join("tenants").join(tenant.to_string()).join("timelines")
    }

    /// Where a timeline is.
    pub fn timeline_path(&self, tenant: TenantId, timeline: TimelineId) -> PathBuf {
        self.timelines_path(tenant).join(timeline.to_string())
    }

    /// Removes what interrupted creations and deletions have left. Only at start, when none is under way.
    pub fn sweep(&self) -> io::Result<()> {
        for (tenant, path) in self.timeline_folders()? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let unfinished = name.starts_with(MAKING_PREFIX) || name.starts_with(DELETING_PREFIX);
            let buried = |timeline| self.tombstones.find(TimelineKey { tenant, timeline }).is_some();
            if unfinished || name.parse().is_ok_and(buried) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// Removes a timeline's folder, whatever is in it; one that is not there is fine. Nobody may use it any more. Blocks.
    pub fn remove(&self, key: TimelineKey) -> io::Result<()> {
        let path = self.timeline_path(key.tenant, key.timeline);
        let Some(parent) = path.parent().filter(|_| path.exists()) else { return Ok(()) };
        // Under another name first: half a folder must never be taken for a damaged timeline.
        let doomed = parent.join(format!("{DELETING_PREFIX}{}", key.timeline));
        if doomed.exists() {
            fs::remove_dir_all(&doomed)?;
        }
        fs::rename(&path, &doomed)?;
        durable_file::sync_folder(parent)?;
        fs::remove_dir_all(&doomed)
    }

    /// All timelines that have a folder.
    pub fn timelines(&self) -> io::Result<Vec<(TenantId, TimelineId)>> {
        let id = |path: &Path| path.file_name()?.to_str()?.parse().ok();
        Ok(self.timeline_folders()?.into_iter().filter_map(|(tenant, path)| Some((tenant, id(&path)?))).collect())
    }

    fn timeline_folders(&self) -> io::Result<Vec<(TenantId, PathBuf)>> {
        let mut found = Vec::new();
        for tenant in fs::read_dir(self.folder.path().join("tenants"))? {
            let tenant = tenant?.file_name();
            let Some(tenant) = tenant.to_str().and_then(|name| name.parse().ok()) else { continue };
            match fs::read_dir(self.timelines_path(tenant)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(entries) => {
                    for entry in entries {
                        found.push((tenant, entry?.path()));
                    }
                }
            }
        }
        Ok(found)
    }
}

fn parse_identity(path: &Path, bytes: &[u8]) -> Result<StoreFile, StoreError> {
    let damaged = |reason: serde_json::Error| StoreError::Damaged { path: path.to_owned(), reason: reason.to_string() };
    // The version first: another version may have other fields.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    match value.get("format_version").and_then(serde_json::Value::as_u64) {
        Some(version) if version != u64::from(FORMAT_VERSION) => {
            Err(StoreError::Version { path: path.to_owned(), found: u32::try_from(version).unwrap_or(u32::MAX) })
        }
        _ => serde_json::from_value(value).map_err(damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_made_once_and_checked() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sk");
        let uuid = Store::open(&path, NodeId(1)).unwrap().store_uuid();
        assert_eq!(Store::open(&path, NodeId(1)).unwrap().store_uuid(), uuid);
        assert!(matches!(Store::open(&path, NodeId(2)), Err(StoreError::OtherNode { .. })));
        fs::write(path.join(STORE_FILE), br#"{"format_version": 9}"#).unwrap();
        assert!(matches!(Store::open(&path, NodeId(1)), Err(StoreError::Version { found: 9, .. })));
        fs::write(path.join(STORE_FILE), b"{").unwrap();
        assert!(matches!(Store::open(&path, NodeId(1)), Err(StoreError::Damaged { .. })));
        fs::remove_file(path.join(STORE_FILE)).unwrap();
        assert!(matches!(Store::open(&path, NodeId(1)), Err(StoreError::IdentityLost { .. })));
    }
}
