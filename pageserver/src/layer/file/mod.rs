//! Layer files: immutable, checked on every read. `docs/formats.md` has the byte diagram.
//!
//! A file is header, data blocks, index blocks, tombstone block, root block, footer. Everything behind the data is enough to answer
//! what a file holds without its data, and can be fetched alone.

mod block;
mod cache;
mod cursor;
mod error;
mod examine;
mod fetch;
mod format;
mod packing;
mod reader;
mod sequential;
mod source;
mod writer;

pub use cache::BlockCache;
pub use error::LayerError;
pub use examine::{Examined, ExaminedVersion, examine};
pub use fetch::{StoredValue, fetch};
pub use format::{FORMAT_VERSION, LayerHeader, LayerKind};
pub use packing::Packing;
pub use reader::LayerFile;
pub use sequential::Versions;
pub use source::{RemoteLayer, RemoteReader};
pub use writer::{EncodedBody, LayerFileWriter, LayerWriter, Written, write_file};
