//! Why a record could not be interpreted.

use crate::{byte_reader::ShortInput, image::ImageError, record::RecordError, v17::rmgr};
use ogel_ids::Lsn;

/// A record could not be interpreted. Never retryable. The caller stops ingesting this timeline before the record: its later pages cannot be
/// proven without it. Pages up to the record's start can be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("WAL record at {start} of resource manager {rmid} ({}), info {info:#04x}: {kind}", rmgr::name(*.rmid))]
pub struct InterpretError {
    /// Start of the record.
    pub start: Lsn,
    /// Resource manager.
    pub rmid: u8,
    /// `xl_info`.
    pub info: u8,
    /// Why.
    pub kind: InterpretErrorKind,
}

/// See [`InterpretError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterpretErrorKind {
    /// Headers of the record are wrong.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Not a manager of PostgreSQL 17: an extension brought its own, which storage cannot replay.
    #[error("unknown resource manager; extensions with resource managers of their own are not supported")]
    UnknownManager,
    /// A kind of record that PostgreSQL 17 does not have.
    #[error("unknown kind of record for this resource manager")]
    UnknownInfo,
    /// The main data ends early.
    #[error("main data is too short: {0}")]
    Short(#[from] ShortInput),
    /// The content contradicts the record's format.
    #[error("{0}")]
    Malformed(&'static str),
    /// A full-page image cannot be restored.
    #[error("image of block reference {block_id}: {error}")]
    Image {
        /// Id of the reference.
        block_id: u8,
        /// Why.
        error: ImageError,
    },
}
