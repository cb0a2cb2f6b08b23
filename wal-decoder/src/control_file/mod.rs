//! `pg_control` of PostgreSQL 17 on a 64-bit little-endian machine, read and written bit for bit.
//!
//! The struct takes 296 bytes (`sizeof(ControlFileData)`), CRC-32C over the first 288 at 288; the file is padded with zeros to 8192.

mod checkpoint;
mod fields;

pub use checkpoint::{CHECKPOINT_SIZE, Checkpoint};
pub use fields::{ControlFile, DbState};

/// Bytes of the file.
pub const FILE_SIZE: usize = 8192;
const STRUCT_SIZE: usize = 296;
const CRC_AT: usize = 288;

/// Bytes that are not a usable control file. Not retryable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// Too short.
    #[error("control file has {0} bytes, at least {STRUCT_SIZE} are expected")]
    Short(usize),
    /// Another PostgreSQL version's.
    #[error(
        "control file is of version {0}, PostgreSQL 17 writes 1700: the data directory belongs to another major version"
    )]
    Version(u32),
    /// Damaged.
    #[error("control file's checksum is {stored:#010x}, its content's is {computed:#010x}: the file is damaged")]
    Checksum {
        /// In the file.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A field's value is impossible.
    #[error("control file: {0}")]
    Field(&'static str),
}
