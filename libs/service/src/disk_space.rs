//! Space on a disk.

use std::{io, path::Path};

/// Bytes that are free on the file system of `path`, for a user who is not root.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
