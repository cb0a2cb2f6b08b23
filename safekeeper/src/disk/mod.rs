//! A timeline's folder: WAL segments, the control file, the side file of acknowledged ends. Everything here blocks.

pub mod acked_file;
pub mod control_file;
pub mod recovery;
mod segment_writer;
pub mod segments;
pub mod space;
mod wal_file;

pub use segment_writer::SegmentWriter;
