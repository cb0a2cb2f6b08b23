//! When a proposer of term T announces a commit, a quorum durably holds T's own log up to there (H2). Copies of older terms'
//! logs do not count: a later leader may lack them.

use ogel_ids::{Lsn, Term};

use super::Verdict;
use crate::{node::Safekeeper, toy_wal::offset};

pub(super) fn check(nodes: &[Safekeeper], lost_stores: usize, term: Term, commit: Lsn) -> Verdict {
    let holds = |node: &&Safekeeper| {
        let start = node.disk.control.history.start_of(term);
        start.is_some_and(|start| start <= commit) && node.disk.durable.len() >= offset(commit)
    };
    let (copies, needed) = (nodes.iter().filter(holds).count(), (nodes.len() / 2 + 1).saturating_sub(lost_stores));
    if copies < needed {
        return Err(format!(
            "commit quorum: term {term} commits {commit}, but {copies} nodes hold its log, {needed} must"
        ));
    }
    Ok(())
}
