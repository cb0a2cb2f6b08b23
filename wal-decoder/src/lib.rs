//! WAL in, page versions out.
//!
//! Pure: no I/O, no clock, no randomness. Three layers, each usable alone:
//!
//! 1. [`stream`]: bytes at an LSN, in any chunking, become whole records ([`record`] takes one apart).
//! 2. [`interpret`]: a record becomes [`effect::Effect`]s: page versions and metadata.
//! 3. [`redo`]: a page and a delta become the next version of the page.
//!
//! Beside them [`writer`] encodes records that we write ourselves (the start checkpoint), and [`control_file`] reads and writes `pg_control`.
//! Every input may be hostile; each wrong byte ends in an error value.

pub mod effect;
pub mod key;
