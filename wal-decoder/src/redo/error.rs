//! Why a page version could not be made.

use ogel_ids::Lsn;

/// A page version could not be made. None of these is retryable: the same page and delta fail again. The caller must not serve the
/// page, and should report the page, the LSN and this error; other pages are unaffected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedoError {
    /// The delta itself cannot be read.
    #[error("the stored delta is damaged: {0}")]
    Delta(&'static str),
    /// No redo exists for this record.
    #[error("no redo for record {name} (resource manager {rmid}, info {info:#04x}) that ends at {lsn}; the page cannot be rebuilt past it")]
    NotImplemented {
        /// Resource manager number.
        rmid: u8,
        /// Operation bits of the record's info byte.
        info: u8,
        /// The record kind.
        name: &'static str,
        /// The record's end.
        lsn: Lsn,
    },
    /// The record's content contradicts itself or its format.
    #[error("malformed {record} record: {what}")]
    Record {
        /// The record kind.
        record: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// The previous page version cannot be what the record was written for.
    #[error("the page does not fit {record}: {what}")]
    Page {
        /// The record kind.
        record: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}
