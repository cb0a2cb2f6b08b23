//! A segment file that is written past the page cache where the file system can do that.
//!
//! WAL is written once, soon flushed, and read from memory by whoever is close behind: a copy in the page cache would cost more
//! processor time than the write itself and be read by nobody. A direct write wants whole, aligned blocks from aligned memory.
//! Whether a file takes it is found out at the first refusal, per file; from then on it is written through the cache.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::{Deref, DerefMut, Range},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
};

/// Unit of direct reads and writes, in bytes: in the file and in memory.
pub const BLOCK_BYTES: usize = 4096;

/// Start of the block that `position` is in.
pub fn block_start(position: u64) -> u64 {
    position - position % BLOCK_BYTES as u64
}

/// End of the block that the byte before `position` is in.
pub fn block_end(position: u64) -> u64 {
    position.next_multiple_of(BLOCK_BYTES as u64)
}

/// Zeroed memory that begins at a multiple of [`BLOCK_BYTES`].
#[derive(Debug, Default)]
pub struct AlignedBytes {
    memory: Vec<u8>,
    used: Range<usize>,
}

impl AlignedBytes {
    /// Of this length.
    pub fn zeroed(length: usize) -> Self {
        let memory = vec![0; length + BLOCK_BYTES];
        let skipped = BLOCK_BYTES - memory.as_ptr().addr() % BLOCK_BYTES;
        Self { memory, used: skipped..skipped + length }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.used.clone()]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.used.clone()]
    }
}

/// An open segment file. Its length is a multiple of [`BLOCK_BYTES`].
#[derive(Debug)]
pub struct WalFile {
    file: File,
    direct: bool,
}

impl WalFile {
    /// Opens a file that is there; `direct` = false leaves out the attempt.
    pub fn open(path: &Path, direct: bool) -> io::Result<Self> {
        let open = |flags: OFlag| OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path);
        if direct {
            match open(OFlag::O_DIRECT) {
                Err(error) if refuses_direct(&error) => {
                    tracing::debug!(path = %path.display(), %error, "WAL is written through the page cache")
                }
                other => return Ok(Self { file: other?, direct: true }),
            }
        }
        Ok(Self { file: open(OFlag::empty())?, direct: false })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether only whole blocks can be written: the caller must know what a block holds beside its own bytes.
    pub fn writes_blocks(&self) -> bool {
        self.direct
    }

    /// Writes whole aligned blocks at `offset`. Only `new` of them differs from what is there; where the page cache is used that is all that is written.
    pub fn write(&mut self, blocks: &[u8], offset: u64, new: Range<usize>) -> io::Result<()> {
        if self.direct {
            match self.file.write_all_at(blocks, offset) {
                Err(error) if refuses_direct(&error) => self.use_page_cache(&error)?,
                other => return other,
            }
        }
        let begin = offset + new.start as u64;
        self.file.write_all_at(&blocks[new], begin)
    }

    /// Fills aligned blocks from `offset`.
    pub fn read(&mut self, blocks: &mut [u8], offset: u64) -> io::Result<()> {
        if self.direct {
            match self.file.read_exact_at(blocks, offset) {
                Err(error) if refuses_direct(&error) => self.use_page_cache(&error)?,
                other => return other,
            }
        }
        self.file.read_exact_at(blocks, offset)
    }

    fn use_page_cache(&mut self, error: &io::Error) -> io::Result<()> {
        tracing::debug!(%error, "a direct access to WAL was refused: the file is written through the page cache");
        let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL)?);
        fcntl(&self.file, FcntlArg::F_SETFL(flags.difference(OFlag::O_DIRECT)))?;
        self.direct = false;
        Ok(())
    }
}

/// `EINVAL` is also what an unaligned access gets, where a device's blocks are larger than ours.
fn refuses_direct(error: &io::Error) -> bool {
    let refusals = [Errno::EINVAL, Errno::EOPNOTSUPP].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|errno| refusals.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_access_goes_through_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 2 * BLOCK_BYTES]).unwrap();
        let mut file = WalFile::open(&path, true).unwrap();
        let mut blocks = AlignedBytes::zeroed(2 * BLOCK_BYTES);
        assert_eq!(blocks.as_ptr().addr() % BLOCK_BYTES, 0);
        blocks.fill(2);
        // Not aligned, as all of ours is for a device with larger blocks.
        file.write(&blocks[..BLOCK_BYTES], 512 + 1, 0..9).unwrap();
        let mut back = AlignedBytes::zeroed(2 * BLOCK_BYTES);
        file.read(&mut back, 0).unwrap();
        if !file.writes_blocks() {
            assert!(back.iter().enumerate().all(|(at, byte)| (*byte == 2) == (513..522).contains(&at)));
        }
    }
}
