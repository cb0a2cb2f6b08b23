//! Entries of the tar stream.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

/// A tar stream under way.
pub struct Entries<W: Write> {
    tar: tar::Builder<W>,
    time_s: u64,
}

impl<W: Write> Entries<W> {
    /// An empty stream.
    pub fn new(out: W) -> Self {
        let time_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Self { tar: tar::Builder::new(out), time_s }
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Regular, 0o600);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content)
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Directory, 0o700);
        header.set_size(0);
        self.tar.append_data(&mut header, format!("{path}/"), io::empty())
    }

    /// Ends the stream.
    pub fn finish(self) -> io::Result<()> {
        self.tar.into_inner()?.flush()
    }

    fn header(&self, kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.time_s);
        header
    }
}
