//! WAL segments that arrive one behind the other, so that nobody has to keep them.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ogel_ids::Lsn;
use std::io::{ErrorKind, Read};

/// Bytes that are read at a time.
const CHUNK_SIZE: usize = 1 << 20;
/// Up to and including `xlp_seg_size` of a segment's first page header.
const HEAD_SIZE: usize = 36;

/// A stream that begins at a segment's start, such as what an `archive_command` writes into a pipe.
#[derive(Debug)]
pub struct WalStream<R> {
    reader: R,
    head: [u8; HEAD_SIZE],
    head_is_read: bool,
}

impl<R: Read> WalStream<R> {
    /// Reads the first page's header.
    pub fn open(mut reader: R) -> Result<WalStream<R>> {
        let mut head = [0; HEAD_SIZE];
        reader.read_exact(&mut head).context("the stream ends within the first WAL page header")?;
        let stream = WalStream { reader, head, head_is_read: false };
        if !stream.segment_size().is_power_of_two() || !stream.start().0.is_multiple_of(stream.segment_size().into()) {
            bail!("the stream does not begin with the first page of a WAL segment");
        }
        Ok(stream)
    }

    /// `wal_segment_size`.
    pub fn segment_size(&self) -> u32 {
        u32::from_le_bytes([self.head[32], self.head[33], self.head[34], self.head[35]])
    }

    /// Start of the first segment.
    pub fn start(&self) -> Lsn {
        let address = self.head[8..16].try_into().expect("eight bytes");
        Lsn(u64::from_le_bytes(address))
    }
}

impl<R: Read> Iterator for WalStream<R> {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        if !self.head_is_read {
            self.head_is_read = true;
            return Some(Ok(Bytes::copy_from_slice(&self.head)));
        }
        let mut chunk = vec![0; CHUNK_SIZE];
        loop {
            return match self.reader.read(&mut chunk) {
                Ok(0) => None,
                Ok(length) => {
                    chunk.truncate(length);
                    Some(Ok(Bytes::from(chunk)))
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Some(Err(error).context("cannot read the WAL stream")),
            };
        }
    }
}
