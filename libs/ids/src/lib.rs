//! Identifiers and positions that every part of OgelBase speaks of.
//!
//! Newtypes keep a term from being passed where a generation is meant. All of them are plain values:
//! this crate does no I/O, reads no clock and draws no randomness (callers hand in random bytes).

mod hex_id;
mod lsn;
mod number;

pub use hex_id::{CandidateId, IdParseError, StoreUuid, TenantId, TimelineId};
pub use lsn::{Lsn, LsnParseError, PAGE_HEADER_LONG, PAGE_HEADER_SHORT, WAL_PAGE_SIZE};
pub use number::{Generation, NodeId, Term};
