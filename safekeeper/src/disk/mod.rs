//! A timeline's folder: WAL segments, the control file, the side file of acknowledged ends. Everything here blocks.

pub mod acked_file;
pub mod control_file;
pub mod recovery;
pub mod segments;
pub mod space;
