//! WAL in, page versions out.
//!
//! Pure: no I/O, no clock, no randomness. Three layers, each usable alone:
//!
//! 1. [`stream`]: bytes at an LSN, in any chunking, become whole records ([`record`] takes one apart).
//! 2. [`interpret`]: a record becomes [`effect::Effect`]s: page versions and metadata. A page version is an image ([`mod@image`]
//!    decompresses it) or a [`delta`].
//! 3. [`redo`]: a page and a delta become the next version of the page.
//!
//! Beside them [`writer`] encodes records that we write ourselves (the start checkpoint), [`control_file`] reads and writes
//! `pg_control`, and [`checkpoint_state`] is what a running cluster's next checkpoint would hold.
//! Every input may be hostile; each wrong byte ends in an error value. What is specific to a major version is in a module such as [`v17`].

mod byte_reader;
pub mod checkpoint_state;
pub mod control_file;
pub mod delta;
pub mod effect;
pub mod image;
pub mod interpret;
pub mod key;
pub mod record;
pub mod redo;
pub mod slru;
pub mod stream;
pub mod v17;
pub mod writer;

pub use byte_reader::{ByteReader, ShortInput};
