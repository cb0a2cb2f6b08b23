//! The manifest: the truth about a timeline.
//!
//! A base says everything; each edit after it says what changed. A layer file that the manifest does not name does not exist: it is a
//! leftover, or not finished. Pure: no I/O, no clock.
//!
//! - [`Manifest`]: the state. [`edit`]: what can change it, and the checks of every change. [`codec`]: the bytes of both.

pub mod codec;
pub mod edit;

use std::collections::{BTreeMap, BTreeSet};

use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use serde::{Deserialize, Serialize};

pub use codec::{CodecError, MANIFEST_VERSION};
pub use edit::{Edit, EditError};

use crate::{
    layer::{
        desc::{LayerDesc, LayerName},
        partitions::{PartitionError, Partitions},
    },
    timeline::state::RunningState,
};

/// When a term began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// WAL at and after this position was written in it (until the next one starts).
    pub lsn: Lsn,
}

/// Where a timeline branched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The timeline that has the older history.
    pub timeline: TimelineId,
    /// What is at or below this LSN is read there.
    pub lsn: Lsn,
}

/// A reader's claim on an LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What can be read as long as the lease lives.
    pub lsn: Lsn,
    /// Seconds since 1970, UTC.
    pub expires_s: u64,
}

/// What a timeline is for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimelineState {
    /// In use.
    #[default]
    Active,
    /// Kept, not ingested.
    Archived,
    /// On its way out.
    Deleting,
}

/// Everything about a timeline that survives.
///
/// Invariants: `start_lsn ≤ disk_consistent_lsn`; `gc_cutoff ≤ disk_consistent_lsn`; every version up to `disk_consistent_lsn` is in
/// the layers that the stacks name (or in the ancestor), and the running state at exactly that LSN too; `layers` holds exactly the layers
/// that some stack names; at every LSN ≥ `gc_cutoff` and at every retained LSN reads give what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Owner.
    pub tenant: TenantId,
    /// Itself.
    pub timeline: TimelineId,
    /// PostgreSQL's `system_identifier`; never changes.
    pub system_identifier: u64,
    /// Such as 170011; never changes.
    pub pg_version_num: u32,
    /// Never changes.
    pub wal_segment_size: u32,
    /// Where its WAL begins: end of the template's shutdown checkpoint, or the branch point.
    pub start_lsn: Lsn,
    /// Start of the record that ends at `start_lsn`.
    pub prev_record_lsn: Lsn,
    /// Where it came from.
    pub ancestor: Option<Ancestor>,
    /// Of a branch: the state at `start_lsn`, so that it can be opened before its ancestor has got there again after a restart.
    pub start_state: Option<RunningState>,
    /// A restart resumes here.
    pub disk_consistent_lsn: Lsn,
    /// Sum of all relation sizes at `disk_consistent_lsn`.
    pub logical_size_bytes: u64,
    /// All known terms, in order.
    pub term_history: Vec<TermStart>,
    /// Below it, only retained LSNs can be read.
    pub gc_cutoff: Lsn,
    /// Branch points by child.
    pub branches: BTreeMap<TimelineId, Lsn>,
    /// Leases by id. One that has expired holds until it is removed.
    pub leases: BTreeMap<String, Lease>,
    /// What it is for now.
    pub state: TimelineState,
    /// Which layers serve which keys.
    pub partitions: Partitions<LayerName>,
    /// All layers.
    pub layers: BTreeMap<LayerName, LayerDesc>,
}

/// What contradicts itself in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// The partitions are not what partitions are.
    #[error(transparent)]
    Partitions(#[from] PartitionError),
    /// A stack names a layer that is not described.
    #[error("layer {0} is in a stack but is not described")]
    Undescribed(LayerName),
    /// A described layer is in no stack.
    #[error("layer {0} is described but is in no stack")]
    Unused(LayerName),
    /// A layer's description is impossible.
    #[error("the description of layer {name} is impossible: {what}")]
    BadLayer {
        /// Which.
        name: LayerName,
        /// What is wrong.
        what: &'static str,
    },
    /// A stack is not in order.
    #[error("layers {above} and {below} are stacked in the wrong order")]
    WrongOrder {
        /// Upper one.
        above: LayerName,
        /// Lower one.
        below: LayerName,
    },
    /// Positions are out of order.
    #[error("{0}")]
    Positions(&'static str),
}

impl Manifest {
    /// LSNs below the cutoff that stay readable, in order.
    pub fn retained(&self) -> BTreeSet<Lsn> {
        self.branches.values().copied().chain(self.leases.values().map(|lease| lease.lsn)).collect()
    }

    /// Whether reads at `lsn` can be answered.
    pub fn is_readable(&self, lsn: Lsn) -> bool {
        lsn >= self.gc_cutoff
            || self.branches.values().any(|point| *point == lsn)
            || self.leases.values().any(|lease| lease.lsn == lsn)
    }

    /// Bytes of all layer files.
    pub fn stored_bytes(&self) -> u64 {
        self.layers.values().map(|layer| layer.size_bytes).fold(0, u64::saturating_add)
    }

    /// The longest stack.
    pub fn depth(&self) -> usize {
        self.partitions.depth()
    }

    /// Looks for contradictions; what was written by us has none.
    pub fn check(&self) -> Result<(), Inconsistency> {
        if self.start_lsn > self.disk_consistent_lsn {
            return Err(Inconsistency::Positions("disk_consistent_lsn lies before start_lsn"));
        }
        if self.gc_cutoff > self.disk_consistent_lsn {
            return Err(Inconsistency::Positions("gc_cutoff lies behind disk_consistent_lsn"));
        }
        if self.ancestor.is_some_and(|ancestor| ancestor.lsn != self.start_lsn) {
            return Err(Inconsistency::Positions("the branch point is not start_lsn"));
        }
        let mut unused: BTreeSet<LayerName> = self.layers.keys().copied().collect();
        for (name, desc) in &self.layers {
            if desc.name != *name {
                return Err(Inconsistency::BadLayer { name: *name, what: "it has another layer's name" });
            }
            check_layer(desc, self.disk_consistent_lsn, self.ancestor.is_some())?;
        }
        for (_, stack) in self.partitions.iter() {
            let described = |name: &LayerName| self.layers.get(name).ok_or(Inconsistency::Undescribed(*name));
            for name in stack.iter() {
                described(name)?;
                unused.remove(name);
            }
            for pair in stack.windows(2) {
                let (above, below) = (described(&pair[0])?, described(&pair[1])?);
                if above.lsns.start < below.lsns.end || above.is_complete() {
                    return Err(Inconsistency::WrongOrder { above: pair[0], below: pair[1] });
                }
            }
        }
        unused.first().map_or(Ok(()), |name| Err(Inconsistency::Unused(*name)))
    }
}

/// Checks one layer by itself.
fn check_layer(desc: &LayerDesc, disk_consistent_lsn: Lsn, has_ancestor: bool) -> Result<(), Inconsistency> {
    let what = if desc.name.end_lsn != desc.lsns.end {
        "its name tells another LSN"
    } else if desc.lsns.start > desc.lsns.end || (desc.lsns.start == desc.lsns.end && !desc.is_complete()) {
        "its LSN range is empty or reversed"
    } else if desc.lsns.end > disk_consistent_lsn {
        "it ends behind disk_consistent_lsn"
    } else if desc.keys.start >= desc.keys.end {
        "its key range is empty or reversed"
    } else if desc.index_offset > desc.size_bytes {
        "its index lies outside the file"
    } else if desc.is_complete() && has_ancestor {
        "it claims to need no ancestor"
    } else {
        return Ok(());
    };
    Err(Inconsistency::BadLayer { name: desc.name, what })
}
