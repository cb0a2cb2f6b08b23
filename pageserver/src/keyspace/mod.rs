//! The ordered key space of a timeline.
//!
//! Everything that a timeline stores (pages, relation sizes, SLRU segments, running state) is a value under one [`Key`] at an LSN.
//! Byte order of the keys is their logical order: blocks of a fork, forks of a relation, relations of a database lie side by side,
//! so that dropping any of them is one range tombstone and listing them is one scan. `docs/formats.md` holds the byte table.

mod key;
mod ranges;

pub use key::{KEY_SIZE, Key, KeyKind, PREFIX_SIZE};
pub use ranges::KeyRange;
