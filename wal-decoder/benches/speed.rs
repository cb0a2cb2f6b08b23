//! Speeds of decoding and redo as ratios to a memcpy of one page: `cargo bench -p wal-decoder`.
//!
//! `OGEL_BENCH_WAL=DIR` (segment files, or a data directory) takes the WAL from there; else it is the checked-in sample. The hash of the WAL
//! is printed, because only runs over the same bytes compare. Each figure is the best of several rounds: what else runs on the machine can
//! only slow a round down.

#![allow(clippy::disallowed_methods, reason = "a bench reads files and the clock")]

use bytes::Bytes;
use ogel_ids::Lsn;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::HashMap,
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};
use wal_decoder::{
    checkpoint_state::CheckpointState,
    delta::DeltaView,
    effect::{Effect, Version},
    interpret::Interpreter,
    key::{PAGE_SIZE, Page},
    redo::{self, PageRef},
    stream::StreamDecoder,
    v17::rmgr,
};

const ROUNDS: u32 = 7;
/// The sample is small: it is decoded so often that a round takes long enough to be measured.
const MIN_ROUND_BYTES: usize = 200 << 20;
/// WAL read into memory at most.
const MAX_WAL_BYTES: usize = 4 << 30;
/// Deltas of a chain that is rebuilt.
const CHAIN_LENGTH: usize = 100;

/// Counts allocations: there shall be none per record or delta.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Consecutive segments.
struct Wal {
    start: Lsn,
    segment_size: u32,
    segments: Vec<Bytes>,
}

impl Wal {
    fn load() -> Wal {
        let segments: Vec<Bytes> = match std::env::var_os("OGEL_BENCH_WAL") {
            Some(dir) => {
                segment_files(Path::new(&dir)).iter().map(|path| fs::read(path).expect("segment").into()).collect()
            }
            None => {
                let sample =
                    fs::read(sample("../tests/data/pg17_segments_1mib_from_0-600000.wal.zst")).expect("sample");
                let wal = Bytes::from(zstd::decode_all(sample.as_slice()).expect("zstd"));
                (0..wal.len()).step_by(1 << 20).map(|at| wal.slice(at..wal.len().min(at + (1 << 20)))).collect()
            }
        };
        Wal::of(segments)
    }

    fn of(segments: Vec<Bytes>) -> Wal {
        let first = segments.first().expect("at least one segment");
        let start = Lsn(u64::from_le_bytes(first[8..16].try_into().expect("page address")));
        let segment_size = u32::from_le_bytes(first[32..36].try_into().expect("segment size"));
        Wal { start, segment_size, segments }
    }

    fn len(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    /// Decodes everything; returns the number of records and the bytes up to the last one.
    fn interpret(&self, mut sink: impl FnMut(Lsn, Effect<'_>)) -> (u64, u64) {
        let mut decoder = StreamDecoder::find_first(self.start, self.segment_size, None).expect("decoder");
        let mut interpreter = Interpreter::new(CheckpointState::default());
        let (mut records, mut last) = (0, self.start);
        for segment in &self.segments {
            decoder.feed(segment.clone());
            // An error here is the end of WAL: segments are recycled files.
            while let Ok(Some(record)) = decoder.next_record() {
                let end = record.end;
                interpreter.interpret(&record, &mut |effect: Effect<'_>| sink(end, effect)).expect("good WAL");
                (records, last) = (records + 1, end);
            }
        }
        (records, last.0 - self.start.0)
    }
}

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(name)
}

/// At most [`MAX_WAL_BYTES`] of segment files, in order.
fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let inner = dir.join("pg_wal");
    let is_segment = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 24);
    let entries = fs::read_dir(if inner.is_dir() { &inner } else { dir }).expect("OGEL_BENCH_WAL names a folder");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("entry").path()).filter(is_segment).collect();
    files.sort();
    let size = files.first().map_or(1, |file| fs::metadata(file).expect("segment").len().max(1));
    files.truncate((MAX_WAL_BYTES as u64 / size) as usize);
    files
}

/// The shortest of several rounds.
fn best(mut round: impl FnMut()) -> Duration {
    let timed = |_| {
        let started = Instant::now();
        round();
        started.elapsed()
    };
    (0..ROUNDS).map(timed).min().unwrap_or_default()
}

fn memcpy_ns() -> f64 {
    const TURNS: u32 = 200_000;
    let from = [1_u8; PAGE_SIZE];
    let mut to = [0_u8; PAGE_SIZE];
    let time = best(|| {
        for _ in 0..TURNS {
            black_box(&mut to).copy_from_slice(black_box(&from));
        }
    });
    time.as_nanos() as f64 / f64::from(TURNS)
}

fn decode(wal: &Wal) {
    let turns = MIN_ROUND_BYTES.div_ceil(wal.len());
    let (mut effects, mut counted) = (0_u64, (0, 0));
    let before = ALLOCATIONS.load(Relaxed);
    let time = best(|| {
        for _ in 0..turns {
            counted = wal.interpret(|_, effect| {
                black_box(&effect);
                effects += 1;
            });
        }
    });
    let (records, bytes) = counted;
    let allocations = (ALLOCATIONS.load(Relaxed) - before) as f64 / f64::from(ROUNDS) / (turns as u64 * records) as f64;
    let seconds = time.as_secs_f64() / turns as f64;
    println!(
        "decode and effects       {:>8.0} MB/s, {:.0} ns per record",
        bytes as f64 / seconds / 1e6,
        seconds * 1e9 / records as f64
    );
    println!("                         {records} records, {allocations:.3} allocations per record");
}

/// A page and the deltas that follow each other on it.
struct Chain {
    at: PageRef,
    page: Box<Page>,
    deltas: Vec<(Lsn, Vec<u8>)>,
}

/// The longest chain of deltas of these resource managers, up to [`CHAIN_LENGTH`].
fn longest_chain(wal: &Wal, rmids: &[u8]) -> Option<Chain> {
    let mut pages: HashMap<PageRef, Box<Page>> = HashMap::new();
    let mut chains: HashMap<PageRef, Chain> = HashMap::new();
    let mut longest: Option<Chain> = None;
    wal.interpret(|end, effect| {
        let Effect::Page { rel, block, version, .. } = effect else { return };
        let at = PageRef { rel, block };
        if longest.as_ref().is_some_and(|chain| chain.deltas.len() >= CHAIN_LENGTH) {
            return;
        }
        let (bytes, will_init) = match version {
            Version::Image(image) => {
                pages.insert(at, Box::new(*image));
                longest = longer(longest.take(), chains.remove(&at));
                return;
            }
            Version::Delta { bytes, will_init } => (bytes, will_init),
        };
        let Some(page) = (match will_init {
            true => Some(pages.entry(at).or_insert_with(|| Box::new([0; PAGE_SIZE]))),
            false => pages.get_mut(&at),
        }) else {
            return;
        };
        if matches!(DeltaView::parse(bytes), Ok(DeltaView::Record(record)) if rmids.contains(&record.rmid)) {
            let chain = chains.entry(at).or_insert_with(|| Chain { at, page: page.clone(), deltas: Vec::new() });
            chain.deltas.push((end, bytes.to_vec()));
            if chain.deltas.len() >= CHAIN_LENGTH {
                longest = chains.remove(&at);
            }
        } else {
            longest = longer(longest.take(), chains.remove(&at));
        }
        redo::apply(page, bytes, at, end).expect("good WAL");
    });
    chains.into_values().fold(longest, |longest, chain| longer(longest, Some(chain)))
}

fn longer(a: Option<Chain>, b: Option<Chain>) -> Option<Chain> {
    let length = |chain: &Option<Chain>| chain.as_ref().map_or(0, |chain| chain.deltas.len());
    if length(&b) > length(&a) { b } else { a }
}

fn rebuild(wal: &Wal, name: &str, rmids: &[u8], memcpy_ns: f64) {
    const TURNS: u32 = 5000;
    let Some(chain) = longest_chain(wal, rmids) else {
        println!("{name}: no page of this WAL has an image or a first version before its deltas");
        return;
    };
    let mut page = Box::new([0; PAGE_SIZE]);
    let before = ALLOCATIONS.load(Relaxed);
    let time = best(|| {
        for _ in 0..TURNS {
            page.copy_from_slice(black_box(&*chain.page));
            for (end, delta) in &chain.deltas {
                redo::apply(&mut page, black_box(delta), chain.at, *end).expect("it was applied before");
            }
            black_box(&page);
        }
    });
    let allocations = ALLOCATIONS.load(Relaxed) - before;
    let count = chain.deltas.len() as f64;
    let rebuild_ns = time.as_nanos() as f64 / f64::from(TURNS);
    let delta_ns = (rebuild_ns - memcpy_ns) / count;
    println!(
        "image + {count:>3} {name:<6} deltas {rebuild_ns:>8.0} ns, {:.1} × memcpy; {allocations} allocations",
        rebuild_ns / memcpy_ns
    );
    println!("  one of them            {delta_ns:>8.1} ns, {:.2} × memcpy", delta_ns / memcpy_ns);
}

fn main() {
    let wal = Wal::load();
    let hash = wal.segments.iter().fold(0, |hash, segment| crc32c::crc32c_append(hash, segment));
    println!("WAL                      {:>8.1} MB from {}, CRC-32C {hash:08x}", wal.len() as f64 / 1e6, wal.start);
    let memcpy_ns = memcpy_ns();
    println!("memcpy of 8 KiB          {memcpy_ns:>8.1} ns");
    decode(&wal);
    rebuild(&wal, "heap", &[rmgr::HEAP, rmgr::HEAP2], memcpy_ns);
    rebuild(&wal, "btree", &[rmgr::BTREE], memcpy_ns);
}
