//! Giving up history.
//!
//! The cutoff is moved first, by an edit of the manifest, which also takes branches and leases: whichever comes first, the other sees it
//! (H27). Merges drop only what lies below the cutoff that the manifest has. A reader pins its snapshot before it looks at the
//! cutoff: what the snapshot lacks, the cutoff tells.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ogel_ids::Lsn;
use parking_lot::MutexGuard;

use super::{ReadError, Timeline};
use crate::{
    branch::{
        Timestamp,
        commit_index::{Entry, Position, position_of},
    },
    failpoints,
    manifest::Edit,
};

/// How much history is kept, beside what branches and leases need.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Everything younger than this.
    pub window: Duration,
    /// At least this much WAL, whatever its age.
    pub wal_bytes: u64,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct GcReport {
    /// History is kept from here on.
    pub cutoff: Lsn,
    /// Leases that have expired.
    pub leases_expired: usize,
}

impl Timeline {
    /// Held by whoever decides about history in several steps: creation of branches and leases, and moving the cutoff.
    pub fn history_lock(&self) -> MutexGuard<'_, ()> {
        self.history.lock()
    }

    /// Lets go of expired leases and moves the cutoff to where the retention window begins. Merges do the rest. Blocks.
    pub fn collect_garbage(&self, retention: &Retention, now: SystemTime) -> anyhow::Result<GcReport> {
        let _guard = self.history_lock();
        let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let leases = self.manifest().leases;
        let expired: Vec<_> = leases.into_iter().filter(|(_, lease)| lease.expires_s <= now_s).collect();
        for (id, _) in &expired {
            self.publish(&Edit::LeaseRemoved { id: id.clone() }, &[], None)?;
        }
        let oldest_kept = Timestamp::from_unix(now - retention.window.min(Duration::from_secs(now_s)));
        let by_bytes = Lsn(self.last_record_lsn().0.saturating_sub(retention.wal_bytes));
        let (floor, limit) = (self.cutoff(), by_bytes.min(self.disk_consistent_lsn()));
        if limit > floor {
            self.move_cutoff(self.position_of(oldest_kept, floor)?.min(limit))?;
        }
        Ok(GcReport { cutoff: self.cutoff(), leases_expired: expired.len() })
    }

    /// Gives up history below `to`; never moves back.
    pub(super) fn move_cutoff(&self, to: Lsn) -> anyhow::Result<()> {
        if to <= self.cutoff() {
            return Ok(());
        }
        failpoints::reach(failpoints::GC_BEFORE_CUTOFF);
        self.publish(&Edit::Cutoff { lsn: to }, &[], None)?;
        failpoints::reach(failpoints::GC_CUTOFF_PUBLISHED);
        tracing::debug!(tenant = %self.tenant, timeline = %self.id, cutoff = %to, "history below is given up");
        Ok(())
    }

    /// Up to where everything was committed by `time`, at least `floor`.
    fn position_of(&self, time: Timestamp, floor: Lsn) -> anyhow::Result<Lsn> {
        let entry_at = |at| {
            let found = self.newest_state(at)?;
            anyhow::Ok(found.map(|(lsn, state)| Entry { lsn, newest_commit: state.newest_commit }))
        };
        Ok(match position_of(time, (floor, self.last_record_lsn()), entry_at)? {
            Position::Exact(entry) | Position::Newest(entry) => entry.lsn.max(floor),
            Position::BeforeHistory(_) => floor,
        })
    }

    /// Refuses reads of history that is not kept. The snapshot to be read must have been pinned before.
    pub(super) fn check_readable(&self, at: Lsn) -> Result<(), ReadError> {
        let cutoff = Lsn(self.gc_cutoff.load(Ordering::Acquire));
        if at >= cutoff {
            return Ok(());
        }
        if let Some(ancestor) = self.ancestor.as_ref().filter(|ancestor| at <= ancestor.lsn) {
            return ancestor.timeline.check_readable(at);
        }
        if self.manifest.lock().is_readable(at) { Ok(()) } else { Err(ReadError::BelowCutoff { at, cutoff }) }
    }
}
