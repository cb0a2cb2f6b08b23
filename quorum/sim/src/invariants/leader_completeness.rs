//! The log of an elected proposer begins with everything committed in terms before its own. (A candidate may learn late that it
//! has won a term that is long over; it can commit nothing, and its log need not have what later terms committed.)

use quorum::Victory;

use super::{Observed, Verdict};
use crate::toy_wal::{TIMELINE_START, offset};

pub(super) fn check(observed: &Observed, victory: &Victory) -> Verdict {
    let term = victory.term;
    let committed = observed.commit_by_term.range(..term).map(|(_, lsn)| *lsn).max().unwrap_or(TIMELINE_START);
    if victory.start_lsn < committed {
        return Err(format!(
            "leader completeness: term {term} starts at {}, but {committed} is committed",
            victory.start_lsn
        ));
    }
    // The own entry starts at the end and contributes nothing yet.
    match observed.log_of(&victory.history, committed) {
        Some(log) if log == observed.committed[..offset(committed)] => Ok(()),
        _ => Err(format!("leader completeness: the log of term {term} lacks WAL committed up to {committed}")),
    }
}
