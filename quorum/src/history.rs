//! Which term wrote which part of a log.

use ogel_ids::{Lsn, Term};

/// Bound on the entries of a history on the wire and in memory.
pub const MAX_HISTORY_ENTRIES: usize = 65_536;

/// `term` wrote the log from `start` to the start of the next entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The writer.
    pub term: Term,
    /// Where its part begins: a record boundary.
    pub start: Lsn,
}

/// The terms that wrote a log: never empty, terms strictly increase, starts never decrease.
///
/// A stored history may run ahead of the WAL, because it is persisted before the WAL it describes. Whoever reads it cuts it at
/// flush_lsn first; an entry that starts exactly at flush_lsn counts.
#[derive(Clone, PartialEq, Eq)]
pub struct TermHistory(Vec<HistoryEntry>);

/// Entries that cannot be a history, or two that cannot belong to one timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// No entry.
    #[error(
        "the term history is empty; a timeline's history begins with its creation, so the sender's state is damaged"
    )]
    Empty,
    /// More than [`MAX_HISTORY_ENTRIES`].
    #[error("the term history has more than {MAX_HISTORY_ENTRIES} entries and cannot be kept")]
    TooLong,
    /// Terms or starts out of order.
    #[error("the term history is not in order at entry {index}; the sender's state is damaged")]
    Disorder {
        /// Number of the first entry out of order.
        index: usize,
    },
    /// One term with two starts: two proposers won it, or somebody's state is damaged.
    #[error("term {term} starts at {ours} in one history and at {theirs} in another: the logs cannot be reconciled")]
    Contradiction {
        /// The term.
        term: Term,
        /// Its start here.
        ours: Lsn,
        /// Its start there.
        theirs: Lsn,
    },
    /// Not even the first entry is common.
    #[error("the term histories have nothing in common: they belong to different timelines")]
    Foreign,
}

impl TermHistory {
    /// The history of a timeline that was just created.
    pub fn new(term: Term, start: Lsn) -> Self {
        Self(vec![HistoryEntry { term, start }])
    }

    /// Checks entries read from a wire or a disk.
    pub fn from_entries(entries: Vec<HistoryEntry>) -> Result<Self, HistoryError> {
        if entries.is_empty() {
            return Err(HistoryError::Empty);
        }
        if entries.len() > MAX_HISTORY_ENTRIES {
            return Err(HistoryError::TooLong);
        }
        match entries.windows(2).position(|pair| pair[0].term >= pair[1].term || pair[0].start > pair[1].start) {
            Some(index) => Err(HistoryError::Disorder { index: index + 1 }),
            None => Ok(Self(entries)),
        }
    }

    /// Oldest first.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.0
    }

    /// The newest entry.
    pub fn last(&self) -> HistoryEntry {
        self.0[self.0.len() - 1]
    }

    /// Term of the last entry that starts at or before `flush_lsn`: the term whose log this is a prefix of.
    pub fn last_log_term(&self, flush_lsn: Lsn) -> Term {
        self.0[self.covered(flush_lsn) - 1].term
    }

    /// Without the entries that start behind `flush_lsn`; the first entry always stays.
    pub fn cut_at(&self, flush_lsn: Lsn) -> Self {
        Self(self.0[..self.covered(flush_lsn)].to_vec())
    }

    /// Only the terms that wrote below `end`: without those that had not written anything up to there, which another log with
    /// the same bytes need not know of.
    pub fn written_below(&self, end: Lsn) -> Self {
        Self(self.0[..self.0.partition_point(|entry| entry.start < end).max(1)].to_vec())
    }

    fn covered(&self, flush_lsn: Lsn) -> usize {
        self.0.partition_point(|entry| entry.start <= flush_lsn).max(1)
    }

    /// The history of a log that `term` continues at `start`: this one cut there, and the new entry. A full history forgets its
    /// older half: a branch that is started ten times a day would reach the bound after years, and must not stop then.
    pub fn continued(&self, term: Term, start: Lsn) -> Result<Self, HistoryError> {
        let mut entries = self.cut_at(start).0;
        if entries.len() == MAX_HISTORY_ENTRIES {
            entries.drain(..MAX_HISTORY_ENTRIES / 2);
        }
        entries.push(HistoryEntry { term, start });
        Self::from_entries(entries)
    }

    /// Start of `term`, if it wrote here.
    pub fn start_of(&self, term: Term) -> Option<Lsn> {
        self.0.binary_search_by_key(&term, |entry| entry.term).ok().map(|index| self.0[index].start)
    }

    /// Highest position up to which two logs are the same bytes: this one's ends at `end`, the other's at `other_end`.
    ///
    /// Both follow the same terms up to some entry. Behind it the logs agree until the first of: the next term's start on
    /// either side, or the end of either log. A proposer passes `Lsn::MAX` as the end of its own log: its last term has none.
    pub fn common_end(&self, end: Lsn, other: &Self, other_end: Lsn) -> Result<Lsn, HistoryError> {
        let (ours, theirs) = (self.cut_at(end), other.cut_at(other_end));
        let (ours, theirs) = aligned(&ours.0, &theirs.0);
        let mut common = 0;
        for (a, b) in ours.iter().zip(theirs) {
            if a.term != b.term {
                break;
            }
            if a.start != b.start {
                return Err(HistoryError::Contradiction { term: a.term, ours: a.start, theirs: b.start });
            }
            common += 1;
        }
        if common == 0 {
            return Err(HistoryError::Foreign);
        }
        let limit = |entries: &[HistoryEntry], end: Lsn| entries.get(common).map_or(end, |entry| entry.start);
        Ok(limit(ours, end).min(limit(theirs, other_end)))
    }

    /// Whether the same terms wrote both logs below `end`.
    pub fn agrees_below(&self, end: Lsn, other: &Self) -> bool {
        let (ours, theirs) = (self.written_below(end), other.written_below(end));
        let (ours, theirs) = aligned(&ours.0, &theirs.0);
        !ours.is_empty() && ours == theirs
    }
}

/// Both histories from the first term on that neither has forgotten. What lies below an entry that both have is the same,
/// because one proposer wrote that entry's term and had one log.
fn aligned<'a>(ours: &'a [HistoryEntry], theirs: &'a [HistoryEntry]) -> (&'a [HistoryEntry], &'a [HistoryEntry]) {
    let first = ours[0].term.max(theirs[0].term);
    let from = |entries: &'a [HistoryEntry]| &entries[entries.partition_point(|entry| entry.term < first)..];
    (from(ours), from(theirs))
}

impl std::fmt::Debug for TermHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| format!("{}@{}", entry.term, entry.start))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(u64, u64)]) -> TermHistory {
        TermHistory::from_entries(
            entries.iter().map(|&(term, start)| HistoryEntry { term: Term(term), start: Lsn(start) }).collect(),
        )
        .expect("in order")
    }

    #[test]
    fn disorder_is_an_error() {
        let entry = |term, start| HistoryEntry { term: Term(term), start: Lsn(start) };
        assert_eq!(TermHistory::from_entries(vec![]), Err(HistoryError::Empty));
        for bad in [vec![entry(2, 8), entry(2, 16)], vec![entry(2, 8), entry(3, 0)]] {
            assert_eq!(TermHistory::from_entries(bad), Err(HistoryError::Disorder { index: 1 }));
        }
        assert!(TermHistory::from_entries(vec![entry(2, 8), entry(3, 8)]).is_ok(), "a term may have written nothing");
    }

    #[test]
    fn an_entry_at_flush_lsn_counts() {
        let history = history(&[(0, 100), (3, 200), (5, 300)]);
        assert_eq!(history.last_log_term(Lsn(299)), Term(3));
        assert_eq!(history.last_log_term(Lsn(300)), Term(5));
        assert_eq!(history.cut_at(Lsn(250)).entries().len(), 2);
        assert_eq!(history.cut_at(Lsn(1)).entries().len(), 1, "the first entry always stays");
    }

    #[test]
    fn common_end_by_cases() {
        let proposer = history(&[(0, 100), (3, 200), (6, 300)]);
        let point = |acceptor: &[(u64, u64)], flush| proposer.common_end(Lsn::MAX, &history(acceptor), Lsn(flush));
        assert_eq!(point(&[(0, 100), (3, 200), (6, 300)], 400), Ok(Lsn(400)), "the proposer's own term: all of it");
        assert_eq!(point(&[(0, 100), (3, 200)], 250), Ok(Lsn(250)), "a prefix is kept whole");
        assert_eq!(point(&[(0, 100), (3, 200)], 350), Ok(Lsn(300)), "cut where the proposer's next term starts");
        assert_eq!(
            point(&[(0, 100), (3, 200), (5, 260)], 290),
            Ok(Lsn(260)),
            "cut where the acceptor's own term starts"
        );
        assert_eq!(point(&[(0, 100), (3, 200), (5, 260)], 250), Ok(Lsn(250)), "an entry beyond the WAL does not count");
        assert_eq!(point(&[(0, 100), (2, 150)], 500), Ok(Lsn(150)));
        assert_eq!(point(&[(1, 100)], 150), Err(HistoryError::Foreign));
        assert!(matches!(point(&[(0, 100), (3, 210)], 250), Err(HistoryError::Contradiction { .. })));
    }

    #[test]
    fn a_new_term_continues_the_cut_history() {
        let donor = history(&[(0, 100), (3, 200), (5, 300)]);
        assert_eq!(donor.continued(Term(7), Lsn(250)), Ok(history(&[(0, 100), (3, 200), (7, 250)])));
        assert!(donor.continued(Term(5), Lsn(300)).is_err());
    }

    #[test]
    fn a_full_history_forgets_its_older_half_and_still_fits_the_others() {
        let full = (0..MAX_HISTORY_ENTRIES as u64).map(|n| HistoryEntry { term: Term(n), start: Lsn(100 + n) });
        let full = TermHistory::from_entries(full.collect()).expect("in order");
        let end = Lsn(100 + MAX_HISTORY_ENTRIES as u64);
        let next = full.continued(Term(1 << 20), end).expect("there is room again");
        assert_eq!(next.entries().len(), MAX_HISTORY_ENTRIES / 2 + 1);
        assert_eq!(next.common_end(Lsn::MAX, &full, end), Ok(end));
        assert!(full.agrees_below(end, &next) && !full.agrees_below(Lsn(end.0 + 1), &next));
        assert_eq!(next.common_end(Lsn::MAX, &full, Lsn(200)), Err(HistoryError::Foreign), "too far behind to tell");
    }
}
