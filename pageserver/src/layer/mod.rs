//! Layers: where versions of keys are kept.
//!
//! A timeline's history is a stack of layers over LSN. WAL bytes `[start, end)` produce versions whose LSN, the end of their record,
//! lies in `(start, end]`; that is what a layer's [`LsnRange`] says.
//!
//! - [`memory`]: the open layer, appended to by ingest, and frozen ones that wait to be written.
//! - [`file`]: the immutable files that they become; delta layers and image layers share one format (`docs/formats.md`).
//! - [`desc`]: what is known about a file without opening it. [`partitions`]: which files serve which keys. Pure.
//! - [`stored`]: a file in use.
//! - [`map`]: which layers there are, and in which order a reader visits them. Pure.
//! - [`merge`]: rewrites, materialises and trims layers. Pure.
//! - [`reconstruct`]: what a reader has collected so far and whether that is enough. Pure.
//! - [`tombstone`]: ranges of keys whose older versions are gone. Pure.
//!
//! A tombstone at LSN T hides versions below T. Within the record that ends at T, order counts: what it put before the tombstone is
//! taken out when the tombstone is put (see [`memory::WriteBatch`]), what it puts afterwards stays.

pub mod desc;
pub mod file;
pub mod map;
pub mod memory;
pub mod merge;
pub mod partitions;
pub mod reconstruct;
pub mod stored;
pub mod tombstone;

use ogel_ids::Lsn;

/// WAL positions from `start` up to but not including `end`; holds versions with LSNs in `(start, end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LsnRange {
    /// Where the WAL begins that made the layer.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
}

/// How a version is stored. Numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum VersionKind {
    /// The whole value.
    Image = 0,
    /// Redo needs the previous version.
    Delta = 1,
    /// Redo makes the value from nothing.
    InitDelta = 2,
}

impl VersionKind {
    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<VersionKind> {
        match number {
            0 => Some(VersionKind::Image),
            1 => Some(VersionKind::Delta),
            2 => Some(VersionKind::InitDelta),
            _ => None,
        }
    }
}

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// On a network thread: what is not in memory, ours or the page cache of the system, ends in [`file::LayerError::WouldBlock`].
    MemoryOnly,
    /// On a thread that may block.
    MayBlock,
}
