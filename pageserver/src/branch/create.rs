//! A branch comes into being: metadata only, whatever the size of what it branches from.
//!
//! Order: the parent's record of the branch is durable first, so that nothing gives up what the branch needs (H27); then the branch's own
//! metadata; then it is acknowledged. A crash in between leaves a record without a branch, which is taken out at the next start.

use std::{collections::BTreeMap, sync::Arc};

use ogel_ids::{TenantId, TimelineId};

use super::point::{Origin, Point, PointError, resolve};
use crate::{
    failpoints,
    keyspace::KeyRange,
    layer::{Io, partitions::Partitions},
    manifest::{self, Edit, Manifest, TimelineState},
    pageserver::{Pageserver, TimelineUnavailable},
    timeline::{Ancestor, Timeline, state::RunningState},
};

/// Why there is no branch.
#[derive(Debug, thiserror::Error)]
pub enum BranchError {
    /// The timeline to branch from is not here.
    #[error(transparent)]
    Source(TimelineUnavailable),
    /// There is something else under the id.
    #[error("timeline {0} exists already and is no branch of {1}")]
    Taken(TimelineId, TimelineId),
    /// What is under the id cannot be opened.
    #[error("timeline {0} exists already and cannot be opened")]
    Broken(TimelineId),
    /// The moment cannot be had.
    #[error(transparent)]
    Point(#[from] PointError),
    /// The parent is being deleted.
    #[error("timeline {0} is being deleted: nothing can branch from it")]
    Deleting(TimelineId),
    /// It could not be recorded; nothing was made.
    #[error("the branch cannot be recorded: {0:#}")]
    Storage(anyhow::Error),
}

impl Pageserver {
    /// Makes timeline `id` branch from `source`; `false` when it was there already. Durable when this returns.
    pub async fn create_branch(
        &self,
        tenant: TenantId,
        id: TimelineId,
        source: TimelineId,
        point: Point,
    ) -> Result<(Arc<Timeline>, bool), BranchError> {
        let parent = self.attached(tenant, source).await.map_err(BranchError::Source)?;
        if let Some(existing) = self.existing_branch(&parent, id).await? {
            return Ok((existing, false));
        }
        let origin = resolve(self, parent.clone(), point).await?;
        let _one_at_a_time = self.branching.lock().await;
        // Only this process makes timelines of the tenant: what was made meanwhile is open.
        if self.timeline(tenant, id).is_ok()
            && let Some(existing) = self.existing_branch(&parent, id).await?
        {
            return Ok((existing, false));
        }
        if origin.timeline.lifecycle() == TimelineState::Deleting {
            return Err(BranchError::Deleting(origin.timeline.id));
        }
        let branch = self.record_branch(id, &origin).await.map_err(BranchError::Storage)?;
        tracing::info!(%tenant, timeline = %id, ancestor = %origin.timeline.id, lsn = %origin.lsn, "branch created");
        Ok((branch, true))
    }

    async fn existing_branch(&self, parent: &Timeline, id: TimelineId) -> Result<Option<Arc<Timeline>>, BranchError> {
        match self.attached(parent.tenant, id).await {
            Ok(timeline) => {
                let mut lineage = std::iter::successors(Some(parent), |timeline| {
                    timeline.ancestor.as_ref().map(|ancestor| &*ancestor.timeline)
                });
                let from = timeline.ancestor.as_ref().map(|ancestor| ancestor.timeline.id);
                match lineage.any(|timeline| Some(timeline.id) == from) {
                    true => Ok(Some(timeline)),
                    false => Err(BranchError::Taken(id, parent.id)),
                }
            }
            Err(TimelineUnavailable::Unknown(..)) => Ok(None),
            Err(TimelineUnavailable::Broken(..)) => Err(BranchError::Broken(id)),
            Err(other) => Err(BranchError::Source(other)),
        }
    }

    /// After a failure the record may stay without a branch, or the branch may be there although its writing seemed to fail: the next attempt
    /// or start finds out which.
    async fn record_branch(&self, id: TimelineId, origin: &Origin) -> anyhow::Result<Arc<Timeline>> {
        let (parent, lsn) = (&origin.timeline, origin.lsn);
        let sized = origin.clone();
        let manifest = tokio::task::spawn_blocking(move || first_manifest(id, &sized)).await??;
        if parent.branches().contains_key(&id) {
            parent.record(&Edit::BranchRemoved { timeline: id }).await?; // of an attempt that made nothing
        }
        parent.record(&Edit::BranchAdded { timeline: id, lsn }).await?;
        failpoints::reach(failpoints::BRANCH_RECORDED);
        let ancestor = Ancestor { timeline: parent.clone(), lsn };
        let branch = self.register(parent.store().tenant(), manifest, Some(ancestor)).await?;
        failpoints::reach(failpoints::BRANCH_REGISTERED);
        Ok(branch)
    }
}

fn first_manifest(id: TimelineId, origin: &Origin) -> anyhow::Result<Manifest> {
    let (parent, lsn) = (&origin.timeline, origin.lsn);
    let logical_size_bytes = match origin.state.logical_size_bytes {
        Some(size) => size,
        None => relation_bytes(parent, lsn)?,
    };
    Ok(Manifest {
        tenant: parent.tenant,
        timeline: id,
        system_identifier: parent.system_identifier,
        pg_version_num: parent.pg_version_num,
        wal_segment_size: parent.wal_segment_size,
        start_lsn: lsn,
        prev_record_lsn: origin.state.prev_record_lsn,
        ancestor: Some(manifest::Ancestor { timeline: parent.id, lsn }),
        start_state: Some(start_state(origin)),
        disk_consistent_lsn: lsn,
        logical_size_bytes,
        term_history: Vec::new(),
        gc_cutoff: lsn,
        branches: BTreeMap::new(),
        leases: BTreeMap::new(),
        state: TimelineState::Active,
        partitions: Partitions::single(Vec::new()),
        layers: BTreeMap::new(),
    })
}

/// A branch's WAL begins in the segment of its first byte. A shutdown checkpoint that begins in the segment before is not in it: its
/// compute writes another one.
fn start_state(origin: &Origin) -> RunningState {
    let size = u64::from(origin.timeline.wal_segment_size);
    let begins_here = origin.state.prev_record_lsn.segment_number(size) == origin.lsn.segment_number(size);
    RunningState { clean_shutdown: origin.state.clean_shutdown && begins_here, ..origin.state.clone() }
}

/// For states that were stored without the size. Blocks.
fn relation_bytes(timeline: &Timeline, at: ogel_ids::Lsn) -> anyhow::Result<u64> {
    let sizes = timeline.scan(KeyRange::all_rel_sizes(), at, Io::MayBlock)?;
    let blocks =
        sizes.values().filter_map(|value| value[..].try_into().ok()).map(|size| u64::from(u32::from_be_bytes(size)));
    Ok(blocks.sum::<u64>() * wal_decoder::key::PAGE_SIZE as u64)
}
