//! Streaming WAL, and deciding what is committed.

use bytes::Bytes;
use ogel_ids::{CandidateId, Lsn, NodeId, Term};

use super::{NodeState, Phase, Proposer, ProposerAction, node::Node, window::WalWindow};
use crate::{Append, AppendAnswer, MAX_APPEND_BYTES, Member, ProposerMessage, TermHistory, mutation::Mutation};

/// An elected proposer. `window.start ≤ commit_lsn` except before the first commit, `commit_lsn ≤ window.end`.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) term: Term,
    pub(super) candidate: CandidateId,
    pub(super) history: TermHistory,
    start_lsn: Lsn,
    commit_lsn: Lsn,
    /// Whether a quorum has reached the term's start.
    confirmed: bool,
    window: WalWindow,
    back_pressure: bool,
}

impl Leader {
    pub(super) fn new(
        term: Term,
        candidate: CandidateId,
        history: TermHistory,
        start_lsn: Lsn,
        commit_lsn: Lsn,
    ) -> Self {
        let window = WalWindow::starting_at(start_lsn);
        Self { term, candidate, history, start_lsn, commit_lsn, confirmed: false, window, back_pressure: false }
    }

    pub(super) fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    pub(super) fn end_lsn(&self) -> Lsn {
        self.window.end()
    }

    /// Takes WAL from the compute. `false`: some is missing.
    pub(super) fn take_wal(&mut self, begin: Lsn, wal: Bytes) -> bool {
        self.window.push(begin, wal)
    }
}

impl Proposer {
    pub(super) fn on_answer(&mut self, id: NodeId, answer: AppendAnswer) {
        if !self.see_term(answer.term) {
            return;
        }
        let newest = self.pageserver.max(answer.pageserver);
        if newest != self.pageserver {
            self.pageserver = newest;
            self.out.push(ProposerAction::PageserverFeedback(newest));
        }
        let (Phase::Leading(leader), Some(node)) = (&self.phase, self.nodes.get_mut(&id)) else { return };
        let expected = matches!(node.state, NodeState::Joining | NodeState::Streaming | NodeState::Lagging);
        if answer.term != leader.term || !expected {
            return;
        }
        if answer.flush_lsn > leader.window.end() {
            return self.unusable(id, format!("it claims WAL up to {}, which was never written", answer.flush_lsn));
        }
        node.flush_lsn = answer.flush_lsn;
        // Only the durable log of this very term counts (H2). Reaching the term's start is enough: last_log_term says so.
        if answer.last_log_term == leader.term || self.mutations.has(Mutation::CountAnyLogTerm) {
            node.acked = node.acked.max(answer.flush_lsn);
        }
        if node.state == NodeState::Streaming {
            node.settled = node.settled.max(answer.settled_lsn.min(node.next));
        } else {
            node.place(&leader.window);
        }
        self.advance_commit();
        self.after_progress();
    }

    fn advance_commit(&mut self) {
        let (Phase::Leading(leader), Some(membership)) = (&self.phase, &self.membership) else { return };
        let lsn = membership.quorum_lsn(|member| self.node_of(member).map_or(Lsn::INVALID, |node| node.acked));
        let reached = lsn >= leader.start_lsn || self.mutations.has(Mutation::CountAnyLogTerm);
        let news = lsn > leader.commit_lsn || (!leader.confirmed && lsn >= leader.start_lsn);
        let Phase::Leading(leader) = &mut self.phase else { return };
        if reached && news {
            leader.commit_lsn = lsn;
            leader.confirmed = true;
            self.out.push(ProposerAction::CommitAdvanced { commit_lsn: lsn });
        }
    }

    /// Drops WAL that nobody needs, sends what can be sent, and regulates the compute.
    pub(super) fn after_progress(&mut self) {
        self.trim_window();
        let nodes: Vec<NodeId> = self.nodes.iter().filter(|(_, n)| n.takes_appends()).map(|(&id, _)| id).collect();
        for id in nodes {
            self.pump(id);
        }
        self.regulate();
    }

    /// What all members have goes at once; what a quorum has goes when the window is full: whoever is behind it catches up
    /// from its peers.
    fn trim_window(&mut self) {
        let everybody = self.everybody_has();
        let Phase::Leading(leader) = &mut self.phase else { return };
        leader.window.drop_below(everybody.min(leader.commit_lsn), 0);
        leader.window.drop_below(leader.commit_lsn, self.config.window_bytes);
        for node in self.nodes.values_mut().filter(|node| node.state == NodeState::Streaming) {
            if node.next < leader.window.start() {
                node.state = NodeState::Lagging;
                // The next append, with begin 0, is to leave at once.
                node.sent_commit = Lsn::INVALID;
            }
        }
    }

    fn everybody_has(&self) -> Lsn {
        let Some(membership) = &self.membership else { return Lsn::INVALID };
        let acked = |member: Member| self.node_of(member).map_or(Lsn::INVALID, |node| node.acked);
        membership.all().map(acked).min().unwrap_or_default()
    }

    /// Sends WAL as far as the node's window allows. A commit advance that no WAL carries goes by itself, at once (H8).
    fn pump(&mut self, id: NodeId) {
        loop {
            let (Phase::Leading(leader), Some(node)) = (&self.phase, self.nodes.get_mut(&id)) else { return };
            let room = node.next.bytes_since(node.settled) < self.config.in_flight_bytes;
            if node.state != NodeState::Streaming || !room {
                break;
            }
            let wal = leader.window.read(node.next, MAX_APPEND_BYTES);
            if wal.is_empty() {
                break;
            }
            self.send_append(id, wal);
        }
        let commit_lsn = self.commit_lsn();
        if self.nodes.get(&id).is_some_and(|node| node.sent_commit < commit_lsn) {
            self.send_append(id, Bytes::new());
        }
    }

    fn send_append(&mut self, id: NodeId, wal: Bytes) {
        if wal.is_empty() && self.mutations.has(Mutation::NoBroadcast) {
            return;
        }
        let truncate_lsn = self.everybody_has();
        let (Phase::Leading(leader), Some(membership)) = (&self.phase, &self.membership) else { return };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let begin = if node.state == NodeState::Lagging { Lsn::INVALID } else { node.next };
        node.next.0 += wal.len() as u64;
        node.sent_commit = leader.commit_lsn;
        let append = Append {
            generation: membership.generation(),
            term: leader.term,
            begin,
            commit_lsn: leader.commit_lsn,
            truncate_lsn: truncate_lsn.min(leader.commit_lsn),
            wal,
        };
        self.send(id, ProposerMessage::Append(append));
    }

    pub(super) fn send_heartbeats(&mut self) {
        let due = |node: &Node| {
            node.takes_appends() && self.now_ms.saturating_sub(node.last_sent_ms) >= self.config.heartbeat_ms
        };
        let due: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| due(node)).map(|(&id, _)| id).collect();
        for id in due {
            self.send_append(id, Bytes::new());
        }
    }

    /// Back-pressure by what a quorum has taken, not by commit_lsn: a record longer than the window cannot be committed before
    /// its end has been sent.
    fn regulate(&mut self) {
        let (Phase::Leading(leader), Some(membership)) = (&self.phase, &self.membership) else { return };
        let settled =
            membership.quorum_lsn(|member| self.node_of(member).map_or(Lsn::INVALID, |n| n.settled.max(n.acked)));
        let pending_bytes = leader.window.end().bytes_since(settled.max(leader.start_lsn));
        let limit = if leader.back_pressure { self.config.window_bytes / 2 } else { self.config.window_bytes };
        let on = pending_bytes >= limit;
        let Phase::Leading(leader) = &mut self.phase else { return };
        if on != leader.back_pressure {
            leader.back_pressure = on;
            self.out.push(ProposerAction::BackPressure(on));
        }
    }
}

impl Node {
    /// Decides by its flush_lsn whether the node can be streamed to from the window.
    fn place(&mut self, window: &WalWindow) {
        if self.flush_lsn < window.start() {
            self.state = NodeState::Lagging;
        } else {
            self.state = NodeState::Streaming;
            (self.next, self.settled) = (self.flush_lsn, self.flush_lsn);
        }
    }
}
