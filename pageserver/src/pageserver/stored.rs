//! What the object store holds, open or not: for people and scripts. A listing may show changes late, so nothing is decided from it.

use std::{collections::BTreeMap, str::FromStr};

use ogel_ids::{TenantId, TimelineId};
use ogel_object_store::StoreError;

use super::{Pageserver, TimelineSlot};
use crate::remote::layout;

impl Pageserver {
    /// Tenants, each with its number of open timelines.
    pub async fn stored_tenants(&self) -> Result<BTreeMap<TenantId, usize>, StoreError> {
        let stored: Vec<TenantId> = self.stored_ids(layout::TENANTS).await?;
        let mut tenants: BTreeMap<_, _> = stored.into_iter().map(|tenant| (tenant, 0)).collect();
        for (tenant, _) in self.timelines().into_keys() {
            *tenants.entry(tenant).or_default() += 1;
        }
        Ok(tenants)
    }

    /// A tenant's timelines; those that are open, or were tried in vain, with what became of them.
    pub async fn stored_timelines(
        &self,
        tenant: TenantId,
    ) -> Result<BTreeMap<TimelineId, Option<TimelineSlot>>, StoreError> {
        let stored: Vec<TimelineId> = self.stored_ids(&layout::timelines(tenant)).await?;
        let mut timelines: BTreeMap<_, _> = stored.into_iter().map(|id| (id, None)).collect();
        let open = self.timelines().into_iter().filter(|((owner, _), _)| *owner == tenant);
        timelines.extend(open.map(|((_, id), slot)| (id, Some(slot))));
        Ok(timelines)
    }

    async fn stored_ids<T: FromStr>(&self, folder: &str) -> Result<Vec<T>, StoreError> {
        Ok(self.store.folders(folder).await?.iter().filter_map(|name| name.parse().ok()).collect())
    }
}
