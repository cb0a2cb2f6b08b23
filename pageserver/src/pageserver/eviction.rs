//! The local disk is a cache: what was read longest ago goes when it is crowded, and what belongs to a timeline that nobody has opened for long
//! goes in any case. All of it is in the object store.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ogel_ids::{TenantId, TimelineId};
use ogel_service::disk_space;

use super::{Pageserver, TimelineSlot};
use crate::{layer::stored::StoredLayer, timeline::LAYERS_FOLDER};

/// How often the disk is looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often timelines that are not open are looked at, when there is disk enough.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(600);

/// The local layer files of a timeline that is not open.
struct ClosedFolder {
    tenant: TenantId,
    timeline: TimelineId,
    path: PathBuf,
    idle: Duration,
    bytes: u64,
}

/// What the local disk is to be left with.
#[derive(Debug, Clone, Copy)]
pub struct DiskLimits {
    /// Layer files of a timeline that was closed longer ago than this go.
    pub archive_after: Duration,
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
        let mut archived = Instant::now();
        while !self.shutdown.has_begun() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.shutdown.wait() => return,
            }
            let (this, archive) = (self.clone(), archived.elapsed() >= ARCHIVE_INTERVAL);
            let work = move || {
                this.evict_now();
                if archive {
                    this.archive_now();
                }
            };
            if archive {
                archived = Instant::now();
            }
            if let Err(error) = tokio::task::spawn_blocking(work).await {
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
        let used: u64 = layers.iter().filter(|layer| layer.file.is_local()).map(|layer| layer.desc.size_bytes).sum();
        // Those that are not open are looked at only where their size matters.
        let closed = if self.disk_limits.budget_bytes > 0 { self.closed_folders() } else { Vec::new() };
        let closed_bytes: u64 = closed.iter().map(|folder| folder.bytes).sum();
        let excess = excess(self.disk_limits, used + closed_bytes, disk_space::free_bytes(self.folder.path()).ok());
        if excess == 0 {
            return 0;
        }
        let closed = if self.disk_limits.budget_bytes > 0 { closed } else { self.closed_folders() };
        let candidates: Vec<(u32, u64)> =
            closed.iter().map(|folder| (folder.idle.as_secs() as u32, folder.bytes)).collect();
        let given_up = choose(&candidates, excess).into_iter().map(|place| self.clear(&closed[place])).sum();
        let excess = excess.saturating_sub(given_up);
        let evictable: Vec<(u32, u64, &Arc<StoredLayer>)> = layers
            .iter()
            .filter_map(|layer| Some((layer.file.evictable_idle_s()?, layer.desc.size_bytes, layer)))
            .collect();
        let candidates: Vec<(u32, u64)> = evictable.iter().map(|(idle_s, bytes, _)| (*idle_s, *bytes)).collect();
        let mut freed = given_up;
        for place in choose(&candidates, excess) {
            let (_, bytes, layer) = evictable[place];
            if layer.file.evict() {
                freed += bytes;
            }
        }
        self.metrics().evicted_bytes.inc_by(freed - given_up);
        tracing::info!(excess, freed, "evicted layer files from the local disk");
        freed
    }
}

impl Pageserver {
    /// Gives up the local layer files of timelines that were closed long ago; returns the bytes that were freed. Blocks.
    pub fn archive_now(&self) -> u64 {
        let closed = self.closed_folders().into_iter();
        closed.filter(|folder| folder.idle >= self.disk_limits.archive_after).map(|folder| self.clear(&folder)).sum()
    }

    /// The folder of a timeline that was just closed, with the time.
    pub(super) fn note_closed(&self, tenant: TenantId, timeline: TimelineId) {
        let path = self.timelines_folder(tenant).join(timeline.to_string()).join(LAYERS_FOLDER);
        let noted = File::open(&path).and_then(|folder| folder.set_modified(SystemTime::now()));
        if let Err(error) = noted {
            tracing::debug!(folder = %path.display(), %error, "when the timeline was closed is not noted");
        }
    }

    fn closed_folders(&self) -> Vec<ClosedFolder> {
        let open = self.timelines();
        let tenants = named_folders::<TenantId>(&self.folder.path().join(crate::remote::layout::TENANTS));
        let timelines = tenants.into_iter().flat_map(|tenant| {
            let found = named_folders::<TimelineId>(&self.timelines_folder(tenant)).into_iter();
            found.map(move |timeline| (tenant, timeline))
        });
        let closed = timelines.filter(|id| !open.contains_key(id)).filter_map(|(tenant, timeline)| {
            let path = self.timelines_folder(tenant).join(timeline.to_string()).join(LAYERS_FOLDER);
            let since = path.metadata().and_then(|found| found.modified()).ok()?;
            let idle = since.elapsed().unwrap_or_default();
            let bytes = files(&path).ok()?.iter().map(|(_, bytes)| bytes).sum();
            Some(ClosedFolder { tenant, timeline, path, idle, bytes })
        });
        closed.filter(|folder| folder.bytes > 0).collect()
    }

    /// Removes the files, unless the timeline has been opened meanwhile; returns their bytes. They are in the object store: a timeline is closed
    /// only then, and what a crash left is of no use.
    fn clear(&self, folder: &ClosedFolder) -> u64 {
        let claim = self.tenants.get(folder.tenant);
        let freed = {
            let _nobody_attaches = claim.blocking_lock();
            if self.timelines().contains_key(&(folder.tenant, folder.timeline)) {
                return 0;
            }
            let removed = files(&folder.path).and_then(|files| {
                files.iter().try_for_each(|(path, _)| fs::remove_file(path))?;
                Ok(files.iter().map(|(_, bytes)| bytes).sum())
            });
            removed.unwrap_or_else(|error| {
                tracing::warn!(folder = %folder.path.display(), %error, "local layer files of a closed timeline cannot be removed");
                0
            })
        };
        drop(claim);
        self.tenants.forget_unclaimed(folder.tenant);
        self.metrics().evicted_bytes.inc_by(freed);
        tracing::info!(tenant = %folder.tenant, timeline = %folder.timeline, freed, "a closed timeline is in the object store only");
        freed
    }
}

/// Folders whose names are ids.
fn named_folders<T: std::str::FromStr>(folder: &Path) -> Vec<T> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Files of a folder, and their lengths.
fn files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    fs::read_dir(folder)?.map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.metadata()?.len())))).collect()
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
        let limits = DiskLimits { archive_after: Duration::MAX, budget_bytes: 1000, free_bytes: 500 };
        assert_eq!(excess(limits, 900, Some(600)), 0);
        assert_eq!(excess(limits, 1100, Some(600)), 100);
        assert_eq!(excess(limits, 1100, Some(300)), 200);
        assert_eq!(excess(DiskLimits { budget_bytes: 0, ..limits }, u64::MAX, None), 0);
    }
}
