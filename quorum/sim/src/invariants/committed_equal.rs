//! What anybody calls committed is the same bytes everywhere and for ever.

use ogel_ids::Lsn;

use super::Verdict;

pub(super) fn check(committed: &[u8], log: &[u8], commit: Lsn) -> Verdict {
    let common = committed.len().min(log.len());
    if committed[..common] == log[..common] {
        return Ok(());
    }
    let at = (0..common).find(|&i| committed[i] != log[i]).unwrap_or(common);
    Err(format!("committed WAL equal: commit {commit} covers other bytes than were committed, from offset {at} on"))
}
