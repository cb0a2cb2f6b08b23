//! No cut, crash or restart takes committed WAL away from a quorum (less one copy for each store that was lost).

use super::{Observed, Verdict};
use crate::node::Safekeeper;

pub(super) fn check(observed: &Observed, nodes: &[Safekeeper]) -> Verdict {
    let needed = (nodes.len() / 2 + 1).saturating_sub(observed.lost_stores);
    let copies = nodes.iter().filter(|node| node.disk.durable.starts_with(&observed.committed)).count();
    if copies >= needed {
        return Ok(());
    }
    Err(format!(
        "no truncation below commit: {copies} disks hold the WAL committed up to {}, {needed} must",
        observed.committed_end()
    ))
}
