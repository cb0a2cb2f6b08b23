//! The checked-in WAL samples (patched PostgreSQL 17.11, made by `coverage/run.sh` of the script of the same name).

use bytes::Bytes;
use ogel_ids::Lsn;
use std::io::Read;
use wal_decoder::stream::StreamDecoder;

const SEGMENT_SIZE: u32 = 1 << 20;

pub fn read(name: &str) -> Bytes {
    let path = format!("{}/tests/data/{name}.wal.zst", env!("CARGO_MANIFEST_DIR"));
    let mut decoder = zstd::Decoder::new(std::fs::File::open(path).expect("sample")).expect("zstd");
    decoder.window_log_max(27).expect("window");
    let mut wal = Vec::new();
    decoder.read_to_end(&mut wal).expect("decompress");
    Bytes::from(wal)
}

/// Behind the whole of a sample.
pub fn decoder(wal: &Bytes) -> StreamDecoder {
    let start = Lsn(u64::from_le_bytes(wal[8..16].try_into().expect("page address")));
    let mut decoder = StreamDecoder::find_first(start, SEGMENT_SIZE, None).expect("decoder");
    decoder.feed(wal.clone());
    decoder
}
