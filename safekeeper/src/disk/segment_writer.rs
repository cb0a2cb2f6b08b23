//! Writes a timeline's WAL into its segments.
//!
//! ```text
//!             start    written            end
//! staging       │kept    │ not on disk     │
//! file      ────┴────────┴─ ─ ─ ─ ─ ─ ─ ─ ─┴─ zeros
//!           blocks of 4 KiB: start is where one begins
//! ```
//!
//! Appends are gathered in `staging` and leave by one direct write ([`super::wal_file`]) when they are flushed, or when there are
//! many. A block that is only partly the log's is written again with the next bytes: its beginning is kept, its rest is zeros, or
//! read from the file where that is not known. A write that the machine's end tears therefore leaves in each sector either the new bytes, or
//! the old ones: the acknowledged ones are the same in both.
//!
//! Nobody reads a segment for bytes that were not flushed: readers, peers and the archive are given `flush_lsn` and
//! `commit_lsn ≤ flush_lsn` as limits ([`crate::timeline::Position`]), and those move when a flush is complete. Pages of the file that a reader
//! has brought into the page cache are dropped by the kernel with each direct write to them, before it returns. Nothing but a cut, which flushes,
//! writes to such a file through the cache.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt,
    sync::Arc,
};

use ogel_ids::Lsn;
use ogel_service::durable_file;

use super::{
    segments::{Filling, SegmentError, SegmentFolder},
    wal_file::{AlignedBytes, BLOCK_BYTES, WalFile, block_end, block_start},
};

/// Memory for appends of a timeline without much traffic.
const MIN_STAGING_BYTES: usize = 32 << 10;
/// Appends are written without waiting for the flush when they are so many. One block more: what is kept of the last one.
const MAX_STAGING_BYTES: usize = (1 << 20) + BLOCK_BYTES;
/// Piece in which a cut segment is searched for bytes that are not zero.
const ZERO_STEP_BYTES: usize = 64 << 10;

/// Writes WAL. One per timeline, used by one thread at a time.
///
/// Invariants: `start ≤ written ≤ end ≤ start + staging`, all in one segment; `start` is where the block of `written` begins.
#[derive(Debug)]
pub struct SegmentWriter {
    folder: Arc<SegmentFolder>,
    /// Segments written to since the last sync, and the one written last.
    open: BTreeMap<u64, OpenSegment>,
    /// The log's bytes of `[start, end)`.
    staging: AlignedBytes,
    start: Lsn,
    written: Lsn,
    end: Lsn,
    /// Everything from here on is zeros, once what is staged is written; unknown after a process start.
    zero_from: Option<Lsn>,
}

#[derive(Debug)]
struct OpenSegment {
    file: WalFile,
    /// Was written to since the last sync.
    unsynced: bool,
}

impl SegmentWriter {
    /// A writer that has nothing open.
    pub fn new(folder: Arc<SegmentFolder>) -> Self {
        let (open, staging, nowhere) = (BTreeMap::new(), AlignedBytes::default(), Lsn(0));
        Self { folder, open, staging, start: nowhere, written: nowhere, end: nowhere, zero_from: None }
    }

    /// Makes every segment that `[begin, end)` touches, before any of its bytes is written.
    pub fn make_room(&self, begin: Lsn, end: Lsn) -> Result<(), SegmentError> {
        let size = self.folder.segment_size_bytes();
        if begin >= end {
            return Ok(());
        }
        (begin.segment_number(size)..=Lsn(end.0 - 1).segment_number(size)).try_for_each(|number| {
            if self.open.contains_key(&number) { Ok(()) } else { self.folder.make(number, &[], Filling::Zeros) }
        })
    }

    /// Takes bytes to be written at `begin`; they are in the file, and durable, after [`SegmentWriter::sync`].
    pub fn write(&mut self, begin: Lsn, mut bytes: &[u8]) -> Result<(), SegmentError> {
        let size = self.folder.segment_size_bytes();
        let mut at = begin;
        while !bytes.is_empty() {
            let number = at.segment_number(size);
            if at != self.end || number != self.start.segment_number(size) || !self.open.contains_key(&number) {
                self.write_out()?;
                self.go_to(at)?;
            }
            self.grow_for(bytes.len());
            let staged = self.end.bytes_since(self.start) as usize;
            let in_segment = size - at.segment_offset(size);
            let count = bytes.len().min(self.staging.len() - staged).min(in_segment as usize);
            self.staging[staged..staged + count].copy_from_slice(&bytes[..count]);
            at = Lsn(at.0 + count as u64);
            self.end = at;
            self.zero_from = self.zero_from.map(|zero_from| zero_from.max(at));
            bytes = &bytes[count..];
            if staged + count == self.staging.len() {
                self.write_out()?;
            }
        }
        Ok(())
    }

    /// Has the next bytes staged at `at`, behind what the file has in that block. Nothing waits to be written.
    fn go_to(&mut self, at: Lsn) -> Result<(), SegmentError> {
        let size = self.folder.segment_size_bytes();
        let number = at.segment_number(size);
        // The room was made: from here on a failure is a failing disk.
        let failed = self.folder.disk_failed(number);
        let segment = match self.open.entry(number) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let file = self.folder.open_to_write(number).map_err(&failed)?;
                entry.insert(OpenSegment { file, unsynced: false })
            }
        };
        (self.start, self.written, self.end) = (Lsn(block_start(at.0)), at, at);
        if self.staging.is_empty() {
            self.staging = AlignedBytes::zeroed(MIN_STAGING_BYTES);
        }
        if self.start < at {
            let block = &mut self.staging[..BLOCK_BYTES];
            segment.file.read(block, self.start.segment_offset(size)).map_err(&failed)?;
        }
        Ok(())
    }

    /// Takes more memory for large appends.
    fn grow_for(&mut self, append_bytes: usize) {
        let staged = self.end.bytes_since(self.start) as usize;
        let wanted = (staged + append_bytes).next_power_of_two().min(MAX_STAGING_BYTES);
        if wanted > self.staging.len() {
            let mut larger = AlignedBytes::zeroed(wanted);
            larger[..staged].copy_from_slice(&self.staging[..staged]);
            self.staging = larger;
        }
    }

    /// Writes what is staged and keeps the beginning of the last block.
    fn write_out(&mut self) -> Result<(), SegmentError> {
        if self.written == self.end {
            return Ok(());
        }
        let Self { folder, open, staging, start, written, end, zero_from } = self;
        let size = folder.segment_size_bytes();
        let number = start.segment_number(size);
        let failed = folder.disk_failed(number);
        let segment = open.get_mut(&number).expect("it was opened before anything was staged for it");
        let new = written.bytes_since(*start) as usize..end.bytes_since(*start) as usize;
        let blocks = ..block_end(new.end as u64) as usize;
        let rest = new.end..blocks.end;
        if zero_from.is_some_and(|zero_from| zero_from <= *end) {
            staging[rest].fill(0);
        } else if segment.file.writes_blocks() && !rest.is_empty() {
            let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
            segment.file.read(&mut block, Lsn(block_start(end.0)).segment_offset(size)).map_err(&failed)?;
            staging[rest.clone()].copy_from_slice(&block[BLOCK_BYTES - rest.len()..]);
        }
        let zeros = folder.zeros_due(number, written.segment_offset(size), new.len());
        segment.file.write(&staging[blocks], start.segment_offset(size), new.clone()).map_err(&failed)?;
        if let Some(zeros) = zeros {
            let bytes = AlignedBytes::zeroed((zeros.end - zeros.start) as usize);
            segment.file.write(&bytes, zeros.start, 0..bytes.len()).map_err(&failed)?;
        }
        segment.unsynced = true;
        let kept = block_start(new.end as u64) as usize;
        staging.copy_within(kept..new.end, 0);
        (*start, *written) = (Lsn(start.0 + kept as u64), *end);
        Ok(())
    }

    /// Makes everything written durable.
    pub fn sync(&mut self) -> Result<(), SegmentError> {
        self.write_out()?;
        for (number, segment) in &mut self.open {
            if std::mem::take(&mut segment.unsynced) && self.folder.syncs() {
                segment.file.file().sync_data().map_err(self.folder.disk_failed(*number))?;
            }
        }
        while self.open.len() > 1 {
            self.open.pop_first();
        }
        Ok(())
    }

    /// Makes everything written durable, closes the files and gives the memory back, of a timeline that comes to rest.
    pub fn close(&mut self) -> Result<(), SegmentError> {
        self.sync()?;
        self.open.clear();
        self.staging = AlignedBytes::default();
        (self.start, self.written, self.end) = (Lsn(0), Lsn(0), Lsn(0));
        Ok(())
    }

    /// The log now ends at `end`, and everything behind is zeros: it was made so.
    pub fn starts_anew(&mut self, end: Lsn) {
        debug_assert!(self.open.is_empty(), "the files were closed before they were removed");
        self.zero_from = Some(end);
    }

    /// Zeroes everything from `cut` on and makes that durable (H2), unless it is known to be so: later segments are removed from
    /// the last one down, so that a crash in between leaves a log that is merely shorter.
    pub fn cut(&mut self, cut: Lsn) -> io::Result<()> {
        if self.zero_from.is_some_and(|zero_from| zero_from <= cut) {
            return Ok(());
        }
        self.close().map_err(io::Error::other)?; // what is staged below the cut stays
        self.zero_from = None;
        let size = self.folder.segment_size_bytes();
        let first = cut.segment_number(size);
        self.folder.forget_ahead(first);
        for number in self.folder.numbers()?.into_iter().rev().filter(|number| *number > first) {
            fs::remove_file(self.folder.segment_path(number))?;
        }
        if self.folder.syncs() {
            durable_file::sync_folder(self.folder.path())?;
        }
        if self.folder.segment_path(first).exists() {
            self.zero_segment(first, cut.segment_offset(size))?;
        }
        self.zero_from = Some(cut);
        Ok(())
    }

    /// Through the page cache, which is clean again on return.
    fn zero_segment(&self, number: u64, from: u64) -> io::Result<()> {
        let size = self.folder.segment_size_bytes();
        let file = OpenOptions::new().write(true).read(true).open(self.folder.segment_path(number))?;
        let mut piece = vec![0; ZERO_STEP_BYTES];
        let mut offset = from;
        while offset < size {
            let count = (size - offset).min(ZERO_STEP_BYTES as u64 - offset % ZERO_STEP_BYTES as u64) as usize;
            file.read_exact_at(&mut piece[..count], offset)?;
            if piece[..count].iter().any(|byte| *byte != 0) {
                piece[..count].fill(0);
                file.write_all_at(&piece[..count], offset)?;
            }
            offset += count as u64;
        }
        if self.folder.syncs() { file.sync_data() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
