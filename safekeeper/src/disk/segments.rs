//! A timeline's WAL in PostgreSQL-named segment files.
//!
//! Files are made whole, with written zeros, under another name and then renamed: an append's fdatasync never has to journal an
//! allocation, and lack of space shows before a byte is promised. A segment file is therefore always full-sized; behind the
//! written end it holds zeros, which is how `pg_waldump` and the restart scan know the end.
//!
//! While WAL comes in a stream, writing each byte twice would cost more than journaling: then the space is only reserved
//! ([`Filling::Reserved`]), and small appends that come behind the stream have zeros written ahead of them piece by piece.
//!
//! Zeros, appends ([`super::segment_writer`]) and reads of whole segments go past the page cache.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use nix::{errno::Errno, fcntl::FallocateFlags};
use ogel_ids::Lsn;
use ogel_service::durable_file;

use super::{
    acked_file,
    space::SpaceLimits,
    wal_file::{AlignedBytes, WalFile, block_end, block_start},
};

/// Bytes written and flushed at a time while a segment is made: the disk's queue stays short for commits.
const FILL_STEP_BYTES: usize = 1 << 20;
/// So much is read past the page cache: whoever wants it, wants it once.
const LARGE_READ_BYTES: usize = 1 << 20;
/// An append of so much belongs to a stream, whose flushes may journal.
const LARGE_APPEND_BYTES: usize = 64 << 10;
/// Zeros written ahead of a small append in a segment that is only reserved.
const ZEROS_AHEAD_BYTES: u64 = 256 << 10;
/// Removed segments that are kept, zeroed, to become later ones.
const MAX_SPARES: usize = 2;
const SPARE_PREFIX: &str = ".spare-";
/// A removed segment while it is zeroed; a crash leaves it to the next one.
const RECYCLING: &str = ".recycling";

/// Why WAL could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// No room for the next segment; nothing was written, try again when there is.
    #[error("no disk space for WAL segment {segment}: {reason}")]
    NoSpace {
        /// File name.
        segment: String,
        /// Which limit was met.
        reason: String,
    },
    /// The disk failed. What is on it is unknown: the process must end and read it anew.
    #[error("WAL segment {name}: {error}")]
    Io {
        /// File name.
        name: String,
        /// What the system said.
        error: io::Error,
    },
}

/// How a segment that is made gets its space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// Written zeros.
    Zeros,
    /// Allocated by the file system, which reads as zeros. Where it cannot do that, written zeros.
    Reserved,
}

/// Makes and finds segment files; shared by the writer and by the task that makes segments ahead.
#[derive(Debug)]
pub struct SegmentFolder {
    path: PathBuf,
    segment_size_bytes: u64,
    sync: bool,
    /// The page cache is left out where that is possible.
    direct: bool,
    /// Held while a segment is made, so that it is made once.
    making: Mutex<()>,
    /// Highest segment that was begun to be made ahead.
    ahead: AtomicU64,
    /// Segments whose space is only reserved, and up to where they have been written since.
    reserved: Mutex<HashMap<u64, u64>>,
    /// How many those are, so that an append where there are none takes no lock.
    reserved_count: AtomicUsize,
    limits: SpaceLimits,
    /// Held while a segment is recycled.
    recycling: Mutex<()>,
    /// The folder is being removed: nothing is made in it any more.
    retired: AtomicBool,
}

impl SegmentFolder {
    /// `sync` = false leaves out every flush, for tests.
    pub fn new(path: PathBuf, segment_size_bytes: u64, sync: bool) -> Self {
        Self {
            path,
            segment_size_bytes,
            sync,
            direct: true,
            making: Mutex::new(()),
            ahead: AtomicU64::new(0),
            reserved: Mutex::default(),
            reserved_count: AtomicUsize::new(0),
            limits: SpaceLimits::default(),
            recycling: Mutex::new(()),
            retired: AtomicBool::new(false),
        }
    }

    /// Makes segments only within these limits.
    pub fn with_limits(self, limits: SpaceLimits) -> Self {
        Self { limits, ..self }
    }

    /// Goes through the page cache, as where the file system wants that.
    #[cfg(test)]
    pub fn through_page_cache(self) -> Self {
        Self { direct: false, ..self }
    }

    /// Makes nothing from now on; waits for what is being made.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        drop(self.making.lock().unwrap_or_else(PoisonError::into_inner));
        drop(self.recycling.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Bytes of a segment.
    pub fn segment_size_bytes(&self) -> u64 {
        self.segment_size_bytes
    }

    /// Whether flushes are done.
    pub fn syncs(&self) -> bool {
        self.sync
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says, and notes, whether somebody makes segment `number` ahead already.
    pub fn ahead_begun(&self, number: u64) -> bool {
        self.ahead.fetch_max(number, Ordering::Relaxed) >= number
    }

    /// Segments behind `number` are gone.
    pub(super) fn forget_ahead(&self, number: u64) {
        self.ahead.store(number, Ordering::Relaxed);
        self.change_reserved(|reserved| reserved.retain(|reserved, _| *reserved <= number));
    }

    /// Where segment `number` is.
    pub fn segment_path(&self, number: u64) -> PathBuf {
        self.path.join(self.segment_name(number))
    }

    fn segment_name(&self, number: u64) -> String {
        Lsn(number * self.segment_size_bytes).segment_file_name(self.segment_size_bytes)
    }

    fn failed(&self, number: u64) -> impl Fn(io::Error) -> SegmentError {
        let name = self.segment_name(number);
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                SegmentError::NoSpace { segment: name.clone(), reason: error.to_string() }
            }
            _ => SegmentError::Io { name: name.clone(), error },
        }
    }

    /// Where there is room already: a failure is a failing disk.
    pub(super) fn disk_failed(&self, number: u64) -> impl Fn(io::Error) -> SegmentError {
        let name = self.segment_name(number);
        move |error| SegmentError::Io { name: name.clone(), error }
    }

    pub(super) fn open_to_write(&self, number: u64) -> io::Result<WalFile> {
        WalFile::open(&self.segment_path(number), self.direct)
    }

    /// Makes the segment unless it is there, with `prefix` at its start; on return it is durable.
    pub fn make(&self, number: u64, prefix: &[u8], filling: Filling) -> Result<(), SegmentError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.segment_path(number);
        if path.exists() {
            return Ok(());
        }
        let spare = if prefix.is_empty() { self.spares().map_err(self.failed(number))?.pop() } else { None };
        let (partial, filled) = match spare {
            Some(spare) => (spare, Ok(())),
            None => {
                self.check_limits(number)?;
                let partial = self.path.join(format!(".{}.partial", self.segment_name(number)));
                let filled = File::create(&partial).and_then(|file| {
                    let reserved = self.reserve(&file)?;
                    if filling == Filling::Reserved && reserved {
                        self.change_reserved(|reserved| reserved.insert(number, 0));
                        return if self.sync { file.sync_all() } else { Ok(()) };
                    }
                    self.fill(&partial, prefix)
                });
                (partial, filled)
            }
        };
        filled
            .and_then(|()| fs::rename(&partial, &path))
            .and_then(|()| if self.sync { durable_file::sync_folder(&self.path) } else { Ok(()) })
            .map_err(|error| {
                let _ = fs::remove_file(&partial); // gives the space back; the error above is the one to report
                self.failed(number)(error)
            })
    }

    fn check_limits(&self, number: u64) -> Result<(), SegmentError> {
        let refused = if self.retired.load(Ordering::SeqCst) {
            Some("the timeline was deleted".into())
        } else if self.limits == SpaceLimits::default() {
            None
        } else {
            let used_bytes = self.numbers().map_err(self.failed(number))?.len() as u64 * self.segment_size_bytes;
            self.limits.refuse(&self.path, used_bytes, self.segment_size_bytes).map_err(self.failed(number))?
        };
        match refused {
            Some(reason) => Err(SegmentError::NoSpace { segment: self.segment_name(number), reason }),
            None => Ok(()),
        }
    }

    fn spares(&self) -> io::Result<Vec<PathBuf>> {
        let mut spares = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(SPARE_PREFIX)) {
                spares.push(entry.path());
            }
        }
        Ok(spares)
    }

    /// Takes a segment away that nobody needs any more. It is kept, zeroed, to become a later one: its place on the disk is
    /// allocated already. Beyond a few it is removed. Blocks while it is zeroed; a reader that has it open gets an error.
    pub fn recycle(&self, number: u64) -> io::Result<()> {
        let _recycling = self.recycling.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.segment_path(number);
        if self.retired.load(Ordering::SeqCst) || self.spares()?.len() >= MAX_SPARES {
            return fs::remove_file(path);
        }
        let recycling = self.path.join(RECYCLING);
        fs::rename(path, &recycling)?;
        self.fill(&recycling, &[])?;
        fs::rename(recycling, self.path.join(format!("{SPARE_PREFIX}{}", self.segment_name(number))))
    }

    fn lock_reserved(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_reserved<T>(&self, change: impl FnOnce(&mut HashMap<u64, u64>) -> T) -> T {
        let mut reserved = self.lock_reserved();
        let changed = change(&mut reserved);
        self.reserved_count.store(reserved.len(), Ordering::SeqCst);
        changed
    }

    /// Allocates a whole segment; `false` if this file system cannot.
    fn reserve(&self, file: &File) -> io::Result<bool> {
        let length = i64::try_from(self.segment_size_bytes).expect("segments are at most 1 GiB");
        match nix::fcntl::fallocate(file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(true),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// For an append at `offset` of a segment: the zeros that must be written behind its last block, as a range of offsets of blocks.
    pub(super) fn zeros_due(&self, number: u64, offset: u64, append_bytes: usize) -> Option<Range<u64>> {
        if self.reserved_count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.change_reserved(|reserved| {
            let written = reserved.get_mut(&number)?;
            let end = block_end(offset + append_bytes as u64);
            let due = append_bytes < LARGE_APPEND_BYTES && end > *written;
            let zeros = end..if due { (end + ZEROS_AHEAD_BYTES).min(self.segment_size_bytes) } else { end };
            *written = zeros.end.max(*written);
            if *written == self.segment_size_bytes {
                reserved.remove(&number);
            }
            Some(zeros).filter(|zeros| !zeros.is_empty())
        })
    }

    /// Writes a file anew: `prefix`, then zeros.
    fn fill(&self, path: &Path, prefix: &[u8]) -> io::Result<()> {
        let mut file = WalFile::open(path, self.direct)?;
        let mut piece = AlignedBytes::zeroed(FILL_STEP_BYTES);
        for offset in (0..self.segment_size_bytes).step_by(FILL_STEP_BYTES) {
            let prefix = prefix.get(offset as usize..).unwrap_or_default();
            let prefix = &prefix[..prefix.len().min(FILL_STEP_BYTES)];
            piece[..prefix.len()].copy_from_slice(prefix);
            file.write(&piece, offset, 0..FILL_STEP_BYTES)?;
            piece[..prefix.len()].fill(0);
            if self.sync {
                file.file().sync_data()?;
            }
        }
        if self.sync { file.file().sync_all() } else { Ok(()) }
    }

    /// Numbers of the segments that are there, rising.
    pub fn numbers(&self) -> io::Result<Vec<u64>> {
        let per_id = 0x1_0000_0000 / self.segment_size_bytes;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| name.len() == 24 && name.starts_with("00000001")) else {
                continue;
            };
            let part = |range| u64::from_str_radix(&name[range], 16).ok();
            if let (Some(id), Some(low)) = (part(8..16), part(16..24))
                && low < per_id
            {
                numbers.push(id * per_id + low);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Takes segments below `number` away, oldest first. Nobody may need them here any more.
    pub fn remove_below(&self, number: u64) -> io::Result<u64> {
        let mut removed = 0;
        for number in self.numbers()?.into_iter().take_while(|segment| *segment < number) {
            self.recycle(number)?;
            self.change_reserved(|reserved| reserved.remove(&number));
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes all WAL and the side file of acknowledged ends, whose control file says that they are in the object store.
    pub fn remove_all(&self) -> io::Result<()> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let _recycling = self.recycling.lock().unwrap_or_else(PoisonError::into_inner);
        for number in self.numbers()?.into_iter().rev() {
            fs::remove_file(self.segment_path(number))?;
        }
        for spare in self.spares()? {
            fs::remove_file(spare)?;
        }
        self.forget_ahead(0);
        for name in [RECYCLING, acked_file::FILE_NAME] {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads from `at` up to the end of `into` or of the segment, whichever comes first.
    pub fn read(&self, at: Lsn, into: &mut [u8]) -> io::Result<usize> {
        if into.len() < LARGE_READ_BYTES {
            return SegmentReader::default().read(self, at, into);
        }
        let (number, begin) = (at.segment_number(self.segment_size_bytes), at.segment_offset(self.segment_size_bytes));
        let mut file = self.open_to_write(number)?;
        let end = self.segment_size_bytes.min(begin + into.len() as u64);
        let mut piece = AlignedBytes::zeroed(LARGE_READ_BYTES);
        let mut offset = begin;
        while offset < end {
            let start = block_start(offset);
            let blocks = piece.len().min((block_end(end) - start) as usize);
            file.read(&mut piece[..blocks], start)?;
            let next = end.min(start + blocks as u64);
            into[(offset - begin) as usize..(next - begin) as usize]
                .copy_from_slice(&piece[(offset - start) as usize..(next - start) as usize]);
            offset = next;
        }
        self.still_there(number, file.file())?;
        Ok((end - begin) as usize)
    }

    /// A recycled segment is another one's content by now.
    fn still_there(&self, number: u64, file: &File) -> io::Result<()> {
        if fs::metadata(self.segment_path(number))?.ino() == file.metadata()?.ino() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the segment was removed meanwhile"))
    }
}

/// Reads WAL; keeps the last segment open.
#[derive(Debug, Default)]
pub struct SegmentReader {
    open: Option<(u64, File)>,
}

impl SegmentReader {
    /// Reads from `at` up to the end of `into` or of the segment, whichever comes first.
    pub fn read(&mut self, folder: &SegmentFolder, at: Lsn, into: &mut [u8]) -> io::Result<usize> {
        let size = folder.segment_size_bytes;
        let number = at.segment_number(size);
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, File::open(folder.segment_path(number))?));
        }
        let (_, file) = self.open.as_ref().expect("it was opened above");
        let count = (into.len() as u64).min(size - at.segment_offset(size)) as usize;
        file.read_exact_at(&mut into[..count], at.segment_offset(size))?;
        folder.still_there(number, file)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::segment_writer::SegmentWriter, *};

    const SIZE: u64 = 1 << 20;

    fn folder() -> (tempfile::TempDir, Arc<SegmentFolder>) {
        let temp = tempfile::tempdir().unwrap();
        let folder = Arc::new(SegmentFolder::new(temp.path().to_owned(), SIZE, true));
        (temp, folder)
    }

    #[test]
    fn a_recycled_segment_becomes_a_later_one_without_its_content() {
        let (_temp, folder) = folder();
        let mut writer = SegmentWriter::new(folder.clone());
        writer.make_room(Lsn(SIZE), Lsn(5 * SIZE)).unwrap();
        writer.write(Lsn(SIZE), &vec![7; 4 * SIZE as usize]).unwrap();
        writer.sync().unwrap();
        let mut piece = [0; 100];
        let mut reader = SegmentReader::default();
        reader.read(&folder, Lsn(SIZE), &mut piece).unwrap();
        let inode = fs::metadata(folder.segment_path(1)).unwrap().ino();
        (1..=3).for_each(|number| folder.recycle(number).unwrap());
        assert_eq!(folder.spares().unwrap().len(), MAX_SPARES, "the pool is bounded");
        assert_eq!(folder.numbers().unwrap(), [4]);
        assert_eq!(reader.read(&folder, Lsn(SIZE), &mut piece).unwrap_err().kind(), io::ErrorKind::NotFound);
        (5..=7).for_each(|number| folder.make(number, &[], Filling::Zeros).unwrap());
        assert_eq!(folder.spares().unwrap().len(), 0);
        let inodes = (5..=7).map(|number| fs::metadata(folder.segment_path(number)).unwrap().ino());
        assert!(inodes.collect::<Vec<_>>().contains(&inode), "its place was used again");
        let mut back = vec![9; SIZE as usize];
        for number in 5..=7 {
            assert_eq!(folder.read(Lsn(number * SIZE), &mut back).unwrap(), SIZE as usize);
            assert!(back.iter().all(|byte| *byte == 0), "segment {number}");
        }
    }
}
