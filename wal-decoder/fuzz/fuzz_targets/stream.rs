//! Arbitrary bytes as WAL: errors, never a panic. Input: u8 chunk length, then WAL from a page start on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ogel_ids::Lsn;
use wal_decoder::stream::StreamDecoder;

const SEGMENT_SIZE: u32 = 1 << 20;
const PAGE_SIZE: u64 = 8192;

fuzz_target!(|input: &[u8]| {
    let [chunk, wal @ ..] = input else { return };
    let Some(address) = wal.get(8..16).and_then(|bytes| bytes.try_into().ok()) else { return };
    let start = Lsn(u64::from_le_bytes(address) / PAGE_SIZE * PAGE_SIZE);
    let Ok(mut decoder) = StreamDecoder::find_first(start, SEGMENT_SIZE, None) else { return };
    let (mut last, mut yielded) = (start, 0);
    for piece in wal.chunks(usize::from(*chunk) * 16 + 1) {
        decoder.feed_slice(piece);
        while let Ok(Some(record)) = decoder.next_record() {
            assert!(record.start >= last && record.end > record.start, "records overlap");
            last = record.end;
            yielded += record.bytes.len();
        }
    }
    assert!(yielded <= wal.len(), "more than was fed");
});
