//! The side file that tells a torn tail from rot (H6).
//!
//! WAL bytes stay PostgreSQL's own, so what was acknowledged is noted beside them: after a batch is durable and answered, its
//! end is written here. After a restart, WAL that does not decode below the noted end was acknowledged and is damaged; above
//! it, it is the torn end of a batch that nobody was promised.
//!
//! The note reaches the kernel with each batch (it survives a killed process) and the disk in the background, so that a commit
//! never pays for a second flush. The price: rot together with a power loss within [`SYNC_INTERVAL`] of it goes unnoticed.
//!
//! ```text
//! two slots, at 0 and at 4096, written in turn; a torn write leaves the other one
//! 0   u32  magic "OGAK"       8  u64  sequence number, the higher valid slot counts
//! 4   u32  version = 1       16  u64  acknowledged end
//!                            24  u32  crc32c of bytes 0..24
//! ```

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ogel_ids::Lsn;

/// The note is fsynced at most this often.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// Name of the file in a timeline's folder.
pub const FILE_NAME: &str = "acked";

const MAGIC: &[u8; 4] = b"OGAK";
const VERSION: u32 = 1;
const SLOT_DISTANCE: u64 = 4096;
const SLOT_BYTES: usize = 28;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AckedFileError {
    /// It cannot be read or written.
    #[error("the file {FILE_NAME}: {0}")]
    Io(#[from] io::Error),
    /// Neither slot is valid.
    #[error("the file {FILE_NAME} is damaged: nobody can tell which WAL was acknowledged")]
    Damaged,
    /// Written by another version of the safekeeper.
    #[error("the file {FILE_NAME} has version {0}, this safekeeper knows {VERSION}")]
    Version(u32),
}

/// The open side file. Invariant: `end` is the end of a batch that is durable.
#[derive(Debug)]
pub struct AckedFile {
    path: PathBuf,
    /// Closed while the timeline rests.
    file: Option<File>,
    sequence: u64,
    end: Lsn,
}

impl AckedFile {
    /// Makes the file; the caller fsyncs the folder.
    pub fn create(folder: &Path, end: Lsn) -> io::Result<Self> {
        let path = folder.join(FILE_NAME);
        let file = OpenOptions::new().write(true).read(true).create_new(true).open(&path)?;
        file.write_all_at(&[0; 2 * SLOT_DISTANCE as usize], 0)?;
        let mut acked = Self { path, file: Some(file), sequence: 0, end };
        acked.write(end)?;
        acked.opened()?.sync_all()?;
        Ok(acked)
    }

    /// Of a timeline whose WAL is in the object store up to `end`: there is no file until it is created.
    pub fn removed(folder: &Path, end: Lsn) -> Self {
        Self { path: folder.join(FILE_NAME), file: None, sequence: 0, end }
    }

    /// Reads the newer valid slot.
    pub fn open(folder: &Path) -> Result<Self, AckedFileError> {
        let path = folder.join(FILE_NAME);
        let file = OpenOptions::new().write(true).read(true).open(&path)?;
        let mut newest: Option<(u64, Lsn)> = None;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, slot * SLOT_DISTANCE) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                other => other?,
            }
            newest = newest.max(decode(&bytes)?);
        }
        let (sequence, end) = newest.ok_or(AckedFileError::Damaged)?;
        Ok(Self { path, file: Some(file), sequence, end })
    }

    /// The noted end.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Notes an end; durable only after [`AckedFile::sync`].
    pub fn write(&mut self, end: Lsn) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.opened()?.write_all_at(&encode(sequence, end), (sequence % 2) * SLOT_DISTANCE)?;
        (self.sequence, self.end) = (sequence, end);
        Ok(())
    }

    /// Makes the last note durable.
    pub fn sync(&mut self) -> io::Result<()> {
        self.opened()?.sync_data()
    }

    /// A second handle to sync with, while this one goes on writing.
    pub fn handle(&mut self) -> io::Result<File> {
        self.opened()?.try_clone()
    }

    /// Closes the file until it is written again.
    pub fn close(&mut self) {
        self.file = None;
    }

    fn opened(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            self.file = Some(OpenOptions::new().write(true).read(true).open(&self.path)?);
        }
        Ok(self.file.as_ref().expect("it was opened above"))
    }
}

fn encode(sequence: u64, end: Lsn) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..8].copy_from_slice(&VERSION.to_be_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_be_bytes());
    bytes[16..24].copy_from_slice(&end.0.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[..24]);
    bytes[24..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// `None` for a slot that was torn or never written.
fn decode(bytes: &[u8; SLOT_BYTES]) -> Result<Option<(u64, Lsn)>, AckedFileError> {
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    if &bytes[..4] != MAGIC || word(24) != crc32c::crc32c(&bytes[..24]) {
        return Ok(None);
    }
    match word(4) {
        VERSION => Ok(Some((long(8), Lsn(long(16))))),
        other => Err(AckedFileError::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of this version must stay readable.
    #[test]
    fn version_1_as_first_written() {
        let slot = *include_bytes!("fixtures/acked-slot-v1");
        assert_eq!(decode(&slot).unwrap(), Some((7, Lsn(0x1_016b_3740))));
        assert_eq!(encode(7, Lsn(0x1_016b_3740)), slot, "what is written has changed: raise the version");
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut acked = AckedFile::create(folder.path(), Lsn(100)).unwrap();
        acked.write(Lsn(200)).unwrap();
        acked.write(Lsn(300)).unwrap();
        assert_eq!(AckedFile::open(folder.path()).unwrap().end(), Lsn(300));
        let newest = acked.sequence % 2 * SLOT_DISTANCE;
        acked.opened().unwrap().write_all_at(&[0xff; 9], newest + 12).unwrap();
        assert_eq!(AckedFile::open(folder.path()).unwrap().end(), Lsn(200));
        acked.opened().unwrap().write_all_at(&[0xff; 9], SLOT_DISTANCE - newest + 12).unwrap();
        assert!(matches!(AckedFile::open(folder.path()), Err(AckedFileError::Damaged)));
        acked.opened().unwrap().set_len(10).unwrap();
        assert!(matches!(AckedFile::open(folder.path()), Err(AckedFileError::Damaged)));
    }
}
