//! How far a compute of a term may read.

use ogel_ids::{Lsn, Term};

use crate::manifest::TermStart;

/// Highest LSN at which a compute of `term` may be answered: the start of the first later term. `None`: no later term is known.
///
/// Without it a compute that was deposed would be handed pages written by its successor, whose transaction ids mean something else
/// to it (H10).
pub fn fence(history: &[TermStart], term: Term) -> Option<Lsn> {
    history.iter().filter(|entry| entry.term > term).map(|entry| entry.lsn).min()
}

/// Checks a history as it was announced: terms rise, starts do not fall.
pub fn is_ordered(history: &[TermStart]) -> bool {
    history.windows(2).all(|pair| pair[0].term < pair[1].term && pair[0].lsn <= pair[1].lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_later_term_is_the_limit() {
        let history = [(1, 100), (4, 200), (5, 300)].map(|(term, lsn)| TermStart { term: Term(term), lsn: Lsn(lsn) });
        assert!(is_ordered(&history));
        assert_eq!(fence(&history, Term(1)), Some(Lsn(200)));
        assert_eq!(fence(&history, Term(3)), Some(Lsn(200)));
        assert_eq!(fence(&history, Term(4)), Some(Lsn(300)));
        assert_eq!(fence(&history, Term(5)), None);
        assert_eq!(fence(&[], Term(5)), None);
    }
}
