//! Pages already made: the second level of the cache hierarchy, above the blocks of layer files.
//!
//! A tenant has a share of its own (its budget), or uses what is left together with the others. An entry is one version of one page and
//! knows how long it is the newest: a hit needs no look at the layers.
//!
//! # Why a hit is never stale (H28)
//!
//! An entry was made by a read at LSN `read_at` and holds the newest version at or below it, `version`. It serves a reader at `L` when
//! `version ≤ L ≤ valid_through`, where `valid_through` is `read_at` at least. It may be higher because of its state:
//!
//! - *Fresh*: `valid_through` = `read_at`. So it is put in.
//! - *Open*: no end is known. The reader that put it in makes it so, after it has looked for versions above `read_at` in the open layer
//!   and found none.
//! - *Closed*: ingest has put a version at W under the key; `valid_through` = W − 1 (`read_at`, when it was fresh).
//!
//! States change only from fresh to open, from fresh to closed and from open to closed. For each version, ingest (1) puts it into the
//! open layer, (2) closes the entry that the cache then holds, (3) raises `last_record_lsn`. A reader (a) takes L ≤ `last_record_lsn`,
//! (b) asks the cache. One that puts an entry in (c) inserts it fresh, (d) looks at the open layer, (e) opens it if it is still fresh.
//!
//! Claim: no reader at L ≥ W is served an entry with `read_at` < W. L ≥ W means that (3), and so (1) and (2), came before (a) and (b).
//! If the entry was inserted after (2) looked: then (1) came before (d), which found W, and the entry stayed fresh (or (d) could not tell,
//! because the open layer had changed meanwhile: the same). If it was inserted before and was in the cache when (2) looked: it was closed.
//! If it was inserted before but had been replaced or evicted when (2) looked: it never comes back, so (b) did not get it.
//! Looking, inserting and appending are each atomic under a lock, which gives the order. Entries of a read below the open layer's start,
//! where (d) could not tell, stay fresh.
//!
//! Tombstones are ranges and close no single entry: each raises `erased`, after (1) and before (3), and an entry with
//! `read_at` < `erased` serves up to `read_at` only. The next read finds its version again in the layers (or not), and puts it in anew.
//!
//! When a tenant's share changes, its pages get a new space in the cache's keys, before which nothing of it is found again: what is not
//! found is not closed either.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use ogel_ids::{Lsn, TenantId};
use parking_lot::{Mutex, RwLock};
use quick_cache::{Weighter, sync::Cache};

use super::doorkeeper::Doorkeeper;

use crate::{
    keyspace::{Key, KeyKind},
    layer::memory::WriteBatch,
    metrics::{CacheLevel, CacheMetrics, Metrics},
};

/// What an entry costs beside its page, by estimate.
const ENTRY_COST_BYTES: usize = 192;
const FRESH: u64 = 0;
const OPEN: u64 = u64::MAX;

/// One version of one page.
struct Entry {
    version: Lsn,
    read_at: Lsn,
    /// [`FRESH`], [`OPEN`], or the LSN at which it was closed.
    state: AtomicU64,
    page: Bytes,
    holder: Arc<TenantPages>,
}

impl Entry {
    fn valid_through(&self) -> Lsn {
        Lsn(self.state.load(Ordering::Acquire)).max(self.read_at)
    }

    fn open(&self) {
        let _ = self.state.compare_exchange(FRESH, OPEN, Ordering::AcqRel, Ordering::Acquire); // else it has been closed
    }

    fn close(&self, written: Lsn) {
        let close = |state| match state {
            FRESH => Some(self.read_at.0),
            OPEN => Some(written.0.saturating_sub(1).max(self.read_at.0)),
            _ => None,
        };
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, close); // else it has been closed before
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.holder.hold(-((self.page.len() + ENTRY_COST_BYTES) as i64));
    }
}

/// (space of a timeline, key).
type EntryKey = (u64, Key);

#[derive(Clone)]
struct ByLength;

impl Weighter<EntryKey, Arc<Entry>> for ByLength {
    fn weight(&self, _: &EntryKey, entry: &Arc<Entry>) -> u64 {
        (entry.page.len() + ENTRY_COST_BYTES) as u64
    }
}

type Entries = Cache<EntryKey, Arc<Entry>, ByLength>;

fn entries(capacity_bytes: u64) -> Arc<Entries> {
    Arc::new(Cache::with_weighter((capacity_bytes / 8192).max(16) as usize, capacity_bytes, ByLength))
}

/// The process's page cache: `total_bytes` for all tenants.
///
/// Invariant: capacity of `shared` + Σ budgets = `total_bytes`.
pub struct PageCache {
    shares: Mutex<Shares>,
    next_space: Arc<AtomicU64>,
    doorkeeper: Arc<Doorkeeper>,
    metrics: Metrics,
}

struct Shares {
    total_bytes: u64,
    shared: Arc<Entries>,
    tenants: HashMap<TenantId, Arc<TenantPages>>,
}

impl Shares {
    fn budgets(&self, except: Option<TenantId>) -> u64 {
        let counted = self.tenants.iter().filter(|(tenant, _)| Some(**tenant) != except);
        counted.filter_map(|(_, pages)| pages.share.read().budget_bytes).sum()
    }
}

/// A tenant's part of the cache.
struct TenantPages {
    share: RwLock<Share>,
    held_bytes: AtomicI64,
    metrics: CacheMetrics,
}

impl TenantPages {
    fn hold(&self, bytes: i64) {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.held_bytes.inc_by(bytes);
    }
}

struct Share {
    entries: Arc<Entries>,
    budget_bytes: Option<u64>,
    /// Raised with each change of `entries`.
    epoch: u64,
}

/// Why a budget cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// It does not fit beside the others'.
    #[error("{asked} MiB do not fit: of {total} MiB, {others} MiB are other tenants' budgets, and 1 MiB must be left for those without", asked = asked_bytes >> 20, total = total_bytes >> 20, others = other_bytes >> 20)]
    TooMuch {
        /// Asked for.
        asked_bytes: u64,
        /// Of the process.
        total_bytes: u64,
        /// Budgets of the other tenants.
        other_bytes: u64,
    },
    /// The total would be below the budgets that were given out.
    #[error("{asked} MiB are less than the tenants' budgets, {budgets} MiB, and 1 MiB for those without", asked = asked_bytes >> 20, budgets = budget_bytes >> 20)]
    BelowBudgets {
        /// Asked for.
        asked_bytes: u64,
        /// Given out.
        budget_bytes: u64,
    },
}

/// What tenants without a budget have together at least.
const MIN_SHARED_BYTES: u64 = 1 << 20;

impl PageCache {
    /// Holds at most this much.
    pub fn new(total_bytes: u64, metrics: Metrics) -> Self {
        let shares = Shares { total_bytes, shared: entries(total_bytes), tenants: HashMap::new() };
        Self {
            shares: Mutex::new(shares),
            next_space: Arc::default(),
            doorkeeper: Arc::new(Doorkeeper::new()),
            metrics,
        }
    }

    /// For a timeline that is opened.
    pub(super) fn timeline(&self, tenant: TenantId) -> TimelinePages {
        TimelinePages {
            tenant: self.tenant(&mut self.shares.lock(), tenant),
            next_space: self.next_space.clone(),
            doorkeeper: self.doorkeeper.clone(),
            place: RwLock::new(Place { epoch: u64::MAX, space: 0, entries: None }),
            erased: AtomicU64::new(0),
            used: AtomicBool::new(false),
        }
    }

    fn tenant(&self, shares: &mut Shares, tenant: TenantId) -> Arc<TenantPages> {
        let shared = &shares.shared;
        let new = || {
            let share = Share { entries: shared.clone(), budget_bytes: None, epoch: 0 };
            let metrics = self.metrics.cache(CacheLevel::Pages, tenant);
            Arc::new(TenantPages { share: RwLock::new(share), held_bytes: AtomicI64::new(0), metrics })
        };
        shares.tenants.entry(tenant).or_insert_with(new).clone()
    }

    /// Memory for all tenants together.
    pub fn total_bytes(&self) -> u64 {
        self.shares.lock().total_bytes
    }

    /// Memory in use.
    pub fn used_bytes(&self) -> u64 {
        let shares = self.shares.lock();
        let own = shares.tenants.values().filter_map(|pages| {
            let share = pages.share.read();
            share.budget_bytes.map(|_| share.entries.weight())
        });
        own.sum::<u64>() + shares.shared.weight()
    }

    /// Changes the memory for all tenants together.
    pub fn set_total(&self, total_bytes: u64) -> Result<(), BudgetError> {
        let mut shares = self.shares.lock();
        let budget_bytes = shares.budgets(None);
        if total_bytes < budget_bytes + MIN_SHARED_BYTES {
            return Err(BudgetError::BelowBudgets { asked_bytes: total_bytes, budget_bytes });
        }
        shares.total_bytes = total_bytes;
        shares.shared.set_capacity(total_bytes - budget_bytes);
        Ok(())
    }

    /// Budget and memory in use of a tenant.
    pub fn tenant_bytes(&self, tenant: TenantId) -> (Option<u64>, u64) {
        self.shares.lock().tenants.get(&tenant).map_or((None, 0), |pages| {
            (pages.share.read().budget_bytes, pages.held_bytes.load(Ordering::Relaxed).max(0) as u64)
        })
    }

    /// Gives a tenant a share of its own, changes it, or (`None`) lets it use what is left together with the others.
    pub fn set_budget(&self, tenant: TenantId, budget_bytes: Option<u64>) -> Result<(), BudgetError> {
        let mut shares = self.shares.lock();
        let other_bytes = shares.budgets(Some(tenant));
        let rest = shares.total_bytes.checked_sub(other_bytes + budget_bytes.unwrap_or(0));
        let Some(rest) = rest.filter(|rest| *rest >= MIN_SHARED_BYTES) else {
            let (asked_bytes, total_bytes) = (budget_bytes.unwrap_or(0), shares.total_bytes);
            return Err(BudgetError::TooMuch { asked_bytes, total_bytes, other_bytes });
        };
        let pages = self.tenant(&mut shares, tenant);
        let mut share = pages.share.write();
        match (share.budget_bytes, budget_bytes) {
            (Some(_), Some(bytes)) => share.entries.set_capacity(bytes),
            (before, after) if before != after => {
                share.entries = after.map_or_else(|| shares.shared.clone(), entries);
                share.epoch += 1;
            }
            _ => {}
        }
        share.budget_bytes = budget_bytes;
        shares.shared.set_capacity(rest);
        Ok(())
    }
}

/// What the cache says about a page.
pub(super) enum Cached {
    /// It is this.
    Valid(Bytes),
    /// Its version at this LSN is this; whether that is the newest is not known.
    Version(Lsn, Bytes),
    /// Nothing.
    Nothing,
}

/// An opened timeline's pages in the cache.
pub(super) struct TimelinePages {
    tenant: Arc<TenantPages>,
    next_space: Arc<AtomicU64>,
    doorkeeper: Arc<Doorkeeper>,
    place: RwLock<Place>,
    /// LSN of the newest tombstone.
    erased: AtomicU64,
    /// Whether anything was ever put in.
    used: AtomicBool,
}

/// Where the entries are: found out again when the tenant's share has changed.
#[derive(Clone)]
struct Place {
    epoch: u64,
    space: u64,
    entries: Option<Arc<Entries>>,
}

impl TimelinePages {
    /// Runs `with` on the cache and the timeline's space in it. The share cannot change meanwhile.
    fn with<T>(&self, with: impl FnOnce(&Entries, u64) -> T) -> T {
        let share = self.tenant.share.read();
        let place = self.place.read();
        if place.epoch == share.epoch
            && let Some(entries) = &place.entries
        {
            return with(entries, place.space);
        }
        drop(place);
        let mut place = self.place.write();
        if place.epoch != share.epoch || place.entries.is_none() {
            let space = self.next_space.fetch_add(1, Ordering::Relaxed);
            *place = Place { epoch: share.epoch, space, entries: Some(share.entries.clone()) };
        }
        with(&share.entries, place.space)
    }

    /// The page as of `at`, which the reader took from `last_record_lsn` or below.
    pub fn get(&self, key: &Key, at: Lsn) -> Cached {
        let metrics = &self.tenant.metrics;
        let found = self.with(|entries, space| entries.get(&(space, *key)));
        let Some(entry) = found.filter(|entry| entry.version <= at) else {
            metrics.misses.inc();
            return Cached::Nothing;
        };
        let whole = Lsn(self.erased.load(Ordering::Acquire)) <= entry.read_at;
        if at <= entry.read_at || whole && at <= entry.valid_through() {
            metrics.hits.inc();
            metrics.read_bytes.inc_by(entry.page.len() as u64);
            return Cached::Valid(entry.page.clone());
        }
        metrics.misses.inc();
        Cached::Version(entry.version, entry.page.clone())
    }

    /// Notes that the page was read, and says whether it had been not long ago: then it is worth keeping.
    pub fn is_read_again(&self, key: &Key) -> bool {
        self.with(|_, space| self.doorkeeper.knows(space, key))
    }

    /// Keeps the page that a read at `read_at` found. `unwritten`: whether no version above `read_at` has been put into any layer.
    pub fn insert(&self, key: &Key, version: Lsn, read_at: Lsn, page: &[u8], unwritten: impl FnOnce() -> bool) {
        if read_at.0 == OPEN {
            return; // a read of everything that is there, published or not
        }
        self.used.store(true, Ordering::Release);
        let tenant = &self.tenant;
        tenant.hold((page.len() + ENTRY_COST_BYTES) as i64);
        let (page, holder) = (Bytes::copy_from_slice(page), tenant.clone());
        let entry = Arc::new(Entry { version, read_at, state: AtomicU64::new(FRESH), page, holder });
        let inserted = self.with(|entries, space| {
            let place = (space, *key);
            // A look into the past does not push out what is newer.
            let newest = entries.peek(&place).is_none_or(|held| held.read_at <= read_at);
            if newest {
                entries.insert(place, entry.clone());
            }
            newest
        });
        if inserted && unwritten() {
            entry.open();
        }
    }

    /// Ingest has put this batch into the open layer.
    pub fn close(&self, batch: &WriteBatch) {
        if let Some(erased) = batch.applied_erasure() {
            self.erased.fetch_max(erased.0, Ordering::AcqRel);
        }
        if !self.used.load(Ordering::Acquire) {
            return;
        }
        self.with(|entries, space| {
            let mut last = None;
            for (key, lsn) in batch.applied_versions().filter(|(key, _)| key.is(KeyKind::RelPage)) {
                // The first of several versions in a row has closed it.
                if last.replace(*key) != Some(*key)
                    && let Some(entry) = entries.peek(&(space, *key))
                {
                    entry.close(lsn);
                }
            }
        });
    }
}

#[cfg(test)]
#[path = "page_cache_tests.rs"]
mod tests;
