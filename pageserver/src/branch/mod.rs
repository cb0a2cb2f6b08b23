//! Branches and time.
//!
//! - [`Timestamp`]: commit times, and how people write them.
//! - [`commit_index`]: which position of the WAL belongs to a time. Pure.
//! - [`quorum_position`]: how far everything that was acknowledged can be.
//! - [`point`]: what somebody asks for (the head, an LSN, a time) becomes the end of a record in one timeline.

pub mod commit_index;
pub mod point;
pub mod quorum_position;
mod timestamp;

pub use timestamp::{Timestamp, TimestampError};
