//! Carries out a proposer's actions: connections, random bits, the basebackup, clients that write.

use bytes::Bytes;
use ogel_ids::{CandidateId, Lsn, NodeId};
use quorum::{AcceptorMessage, ConnectionId, ProposerAction, ProposerEvent, Victory};

use super::{Due, World};
use crate::{
    compute::Writer,
    network::Place,
    node::NODES,
    toy_wal::{self, TIMELINE_START, offset},
};

/// In the calm, an acceptor must know X as committed so soon after the election: three round trips and some syncs (H8).
const PROMPT_US: u64 = 500_000;
/// So long a supervisor waits for its basebackup. The donor may have been lost, and with it what the term starts with.
const PATIENCE_US: u64 = 12_000_000;

impl World {
    pub(super) fn start_compute(&mut self, compute: usize) {
        if self.computes[compute].proposer.is_some() || (self.calm && compute > 0) {
            return;
        }
        self.computes[compute].start();
        #[cfg(feature = "mutations")]
        if let Some(proposer) = &mut self.computes[compute].proposer {
            proposer.set_mutation(self.bug.and_then(crate::bug::Bug::in_core));
        }
        self.say(|| format!("compute {compute} starts"));
        let life = self.computes[compute].life;
        for node in 0..NODES {
            self.reconnect(compute, node);
        }
        self.after(0, Due::Tick { compute, life });
    }

    pub(super) fn stop_compute(&mut self, compute: usize) {
        let connections: Vec<ConnectionId> = self.computes[compute].connections.values().copied().collect();
        self.computes[compute].stop();
        for connection in connections {
            self.send(connection, true, None);
        }
    }

    /// Sends one message, or the end of the connection.
    pub(super) fn send(&mut self, connection: ConnectionId, to_node: bool, payload: Option<Bytes>) {
        for at_us in self.network.send(connection, to_node, self.now_us, &mut self.rng) {
            let payload = payload.clone();
            let due =
                if to_node { Due::ToNode { connection, payload } } else { Due::ToCompute { connection, payload } };
            self.after(at_us - self.now_us, due);
        }
    }

    pub(super) fn break_connections_of(&mut self, node: usize) {
        let id = NodeId(node as u64 + 1);
        let connections: Vec<ConnectionId> =
            self.computes.iter().filter_map(|compute| compute.connections.get(&id).copied()).collect();
        for connection in connections {
            self.send(connection, false, None);
        }
    }

    fn reconnect(&mut self, compute: usize, node: usize) {
        let life = self.computes[compute].life;
        let delay_us = self.rng.range(1_000, 300_000);
        self.after(delay_us, Due::Connect { compute, life, node });
    }

    pub(super) fn connect(&mut self, compute: usize, life: u64, node: usize) {
        let id = NodeId(node as u64 + 1);
        if self.computes[compute].life != life || self.computes[compute].connections.contains_key(&id) {
            return;
        }
        let (here, there) = (Place::Compute(compute), Place::Node(node));
        let reachable = self.network.is_open(here, there) && self.network.is_open(there, here);
        if self.nodes[node].acceptor.is_none() || !reachable {
            return self.reconnect(compute, node);
        }
        let connection = self.network.connect(compute, node, self.nodes[node].life);
        self.computes[compute].connections.insert(id, connection);
        self.compute_event(compute, ProposerEvent::Connected(id));
    }

    pub(super) fn deliver_to_compute(&mut self, id: ConnectionId, payload: Option<Bytes>) {
        let Some(connection) = self.network.get(id) else { return };
        let (compute, node) = (connection.compute, NodeId(connection.node as u64 + 1));
        if self.computes[compute].connections.get(&node) != Some(&id) {
            return;
        }
        match payload.map(AcceptorMessage::decode) {
            Some(Ok(message)) => self.compute_event(compute, ProposerEvent::Message(node, message)),
            Some(Err(error)) => self.verify(Err(format!("an acceptor's own message is unreadable: {error}"))),
            None => {
                self.computes[compute].connections.remove(&node);
                self.compute_event(compute, ProposerEvent::Disconnected(node));
                self.reconnect(compute, connection.node);
            }
        }
    }

    pub(super) fn compute_event(&mut self, compute: usize, event: ProposerEvent) {
        let Some(proposer) = &mut self.computes[compute].proposer else { return };
        let actions = proposer.handle(event);
        let life = self.computes[compute].life;
        for action in actions {
            if self.computes[compute].life == life {
                self.compute_action(compute, action);
            }
        }
    }

    fn compute_action(&mut self, compute: usize, action: ProposerAction) {
        let life = self.computes[compute].life;
        match action {
            ProposerAction::Send(node, message) => {
                if let Some(&connection) = self.computes[compute].connections.get(&node) {
                    self.send(connection, true, Some(message.encode()));
                }
            }
            ProposerAction::Disconnect { node, reason } => {
                self.say(|| format!("compute {compute} leaves node {node}: {reason}"));
                if let Some(connection) = self.computes[compute].connections.remove(&node) {
                    self.send(connection, true, None);
                }
                self.reconnect(compute, node.0 as usize - 1);
            }
            ProposerAction::NeedCandidate => self.after(0, Due::Draw { compute, life }),
            ProposerAction::Elected(victory) => self.elected(compute, *victory),
            ProposerAction::CommitAdvanced { commit_lsn } => self.committed(compute, commit_lsn),
            ProposerAction::PageserverFeedback(_) => {}
            ProposerAction::BackPressure(on) => self.computes[compute].back_pressure = on,
            ProposerAction::Fenced { by_term } => {
                self.say(|| format!("compute {compute} is fenced by term {by_term}"));
                self.happened.contests += 1;
                self.stop_compute(compute);
                // Somebody starts it again, sooner or later; it does not do so by itself (H18).
                let delay_us = self.rng.range(200_000, 6_000_000);
                self.after(delay_us, Due::StartCompute { compute });
            }
            ProposerAction::Unusable { node, reason } => {
                self.say(|| format!("compute {compute} cannot use node {node}: {reason}"));
            }
            ProposerAction::Failed { reason } => self.verify(Err(format!("compute {compute} gives up: {reason}"))),
        }
    }

    fn committed(&mut self, compute: usize, commit_lsn: Lsn) {
        let Some(term) = self.computes[compute].proposer.as_ref().map(|proposer| proposer.term()) else { return };
        self.say(|| format!("compute {compute} commits {commit_lsn} in term {term}"));
        let verdict = self.observed.proposer_committed(term, commit_lsn, &self.nodes);
        self.verify(verdict);
    }

    pub(super) fn draw_candidate(&mut self, compute: usize, life: u64) {
        if self.computes[compute].life != life {
            return;
        }
        let mut bytes = [7; 16];
        if !self.same_candidate() {
            bytes[..8].copy_from_slice(&self.rng.bits().to_be_bytes());
            bytes[8..].copy_from_slice(&self.rng.bits().to_be_bytes());
        }
        let candidate = CandidateId::from_bytes(bytes);
        // Two campaigns of one process are a contest too: the first was refused.
        let first = self.computes[compute].candidate == CandidateId::from_bytes([0; 16]);
        self.happened.contests += u64::from(!first);
        self.computes[compute].candidate = candidate;
        self.compute_event(compute, ProposerEvent::NewCandidate(candidate));
        let term = self.computes[compute].proposer.as_ref().map(|p| p.term());
        self.say(|| format!("compute {compute} campaigns for term {term:?}"));
    }

    pub(super) fn tick(&mut self, compute: usize, life: u64) {
        if self.computes[compute].life == life {
            self.after(100_000, Due::Tick { compute, life });
            let now_ms = self.now_us / 1_000;
            self.compute_event(compute, ProposerEvent::Tick { now_ms });
        }
    }

    fn elected(&mut self, compute: usize, victory: Victory) {
        self.say(|| format!("compute {compute} is ELECTED: {victory:?}"));
        self.happened.elections += 1;
        let verdict = self.observed.elected(&victory, self.computes[compute].candidate);
        self.verify(verdict);
        self.computes[compute].reign = Some(Writer::new(victory, self.now_us));
        let life = self.computes[compute].life;
        self.after(20_000, Due::AwaitBasebackup { compute, life });
    }

    /// The pageserver follows the safekeepers' commit_lsn, and answers once it has everything up to the term's start.
    pub(super) fn await_basebackup(&mut self, compute: usize, life: u64) {
        if self.computes[compute].life != life {
            return;
        }
        let Some(writer) = &self.computes[compute].reign else { return };
        let (start, elected_us) = (writer.victory.start_lsn, writer.elected_us);
        let known = self.nodes.iter().flat_map(|node| &node.acceptor).any(|a| a.commit_lsn() >= start);
        if !known {
            if self.settled && self.now_us - elected_us > PROMPT_US {
                self.verify(Err(format!("liveness: no acceptor knows the term's start {start} as committed (H8)")));
            }
            if self.now_us - elected_us > PATIENCE_US {
                self.say(|| format!("compute {compute} gives its election up"));
                self.stop_compute(compute);
                return self.after(10_000, Due::StartCompute { compute });
            }
            return self.after(20_000, Due::AwaitBasebackup { compute, life });
        }
        let Some(log) = self.observed.log_of(&writer.victory.history, start) else {
            return self.verify(Err(format!("the log up to {start} was never written")));
        };
        let last = toy_wal::scan(&log, toy_wal::Place::at(TIMELINE_START), start);
        if last.end != start {
            return self.verify(Err(format!("the term starts at {start}, which is not the end of a record")));
        }
        if let Some(writer) = &mut self.computes[compute].reign {
            writer.start(last.last_record.unwrap_or(Lsn(0)));
        }
        self.say(|| format!("compute {compute} starts Postgres behind {} bytes", offset(start)));
        self.after(0, Due::Write { compute, life });
    }

    pub(super) fn client_writes(&mut self, compute: usize, life: u64) {
        if self.computes[compute].life != life {
            return;
        }
        let pause_us = if self.calm { self.rng.range(50_000, 400_000) } else { self.rng.range(500, 40_000) };
        self.after(pause_us, Due::Write { compute, life });
        loop {
            let slot = &mut self.computes[compute];
            let (Some(proposer), Some(writer)) = (&slot.proposer, &mut slot.reign) else { return };
            if slot.back_pressure {
                return;
            }
            let limit = if self.calm { usize::MAX } else { self.rng.range(1, 400) as usize };
            let Some((begin, wal)) = writer.take_chunk(limit) else { break };
            self.observed.produced(proposer.term(), &wal);
            self.compute_event(compute, ProposerEvent::Wal { begin, wal });
            if !self.calm && self.rng.per_mille(300) {
                return;
            }
        }
        if let Some(writer) = self.computes[compute].reign.as_mut().filter(|w| !w.is_full() || self.calm)
            && self.writing
        {
            writer.write(&mut self.rng);
        }
    }
}
