//! The compute's side of one timeline: wins one election, streams WAL to a quorum, and says what is committed.
//!
//! A [`Proposer`] has one reign. Before it was ever elected, a refused campaign is repeated with a higher term after a back-off.
//! After it was elected, any higher term ends it: its Postgres holds WAL that may not be in the new term's log, so there is
//! nothing to go on with (H18).
//!
//! | file | what it decides |
//! |---|---|
//! | `campaign.rs` | who is asked, when an election is won, donor and start of the term |
//! | `stream.rs` | what is sent to whom, and what is committed |
//! | `window.rs` | which WAL is held in memory |
//! | `node.rs` | what is known of one acceptor |

mod campaign;
mod config;
mod event;
mod node;
mod stream;
mod window;

use std::collections::BTreeMap;

use bytes::Bytes;
use campaign::Campaign;
pub use config::ProposerConfig;
pub use event::{NodeState, NodeStatus, ProposerAction, ProposerEvent, Victory};
use node::Node;
use ogel_ids::{CandidateId, Lsn, NodeId, Term};
use stream::Leader;

use crate::{
    AcceptorGreeting, AcceptorMessage, Member, Membership, PageserverFeedback, ProposerGreeting, ProposerMessage,
    RefusalCode, Refused, mutation::Mutation, mutation::Mutations,
};

/// The compute's side of one timeline, for one reign.
#[derive(Debug)]
pub struct Proposer {
    config: ProposerConfig,
    now_ms: u64,
    phase: Phase,
    nodes: BTreeMap<NodeId, Node>,
    /// Of the highest generation that a node has told.
    membership: Option<Membership>,
    /// What the first greeting said; all must agree.
    identity: Option<AcceptorGreeting>,
    /// Highest term seen anywhere.
    max_term: Term,
    /// Upper bound of the next back-off.
    retry_ms: u64,
    pageserver: PageserverFeedback,
    mutations: Mutations,
    out: Vec<ProposerAction>,
}

#[derive(Debug)]
enum Phase {
    /// Waits for a quorum to greet.
    Gathering,
    /// Waits for the shell's random bits.
    Drawing,
    Campaigning(Campaign),
    Leading(Box<Leader>),
    /// Fenced or failed: for good.
    Stopped(Term),
}

impl Proposer {
    /// Starts without any connection.
    pub fn new(config: ProposerConfig) -> Self {
        Self {
            now_ms: 0,
            phase: Phase::Gathering,
            nodes: BTreeMap::new(),
            membership: None,
            identity: None,
            max_term: Term(0),
            retry_ms: config.retry_min_ms,
            pageserver: PageserverFeedback::default(),
            mutations: Mutations::default(),
            out: Vec::new(),
            config,
        }
    }

    /// Puts a known bug back in.
    #[cfg(feature = "mutations")]
    pub fn set_mutation(&mut self, mutation: Option<Mutation>) {
        self.mutations.set(mutation);
    }

    /// Takes one event and says what must be done, in this order.
    pub fn handle(&mut self, event: ProposerEvent) -> Vec<ProposerAction> {
        if matches!(self.phase, Phase::Stopped(_)) {
            return Vec::new();
        }
        match event {
            ProposerEvent::Connected(node) => self.on_connected(node),
            ProposerEvent::Disconnected(node) => self.on_disconnected(node),
            ProposerEvent::Message(node, message) => self.on_message(node, message),
            ProposerEvent::Tick { now_ms } => self.on_tick(now_ms),
            ProposerEvent::NewCandidate(candidate) => self.campaign(candidate),
            ProposerEvent::Wal { begin, wal } => self.on_wal(begin, wal),
        }
        std::mem::take(&mut self.out)
    }

    /// The term won, or campaigned for; 0 before.
    pub fn term(&self) -> Term {
        match &self.phase {
            Phase::Gathering | Phase::Drawing => Term(0),
            Phase::Campaigning(campaign) => campaign.term,
            Phase::Leading(leader) => leader.term,
            Phase::Stopped(term) => *term,
        }
    }

    /// Whether the election is won and no higher term was seen.
    pub fn is_leading(&self) -> bool {
        matches!(self.phase, Phase::Leading(_))
    }

    /// What a quorum is known to have; 0 before the election.
    pub fn commit_lsn(&self) -> Lsn {
        self.leader().map_or(Lsn::INVALID, Leader::commit_lsn)
    }

    /// End of the WAL taken from the compute; 0 before the election.
    pub fn end_lsn(&self) -> Lsn {
        self.leader().map_or(Lsn::INVALID, Leader::end_lsn)
    }

    /// The pageserver's progress as far as the safekeepers have heard.
    pub fn pageserver_feedback(&self) -> PageserverFeedback {
        self.pageserver
    }

    /// Every node that was ever connected.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.nodes.iter().map(|(&id, node)| node.status(id)).collect()
    }

    fn leader(&self) -> Option<&Leader> {
        match &self.phase {
            Phase::Leading(leader) => Some(leader),
            _ => None,
        }
    }

    /// Of the campaign that runs, or was won.
    fn candidate(&self) -> Option<CandidateId> {
        match &self.phase {
            Phase::Campaigning(campaign) => Some(campaign.candidate),
            Phase::Leading(leader) => Some(leader.candidate),
            _ => None,
        }
    }

    fn on_connected(&mut self, id: NodeId) {
        let node = self.nodes.entry(id).or_insert_with(Node::new);
        node.disconnected(NodeState::Greeting);
        let greeting = ProposerGreeting {
            tenant: self.config.tenant,
            timeline: self.config.timeline,
            system_identifier: self.config.system_identifier,
            pg_major_version: self.config.pg_major_version,
            wal_segment_size_bytes: self.config.wal_segment_size_bytes,
        };
        self.send(id, ProposerMessage::Greeting(greeting));
    }

    fn on_disconnected(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            let unusable = node.state == NodeState::Unusable;
            node.disconnected(if unusable { NodeState::Unusable } else { NodeState::Disconnected });
        }
    }

    fn on_message(&mut self, id: NodeId, message: AcceptorMessage) {
        let candidate = self.candidate();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        // What answers something older leaves the newest question open: else a link that dies now would never be given up.
        let answers = match (&message, node.state) {
            (_, NodeState::Disconnected | NodeState::Unusable) => return,
            (AcceptorMessage::Greeting(_), state) => state == NodeState::Greeting,
            (AcceptorMessage::Vote(vote), state) => state == NodeState::Voting && candidate == Some(vote.candidate),
            (AcceptorMessage::AppendAnswer(_), state) => !matches!(state, NodeState::Greeting | NodeState::Voting),
            (AcceptorMessage::Refused(_), _) => true,
        };
        if answers {
            node.owes_since_ms = None;
        }
        match message {
            AcceptorMessage::Greeting(greeting) => self.on_greeting(id, greeting),
            AcceptorMessage::Vote(vote) => self.on_vote(id, vote),
            AcceptorMessage::AppendAnswer(answer) => self.on_answer(id, answer),
            AcceptorMessage::Refused(refused) => self.on_refused(id, refused),
        }
    }

    fn on_refused(&mut self, id: NodeId, refused: Refused) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.error = Some(refused.text.clone());
        if refused.code != RefusalCode::OutOfSpace {
            node.disconnected(NodeState::Unusable);
        }
        self.out.push(ProposerAction::Unusable { node: id, reason: refused.text });
    }

    fn on_tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let silent = |node: &Node| {
            node.owes_since_ms.is_some_and(|since| self.now_ms.saturating_sub(since) >= self.config.silence_ms)
        };
        let silent: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| silent(node)).map(|(&id, _)| id).collect();
        for id in silent {
            self.disconnect(id, format!("no answer for {} ms", self.config.silence_ms));
        }
        self.retry_campaign();
        self.send_heartbeats();
    }

    /// Remembers a term. Says `false` when it is the end of this proposer.
    fn see_term(&mut self, term: Term) -> bool {
        self.max_term = self.max_term.max(term);
        match self.leader() {
            Some(leader) if leader.term < term => {
                self.phase = Phase::Stopped(leader.term);
                self.out.push(ProposerAction::Fenced { by_term: term });
                false
            }
            _ => true,
        }
    }

    fn fail(&mut self, reason: String) {
        self.phase = Phase::Stopped(self.term());
        self.out.push(ProposerAction::Failed { reason });
    }

    fn send(&mut self, id: NodeId, message: ProposerMessage) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.last_sent_ms = self.now_ms;
            node.owes_since_ms.get_or_insert(self.now_ms);
            self.out.push(ProposerAction::Send(id, message));
        }
    }

    fn disconnect(&mut self, id: NodeId, reason: String) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disconnected(NodeState::Disconnected);
            node.error = Some(reason.clone());
            self.out.push(ProposerAction::Disconnect { node: id, reason });
        }
    }

    fn unusable(&mut self, id: NodeId, reason: String) {
        self.disconnect(id, reason.clone());
        if let Some(node) = self.nodes.get_mut(&id) {
            node.state = NodeState::Unusable;
            self.out.push(ProposerAction::Unusable { node: id, reason });
        }
    }

    /// The node that stands for a member of the quorum: same number and same store (H4).
    fn node_of(&self, member: Member) -> Option<&Node> {
        let amnesiac = self.mutations.has(Mutation::AmnesiacVotes);
        self.nodes.get(&member.node_id).filter(|node| node.member == Some(member) || amnesiac)
    }

    fn is_quorum(&self, has: impl Fn(&Node) -> bool) -> bool {
        let has = |member| self.node_of(member).is_some_and(&has);
        self.membership.as_ref().is_some_and(|membership| membership.is_quorum(has))
    }

    fn on_wal(&mut self, begin: Lsn, wal: Bytes) {
        let Phase::Leading(leader) = &mut self.phase else { return };
        let end = leader.end_lsn();
        if leader.take_wal(begin, wal) {
            self.after_progress();
        } else {
            self.fail(format!(
                "Postgres sent WAL at {begin}, but its WAL up to {end} only was sent before: some is missing"
            ));
        }
    }
}
