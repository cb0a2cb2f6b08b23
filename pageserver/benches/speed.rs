//! Read and ingest speeds: `cargo bench -p pageserver` (`make bench-pageserver` adds stock PostgreSQL's redo of the same WAL).
//!
//! Pages come over TCP from a pageserver in this process, beside a bare echo server that answers 8 KiB to each request and batches alike; both are
//! asked by the same kind of client in the same run, so that the ratio counts, not the figure. Each figure is the best of several rounds: what
//! else runs on the machine can only slow a round down.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "a bench reads files and the clock")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes};
use ogel_ids::Lsn;
use ogel_service::Shutdown;
use support::{
    FakeSafekeeper, PageClient, SEGMENT, Server, TENANT, TIMELINE, put_rel, template,
    wal_writer::{WalWriter, rel},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use wal_decoder::{key::PAGE_SIZE, stream::StreamDecoder, v17::rmgr, writer};

const ROUNDS: usize = 5;
const RELATION: u32 = 50_000;
const BLOCKS: u32 = 4096;
/// Records on each page behind the one that makes it.
const DELTAS: u16 = 20;
const TURNS: usize = 5000;
const DEPTH: usize = 64;
/// As long as a request for a page.
const REQUEST_BYTES: usize = 49;

#[tokio::main]
async fn main() {
    let Some(template) = template() else { return };
    if let Ok(folder) = std::env::var("OGEL_BENCH_WAL") {
        return ingest(Path::new(&folder), &template).await;
    }
    let echo = start_echo().await;
    let echo_1 = best_latency(async || time_echo(&echo, TURNS).await).await;
    let echo_64 = best_rate(async || echo_rate(&echo, TURNS / DEPTH * 4).await).await;
    println!("bare echo of 8 KiB       p50 {echo_1:>8.1} µs, depth {DEPTH}: {echo_64:>9.0} pages/s");
    for (name, cache_mb, bounds) in [("page cache", "256", (2.0, 0.5)), ("20 deltas each", "1", (f64::INFINITY, 0.3))] {
        let folder = tempfile::tempdir().unwrap();
        let server = pages_in_memory(folder.path(), &template, cache_mb).await;
        let mut client = server.pagestream(1).await;
        for block in 0..BLOCKS {
            ask(&mut client, block);
            client.answer().await; // fills the page cache, when it is large enough
        }
        let p50 = best_latency(async || time_pages(&server).await).await;
        let rate = best_rate(async || pages_rate(&server).await).await;
        println!(
            "pages, {name:<17} p50 {p50:>8.1} µs ({:.2} × echo, bound {}), depth {DEPTH}: {rate:>9.0} pages/s ({:.2} × echo, bound {})",
            p50 / echo_1,
            bounds.0,
            rate / echo_64,
            bounds.1
        );
        server.stop().await;
    }
}

async fn best_latency(mut round: impl AsyncFnMut() -> Vec<Duration>) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let mut times = round().await;
        times.sort_unstable();
        best = best.min(times[times.len() / 2].as_secs_f64() * 1e6);
    }
    best
}

async fn best_rate(mut round: impl AsyncFnMut() -> f64) -> f64 {
    let mut best: f64 = 0.0;
    for _ in 0..ROUNDS {
        best = best.max(round().await);
    }
    best
}

/// Answers 8 KiB to each request; what has arrived together is answered by one write.
async fn start_echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let (mut requests, mut held) = (vec![0; 64 << 10], 0);
                let answers = vec![0x5a; DEPTH * PAGE_SIZE];
                while let Ok(count @ 1..) = stream.read(&mut requests).await {
                    held += count;
                    let asked = (held / REQUEST_BYTES).min(DEPTH);
                    held -= asked * REQUEST_BYTES;
                    if stream.write_all(&answers[..asked * PAGE_SIZE]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn time_echo(address: &str, turns: usize) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (request, mut page) = ([0; REQUEST_BYTES], [0; PAGE_SIZE]);
    let mut times = Vec::with_capacity(turns);
    for _ in 0..turns {
        let began = Instant::now();
        stream.write_all(&request).await.unwrap();
        stream.read_exact(&mut page).await.unwrap();
        times.push(began.elapsed());
    }
    times
}

async fn echo_rate(address: &str, turns: usize) -> f64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (requests, mut pages) = (vec![0; DEPTH * REQUEST_BYTES], vec![0; DEPTH * PAGE_SIZE]);
    let began = Instant::now();
    for _ in 0..turns {
        stream.write_all(&requests).await.unwrap();
        stream.read_exact(&mut pages).await.unwrap();
    }
    (turns * DEPTH) as f64 / began.elapsed().as_secs_f64()
}

fn ask(client: &mut PageClient, block: u32) {
    client.ask(3, u64::from(block), (Lsn::MAX, Lsn(0)), |out| {
        put_rel(rel(RELATION), out);
        out.put_u16(1);
        out.put_u32(block);
    });
}

/// Blocks in an order without locality.
fn scattered(turn: usize) -> u32 {
    (turn as u32).wrapping_mul(2_654_435_761) % BLOCKS
}

async fn time_pages(server: &Server) -> Vec<Duration> {
    let mut client = server.pagestream(1).await;
    let mut times = Vec::with_capacity(TURNS);
    for turn in 0..TURNS {
        let began = Instant::now();
        ask(&mut client, scattered(turn));
        assert_eq!(client.answer().await.tag, 103);
        times.push(began.elapsed());
    }
    times
}

async fn pages_rate(server: &Server) -> f64 {
    let mut client = server.pagestream(1).await;
    let turns = TURNS / DEPTH * 4;
    let began = Instant::now();
    for turn in 0..turns {
        (0..DEPTH).for_each(|number| ask(&mut client, scattered(turn * DEPTH + number)));
        for _ in 0..DEPTH {
            assert_eq!(client.answer().await.tag, 103);
        }
    }
    (turns * DEPTH) as f64 / began.elapsed().as_secs_f64()
}

/// A pageserver whose open layer holds the relation: each page made by one insertion, and [`DELTAS`] more on it.
async fn pages_in_memory(folder: &Path, template: &str, cache_mb: &str) -> Server {
    let safekeeper = FakeSafekeeper::start(Default::default()).await;
    let settings = ["--freeze-size-mb", "4096", "--freeze-wal-mb", "65536", "--open-layers-mb", "8192"];
    let settings = [&settings[..], &["--page-cache-mb", cache_mb]].concat();
    let server = Server::start(folder, template, &[&safekeeper.address], &settings).await;
    let (timeline, _) = server.pageserver.create(TENANT, TIMELINE).await.unwrap();
    let mut wal = WalWriter::behind(&server);
    let mut bytes = Vec::new();
    for number in 1..=DELTAS + 1 {
        for block in 0..BLOCKS {
            let record = insertion(wal.at.prev, block, number);
            let appended = writer::append_encoded(&wal.at, &record).unwrap();
            (wal.at.prev, wal.at.end) = (appended.start, appended.end);
            bytes.extend(appended.bytes);
        }
    }
    safekeeper.change(|state| {
        state.start = timeline.start_lsn;
        state.terms = vec![(1, timeline.start_lsn)];
        state.bytes = bytes;
    });
    server.wait_for(wal.at.end, 1).await;
    server
}

/// A record that inserts a tuple of 100 bytes at a line pointer; the first one on a page makes the page.
fn insertion(prev: Lsn, block: u32, line: u16) -> Vec<u8> {
    const INIT_PAGE: u8 = 0x80;
    let mut data = vec![2, 0, 2, 8, 24, 0]; // infomask2, infomask, hoff, padding
    data.extend([0x61; 100]);
    let mut body = vec![0, 0x20 | if line == 1 { 0x40 } else { 0 }]; // block 0: main fork, has data, perhaps will-init
    body.extend((data.len() as u16).to_le_bytes());
    [1663, 5, RELATION, block].into_iter().for_each(|number| body.extend(number.to_le_bytes()));
    body.extend([255, 3]); // main data of 3 bytes
    body.extend(data);
    body.extend(line.to_le_bytes());
    body.push(0);
    let mut record = Vec::with_capacity(24 + body.len());
    record.extend((24 + body.len() as u32).to_le_bytes());
    record.extend(700_u32.to_le_bytes());
    record.extend(prev.0.to_le_bytes());
    record.extend([if line == 1 { INIT_PAGE } else { 0 }, rmgr::HEAP, 0, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
    record.extend(checksum.to_le_bytes());
    record.extend(body);
    record
}

/// Segment files from the start of the segment of `start` on, up to the end of the last record.
fn wal_from(folder: &Path, start: Lsn) -> Vec<u8> {
    let size = u64::from(SEGMENT);
    let first = start.segment_start(size);
    let mut bytes = Vec::new();
    while let Ok(segment) = std::fs::read(folder.join(Lsn(first.0 + bytes.len() as u64).segment_file_name(size))) {
        bytes.extend(segment);
    }
    assert!(!bytes.is_empty(), "{} has no segment {}", folder.display(), first.segment_file_name(size));
    let mut decoder = StreamDecoder::new(start, SEGMENT, None).unwrap();
    decoder.feed(Bytes::from(bytes[start.segment_offset(size) as usize..].to_vec()));
    while let Ok(Some(_)) = decoder.next_record() {}
    bytes.truncate((decoder.last_good_end().0 - first.0) as usize);
    bytes
}

/// From the safekeeper's wire to layer files, of the WAL in this folder, which goes on where the template's ends.
async fn ingest(folder: &Path, template: &str) {
    let mut best = f64::INFINITY;
    let mut ingested_bytes = 0;
    for _ in 0..ROUNDS.min(3) {
        let data = tempfile::tempdir().unwrap();
        let safekeeper = FakeSafekeeper::start(Default::default()).await;
        let server = Server::start(data.path(), template, &[&safekeeper.address], &[]).await;
        let (timeline, _) = server.pageserver.create(TENANT, TIMELINE).await.unwrap();
        let start = timeline.start_lsn;
        let mut wal = wal_from(folder, start);
        let first_segment = start.segment_start(u64::from(SEGMENT));
        writer::rewrite_system_identifier(&mut wal, first_segment, SEGMENT, timeline.system_identifier).unwrap();
        wal.drain(..start.segment_offset(u64::from(SEGMENT)) as usize);
        ingested_bytes = wal.len();
        let end = Lsn(start.0 + wal.len() as u64);
        safekeeper.change(|state| (state.start, state.bytes) = (start, wal));
        let began = Instant::now();
        safekeeper.change(|state| state.terms = vec![(1, start)]);
        server.wait_for(end, 1).await;
        timeline.checkpoint(Duration::from_secs(600), &Shutdown::new()).await.unwrap();
        best = best.min(began.elapsed().as_secs_f64());
        server.stop().await;
    }
    println!("ingest and flush         {:>8.0} MB/s ({} MB)", ingested_bytes as f64 / best / 1e6, ingested_bytes >> 20);
}
