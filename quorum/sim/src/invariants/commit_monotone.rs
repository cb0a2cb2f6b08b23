//! commit_lsn never goes back: of a proposer in its reign, of an acceptor in the life of its process.

use ogel_ids::Lsn;

use super::Verdict;

pub(super) fn check(before: Option<Lsn>, commit: Lsn) -> Verdict {
    match before {
        Some(before) if before > commit => Err(format!("commit monotone: {before} was announced before {commit}")),
        _ => Ok(()),
    }
}
