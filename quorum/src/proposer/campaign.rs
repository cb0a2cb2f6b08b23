//! Greetings, votes, and winning an election.

use ogel_ids::{CandidateId, Lsn, NodeId, Term};

use super::{NodeState, Phase, Proposer, ProposerAction, Victory, stream::Leader};
use crate::{AcceptorGreeting, Elected, Member, ProposerMessage, Vote, VoteRequest, mutation::Mutation};

/// An election that is not decided yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Campaign {
    pub(super) term: Term,
    pub(super) candidate: CandidateId,
    /// When to try a higher term, once somebody has refused this one.
    retry_at_ms: Option<u64>,
}

impl Proposer {
    pub(super) fn on_greeting(&mut self, id: NodeId, greeting: AcceptorGreeting) {
        if let Err(reason) = self.check_greeting(id, &greeting) {
            return self.unusable(id, reason);
        }
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.state != NodeState::Greeting {
            return self.disconnect(id, "it greeted twice".into());
        }
        node.state = NodeState::Voting;
        node.error = None;
        let member = Member { node_id: greeting.node_id, store_uuid: greeting.store_uuid };
        if node.member != Some(member) {
            // What another store has acknowledged is gone with it (H4).
            (node.acked, node.settled) = (Lsn::INVALID, Lsn::INVALID);
            node.member = Some(member);
        }
        if !self.see_term(greeting.term) {
            return;
        }
        self.learn_membership(&greeting);
        self.identity.get_or_insert(greeting);
        self.request_vote(id);
        self.campaign_when_possible();
    }

    fn check_greeting(&self, id: NodeId, greeting: &AcceptorGreeting) -> Result<(), String> {
        let member = Member { node_id: greeting.node_id, store_uuid: greeting.store_uuid };
        let newest = self.membership.iter().chain([&greeting.membership]).max_by_key(|m| m.generation());
        if greeting.node_id != id {
            return Err(format!("it says that it is node {}: correct the configured address", greeting.node_id));
        }
        if !newest.is_some_and(|membership| membership.contains(member)) && !self.mutations.has(Mutation::AmnesiacVotes)
        {
            return Err(format!(
                "node {id} with store {} is not a member of the quorum; if it has lost its store, replace the member",
                greeting.store_uuid
            ));
        }
        if ![0, greeting.system_identifier].contains(&self.config.system_identifier) {
            return Err(format!(
                "its system identifier is {}, this compute's is {}: it holds another database's WAL",
                greeting.system_identifier, self.config.system_identifier
            ));
        }
        let facts = |g: &AcceptorGreeting| {
            (g.system_identifier, g.pg_version_num, g.wal_segment_size_bytes, g.timeline_start_lsn)
        };
        match &self.identity {
            Some(first) if facts(first) != facts(greeting) => Err(format!(
                "it disagrees with node {} about the timeline: (system identifier, version, segment size, start) is {:?} \
                 here and {:?} there",
                first.node_id,
                facts(greeting),
                facts(first)
            )),
            _ => Ok(()),
        }
    }

    fn learn_membership(&mut self, greeting: &AcceptorGreeting) {
        let theirs = greeting.membership.generation();
        let ours = self.membership.as_ref().map(|membership| membership.generation());
        if ours.is_some_and(|ours| ours >= theirs) {
            return;
        }
        // An elected proposer counts by the new members from here on; what it has heard of the others stays true.
        self.membership = Some(greeting.membership.clone());
        // Votes were asked for by another count.
        if let Phase::Campaigning(_) = self.phase {
            self.phase = Phase::Gathering;
        }
    }

    /// Asks for a vote in the current campaign or, for its history, in the term already won.
    fn request_vote(&mut self, id: NodeId) {
        let (term, candidate) = match &self.phase {
            Phase::Campaigning(campaign) => (campaign.term, campaign.candidate),
            Phase::Leading(leader) => (leader.term, leader.candidate),
            _ => return,
        };
        let Some(membership) = &self.membership else { return };
        let request = VoteRequest { generation: membership.generation(), term, candidate };
        self.send(id, ProposerMessage::VoteRequest(request));
    }

    fn campaign_when_possible(&mut self) {
        if matches!(self.phase, Phase::Gathering) && self.is_quorum(|node| node.is_greeted()) {
            self.phase = Phase::Drawing;
            self.out.push(ProposerAction::NeedCandidate);
        }
    }

    /// Begins a campaign with the highest term seen + 1.
    pub(super) fn campaign(&mut self, candidate: CandidateId) {
        if !matches!(self.phase, Phase::Drawing) {
            return;
        }
        let Some(term) = self.max_term.0.checked_add(1).map(Term) else {
            return self.fail("a node says that its term is the highest possible: its state is damaged".into());
        };
        self.max_term = term;
        self.phase = Phase::Campaigning(Campaign { term, candidate, retry_at_ms: None });
        let greeted: Vec<NodeId> = self.nodes.iter().filter(|(_, n)| n.is_greeted()).map(|(&id, _)| id).collect();
        for id in greeted {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.vote = None;
            }
            self.request_vote(id);
        }
    }

    /// A refused campaign is repeated with a higher term once its back-off is over.
    pub(super) fn retry_campaign(&mut self) {
        match self.phase {
            Phase::Campaigning(Campaign { retry_at_ms: Some(at), .. }) if self.now_ms >= at => {
                self.phase = Phase::Gathering;
                self.campaign_when_possible();
            }
            _ => {}
        }
    }

    pub(super) fn on_vote(&mut self, id: NodeId, vote: Vote) {
        if vote.history.last().start > vote.flush_lsn || vote.commit_lsn > vote.flush_lsn {
            return self.unusable(id, "its vote contradicts itself: its state is damaged".into());
        }
        if !self.see_term(vote.term) {
            return;
        }
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.state == NodeState::Voting) else { return };
        node.flush_lsn = vote.flush_lsn;
        match &mut self.phase {
            Phase::Campaigning(campaign) if campaign.candidate == vote.candidate => {
                let refused = !vote.granted || vote.term != campaign.term;
                node.vote = Some(vote);
                if refused && campaign.retry_at_ms.is_none() {
                    // Half of the delay is random, so that two candidates do not meet again and again.
                    let [a, b, ..] = campaign.candidate.as_bytes();
                    let random = u64::from(u16::from_be_bytes([*a, *b]));
                    let delay_ms = self.retry_ms / 2 + random % (self.retry_ms / 2 + 1);
                    campaign.retry_at_ms = Some(self.now_ms + delay_ms);
                    self.retry_ms = (self.retry_ms * 2).min(self.config.retry_max_ms);
                }
                self.count_votes();
            }
            Phase::Leading(leader) if leader.candidate == vote.candidate => {
                node.vote = Some(vote);
                self.send_elected(id);
            }
            _ => {}
        }
    }

    fn count_votes(&mut self) {
        let Phase::Campaigning(campaign) = self.phase else { return };
        let grants = |vote: &Vote| vote.granted && vote.term == campaign.term;
        if !self.is_quorum(|node| node.vote.as_ref().is_some_and(grants)) {
            return;
        }
        if self.max_term > campaign.term {
            // A node of a higher term would never accept this one, and would fence it for nothing.
            self.phase = Phase::Gathering;
            return self.campaign_when_possible();
        }
        self.win(campaign);
    }

    fn win(&mut self, Campaign { term, candidate, .. }: Campaign) {
        let granted = |vote: &&Vote| vote.granted && vote.term == term;
        let votes = self.nodes.iter().filter(|(_, node)| node.is_greeted());
        let votes: Vec<(NodeId, &Vote)> =
            votes.filter_map(|(&id, node)| Some((id, node.vote.as_ref().filter(granted)?))).collect();
        // Whoever has the longest log of the newest term has everything that can be committed.
        let donor = votes.iter().max_by_key(|(_, vote)| (vote.history.last().term, vote.flush_lsn)).copied();
        let (Some((donor, vote)), Some(identity)) = (donor, &self.identity) else { return };
        let start_lsn = vote.flush_lsn;
        let commit_lsn = votes.iter().map(|(_, vote)| vote.commit_lsn).max().unwrap_or_default();
        if commit_lsn > start_lsn {
            return self.fail(format!(
                "WAL is committed up to {commit_lsn}, but the best log of a quorum, node {donor}'s, ends at {start_lsn}: \
                 acknowledged WAL was lost; look for the node that has it before anything is started"
            ));
        }
        let history = match vote.history.continued(term, start_lsn) {
            Ok(history) => history,
            Err(error) => return self.fail(format!("term {term} cannot continue node {donor}'s history: {error}")),
        };
        let victory = Victory {
            term,
            start_lsn,
            donor,
            history: history.clone(),
            commit_lsn,
            system_identifier: identity.system_identifier,
            pg_version_num: identity.pg_version_num,
            wal_segment_size_bytes: identity.wal_segment_size_bytes,
            timeline_start_lsn: identity.timeline_start_lsn,
        };
        let voted: Vec<NodeId> = self.nodes.iter().filter(|(_, n)| n.vote.is_some()).map(|(&id, _)| id).collect();
        self.phase = Phase::Leading(Box::new(Leader::new(term, candidate, history, start_lsn, commit_lsn)));
        self.out.push(ProposerAction::Elected(Box::new(victory)));
        for id in voted {
            self.send_elected(id);
        }
    }

    /// Brings the won election to a node whose history is known from its vote, whoever it voted for.
    fn send_elected(&mut self, id: NodeId) {
        let (Phase::Leading(leader), Some(membership)) = (&self.phase, &self.membership) else { return };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(vote) = node.vote.take() else { return };
        let truncate_at = match leader.history.common_end(Lsn::MAX, &vote.history, vote.flush_lsn) {
            Ok(cut) if cut >= vote.commit_lsn => cut,
            Ok(cut) => {
                let committed = vote.commit_lsn;
                return self.unusable(id, format!("its log would be cut at {cut}, but {committed} is committed there"));
            }
            Err(error) => return self.unusable(id, error.to_string()),
        };
        node.state = NodeState::Joining;
        let elected = Elected {
            generation: membership.generation(),
            term: leader.term,
            candidate: leader.candidate,
            truncate_at,
            history: leader.history.clone(),
        };
        self.send(id, ProposerMessage::Elected(elected));
    }
}
