//! The local disk is a cache: what was read longest ago goes when it is crowded.

use std::{path::Path, sync::Arc, time::Duration};

use super::{Pageserver, TimelineSlot};
use crate::layer::stored::StoredLayer;

/// How often the disk is looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// What the local disk is to be left with.
#[derive(Debug, Clone, Copy)]
pub struct DiskLimits {
    /// Bytes that layer files may take; 0 = as many as there are.
    pub budget_bytes: u64,
    /// Bytes of the file system that stay free.
    pub free_bytes: u64,
}

/// Bytes that must go, given what layer files take and what is free.
pub fn excess(limits: DiskLimits, used_bytes: u64, free_bytes: Option<u64>) -> u64 {
    let over_budget = if limits.budget_bytes == 0 { 0 } else { used_bytes.saturating_sub(limits.budget_bytes) };
    over_budget.max(free_bytes.map_or(0, |free| limits.free_bytes.saturating_sub(free)))
}

/// Which of the candidates (seconds since the last read, bytes) go, by their places: those read longest ago, until `excess` is made up for.
pub fn choose(candidates: &[(u32, u64)], excess: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|place| std::cmp::Reverse(candidates[*place]));
    let mut freed = 0_u64;
    order
        .into_iter()
        .take_while(|place| {
            let needed = freed < excess;
            freed = freed.saturating_add(candidates[*place].1);
            needed
        })
        .collect()
}

impl Pageserver {
    /// Keeps the local disk within its limits until shutdown begins.
    pub async fn run_eviction(self: Arc<Self>) {
        while !self.shutdown.has_begun() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.shutdown.wait() => return,
            }
            let this = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || this.evict_now()).await {
                tracing::error!(%error, "eviction failed: report this");
            }
        }
    }

    /// Evicts what is too much; returns the bytes that were freed. Blocks.
    pub fn evict_now(&self) -> u64 {
        let layers: Vec<Arc<StoredLayer>> = self
            .timelines()
            .into_values()
            .filter_map(|slot| match slot {
                TimelineSlot::Active(timeline) => Some(timeline.stored_layers()),
                TimelineSlot::Broken(_) => None,
            })
            .flatten()
            .collect();
        let used = layers.iter().filter(|layer| layer.file.is_local()).map(|layer| layer.desc.size_bytes).sum();
        let excess = excess(self.disk_limits, used, free_bytes(self.folder.path()));
        if excess == 0 {
            return 0;
        }
        let evictable: Vec<(u32, u64, &Arc<StoredLayer>)> = layers
            .iter()
            .filter_map(|layer| Some((layer.file.evictable_idle_s()?, layer.desc.size_bytes, layer)))
            .collect();
        let candidates: Vec<(u32, u64)> = evictable.iter().map(|(idle_s, bytes, _)| (*idle_s, *bytes)).collect();
        let mut freed = 0;
        for place in choose(&candidates, excess) {
            let (_, bytes, layer) = evictable[place];
            if layer.file.evict() {
                freed += bytes;
            }
        }
        self.metrics().evicted_bytes.inc_by(freed);
        tracing::info!(excess, freed, "evicted layer files from the local disk");
        freed
    }
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_longest_ago_goes_first_and_no_more_than_needed() {
        let candidates = [(5, 100), (900, 10), (60, 50), (900, 30)];
        assert!(choose(&candidates, 0).is_empty());
        assert_eq!(choose(&candidates, 35), [3, 1]);
        assert_eq!(choose(&candidates, 41), [3, 1, 2]);
        assert_eq!(choose(&candidates, 1_000_000).len(), 4);
    }

    #[test]
    fn the_stricter_limit_counts() {
        let limits = DiskLimits { budget_bytes: 1000, free_bytes: 500 };
        assert_eq!(excess(limits, 900, Some(600)), 0);
        assert_eq!(excess(limits, 1100, Some(600)), 100);
        assert_eq!(excess(limits, 1100, Some(300)), 200);
        assert_eq!(excess(DiskLimits { budget_bytes: 0, ..limits }, u64::MAX, None), 0);
    }
}
