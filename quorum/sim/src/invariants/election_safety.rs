//! At most one candidate ever wins a term.

use ogel_ids::CandidateId;
use quorum::Victory;

use super::{Observed, Verdict};

pub(super) fn check(observed: &mut Observed, victory: &Victory, candidate: CandidateId) -> Verdict {
    match observed.winners.insert(victory.term, candidate) {
        None if !observed.reigns.contains_key(&victory.term) => Ok(()),
        _ => Err(format!("election safety: term {} was won twice, now by {candidate}", victory.term)),
    }
}
