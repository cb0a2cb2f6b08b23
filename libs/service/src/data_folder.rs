//! One process per data folder.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::durable_file;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    /// Another process works there.
    #[error(
        "another process is using {0}: two servers in one folder would destroy it; stop the other one or give this one its own folder"
    )]
    InUse(PathBuf),
    /// The folder cannot be made, opened or locked.
    #[error("OGEL_DATA_DIR (--data-dir): the folder {0} cannot be used: {1}")]
    Io(PathBuf, io::Error),
}

/// A data folder that belongs to this process until it is dropped. The lock is the kernel's (`flock` on the file `lock`), so
/// that a crash never leaves a folder locked.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder when it is missing, and takes it.
    pub fn take(path: &Path) -> Result<Self, DataFolderError> {
        let failed = |error| DataFolderError::Io(path.to_owned(), error);
        durable_file::create_folders(path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataFolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/data");
        let first = DataFolder::take(&path).unwrap();
        assert!(matches!(DataFolder::take(&path), Err(DataFolderError::InUse(_))));
        drop(first);
        assert_eq!(DataFolder::take(&path).unwrap().path(), path);
    }
}
