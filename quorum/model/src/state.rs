//! One state of the whole system: three acceptors, two proposers, every reign, and what was ever committed.
//!
//! A record is one position wide, so an LSN is the number of records below it. What a record says is named by the term that
//! wrote it, because a term has one writer (election safety, checked first of all).

/// Safekeepers.
pub const ACCEPTORS: usize = 3;
/// Places where computes run.
pub const PROPOSERS: usize = 2;
/// Highest bound on terms that a state has room for.
pub const MAX_TERMS: usize = 4;
/// Highest bound on records that a state has room for.
pub const MAX_RECORDS: usize = 3;

/// A set of terms that includes 0, the timeline's creation. Starts are in [`State::reigns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct History(u8);

impl History {
    /// Of a timeline that was just created.
    pub const CREATION: Self = Self(1);

    /// With one more term.
    pub fn with(self, term: u8) -> Self {
        Self(self.0 | 1 << term)
    }

    /// The newest term.
    pub fn last(self) -> u8 {
        7 - self.0.leading_zeros() as u8
    }

    /// Oldest first.
    pub fn terms(self) -> impl DoubleEndedIterator<Item = u8> {
        (0..=MAX_TERMS as u8).filter(move |term| self.0 & 1 << term != 0)
    }

    /// Only the terms for which `keep` holds, and the creation.
    pub fn only(self, keep: impl Fn(u8) -> bool) -> Self {
        self.terms().filter(|&term| keep(term)).fold(Self::CREATION, Self::with)
    }
}

/// What a voter said of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vote {
    /// Cut at `flush`.
    pub history: History,
    /// End of its log.
    pub flush: u8,
}

/// One safekeeper: what is on its disk, its commit_lsn, and what it has said.
///
/// Whatever was said may arrive at any later time, or never: the reader of a mailbox chooses when to look, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Acceptor {
    /// Highest term accepted.
    pub term: u8,
    /// Who has the vote in `term`, while that campaign lasts.
    pub voted_for: Option<u8>,
    /// As in the control file: may run ahead of the log.
    pub history: History,
    /// The writer of each record on disk; 0 = zeros. Records behind `flush` are there only if zeroing is left out.
    pub disk: [u8; MAX_RECORDS],
    /// End of the log.
    pub flush: u8,
    /// What it knows to be committed; forgotten in a crash, of which the real one is a milder case.
    pub commit: u8,
    /// By term: highest flush_lsn that it has answered with while `term` and its last_log_term were that term.
    pub acked: [Option<u8>; MAX_TERMS + 1],
    /// By proposer: its vote in that one's current campaign.
    pub votes: [Option<Vote>; PROPOSERS],
}

/// An election that was won. Its messages stay deliverable for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reign {
    /// Ends with its own term.
    pub history: History,
    /// Where its own WAL begins.
    pub start: u8,
    /// Highest commit announced for its log, by its proposer or by an acceptor with this last_log_term.
    pub commit: u8,
}

/// A place where computes run, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Proposer {
    /// Of its last campaign.
    pub term: u8,
    /// Whether that is undecided.
    pub campaigning: bool,
}

/// What was announced as committed, by position; outlives everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Committed {
    /// The writer of the record; 0 = not committed.
    pub written_by: u8,
    /// The lowest term in which somebody announced it.
    pub announced_in: u8,
}

/// Invariants about a step rather than a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Broken {
    /// A term was won twice.
    pub election_safety: bool,
    /// A commit_lsn went back.
    pub commit_monotone: bool,
    /// Another record was announced at a committed position.
    pub committed_equal: bool,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// In the order of their content: they are interchangeable.
    pub acceptors: [Acceptor; ACCEPTORS],
    /// In the order of their content as well.
    pub proposers: [Proposer; PROPOSERS],
    /// By term; term 0 is the creation.
    pub reigns: [Option<Reign>; MAX_TERMS + 1],
    /// By position.
    pub committed: [Committed; MAX_RECORDS],
    /// By steps up to here.
    pub broken: Broken,
}

impl State {
    /// A timeline that was just created on three nodes.
    pub fn created() -> Self {
        let acceptor = Acceptor {
            term: 0,
            voted_for: None,
            history: History::CREATION,
            disk: [0; MAX_RECORDS],
            flush: 0,
            commit: 0,
            acked: [None; MAX_TERMS + 1],
            votes: [None; PROPOSERS],
        };
        let mut reigns = [None; MAX_TERMS + 1];
        reigns[0] = Some(Reign { history: History::CREATION, start: 0, commit: 0 });
        Self {
            acceptors: [acceptor; ACCEPTORS],
            proposers: [Proposer { term: 0, campaigning: false }; PROPOSERS],
            reigns,
            committed: [Committed::default(); MAX_RECORDS],
            broken: Broken::default(),
        }
    }

    /// Where counting copies goes wrong if the own-term rule is missing: term 1 wrote two records on one node, term 2 another
    /// record on the second, the third voted for term 2 and is empty. A start for checks that reach higher terms than a check
    /// from the creation on could afford.
    pub fn contested() -> Self {
        let mut state = Self::created();
        let history = |term| History::CREATION.with(term);
        for term in [1, 2] {
            state.reigns[usize::from(term)] = Some(Reign { history: history(term), start: 0, commit: 0 });
        }
        state.proposers = [1, 2].map(|term| Proposer { term, campaigning: false });
        let [first, second, third] = &mut state.acceptors;
        first.disk[..2].fill(1);
        (first.term, first.history, first.flush) = (1, history(1), 2);
        first.acked[1] = Some(2);
        (second.term, second.history, second.disk[0], second.flush) = (2, history(2), 2, 1);
        second.acked[2] = Some(1);
        third.term = 2;
        state.canonical()
    }

    /// Where `term` begins; beyond every log if it was never won.
    pub fn start(&self, term: u8) -> u8 {
        self.reigns[usize::from(term)].map_or(u8::MAX, |reign| reign.start)
    }

    /// Without the terms that start behind `flush`.
    pub fn cut(&self, history: History, flush: u8) -> History {
        history.only(|term| self.start(term) <= flush)
    }

    /// Only the terms that wrote below `end`.
    pub fn written_below(&self, history: History, end: u8) -> History {
        history.only(|term| self.start(term) < end)
    }

    /// The term of whose log a log of this history up to `flush` is a prefix.
    pub fn last_log_term(&self, history: History, flush: u8) -> u8 {
        self.cut(history, flush).last()
    }

    /// Who wrote the record at `position` of a log with this history.
    pub fn writer(&self, history: History, position: u8) -> u8 {
        self.cut(history, position).last()
    }

    /// Highest position up to which two logs are the same; an end may be `u8::MAX`.
    pub fn common_end(&self, (ours, end): (History, u8), (theirs, other_end): (History, u8)) -> u8 {
        let (ours, theirs) = (self.cut(ours, end), self.cut(theirs, other_end));
        let first_difference = (0..=MAX_TERMS as u8).find(|&term| {
            let has = |history: History| history.terms().any(|t| t == term);
            has(ours) != has(theirs)
        });
        let limit = |history: History, end: u8| {
            let differs = |&term: &u8| first_difference.is_some_and(|first| term >= first);
            history.terms().find(differs).map_or(end, |term| self.start(term))
        };
        limit(ours, end).min(limit(theirs, other_end))
    }

    /// Takes what cannot matter any more out of the state, and puts what is interchangeable in order.
    pub fn canonical(mut self) -> Self {
        if self.proposers[0] > self.proposers[1] {
            self.proposers.swap(0, 1);
            for acceptor in &mut self.acceptors {
                acceptor.votes.swap(0, 1);
                acceptor.voted_for = acceptor.voted_for.map(|proposer| 1 - proposer);
            }
        }
        let (proposers, reigns) = (self.proposers, self.reigns);
        for acceptor in &mut self.acceptors {
            let lasts = |&proposer: &u8| {
                let proposer = proposers[usize::from(proposer)];
                proposer.campaigning && proposer.term == acceptor.term
            };
            acceptor.voted_for = acceptor.voted_for.filter(lasts);
            for (acked, reign) in acceptor.acked.iter_mut().zip(reigns) {
                // Up to there it is known to everybody who could count.
                *acked = acked.filter(|&lsn| reign.is_some_and(|reign| lsn > reign.commit));
            }
        }
        self.acceptors.sort_unstable();
        self
    }
}
