//! What must hold in every run, one file each. Each looks at the disks and at what was said, never at the core's own reasons.

mod commit_monotone;
mod commit_quorum;
mod committed_equal;
mod election_safety;
mod leader_completeness;
mod log_matching;
mod truncation;

use std::collections::{BTreeMap, BTreeSet};

use ogel_ids::{CandidateId, Lsn, Term};
use quorum::{TermHistory, Victory};

use crate::{node::Safekeeper, toy_wal::offset};

/// A broken invariant, for people.
pub type Violation = String;
/// Holds, or is broken.
pub type Verdict = Result<(), Violation>;

/// The WAL that one term's proposer made.
#[derive(Debug, Clone)]
pub struct Reign {
    /// Its history; the last entry is its own.
    pub history: TermHistory,
    /// Start of its own WAL.
    pub start: Lsn,
    /// Its own WAL.
    pub wal: Vec<u8>,
}

/// Everything that was ever observed in a run; outlives crashes.
#[derive(Debug, Default)]
pub struct Observed {
    /// By term.
    pub reigns: BTreeMap<Term, Reign>,
    winners: BTreeMap<Term, CandidateId>,
    /// The one true committed log.
    pub committed: Vec<u8>,
    /// In which terms commits were announced behind the term's start.
    pub commit_terms: BTreeSet<Term>,
    proposer_commit: BTreeMap<Term, Lsn>,
    /// Highest commit announced by somebody of a term, proposer or acceptor.
    commit_by_term: BTreeMap<Term, Lsn>,
    /// A lost or rotten store may have taken one of the copies with it.
    pub lost_stores: usize,
}

impl Observed {
    /// End of the committed log.
    pub fn committed_end(&self) -> Lsn {
        Lsn(crate::toy_wal::TIMELINE_START.0 + self.committed.len() as u64)
    }

    /// The log that a history describes, up to `end`; `None` where a term never wrote that far.
    pub fn log_of(&self, history: &TermHistory, end: Lsn) -> Option<Vec<u8>> {
        let mut log = Vec::new();
        let entries = history.entries();
        for (i, entry) in entries.iter().enumerate() {
            let to = entries.get(i + 1).map_or(end, |next| next.start.min(end));
            if entry.start >= to {
                continue;
            }
            let reign = self.reigns.get(&entry.term)?;
            let from = entry.start.0.checked_sub(reign.start.0)? as usize;
            log.extend_from_slice(reign.wal.get(from..from + to.bytes_since(entry.start) as usize)?);
        }
        Some(log)
    }

    /// An election was won.
    pub fn elected(&mut self, victory: &Victory, candidate: CandidateId) -> Verdict {
        election_safety::check(self, victory, candidate)?;
        leader_completeness::check(self, victory)?;
        let (history, start) = (victory.history.clone(), victory.start_lsn);
        self.reigns.insert(victory.term, Reign { history, start, wal: Vec::new() });
        Ok(())
    }

    /// A proposer handed WAL to its core.
    pub fn produced(&mut self, term: Term, wal: &[u8]) {
        if let Some(reign) = self.reigns.get_mut(&term) {
            reign.wal.extend_from_slice(wal);
        }
    }

    /// A proposer announced a commit.
    pub fn proposer_committed(&mut self, term: Term, commit: Lsn, nodes: &[Safekeeper]) -> Verdict {
        commit_monotone::check(self.proposer_commit.insert(term, commit), commit)?;
        commit_quorum::check(nodes, self.lost_stores, term, commit)?;
        let Some(reign) = self.reigns.get(&term) else { return Err(format!("term {term} was never won")) };
        if commit > reign.start {
            self.commit_terms.insert(term);
        }
        let log = self.log_of(&reign.history.clone(), commit);
        let log = log.ok_or_else(|| format!("term {term} commits {commit}, which it never wrote"))?;
        self.commit(&log, commit, term)
    }

    /// An acceptor announced a commit.
    pub fn acceptor_committed(&mut self, node: &mut Safekeeper, commit: Lsn) -> Verdict {
        commit_monotone::check(Some(node.commit_seen), commit)?;
        node.commit_seen = commit;
        let log = node.disk.durable.get(..offset(commit));
        let log = log.ok_or_else(|| format!("node {} commits {commit} without the WAL on disk", node.id()))?.to_vec();
        let term = node.acceptor.as_ref().map_or(Term(u64::MAX), |acceptor| acceptor.status().term);
        self.commit(&log, commit, term).map_err(|error| format!("node {}: {error}", node.id()))
    }

    fn commit(&mut self, log: &[u8], commit: Lsn, term: Term) -> Verdict {
        committed_equal::check(&self.committed, log, commit)?;
        let highest = self.commit_by_term.entry(term).or_default();
        *highest = commit.max(*highest);
        if log.len() > self.committed.len() {
            self.committed = log.to_vec();
        }
        Ok(())
    }

    /// An acceptor's durable position has moved.
    pub fn moved(&self, node: &mut Safekeeper) -> Verdict {
        log_matching::check(self, node)
    }

    /// An acceptor has cut its log, or came back.
    pub fn copies(&self, nodes: &[Safekeeper]) -> Verdict {
        truncation::check(self, nodes)
    }
}
