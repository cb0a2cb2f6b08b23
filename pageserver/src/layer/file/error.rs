//! Why a layer file cannot be read or written.

use std::{io, path::PathBuf};

use ogel_object_store::StoreError;

/// Why a layer file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The disk failed. Reading again may help; a write has not happened for certain.
    #[error("layer file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a layer file, or cut short. The file must be restored; reading again does not help.
    #[error("layer file {path} is damaged: {what}; pages that need it cannot be served: restore the file from a copy")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// Written by a newer program.
    #[error(
        "layer file {path} has format version {found}, this program reads versions up to {known}: start the newer program again"
    )]
    FutureVersion {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u16,
        /// Newest version known here.
        known: u16,
    },
    /// A file of another timeline, tenant or place in the history.
    #[error(
        "layer file {path} is not what its timeline's metadata names: {what}; it was moved or copied here by mistake"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The object store does not give it.
    #[error(transparent)]
    Remote(StoreError),
    /// The data is not in memory and the caller may not wait: read again on a thread that may.
    #[error("the data is not in memory")]
    WouldBlock,
}
