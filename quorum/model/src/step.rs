//! What can happen next. Losing, delaying, repeating and reordering a message are no steps of their own: whatever was said may
//! be heard at any later time, any number of times, or never.

use crate::state::{ACCEPTORS, Acceptor, Committed, PROPOSERS, Reign, State, Vote};
use crate::{Bounds, Removed};

/// One step, by the numbers of the acceptors and proposers that take part.
#[expect(missing_docs, reason = "the fields are those numbers")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A compute starts a campaign.
    Campaign { proposer: u8, term: u8 },
    /// A vote request arrives; the vote is durable before it is answered.
    Vote { acceptor: usize, proposer: u8 },
    /// The votes of these acceptors (a bit each) have arrived: a quorum.
    Win { proposer: u8, voters: u8 },
    /// Elected is carried out.
    Elect { acceptor: usize, term: u8 },
    /// Elected is begun, and the node crashes between zeroing and writing the control file.
    ElectAndCrash { acceptor: usize, term: u8 },
    /// The next record of the acceptor's own term arrives and is flushed.
    Append { acceptor: usize },
    /// A proposer counts answers and announces what a quorum has.
    Commit { term: u8 },
    /// Commit news arrive from the proposer of the acceptor's term.
    HearCommit { acceptor: usize },
    /// Commit news arrive from a peer whose last_log_term is or was `term`.
    HearPeerCommit { acceptor: usize, term: u8 },
    /// The acceptor counts the peers' reports by itself (H5).
    SelfAdvance { acceptor: usize },
    /// Toward committed WAL of a peer (H3, case 1): a cut if one is due, else one record.
    FetchCommitted { acceptor: usize, peer: usize },
    /// The cut of that is begun, and the node crashes between zeroing and writing the control file.
    CutAndCrash { acceptor: usize, peer: usize },
    /// One record below the start of the term that was elected here, from a peer that has reached it (H3, case 2).
    FetchPrefix { acceptor: usize, peer: usize },
    /// The process ends and scans its WAL at the restart.
    Crash { acceptor: usize },
}

/// Every step that might be possible; [`Stepper::after`] decides.
pub fn all(state: &State, bounds: Bounds, steps: &mut Vec<Step>) {
    for proposer in 0..PROPOSERS as u8 {
        let mut terms = [0, 1, 2].map(|without| next_term(state, proposer, without));
        terms.sort_unstable();
        for (i, &term) in terms.iter().enumerate() {
            if term <= bounds.terms && !terms[..i].contains(&term) {
                steps.push(Step::Campaign { proposer, term });
            }
        }
        steps.extend([0b011, 0b101, 0b110, 0b111].map(|voters| Step::Win { proposer, voters }));
    }
    for term in 1..=bounds.terms {
        steps.push(Step::Commit { term });
    }
    for acceptor in 0..ACCEPTORS {
        steps.extend((0..PROPOSERS as u8).map(|proposer| Step::Vote { acceptor, proposer }));
        for term in 0..=bounds.terms {
            steps.extend([Step::Elect { acceptor, term }, Step::ElectAndCrash { acceptor, term }]);
            steps.push(Step::HearPeerCommit { acceptor, term });
        }
        for peer in (0..ACCEPTORS).filter(|&peer| peer != acceptor) {
            steps.extend([Step::FetchCommitted { acceptor, peer }, Step::CutAndCrash { acceptor, peer }]);
            steps.push(Step::FetchPrefix { acceptor, peer });
        }
        steps.extend([Step::Append { acceptor }, Step::HearCommit { acceptor }]);
        steps.extend([Step::SelfAdvance { acceptor }, Step::Crash { acceptor }]);
    }
}

/// One more than the highest term among a quorum that has greeted and the proposer's own. A greeting of long ago makes the
/// same campaign as one that began long ago.
fn next_term(state: &State, proposer: u8, without: usize) -> u8 {
    let greeted = (0..ACCEPTORS).filter(|&acceptor| acceptor != without).map(|i| state.acceptors[i].term);
    1 + greeted.max().unwrap_or(0).max(state.proposers[usize::from(proposer)].term)
}

/// Carries out one step.
pub struct Stepper {
    bounds: Bounds,
    removed: Option<Removed>,
    state: State,
}

impl Stepper {
    /// The state after `step`, unless it is not possible.
    pub fn after(state: &State, bounds: Bounds, removed: Option<Removed>, step: Step) -> Option<State> {
        let mut stepper = Self { bounds, removed, state: *state };
        stepper.take(step)?;
        if let Step::Vote { acceptor, .. }
        | Step::Elect { acceptor, .. }
        | Step::Append { acceptor }
        | Step::HearCommit { acceptor }
        | Step::HearPeerCommit { acceptor, .. }
        | Step::SelfAdvance { acceptor }
        | Step::FetchCommitted { acceptor, .. }
        | Step::FetchPrefix { acceptor, .. } = step
        {
            stepper.tell(acceptor);
            let went_back = stepper.state.acceptors[acceptor].commit < state.acceptors[acceptor].commit;
            stepper.state.broken.commit_monotone |= went_back;
        }
        for (reign, before) in stepper.state.reigns.iter().zip(state.reigns) {
            let commit = |reign: &Reign| reign.commit;
            stepper.state.broken.commit_monotone |= reign.as_ref().map(commit) < before.as_ref().map(commit);
        }
        let after = stepper.state.canonical();
        (after != *state).then_some(after)
    }

    fn take(&mut self, step: Step) -> Option<()> {
        match step {
            Step::Campaign { proposer, term } => self.campaign(proposer, term),
            Step::Vote { acceptor, proposer } => self.vote(acceptor, proposer),
            Step::Win { proposer, voters } => self.win(proposer, voters),
            Step::Elect { acceptor, term } => self.elect(acceptor, term, false),
            Step::ElectAndCrash { acceptor, term } => self.elect(acceptor, term, true),
            Step::Append { acceptor } => self.append(acceptor),
            Step::Commit { term } => self.commit(term),
            Step::HearCommit { acceptor } => self.hear_commit(acceptor),
            Step::HearPeerCommit { acceptor, term } => self.hear_peer_commit(acceptor, term),
            Step::SelfAdvance { acceptor } => self.self_advance(acceptor),
            Step::FetchCommitted { acceptor, peer } => self.fetch_committed(acceptor, peer, false),
            Step::CutAndCrash { acceptor, peer } => self.fetch_committed(acceptor, peer, true),
            Step::FetchPrefix { acceptor, peer } => self.fetch_prefix(acceptor, peer),
            Step::Crash { acceptor } => self.crash(acceptor),
        }
    }

    fn has_lost(&self, rule: Removed) -> bool {
        self.removed == Some(rule)
    }

    fn campaign(&mut self, proposer: u8, term: u8) -> Option<()> {
        let slot = usize::from(proposer);
        self.state.proposers[slot].term = term;
        self.state.proposers[slot].campaigning = true;
        self.state.acceptors.iter_mut().for_each(|acceptor| acceptor.votes[slot] = None);
        Some(())
    }

    fn vote(&mut self, acceptor: usize, proposer: u8) -> Option<()> {
        let candidate = self.state.proposers[usize::from(proposer)];
        let voter = &mut self.state.acceptors[acceptor];
        if !candidate.campaigning || candidate.term < voter.term {
            return None;
        }
        let again = voter.voted_for == Some(proposer) || self.removed == Some(Removed::SameCandidate);
        if candidate.term == voter.term && !again {
            return None;
        }
        voter.term = candidate.term;
        voter.voted_for = Some(proposer);
        let (history, flush) = (voter.history, voter.flush);
        let vote = Vote { history: self.state.cut(history, flush), flush };
        self.state.acceptors[acceptor].votes[usize::from(proposer)] = Some(vote);
        Some(())
    }

    /// The donor is the voter with the highest (last log term, flush_lsn).
    fn win(&mut self, proposer: u8, voters: u8) -> Option<()> {
        let slot = usize::from(proposer);
        let term = self.state.proposers[slot].term;
        if !self.state.proposers[slot].campaigning {
            return None;
        }
        let voters = (0..ACCEPTORS).filter(|&acceptor| voters & 1 << acceptor != 0);
        let votes: Option<Vec<_>> = voters.map(|acceptor| self.state.acceptors[acceptor].votes[slot]).collect();
        let donor = votes?.into_iter().max_by_key(|vote| (vote.history.last(), vote.flush))?;
        self.state.proposers[slot].campaigning = false;
        self.state.acceptors.iter_mut().for_each(|acceptor| acceptor.votes[slot] = None);
        let reign = &mut self.state.reigns[usize::from(term)];
        self.state.broken.election_safety |= reign.is_some();
        *reign = Some(Reign { history: donor.history.with(term), start: donor.flush, commit: 0 });
        Some(())
    }

    fn elect(&mut self, acceptor: usize, term: u8, crash: bool) -> Option<()> {
        let reign = self.state.reigns[usize::from(term)]?;
        let node = self.state.acceptors[acceptor];
        if term == 0 || term < node.term {
            return None;
        }
        let cut = self.state.common_end((reign.history, u8::MAX), (node.history, node.flush));
        if cut < node.commit {
            return None;
        }
        self.cut(acceptor, cut);
        if crash {
            return self.crash(acceptor);
        }
        let node = &mut self.state.acceptors[acceptor];
        (node.term, node.history, node.voted_for) = (term, reign.history, None);
        Some(())
    }

    /// Makes `end` the end of the log: with zeros behind it on disk (H2).
    fn cut(&mut self, acceptor: usize, end: u8) {
        let zeroing = !self.has_lost(Removed::NoZeroing);
        let node = &mut self.state.acceptors[acceptor];
        node.flush = end;
        if zeroing {
            node.disk[usize::from(end)..].fill(0);
        }
    }

    /// Whether Elected of the node's term was carried out: only then does WAL or commit news of its proposer reach it.
    fn follows(&self, acceptor: usize) -> bool {
        let node = self.state.acceptors[acceptor];
        node.term > 0
            && node.history.last() == node.term
            && self.state.reigns[usize::from(node.term)].is_some_and(|reign| reign.history == node.history)
    }

    fn append(&mut self, acceptor: usize) -> Option<()> {
        let node = self.state.acceptors[acceptor];
        if !self.follows(acceptor) || node.flush < self.state.start(node.term) {
            return None;
        }
        self.write(acceptor, node.term)
    }

    fn write(&mut self, acceptor: usize, writer: u8) -> Option<()> {
        let node = &mut self.state.acceptors[acceptor];
        if node.flush == self.bounds.records {
            return None;
        }
        node.disk[usize::from(node.flush)] = writer;
        node.flush += 1;
        Some(())
    }

    fn commit(&mut self, term: u8) -> Option<()> {
        let reign = self.state.reigns[usize::from(term)]?;
        let lsn = self.quorum(|node| node.acked[usize::from(term)])?;
        if lsn <= reign.commit || (lsn < reign.start && !self.counts_below_start()) {
            return None;
        }
        if let Some(reign) = &mut self.state.reigns[usize::from(term)] {
            reign.commit = lsn;
        }
        let log = (0..lsn).map(|position| self.state.writer(reign.history, position)).collect();
        self.announce(log, term);
        Some(())
    }

    fn counts_below_start(&self) -> bool {
        self.has_lost(Removed::CountBelowStart) || self.has_lost(Removed::CountAnyLogTerm)
    }

    /// What a majority has reached.
    fn quorum(&self, reached: impl Fn(&Acceptor) -> Option<u8>) -> Option<u8> {
        let mut lsns = [None; ACCEPTORS];
        for (lsn, node) in lsns.iter_mut().zip(&self.state.acceptors) {
            *lsn = reached(node);
        }
        lsns.sort_unstable();
        lsns[ACCEPTORS / 2]
    }

    fn hear_commit(&mut self, acceptor: usize) -> Option<()> {
        let node = self.state.acceptors[acceptor];
        let reign = self.state.reigns[usize::from(node.term)].filter(|_| self.follows(acceptor))?;
        self.raise_commit(acceptor, reign.commit)
    }

    fn hear_peer_commit(&mut self, acceptor: usize, term: u8) -> Option<()> {
        let node = self.state.acceptors[acceptor];
        let own = self.state.last_log_term(node.history, node.flush);
        if term != own && !self.has_lost(Removed::PeerCommitUnchecked) {
            return None;
        }
        let reign = self.state.reigns[usize::from(term)]?;
        self.raise_commit(acceptor, reign.commit)
    }

    fn self_advance(&mut self, acceptor: usize) -> Option<()> {
        let (me, any_log) = (self.state.acceptors[acceptor], self.has_lost(Removed::SelfAdvanceAnyLog));
        let term = usize::from(me.term);
        let own_log = self.state.last_log_term(me.history, me.flush) == me.term;
        // An answer that everybody who could count has heard of is as good as the commit that came of it.
        let known = self.state.reigns[term].filter(|_| own_log).map(|reign| reign.commit);
        let peer = |node: &Acceptor| match any_log {
            true => (node.term == me.term).then_some(node.flush),
            false => node.acked[term].max(known).filter(|_| own_log),
        };
        let lsn = self.quorum(peer)?;
        if lsn < self.state.start(me.term) && !any_log {
            return None;
        }
        self.raise_commit(acceptor, lsn)
    }

    fn raise_commit(&mut self, acceptor: usize, committed: u8) -> Option<()> {
        let node = &mut self.state.acceptors[acceptor];
        let commit = committed.min(node.flush);
        if commit <= node.commit {
            return None;
        }
        node.commit = commit;
        let (log, term) = (node.disk[..usize::from(commit)].to_vec(), node.term);
        self.announce(log, term);
        Some(())
    }

    /// Somebody in `term` calls this log committed.
    fn announce(&mut self, log: Vec<u8>, term: u8) {
        for (known, writer) in self.state.committed.iter_mut().zip(log) {
            match known.written_by {
                0 => *known = Committed { written_by: writer, announced_in: term },
                same if same == writer => known.announced_in = known.announced_in.min(term),
                _ => self.state.broken.committed_equal = true,
            }
        }
    }

    fn fetch_committed(&mut self, acceptor: usize, peer: usize, crash: bool) -> Option<()> {
        let (node, peer) = (self.state.acceptors[acceptor], self.state.acceptors[peer]);
        if peer.commit <= node.flush {
            return None;
        }
        let committed = self.state.written_below(self.state.cut(peer.history, peer.flush), peer.commit);
        let cut = self.state.common_end((node.history, node.flush), (committed, peer.commit));
        let same = self.state.written_below(node.history, peer.commit) == committed;
        let fetches = (same && cut == node.flush) || self.has_lost(Removed::FetchWithoutCut);
        if cut < node.commit || (crash && (fetches || cut == node.flush)) {
            return None;
        }
        if fetches {
            return self.write(acceptor, peer.disk[usize::from(node.flush)]);
        }
        self.cut(acceptor, cut);
        if crash {
            return self.crash(acceptor);
        }
        if !same {
            let peer_term = self.state.last_log_term(peer.history, peer.flush);
            let node = &mut self.state.acceptors[acceptor];
            if peer_term > node.term {
                (node.term, node.voted_for) = (peer_term, None);
            }
            node.history = committed;
        }
        Some(())
    }

    fn fetch_prefix(&mut self, acceptor: usize, peer: usize) -> Option<()> {
        let (node, peer) = (self.state.acceptors[acceptor], self.state.acceptors[peer]);
        let term = node.history.last();
        let reached = self.state.last_log_term(peer.history, peer.flush) == term && peer.flush > node.flush;
        if term != node.term || self.state.start(term) <= node.flush || !reached {
            return None;
        }
        self.write(acceptor, peer.disk[usize::from(node.flush)])
    }

    /// The scan at the restart runs over everything that fits, which is everything that is there.
    fn crash(&mut self, acceptor: usize) -> Option<()> {
        let node = &mut self.state.acceptors[acceptor];
        let end = node.disk.iter().position(|&writer| writer == 0).unwrap_or(node.disk.len());
        (node.flush, node.commit) = (end as u8, 0);
        Some(())
    }

    /// Answers to the proposer and status to the peers leave at once.
    fn tell(&mut self, acceptor: usize) {
        let node = self.state.acceptors[acceptor];
        let last_log_term = self.state.last_log_term(node.history, node.flush);
        let counts = match self.removed {
            Some(Removed::CountAnyLogTerm) => true,
            Some(Removed::CountBelowStart) => node.history.last() == node.term,
            _ => last_log_term == node.term,
        };
        if counts && self.state.reigns[usize::from(node.term)].is_some() {
            let acked = &mut self.state.acceptors[acceptor].acked[usize::from(node.term)];
            *acked = (*acked).max(Some(node.flush));
        }
        if let Some(reign) = &mut self.state.reigns[usize::from(last_log_term)] {
            reign.commit = reign.commit.max(node.commit);
        }
    }
}
