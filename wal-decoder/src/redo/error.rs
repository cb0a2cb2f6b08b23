//! Why a page version could not be made.

use super::{Fault, record_kind};
use crate::{
    delta::{DeltaError, RecordDelta},
    v17::rmgr,
};
use ogel_ids::Lsn;

/// A page version could not be made. None of these is retryable: the same page and delta fail again. The caller must not serve the
/// page, and should report the page, the LSN and this error; other pages are unaffected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedoError {
    /// The delta itself cannot be read.
    #[error("the stored delta is damaged: {0}")]
    Delta(#[from] DeltaError),
    /// A delta of another kind of page.
    #[error("the stored delta belongs to another kind of page")]
    WrongPage,
    /// No redo exists for this record.
    #[error(
        "no redo for record {manager}/{name} (resource manager {rmid}, info {info:#04x}) that ends at {lsn}: the page cannot be rebuilt past it"
    )]
    NotImplemented {
        /// Resource manager number.
        rmid: u8,
        /// Operation bits of the record's info byte.
        info: u8,
        /// The resource manager.
        manager: &'static str,
        /// The record kind.
        name: &'static str,
        /// The record's end.
        lsn: Lsn,
    },
    /// The record's content contradicts itself or its format.
    #[error("malformed record {manager}/{name} that ends at {lsn}: {what}")]
    Record {
        /// The resource manager.
        manager: &'static str,
        /// The record kind.
        name: &'static str,
        /// The record's end.
        lsn: Lsn,
        /// What is wrong.
        what: &'static str,
    },
    /// The previous page version cannot be what the record was written for.
    #[error("the page does not fit record {manager}/{name} that ends at {lsn}: {what}")]
    Page {
        /// The resource manager.
        manager: &'static str,
        /// The record kind.
        name: &'static str,
        /// The record's end.
        lsn: Lsn,
        /// What is wrong.
        what: &'static str,
    },
}

impl RedoError {
    #[cold]
    pub(super) fn of_record(fault: Fault, record: &RecordDelta<'_>, lsn: Lsn) -> RedoError {
        let (rmid, info) = (record.rmid, record.info);
        let (manager, name) = (rmgr::name(rmid), record_kind(rmid, info));
        match fault {
            Fault::Record(what) => RedoError::Record { manager, name, lsn, what },
            Fault::Page(what) => RedoError::Page { manager, name, lsn, what },
            Fault::NotImplemented => RedoError::NotImplemented { rmid, info, manager, name, lsn },
        }
    }
}
