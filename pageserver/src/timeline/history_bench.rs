//! A day of WAL at speed: does anything grow that should not?
//!
//! pgbench-like: a table of pages of rows, small transactions that each change one row of a page (four in ten within a hundredth of the
//! table) and store the running state, through the effects, batches, freezes, flushes, merges and garbage collections of the product, with
//! the clock of the commits and of the garbage collection simulated. One line of CSV per half an hour.

use std::{
    io::Write,
    time::{Duration, Instant, UNIX_EPOCH},
};

use super::{effects::SizeCache, store_model::*, *};
use crate::{branch::Timestamp, layer::memory::WriteBatch};
use ogel_service::freed_memory;
use wal_decoder::{
    delta,
    effect::{Effect, EffectSink, Version},
    key::{PAGE_SIZE, Page, SlruKind},
};

const KIND: SlruKind = SlruKind::MultixactOffsets;
const HOURS: u64 = 24;
const RETENTION: Duration = Duration::from_secs(3600);
/// WAL of a transaction of pgbench without full-page images, and of its page's share.
const WAL_BYTES: u64 = 512;
/// 2026-01-01, in seconds since 1970.
const MORNING_S: u64 = 1_767_225_600;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// A page as `pgbench -i` leaves it in pgbench_accounts: 61 rows of 128 bytes, each a header, three numbers and 84 blanks.
fn accounts_page(page: u32) -> Page {
    let mut content = [0; PAGE_SIZE];
    for row in 0..61_u32 {
        let at = PAGE_SIZE - 128 * (row as usize + 1);
        let line = 24 + 4 * row as usize;
        content[line..line + 4].copy_from_slice(&((at as u32) | 1 << 15 | 121 << 17).to_le_bytes());
        content[at..at + 4].copy_from_slice(&2_u32.to_le_bytes());
        content[at + 12..at + 16].copy_from_slice(&page.to_le_bytes());
        content[at + 16..at + 18].copy_from_slice(&(row as u16 + 1).to_le_bytes());
        content[at + 24..at + 28].copy_from_slice(&(page * 61 + row + 1).to_le_bytes());
        content[at + 28..at + 32].copy_from_slice(&1_u32.to_le_bytes());
        content[at + 36..at + 121].fill(b' ');
    }
    content
}

struct Bench {
    world: World,
    batch: WriteBatch,
    sizes: SizeCache,
    random: Random,
    pages: u32,
    transactions: u64,
}

impl Bench {
    fn timeline(&self) -> Arc<Timeline> {
        self.world.timelines[0].clone()
    }

    /// One record, and a freeze when one is due.
    fn record(&mut self, effect: Effect<'_>, now_us: u64) {
        let timeline = self.timeline();
        let lsn = Lsn(timeline.last_record_lsn().0 + WAL_BYTES);
        let mut writer = EffectWriter::new(&timeline, &mut self.batch, &mut self.sizes);
        writer.begin_record(lsn);
        writer.effect(effect);
        writer.end_record().unwrap();
        let state = RunningState { newest_commit: Some(time_of(now_us)), ..state(lsn) };
        writer.put_image(Key::checkpoint(), &state.encode());
        writer.finish();
        timeline.advance(Head { lsn, state });
        self.transactions += 1;
    }

    fn transaction(&mut self, now_us: u64) {
        let spread = if self.random.next() % 10 < 4 { (self.pages / 100).max(1) } else { self.pages };
        let page = (self.random.next() % u64::from(spread)) as u32;
        let balance = (PAGE_SIZE - 128 * (1 + (self.random.next() % 61) as usize) + 32) / 4;
        let mut bytes = Vec::new();
        delta::encode_multixact_offsets(&mut bytes, &[(balance as u16, self.random.next() as u32 % 10_000)]);
        let version = Version::Delta { bytes: &bytes, will_init: false };
        self.record(Effect::Slru { kind: KIND, page, version }, now_us);
    }

    /// `aged`: the open layer is as old as it may get.
    fn maintain(&self, now_us: u64, aged: bool) {
        let timeline = self.timeline();
        if aged || timeline.should_freeze() {
            timeline.flush_all().unwrap();
        }
        let now = UNIX_EPOCH + Duration::from_micros(now_us);
        timeline.collect_garbage(&Retention { window: RETENTION, wal_bytes: 0 }, now).unwrap();
        timeline.compact(&|| false).unwrap();
        if aged {
            freed_memory::give_back(); // as a minute after merges
        }
    }

    /// Deltas, layers and microseconds per read of a page, cold and uncached.
    fn read_cost(&mut self) -> (f64, f64, f64) {
        let timeline = self.timeline();
        let (deltas, layers) =
            (timeline.environment.metrics.deltas_applied.get(), timeline.environment.metrics.layers_visited.get());
        let (reads, started) = (2000, Instant::now());
        for _ in 0..reads {
            let page = PageId::Slru(KIND, (self.random.next() % u64::from(self.pages)) as u32);
            let at = timeline.last_record_lsn();
            let mut content = [0; PAGE_SIZE];
            timeline
                .make_pages(timeline.gather_pages(&[page], at, Io::MayBlock).unwrap())
                .next_into(&mut content)
                .unwrap();
        }
        let per_read = |now: u64, before: u64| (now - before) as f64 / f64::from(reads);
        (
            per_read(timeline.environment.metrics.deltas_applied.get(), deltas),
            per_read(timeline.environment.metrics.layers_visited.get(), layers),
            started.elapsed().as_micros() as f64 / f64::from(reads),
        )
    }
}

fn time_of(now_us: u64) -> Timestamp {
    Timestamp::from_unix(UNIX_EPOCH + Duration::from_micros(now_us))
}

/// MiB of this process that are resident, and of those its heap has given out. What is between is what the allocator keeps for later.
fn memory_mib() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096;
    // SAFETY: it only reads counters.
    let heap = unsafe { libc::mallinfo2() };
    (resident >> 20, (heap.uordblks + heap.hblkhd) as u64 >> 20)
}

/// Run by `make bench-history`: OGEL_BENCH_TPS, OGEL_BENCH_MB and OGEL_BENCH_OUT set transactions per second, size and where the CSV goes.
#[test]
#[ignore = "a benchmark"]
fn a_day_of_history() {
    freed_memory::Kept::FOR_LAYERS.bound();
    let (tps, pages) = (setting("OGEL_BENCH_TPS", 50), setting("OGEL_BENCH_MB", 128) as u32 * 128);
    let out = std::env::var("OGEL_BENCH_OUT").unwrap_or_else(|_| "history.csv".into());
    let mut out = std::fs::File::create(out).unwrap();
    let freeze =
        FreezeLimits { size_bytes: 16 << 20, wal_bytes: 64 << 20, age: Duration::MAX, all_open_bytes: usize::MAX };
    let limits = CompactionLimits { target_bytes: 8 << 20, ..CompactionLimits::default() };
    let world = World::in_folders(freeze, limits);
    let mut bench = Bench {
        world,
        batch: WriteBatch::default(),
        sizes: SizeCache::default(),
        random: Random(7),
        pages,
        transactions: 0,
    };
    let start_us = MORNING_S * 1_000_000;
    for page in 0..pages {
        let image = accounts_page(page);
        bench.record(Effect::Slru { kind: KIND, page, version: Version::Image(&image) }, start_us);
        if page % 512 == 0 {
            bench.maintain(start_us, false);
        }
    }
    writeln!(
        out,
        "hours,store_mib,layers,partitions,depth,resident_mib,heap_mib,deltas_per_read,layers_per_read,us_per_read"
    )
    .unwrap();
    let logical_mib = f64::from(pages) / 128.0;
    let ticks = HOURS * 120; // half a minute each
    for tick in 1..=ticks {
        let base_us = start_us + (tick - 1) * 30_000_000;
        (0..tps * 30).for_each(|number| bench.transaction(base_us + number * 1_000_000 / tps));
        bench.maintain(base_us + 30_000_000, tick % 10 == 0); // 5 minutes, as --freeze-age-s says
        if tick % 60 == 0 {
            let summary = bench.timeline().layer_summary();
            let (deltas, layers, us) = bench.read_cost();
            let (resident, heap) = memory_mib();
            let line = format!(
                "{:.1},{:.2},{},{},{},{resident},{heap},{deltas:.2},{layers:.2},{us:.1}",
                tick as f64 / 120.0,
                summary.file_bytes as f64 / f64::from(1 << 20),
                summary.files,
                summary.partitions,
                summary.depth
            );
            writeln!(out, "{line}").unwrap();
            println!("{line}");
        }
    }
    bench.maintain(start_us + (HOURS + 2) * 3_600_000_000, true);
    bench.timeline().move_cutoff(bench.timeline().disk_consistent_lsn()).unwrap();
    bench.timeline().compact_fully(&|| false).unwrap();
    let trimmed = bench.timeline().layer_summary().file_bytes as f64 / f64::from(1 << 20);
    let written = bench.world.environment.metrics.compacted_bytes.get() >> 20;
    let flushed = bench.world.environment.metrics.flushed_bytes.get() >> 20;
    println!(
        "{} transactions; logical {logical_mib:.0} MiB, trimmed store {trimmed:.1} MiB ({:.2} of it); flushed {flushed} MiB, merges wrote {written} MiB",
        bench.transactions,
        trimmed / logical_mib
    );
    assert!(trimmed <= logical_mib / 2.0, "the store is larger than half of what it holds");
}
