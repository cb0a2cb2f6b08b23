//! What a compute would lose by a stale hit is everything: so readers and an ingest race here, for many short rounds.

use std::sync::atomic::{AtomicU64, AtomicUsize};

use wal_decoder::key::{Fork, Rel};

use super::*;
use crate::{
    keyspace::KeyRange,
    layer::{VersionKind, memory::MemoryLayer, reconstruct::Reconstruction},
};

const FORK: wal_decoder::key::RelFork = Rel { spc: 1663, db: 5, rel: 9 }.fork(Fork::Main);
const TENANT: TenantId = TenantId::from_bytes([7; 16]);

/// The record that ends at `lsn` writes this block, or (`None`) erases all of them. A fixed pattern without a short period.
fn written(lsn: u64) -> Option<u32> {
    let mixed = (lsn ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (!mixed.is_multiple_of(31)).then_some((mixed % 7) as u32)
}

/// LSN of the newest version of `block` at `at`; `None` when it does not exist then.
fn newest(block: u32, at: u64) -> Option<u64> {
    let last = (1..=at).rev().find(|lsn| written(*lsn).is_none_or(|written| written == block));
    last.filter(|lsn| written(*lsn).is_some())
}

struct Race {
    pages: TimelinePages,
    layer: MemoryLayer,
    last_record_lsn: AtomicU64,
    hits: AtomicUsize,
}

impl Race {
    fn ingest(&self, end: u64) {
        let mut batch = WriteBatch::default();
        for lsn in 1..=end {
            match written(lsn) {
                Some(block) => {
                    batch.put(Key::rel_page(FORK, block), Lsn(lsn), VersionKind::Image, &lsn.to_be_bytes());
                }
                None => batch.erase(KeyRange::rel_pages(FORK.rel), Lsn(lsn)),
            }
            if lsn.is_multiple_of(3) || lsn == end {
                self.layer.apply(&mut batch);
                self.pages.close(&batch);
                self.last_record_lsn.store(lsn, Ordering::Release);
            }
        }
    }

    /// Reads one block as the page service does; what it says is checked against the pattern.
    fn read(&self, block: u32, back: u64) {
        let at = self.last_record_lsn.load(Ordering::Acquire).saturating_sub(back);
        let key = Key::rel_page(FORK, block);
        let mut read = Reconstruction::new(key, Lsn(at));
        let found = match self.pages.get(&key, Lsn(at)) {
            Cached::Valid(page) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                Some(page)
            }
            other => {
                if let Cached::Version(version, page) = other {
                    read = read.with_kept(version, page);
                }
                let mut reads = [read];
                self.layer.locate(&mut reads);
                let [read] = reads;
                let page = read.base().cloned();
                if let (Some(page), Some(version)) = (&page, read.newest()) {
                    let unwritten = || {
                        let unwritten = self.layer.newest_version(&key).is_none_or(|newest| newest <= Lsn(at));
                        std::thread::yield_now(); // ingest gets its chance between the look and the opening
                        unwritten
                    };
                    self.pages.insert(&key, version, Lsn(at), page, unwritten);
                }
                page
            }
        };
        let found = found.map(|page| u64::from_be_bytes(page[..].try_into().unwrap()));
        assert_eq!(found, newest(block, at), "block {block} at {at}");
    }
}

#[test]
fn no_reader_is_served_a_page_that_was_written_since() {
    let cache = PageCache::new(8 << 20, Metrics::default());
    let mut hits = 0;
    for round in 0..60_u64 {
        let race = Race {
            pages: cache.timeline(TENANT),
            layer: MemoryLayer::new(Lsn(0)),
            last_record_lsn: AtomicU64::new(0),
            hits: AtomicUsize::new(0),
        };
        std::thread::scope(|scope| {
            let ingest = scope.spawn(|| race.ingest(3000));
            for reader in 0..2 {
                let race = &race;
                let done = || race.last_record_lsn.load(Ordering::Acquire) == 3000;
                scope.spawn(move || {
                    for turn in 0_u64.. {
                        race.read((turn % 7) as u32, if turn % 5 == reader { turn % 40 } else { 0 });
                        if done() && turn > 500 {
                            break;
                        }
                    }
                });
            }
            // Shares change meanwhile.
            while !ingest.is_finished() {
                cache.set_budget(TENANT, (round % 2 == 0).then_some(64 << 10)).unwrap();
                std::thread::yield_now();
                cache.set_budget(TENANT, Some(128 << 10)).unwrap();
            }
        });
        hits += race.hits.load(Ordering::Relaxed);
    }
    assert!(hits > 1000, "only {hits} reads were hits: the race was not run");
}

#[test]
fn an_entry_serves_from_its_version_to_the_next_one() {
    let cache = PageCache::new(1 << 20, Metrics::default());
    let pages = cache.timeline(TENANT);
    let key = Key::rel_page(FORK, 3);
    let served = |at| matches!(pages.get(&key, Lsn(at)), Cached::Valid(_));
    pages.insert(&key, Lsn(100), Lsn(150), b"page", || true);
    assert_eq!([99, 100, 150, 1000].map(served), [false, true, true, true]);
    let mut batch = WriteBatch::default();
    batch.put(key, Lsn(200), VersionKind::Delta, b"");
    MemoryLayer::new(Lsn(0)).apply(&mut batch);
    pages.close(&batch);
    assert_eq!([99, 100, 199, 200].map(served), [false, true, true, false]);
    pages.insert(&key, Lsn(200), Lsn(210), b"page", || false);
    assert_eq!([199, 200, 210, 211].map(served), [false, true, true, false], "written while it was read");
    pages.insert(&key, Lsn(200), Lsn(220), b"page", || true);
    batch.erase(KeyRange::single(key), Lsn(300));
    MemoryLayer::new(Lsn(0)).apply(&mut batch);
    pages.close(&batch);
    assert_eq!([200, 220, 221, 300].map(served), [true, true, false, false], "erased");
}

#[test]
fn budgets_bound_a_tenant_and_must_fit_the_total() {
    let cache = PageCache::new(8 << 20, Metrics::default());
    let other = TenantId::from_bytes([8; 16]);
    let fill = |tenant| {
        let pages = cache.timeline(tenant);
        for block in 0..2000 {
            pages.insert(&Key::rel_page(FORK, block), Lsn(8), Lsn(8), &[0; 8192], || true);
        }
        pages
    };
    cache.set_budget(TENANT, Some(1 << 20)).unwrap();
    let (small, large) = (fill(TENANT), fill(other));
    let held = |tenant| cache.tenant_bytes(tenant).1;
    assert!(held(TENANT) <= 1 << 20 && held(TENANT) > 512 << 10, "{}", held(TENANT));
    assert!(held(other) <= 7 << 20 && held(other) > 4 << 20, "{}", held(other));
    assert!(matches!(cache.set_budget(other, Some(7 << 20)), Err(BudgetError::TooMuch { .. })));
    assert!(matches!(cache.set_total(1 << 20), Err(BudgetError::BelowBudgets { .. })));
    cache.set_budget(TENANT, Some(4 << 20)).unwrap();
    cache.set_total(6 << 20).unwrap();
    assert!(held(other) <= 2 << 20, "{}", held(other));
    cache.set_budget(TENANT, None).unwrap();
    assert!(matches!(small.get(&Key::rel_page(FORK, 1999), Lsn(8)), Cached::Nothing), "its share is another now");
    drop((small, large));
}
