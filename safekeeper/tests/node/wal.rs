//! Real WAL records with random content.

use ogel_ids::Lsn;
use wal_decoder::{
    stream::StreamDecoder,
    writer::{AppendAt, RecordContent, append_record},
};

/// The smallest that PostgreSQL has: the tests cross segments often.
pub const SEGMENT_SIZE: u32 = 1 << 20;
pub const SYSTEM_ID: u64 = 7_300_000_000_000_000_001;
/// The log begins with this segment.
const FIRST: Lsn = Lsn(0x100_0000);

/// A log that grows; its beginning is the timeline's creation.
#[derive(Clone)]
pub struct Wal {
    bytes: Vec<u8>,
    at: AppendAt,
    start: Lsn,
    content: u64,
}

impl Wal {
    /// A few records before the timeline's start.
    pub fn new() -> Self {
        let at =
            AppendAt { end: FIRST, prev: Lsn(0), system_id: SYSTEM_ID, segment_size: SEGMENT_SIZE, timeline_id: 1 };
        let mut wal = Self { bytes: Vec::new(), at, start: FIRST, content: 1 };
        for _ in 0..3 {
            wal.append(3000);
        }
        wal.start = wal.end();
        wal
    }

    /// The same log up to here, which goes on with other content.
    pub fn fork(&self, content: u64) -> Self {
        Self { content, ..self.clone() }
    }

    /// Appends a record (`XLOG_NOOP`) and returns its bytes.
    pub fn append(&mut self, length: usize) -> Vec<u8> {
        let data: Vec<u8> = (0..length)
            .map(|_| {
                self.content =
                    self.content.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (self.content >> 56) as u8
            })
            .collect();
        let content = RecordContent { rmid: 0, info: 0x20, xid: 0, main_data: &data };
        let appended = append_record(&self.at, &content).unwrap();
        (self.at.end, self.at.prev) = (appended.end, appended.start);
        self.bytes.extend(&appended.bytes);
        appended.bytes
    }

    /// The same log as if the timeline began at its end.
    pub fn restarted(mut self) -> Self {
        self.start = self.end();
        self
    }

    /// Goes on from an earlier end of a record, with other content.
    pub fn cut_at(&mut self, end: Lsn) {
        let mut decoder = StreamDecoder::find_first(FIRST, SEGMENT_SIZE, None).unwrap();
        decoder.feed_slice(self.range(FIRST, end));
        assert_eq!(decoder.skip_to_boundary().unwrap(), end);
        self.bytes.truncate(end.bytes_since(FIRST) as usize);
        (self.at.end, self.at.prev) = (end, decoder.last_record_start().unwrap());
    }

    pub fn damage_prefix(&mut self, at: usize) {
        self.bytes[at] ^= 1;
    }

    pub fn start(&self) -> Lsn {
        self.start
    }

    pub fn end(&self) -> Lsn {
        self.at.end
    }

    pub fn first() -> Lsn {
        FIRST
    }

    /// From the start of the first segment to the timeline's start.
    pub fn prefix(&self) -> &[u8] {
        self.range(FIRST, self.start)
    }

    pub fn range(&self, from: Lsn, to: Lsn) -> &[u8] {
        &self.bytes[from.bytes_since(FIRST) as usize..to.bytes_since(FIRST) as usize]
    }
}
