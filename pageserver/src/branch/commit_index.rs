//! Which position belongs to a time.
//!
//! Commit times are taken a moment before the commit record gets its place in the WAL, so they do not always rise along it. The position of
//! a time T is **the end of the longest prefix of the WAL in which every commit has a time ≤ T**. With one clock that neither stands
//! still nor goes back this is what people mean by "as of T": whoever had an answer to `COMMIT` at T is in (its record, and all before
//! it, were written before T, so all their times are ≤ T), whoever began to commit after T is not. Where clocks of successive computes differ,
//! what was written after a commit with too late a time stays out until that time.
//!
//! The latest commit time of a prefix never falls along the WAL, so the position is found by bisection over it.

use ogel_ids::Lsn;

use super::Timestamp;

/// What is known at a position: the newest entry of the index at or below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// End of its record: a timeline can begin exactly there.
    pub lsn: Lsn,
    /// Latest commit time of all commits up to there; `None` before the first.
    pub newest_commit: Option<Timestamp>,
}

/// The position of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Exactly this entry: the next commit is later.
    Exact(Entry),
    /// Everything that is known is older; this is the newest entry. Commits that have not arrived may belong to it, too.
    Newest(Entry),
    /// The kept history begins later, with this entry.
    BeforeHistory(Option<Entry>),
}

/// Finds the position of `time` in the history `(floor, head]`, in O(log n) probes. `entry_at` gives the newest entry at or below a position,
/// `None` when there is none.
pub fn position_of<E>(
    time: Timestamp,
    (floor, head): (Lsn, Lsn),
    mut entry_at: impl FnMut(Lsn) -> Result<Option<Entry>, E>,
) -> Result<Position, E> {
    let is_later = |entry: &Entry| entry.newest_commit.is_some_and(|newest| newest > time);
    let first = entry_at(floor)?;
    if first.is_none_or(|entry| is_later(&entry)) {
        return Ok(Position::BeforeHistory(first));
    }
    let Some(newest) = entry_at(head)? else { return Ok(Position::BeforeHistory(None)) };
    if !is_later(&newest) {
        return Ok(match newest.newest_commit {
            Some(_) => Position::Newest(newest),
            None => Position::BeforeHistory(None),
        });
    }
    // The entries at or below `low` are not later than `time`, the one at `high` is.
    let (mut low, mut high) = (floor, newest);
    while let Some(middle) = between(low, high.lsn) {
        match entry_at(middle)? {
            Some(entry) if is_later(&entry) => high = entry,
            _ => low = middle,
        }
    }
    match entry_at(low)? {
        Some(entry) if entry.newest_commit.is_some() => Ok(Position::Exact(entry)),
        _ => Ok(Position::BeforeHistory(Some(high))),
    }
}

/// A position half-way where a record may end (records are aligned to 8 bytes); `None` when there is none between the two.
fn between(low: Lsn, high: Lsn) -> Option<Lsn> {
    let steps = high.0.saturating_sub(low.0) / 8;
    (steps > 1).then(|| Lsn(low.0 + steps / 2 * 8))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// Commits as (record end, own time) in the order of the WAL.
    fn entries(commits: &[(u64, i64)]) -> Vec<Entry> {
        let mut newest = None;
        let start = Entry { lsn: Lsn(8), newest_commit: None };
        let commits = commits.iter().map(|(lsn, time)| {
            newest = newest.max(Some(Timestamp(*time)));
            Entry { lsn: Lsn(*lsn), newest_commit: newest }
        });
        std::iter::once(start).chain(commits).collect()
    }

    fn find(entries: &[Entry], floor: u64, time: i64) -> (Position, usize) {
        let (mut probes, head) = (0, entries.last().map_or(Lsn(8), |last| Lsn(last.lsn.0 + 80)));
        let position = position_of(Timestamp(time), (Lsn(floor), head), |at| {
            probes += 1;
            let known = entries.partition_point(|entry| entry.lsn <= at);
            Ok::<_, Infallible>(known.checked_sub(1).map(|last| entries[last]))
        });
        let Ok(position) = position;
        (position, probes)
    }

    #[test]
    fn a_time_between_two_commits_is_the_end_of_the_first() {
        let index = entries(&[(16, 100), (64, 200), (120, 150), (128, 300)]);
        let exact = |at: usize| Position::Exact(index[at]);
        assert_eq!(find(&index, 8, 99).0, Position::BeforeHistory(Some(index[1])));
        assert_eq!(find(&index, 8, 100).0, exact(1));
        assert_eq!(find(&index, 8, 170).0, exact(1), "the commit of 150 lies behind one of 200");
        assert_eq!(find(&index, 8, 200).0, exact(3));
        assert_eq!(find(&index, 8, 299).0, exact(3));
        assert_eq!(find(&index, 8, 300).0, Position::Newest(index[4]));
        assert_eq!(find(&index, 64, 170).0, Position::BeforeHistory(Some(index[2])), "trimmed below 64");
        assert_eq!(find(&entries(&[]), 8, 5).0, Position::BeforeHistory(None));
    }

    proptest! {
        #[test]
        fn the_longest_prefix_without_a_later_commit(
            steps in proptest::collection::vec((1u64..5000, -20i64..200), 1..60),
            time in -100i64..12_000,
        ) {
            let (mut lsn, mut clock) = (8, 0);
            let commits: Vec<(u64, i64)> = steps.iter().map(|(gap, step)| {
                (lsn, clock) = (lsn + gap * 8, clock + step);
                (lsn, clock)
            }).collect();
            let index = entries(&commits);
            let prefix = commits.iter().take_while(|(_, own)| *own <= time).count();
            let expected = match prefix {
                0 => Position::BeforeHistory(Some(index[1])),
                all if all == commits.len() => Position::Newest(index[all]),
                some => Position::Exact(index[some]),
            };
            let (found, probes) = find(&index, 8, time);
            prop_assert_eq!(found, expected);
            prop_assert!(probes <= 24, "{} probes for {} commits", probes, commits.len());
        }
    }
}
