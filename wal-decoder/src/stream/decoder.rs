//! The stream decoder.

use super::{
    Record, StreamError, StreamErrorKind, is_valid_segment_size,
    page_header::{Expected, FLAG_OVERWRITE_CONTINUATION, PageHeader},
    record_crc,
};
use crate::{
    record::{HEADER_SIZE, MAX_RECORD_SIZE},
    v17::rmgr,
};
use bytes::{Buf, Bytes};
use ogel_ids::{Lsn, PAGE_HEADER_LONG, WAL_PAGE_SIZE};
use std::collections::VecDeque;

/// No position beyond this is handled, so that no addition to one can overflow.
const MAX_POSITION: u64 = 1 << 63;

#[derive(Debug)]
enum State {
    /// A page start, perhaps inside a record whose beginning is not known.
    Seeking,
    /// What is left on this page of the record whose beginning is not known, alignment included.
    SkippingTail { left: u64 },
    /// The next byte begins a record, or the header of the page on which it begins.
    Between,
    /// `assembled` holds the first bytes of the record that began at `start`.
    InRecord { start: Lsn },
    /// The record is whole, but bytes up to its end (alignment, or the rest of the segment after a switch) are still to come.
    Padding { record: Record },
    /// Nothing further can be said.
    Failed(StreamError),
}

/// What a state made of the bytes that are here.
enum Step {
    /// Something changed: look again.
    Again,
    /// More bytes are needed.
    Starved,
    /// A record.
    Yield(Record),
}

/// Turns WAL bytes into records. Records that lie within one chunk and one page are slices of the chunk; others are copied.
///
/// Invariants: `last_good_end ≤ position ≤ fed_until`; `assembled` is empty unless a record is incomplete; it never holds more than was fed.
#[derive(Debug)]
pub struct StreamDecoder {
    segment_size: u32,
    system_id: Option<u64>,
    state: State,
    /// What was consumed, in LSNs; a page header counts when it is whole.
    position: Lsn,
    fed_until: Lsn,
    chunks: VecDeque<Bytes>,
    assembled: Vec<u8>,
    header: [u8; PAGE_HEADER_LONG as usize],
    header_length: usize,
    last_good_end: Lsn,
    last_record_start: Option<Lsn>,
    /// An incomplete record that a page has just given up: the next record must say the same.
    overwritten: Option<Lsn>,
}

impl StreamDecoder {
    /// Starts at a record boundary. At a bare page boundary the page's header is fed too; just behind a header it is not.
    /// `system_id`: `None` takes that of the first long header.
    pub fn new(start: Lsn, segment_size: u32, system_id: Option<u64>) -> Result<Self, StreamError> {
        let fail = |kind| Err(StreamError { at: start, kind });
        if !is_valid_segment_size(segment_size) {
            return fail(StreamErrorKind::SegmentSizeInvalid(segment_size));
        }
        if start.0 >= MAX_POSITION {
            return fail(StreamErrorKind::TooFar);
        }
        let page_start = Lsn(start.0 - start.page_offset());
        let header_size = PageHeader::size_at(page_start, segment_size) as u64;
        if !start.0.is_multiple_of(8) || (1..header_size).contains(&start.page_offset()) {
            return fail(StreamErrorKind::Start);
        }
        Ok(Self {
            segment_size,
            system_id,
            state: State::Between,
            position: start,
            fed_until: start,
            chunks: VecDeque::new(),
            assembled: Vec::new(),
            header: [0; PAGE_HEADER_LONG as usize],
            header_length: 0,
            last_good_end: start,
            last_record_start: None,
            overwritten: None,
        })
    }

    /// Starts at a page that may begin inside a record, and yields the first record that begins on or behind it.
    /// Until then [`StreamDecoder::last_good_end`] is the page's start.
    pub fn find_first(page_start: Lsn, segment_size: u32, system_id: Option<u64>) -> Result<Self, StreamError> {
        if page_start.page_offset() != 0 {
            return Err(StreamError { at: page_start, kind: StreamErrorKind::Start });
        }
        let decoder = Self::new(page_start, segment_size, system_id)?;
        Ok(Self { state: State::Seeking, ..decoder })
    }

    /// The start of the record before the first one is known, so that the first one's `xl_prev` is checked like all others.
    pub fn with_prev(mut self, prev: Lsn) -> Self {
        self.last_record_start = Some(prev);
        self
    }

    /// The next bytes. Without copying: the chunk is kept until its records are consumed.
    pub fn feed(&mut self, chunk: Bytes) {
        if chunk.len() as u64 > MAX_POSITION - self.fed_until.0 {
            let error = StreamError { at: self.fed_until, kind: StreamErrorKind::TooFar };
            self.state = State::Failed(error);
            return;
        }
        self.fed_until.0 += chunk.len() as u64;
        if !chunk.is_empty() && !matches!(self.state, State::Failed(_)) {
            self.chunks.push_back(chunk);
        }
    }

    /// [`StreamDecoder::feed`] for bytes that are not [`Bytes`]; copies them.
    pub fn feed_slice(&mut self, chunk: &[u8]) {
        self.feed(Bytes::copy_from_slice(chunk));
    }

    /// End of the last whole record, or where the decoder began: up to here the WAL is good, whatever follows. This is the flush boundary.
    pub const fn last_good_end(&self) -> Lsn {
        self.last_good_end
    }

    /// Start of the last whole record: the `xl_prev` of the next one.
    pub const fn last_record_start(&self) -> Option<Lsn> {
        self.last_record_start
    }

    /// End of what was fed.
    pub const fn fed_until(&self) -> Lsn {
        self.fed_until
    }

    /// The system identifier, once it is known.
    pub const fn system_id(&self) -> Option<u64> {
        self.system_id
    }

    /// Consumes all whole records and returns [`StreamDecoder::last_good_end`].
    pub fn skip_to_boundary(&mut self) -> Result<Lsn, StreamError> {
        while self.next_record()?.is_some() {}
        Ok(self.last_good_end)
    }

    /// The next whole record; `None` when more bytes are needed. After an error every call returns that error.
    pub fn next_record(&mut self) -> Result<Option<Record>, StreamError> {
        let result = self.advance();
        if let Err(error) = &result {
            self.state = State::Failed(error.clone());
            self.chunks.clear();
            self.assembled = Vec::new();
        }
        result
    }

    fn advance(&mut self) -> Result<Option<Record>, StreamError> {
        loop {
            let step = match std::mem::replace(&mut self.state, State::Between) {
                State::Failed(error) => return Err(error),
                State::Seeking => self.seek()?,
                State::SkippingTail { left } => self.skip_tail(left),
                State::Between if self.position.page_offset() == 0 => self.begin_page()?,
                State::Between => self.begin_record()?,
                State::InRecord { start } => self.assemble(start)?,
                State::Padding { record } => self.pad(record),
            };
            match step {
                Step::Again => {}
                Step::Starved => return Ok(None),
                Step::Yield(record) => {
                    self.last_good_end = record.end;
                    self.last_record_start = Some(record.start);
                    return Ok(Some(record));
                }
            }
        }
    }

    fn error<T>(at: Lsn, kind: StreamErrorKind) -> Result<T, StreamError> {
        Err(StreamError { at, kind })
    }

    fn available(&self) -> usize {
        self.chunks.front().map_or(0, Bytes::len)
    }

    const fn left_on_page(&self) -> u64 {
        WAL_PAGE_SIZE - self.position.page_offset()
    }

    /// Removes bytes of the first chunk without moving the position.
    fn drop_front(&mut self, count: usize) {
        if let Some(front) = self.chunks.front_mut() {
            front.advance(count);
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    /// Steps over at most `count` bytes and returns over how many.
    fn skip(&mut self, count: u64) -> u64 {
        let mut left = count;
        while left > 0 && self.available() > 0 {
            let step = left.min(self.available() as u64);
            self.drop_front(step as usize);
            left -= step;
        }
        self.position.0 += count - left;
        count - left
    }

    /// The header of the page that begins at the position, once all of it is here; the position is behind it then.
    fn page_header(&mut self) -> Result<Option<PageHeader>, StreamError> {
        let address = self.position;
        let size = PageHeader::size_at(address, self.segment_size);
        while self.header_length < size {
            let Some(chunk) = self.chunks.front() else { return Ok(None) };
            let step = chunk.len().min(size - self.header_length);
            self.header[self.header_length..self.header_length + step].copy_from_slice(&chunk[..step]);
            self.header_length += step;
            self.drop_front(step);
        }
        self.header_length = 0;
        let expected = Expected { address, segment_size: self.segment_size, system_id: self.system_id };
        let header =
            PageHeader::parse(&self.header[..size], expected).map_err(|kind| StreamError { at: address, kind })?;
        self.system_id = self.system_id.or(header.system_id);
        self.position.0 += size as u64;
        Ok(Some(header))
    }

    fn begin_page(&mut self) -> Result<Step, StreamError> {
        let address = self.position;
        match self.page_header()? {
            None => Ok(Step::Starved),
            Some(header) if header.continues() => Self::error(address, StreamErrorKind::UnexpectedContinuation),
            Some(_) => Ok(Step::Again),
        }
    }

    /// As `XLogFindNextRecord`: pages that hold nothing but the middle of a record are passed over whole.
    fn seek(&mut self) -> Result<Step, StreamError> {
        self.state = State::Seeking;
        let Some(header) = self.page_header()? else { return Ok(Step::Starved) };
        let remaining = if header.continues() { u64::from(header.remaining) } else { 0 };
        self.state = State::SkippingTail { left: remaining.next_multiple_of(8).min(self.left_on_page()) };
        Ok(Step::Again)
    }

    fn skip_tail(&mut self, left: u64) -> Step {
        let skipped = self.skip(left);
        if skipped < left {
            self.state = State::SkippingTail { left: left - skipped };
            return Step::Starved;
        }
        if self.position.page_offset() == 0 {
            self.state = State::Seeking;
        } else {
            self.last_good_end = self.position;
        }
        Step::Again
    }

    /// Takes a record out of the first chunk when all of it is there and on this page, else begins to assemble it.
    fn begin_record(&mut self) -> Result<Step, StreamError> {
        let start = self.position;
        let left_on_page = self.left_on_page();
        let Some(chunk) = self.chunks.front_mut() else { return Ok(Step::Starved) };
        if let Some(&length) = chunk.first_chunk() {
            let length = u32::from_le_bytes(length);
            check_length(length, start)?;
            let aligned = (length as usize).next_multiple_of(8);
            if aligned as u64 <= left_on_page && aligned <= chunk.len() {
                let bytes = chunk.split_to(length as usize);
                self.position.0 += u64::from(length);
                if self.available() == 0 {
                    self.chunks.pop_front();
                }
                return self.finish(start, bytes);
            }
        }
        self.state = State::InRecord { start };
        Ok(Step::Again)
    }

    /// Moves bytes from the chunks to `assembled`, up to the next thing that has to be looked at.
    fn assemble(&mut self, start: Lsn) -> Result<Step, StreamError> {
        self.state = State::InRecord { start };
        if self.position.page_offset() == 0 {
            return self.continue_on_page(start);
        }
        let wanted = match self.assembled.first_chunk() {
            None => 4,
            Some(&length) => u32::from_le_bytes(length) as usize,
        };
        // The header is looked at as soon as it is whole: garbage must not keep a reader waiting for a gigabyte.
        let wanted = if self.assembled.len() < HEADER_SIZE { wanted.min(HEADER_SIZE) } else { wanted };
        let left_on_page = self.left_on_page() as usize;
        let Some(chunk) = self.chunks.front() else { return Ok(Step::Starved) };
        let step = chunk.len().min(wanted - self.assembled.len()).min(left_on_page);
        self.assembled.extend_from_slice(&chunk[..step]);
        self.drop_front(step);
        self.position.0 += step as u64;
        if self.assembled.len() < wanted {
            return Ok(Step::Again);
        }
        let length = self.assembled.first_chunk().map_or(0, |&length| u32::from_le_bytes(length));
        if wanted == 4 {
            check_length(length, start)?;
        } else if wanted == HEADER_SIZE {
            self.check_header(start, &self.assembled)?;
        }
        if wanted == length as usize {
            let bytes = Bytes::from(std::mem::take(&mut self.assembled));
            return self.finish(start, bytes);
        }
        Ok(Step::Again)
    }

    fn continue_on_page(&mut self, start: Lsn) -> Result<Step, StreamError> {
        let address = self.position;
        let Some(header) = self.page_header()? else { return Ok(Step::Starved) };
        if header.flags & FLAG_OVERWRITE_CONTINUATION != 0 && !header.continues() {
            self.assembled.clear();
            self.overwritten = Some(start);
            self.state = State::Between;
            return Ok(Step::Again);
        }
        // A record begins at a multiple of 8, so its length is always on its first page.
        let length = self.assembled.first_chunk().map_or(0, |&length| u32::from_le_bytes(length));
        let expected = length - self.assembled.len() as u32;
        let got = if header.continues() { header.remaining } else { 0 };
        if got != expected {
            return Self::error(address, StreamErrorKind::Continuation { expected, got });
        }
        Ok(Step::Again)
    }

    fn check_header(&self, start: Lsn, bytes: &[u8]) -> Result<(), StreamError> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_SIZE>() else { return Ok(()) };
        let rmid = header[17];
        if rmid > rmgr::MAX_BUILTIN && rmid < rmgr::MIN_CUSTOM {
            return Self::error(start, StreamErrorKind::ResourceManager(rmid));
        }
        let prev = previous(header);
        match self.last_record_start {
            Some(expected) if prev != expected => Self::error(start, StreamErrorKind::Previous { expected, got: prev }),
            None if prev >= start => Self::error(start, StreamErrorKind::Previous { expected: start, got: prev }),
            _ => Ok(()),
        }
    }

    /// The record is whole. Its end is reached when the alignment behind it is here too, for a switch the rest of the segment.
    fn finish(&mut self, start: Lsn, bytes: Bytes) -> Result<Step, StreamError> {
        self.check_header(start, &bytes)?;
        let (Some(header), Some(stored)) = (bytes.first_chunk(), bytes.get(20..).and_then(|crc| crc.first_chunk()))
        else {
            return Self::error(start, StreamErrorKind::Length(bytes.len() as u32));
        };
        let (expected, got) = (u32::from_le_bytes(*stored), record_crc(&bytes));
        if got != expected {
            return Self::error(start, StreamErrorKind::Checksum { expected, got });
        }
        let mut record = Record { start, end: self.position.align(), prev: previous(header), bytes };
        if let Some(overwritten) = self.overwritten.take() {
            check_overwrite(&record, overwritten)?;
        }
        if record.rmid() == rmgr::XLOG && record.info() & 0xf0 == rmgr::xlog::SWITCH {
            record.end = Lsn(record.end.0.next_multiple_of(u64::from(self.segment_size)));
        }
        Ok(self.pad(record))
    }

    fn pad(&mut self, record: Record) -> Step {
        self.skip(record.end.bytes_since(self.position));
        if self.position == record.end {
            self.state = State::Between;
            return Step::Yield(record);
        }
        self.state = State::Padding { record };
        Step::Starved
    }
}

fn previous(header: &[u8; HEADER_SIZE]) -> Lsn {
    header[8..].first_chunk().map_or(Lsn::INVALID, |bytes| Lsn(u64::from_le_bytes(*bytes)))
}

fn check_length(length: u32, start: Lsn) -> Result<(), StreamError> {
    match length {
        0 => Err(StreamError { at: start, kind: StreamErrorKind::ZeroTail }),
        _ if length < HEADER_SIZE as u32 || length > MAX_RECORD_SIZE => {
            Err(StreamError { at: start, kind: StreamErrorKind::Length(length) })
        }
        _ => Ok(()),
    }
}

fn check_overwrite(record: &Record, overwritten: Lsn) -> Result<(), StreamError> {
    let is_overwrite = record.rmid() == rmgr::XLOG && record.info() & 0xf0 == rmgr::xlog::OVERWRITE_CONTRECORD;
    // The main data (overwritten LSN, time) is the record's tail.
    let named = record.bytes.len().checked_sub(16).and_then(|at| record.bytes.get(at..)?.first_chunk());
    if is_overwrite && named.is_some_and(|bytes| Lsn(u64::from_le_bytes(*bytes)) == overwritten) {
        return Ok(());
    }
    Err(StreamError { at: record.start, kind: StreamErrorKind::Overwrite(overwritten) })
}
