//! The log of an elected proposer begins with everything committed before.

use quorum::Victory;

use super::{Observed, Verdict};

pub(super) fn check(observed: &Observed, victory: &Victory) -> Verdict {
    let (term, committed) = (victory.term, observed.committed_end());
    if victory.start_lsn < committed {
        return Err(format!(
            "leader completeness: term {term} starts at {}, but {committed} is committed",
            victory.start_lsn
        ));
    }
    // The own entry starts at the end and contributes nothing yet.
    match observed.log_of(&victory.history, committed) {
        Some(log) if log == observed.committed => Ok(()),
        _ => Err(format!("leader completeness: the log of term {term} lacks WAL committed up to {committed}")),
    }
}
