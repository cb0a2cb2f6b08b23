//! The object store as our services use it.
//!
//! One store per process, shared: a local directory (the default, fsynced), S3 or what speaks its protocol, or memory (tests).
//! Objects are written once and never overwritten: everything that decides who wins is **create-if-absent** ([`ObjectStore::put_new`]),
//! and a store on which two such creations both win is refused before the first of them counts (`probe`).
//!
//! - Every request has a time limit that grows with its size, and bounded retries with jitter; 429 backs off for longer.
//! - A creation whose reply was lost looks like a conflict when it is tried again. Therefore a conflict is read back and compared: the
//!   same bytes are ours. Whoever races for a name puts something into the bytes that nobody else would write (a random writer id).
//! - Errors say whether trying again later can help ([`StoreError`]).
//! - [`StoreMetrics`] counts requests, errors, bytes and seconds by operation.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod error;
#[cfg(feature = "faults")]
pub mod faults;
mod list;
mod metrics;
mod open;
mod probe;
mod retry;
mod store;
mod transfer;

pub use args::RemoteArgs;
pub use error::StoreError;
pub use list::ObjectInfo;
pub use metrics::StoreMetrics;
pub use store::ObjectStore;
