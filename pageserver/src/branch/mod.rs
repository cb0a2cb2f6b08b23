//! Branches and time.
//!
//! - [`Timestamp`]: commit times, and how people write them.
//! - [`commit_index`]: which position of the WAL belongs to a time. Pure.
//! - [`quorum_position`]: how far everything that was acknowledged can be.
//! - [`point`]: what somebody asks for (the head, an LSN, a time) becomes the end of a record in one timeline.
//! - [`create`], [`delete`], [`lease`]: what is recorded of it. [`wal_prefix()`]: what the safekeepers of a branch begin with.

pub mod commit_index;
pub mod create;
pub mod delete;
pub mod lease;
pub mod point;
pub mod quorum_position;
mod timestamp;
mod wal_prefix;

pub use timestamp::{Timestamp, TimestampError};
pub use wal_prefix::wal_prefix;
