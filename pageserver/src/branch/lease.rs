//! Leases: a reader's claim on a moment, so that no cutoff takes it away while it reads.
//!
//! A lease is durable before it is acknowledged. It holds until it is given back, or found expired.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::point::{Origin, Point, PointError, resolve};
use crate::{
    manifest::{Edit, Lease},
    pageserver::Pageserver,
    timeline::Timeline,
};

/// Longest lease; a longer use renews it.
pub const MAX_LEASE: Duration = Duration::from_secs(7 * 86_400);

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The moment cannot be had.
    #[error(transparent)]
    Point(#[from] PointError),
    /// The id is in use otherwise, the moment is not kept any more, or the disk failed.
    #[error("the lease cannot be recorded: {0:#}")]
    Record(anyhow::Error),
}

impl Pageserver {
    /// Begins or renews a lease on a moment. The origin says in which timeline it is held.
    pub async fn lease(
        &self,
        timeline: Arc<Timeline>,
        id: &str,
        point: Point,
        length: Duration,
    ) -> Result<(Origin, Lease), LeaseError> {
        let origin = match held(&timeline, id).await.map_err(LeaseError::Record)? {
            Some(origin) => origin,
            None => resolve(self, timeline, point).await?,
        };
        let lease = Lease { lsn: origin.lsn, expires_s: now_s().saturating_add(length.min(MAX_LEASE).as_secs()) };
        origin.timeline.drop_expired_leases().await.map_err(LeaseError::Record)?;
        let begin = Edit::LeaseAdded { id: id.to_owned(), lease };
        origin.timeline.record(&begin).await.map_err(LeaseError::Record)?;
        Ok((origin, lease))
    }
}

/// The moment that a lease of this id holds already; renewing it does not look for it again, since a cutoff may have passed it.
async fn held(timeline: &Arc<Timeline>, id: &str) -> anyhow::Result<Option<Origin>> {
    let lineage =
        std::iter::successors(Some(timeline), |timeline| timeline.ancestor.as_ref().map(|found| &found.timeline));
    let found = lineage.filter_map(|timeline| Some((timeline.clone(), timeline.leases().get(id)?.lsn))).next();
    let Some((timeline, lsn)) = found else { return Ok(None) };
    let owner = timeline.clone();
    let state = tokio::task::spawn_blocking(move || owner.state_at(lsn)).await??;
    Ok(Some(Origin { timeline, lsn, state }))
}

impl Timeline {
    /// Gives a lease back; `false` when there is none.
    pub async fn return_lease(&self, id: &str) -> anyhow::Result<bool> {
        if !self.leases().contains_key(id) {
            return Ok(false);
        }
        self.record(&Edit::LeaseRemoved { id: id.to_owned() }).await?;
        Ok(true)
    }

    /// Removes leases whose time is over; until then they hold.
    pub async fn drop_expired_leases(&self) -> anyhow::Result<()> {
        let now = now_s();
        for (id, _) in self.leases().into_iter().filter(|(_, lease)| lease.expires_s <= now) {
            self.return_lease(&id).await?;
        }
        Ok(())
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
