//! A timeline goes: first its state says so, durably; then nobody works on it; then its data goes; last its ancestor's record of it. Every
//! step can be repeated, and an interrupted deletion is carried on at the next start.

use std::{collections::BTreeMap, io, sync::Arc};

use ogel_ids::{Lsn, TenantId, TimelineId};
use ogel_object_store::{ObjectStore, StoreError};

use crate::{
    failpoints,
    manifest::{Edit, TimelineState},
    pageserver::{Pageserver, TimelineSlot, TimelineUnavailable},
    remote::layout::{self, LogPlace},
    timeline::Timeline,
};

/// Why a timeline stays.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Not here, or cannot be opened.
    #[error(transparent)]
    Unavailable(#[from] TimelineUnavailable),
    /// Others read through it.
    #[error("timeline {timeline} has branches: {}", list(.branches))]
    HasBranches {
        /// Which.
        timeline: TimelineId,
        /// The children, and where they begin.
        branches: BTreeMap<TimelineId, Lsn>,
    },
    /// The disk failed; the deletion goes on at the next start or the next request.
    #[error("the deletion is not finished: {0:#}")]
    Storage(anyhow::Error),
}

fn list(branches: &BTreeMap<TimelineId, Lsn>) -> String {
    branches.iter().map(|(id, lsn)| format!("{id} at {lsn}")).collect::<Vec<_>>().join(", ")
}

impl Pageserver {
    /// Deletes a timeline without branches.
    pub async fn delete(&self, tenant: TenantId, id: TimelineId) -> Result<(), DeleteError> {
        self.attached(tenant, id).await?; // may itself have something to finish, under the same lock
        let _one_at_a_time = self.branching.lock().await;
        let timeline = self.attached(tenant, id).await?;
        let branches = timeline.branches();
        if !branches.is_empty() {
            return Err(DeleteError::HasBranches { timeline: id, branches });
        }
        timeline.record(&Edit::State { state: TimelineState::Deleting }).await.map_err(DeleteError::Storage)?;
        failpoints::reach(failpoints::DELETION_MARKED);
        self.carry_out(&timeline).await.map_err(DeleteError::Storage)
    }

    /// Deletes what is marked for it.
    async fn carry_out(&self, timeline: &Arc<Timeline>) -> anyhow::Result<()> {
        let (tenant, id) = (timeline.tenant, timeline.id);
        timeline.closing.begin();
        let _ingest_has_ended = timeline.ingest_running.lock().await;
        let flushes = timeline.clone();
        tokio::task::spawn_blocking(move || flushes.end_flushes()).await?;
        timeline.store().drained().durable().await?;
        delete_objects(timeline.store().store(), tenant, id).await?;
        failpoints::reach(failpoints::DELETION_OBJECTS_GONE);
        let folder = self.timelines_folder(tenant).join(id.to_string());
        match tokio::fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "the local copy of a deleted timeline stays: remove it by hand");
            }
            _ => {}
        }
        self.forget(tenant, id);
        if let Some(ancestor) = timeline.ancestor.as_ref().filter(|found| found.timeline.branches().contains_key(&id)) {
            ancestor.timeline.record(&Edit::BranchRemoved { timeline: id }).await?;
        }
        tracing::info!(%tenant, timeline = %id, "timeline deleted");
        Ok(())
    }

    /// Carries on what a crash interrupted: deletions, and creations of branches of which only the ancestor's record was written.
    pub(crate) async fn finish_interrupted(&self, tenant: TenantId) {
        let _one_at_a_time = self.branching.lock().await;
        // Looking at one may attach others.
        let mut seen = std::collections::BTreeSet::new();
        let next = |seen: &std::collections::BTreeSet<TimelineId>| {
            self.timelines().into_iter().find_map(|((owner, id), slot)| match slot {
                TimelineSlot::Active(timeline) if owner == tenant && !seen.contains(&id) => Some((id, timeline)),
                _ => None,
            })
        };
        while let Some((id, timeline)) = next(&seen) {
            seen.insert(id);
            if let Err(error) = self.finish_one(&timeline).await {
                let error = format!("{error:#}");
                tracing::error!(%tenant, timeline = %id, error, "what was interrupted cannot be finished; the next start tries again");
            }
        }
    }

    async fn finish_one(&self, timeline: &Arc<Timeline>) -> anyhow::Result<()> {
        if timeline.lifecycle() == TimelineState::Deleting {
            return self.carry_out(timeline).await;
        }
        for child in timeline.branches().into_keys() {
            if let Err(TimelineUnavailable::Unknown(..)) = self.attached(timeline.tenant, child).await {
                tracing::info!(timeline = %timeline.id, branch = %child, "taking out a branch whose creation or deletion was not finished");
                timeline.record(&Edit::BranchRemoved { timeline: child }).await?;
            }
        }
        Ok(())
    }
}

/// The newest base goes last of the bases, and before all else: without a base the timeline does not exist, with it its log ends with the
/// mark of the deletion.
async fn delete_objects(store: &ObjectStore, tenant: TenantId, id: TimelineId) -> Result<(), StoreError> {
    let manifests = store.list_all(&layout::manifests(tenant, id)).await?;
    let place = |key: &str| LogPlace::parse(key.rsplit('/').next()?);
    let mut bases: Vec<LogPlace> =
        manifests.iter().filter_map(|info| place(&info.key)).filter(LogPlace::is_base).collect();
    bases.sort_unstable();
    for base in bases {
        store.delete_all([layout::manifest(tenant, id, base)]).await?;
    }
    failpoints::reach(failpoints::DELETION_BASES_GONE);
    let rest = store.list_all(&layout::timeline(tenant, id)).await?;
    store.delete_all(rest.into_iter().map(|info| info.key)).await
}
