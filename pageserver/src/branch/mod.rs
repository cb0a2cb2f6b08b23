//! Branches and time.
//!
//! - [`Timestamp`]: commit times, and how people write them.
//! - [`commit_index`]: which position of the WAL belongs to a time. Pure.

pub mod commit_index;
mod timestamp;

pub use timestamp::{Timestamp, TimestampError};
