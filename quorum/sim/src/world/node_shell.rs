//! Carries out an acceptor's actions: disk, replies, gossip, fetches from peers.

use bytes::Bytes;
use ogel_ids::Lsn;
use quorum::{AcceptorAction, AcceptorEvent, ConnectionId, PeerStatus, ProposerMessage, Token};

use super::{Due, FetchRequest, World};
use crate::{
    bug::Bug,
    disk::Op,
    network::Place,
    node::NODES,
    toy_wal::{self, offset},
};

/// A fetch is delivered in pieces of up to this size.
const PIECE_BYTES: u64 = 400;

impl World {
    pub(super) fn start_node(&mut self, node: usize) {
        if self.nodes[node].acceptor.is_some() {
            return;
        }
        let started = self.nodes[node].start(&self.archive, self.bug == Some(Bug::RotAsTorn));
        self.verify(started);
        if self.nodes[node].acceptor.is_none() {
            return self.say(|| format!("node {} finds ROT at {:?} and stays out", node + 1, self.nodes[node].decoder));
        }
        #[cfg(feature = "mutations")]
        if let Some(acceptor) = &mut self.nodes[node].acceptor {
            acceptor.set_mutation(self.bug.and_then(Bug::in_core));
        }
        self.say(|| format!("node {} starts at {:?}", node + 1, self.nodes[node].decoder.end));
        let copies = self.observed.copies(&self.nodes);
        self.verify(copies);
        let matched = self.observed.moved(&mut self.nodes[node]);
        self.verify(matched);
    }

    pub(super) fn crash_node(&mut self, node: usize) {
        if self.nodes[node].acceptor.is_none() {
            return;
        }
        self.say(|| format!("node {} CRASHES", node + 1));
        self.happened.crashes += 1;
        let crashed = self.nodes[node].crash(&mut self.rng);
        self.verify(crashed);
        let copies = self.observed.copies(&self.nodes);
        self.verify(copies);
        self.break_connections_of(node);
        let down_us = self.rng.range(1_000, 4_000_000);
        self.after(down_us, Due::StartNode { node });
    }

    pub(super) fn deliver_to_node(&mut self, id: ConnectionId, payload: Option<Bytes>) {
        let Some(connection) = self.network.get(id) else { return };
        let node = connection.node;
        if self.nodes[node].life != connection.node_life {
            return;
        }
        let event = match payload.map(ProposerMessage::decode) {
            Some(Ok(message)) => AcceptorEvent::Message { connection: id, message },
            Some(Err(error)) => return self.verify(Err(format!("a proposer's own message is unreadable: {error}"))),
            None => AcceptorEvent::Disconnected { connection: id },
        };
        self.node_event(node, event);
    }

    pub(super) fn node_event(&mut self, node: usize, event: AcceptorEvent) {
        let Some(acceptor) = &mut self.nodes[node].acceptor else { return };
        if let AcceptorEvent::Message { connection, message } = &event {
            let text = || format!("node {} hears on {}: {message:?}", node + 1, connection.0);
            self.trace.line(self.now_us, text);
        }
        let actions = acceptor.handle(event);
        self.carry_out(node, actions);
    }

    pub(super) fn carry_out(&mut self, node: usize, actions: Vec<AcceptorAction>) {
        let life = self.nodes[node].life;
        for action in actions {
            // A process may die between any two actions.
            if !self.calm && self.rng.per_mille(1) && self.rng.per_mille(300) {
                return self.crash_node(node);
            }
            self.node_action(node, action);
            if self.nodes[node].life != life {
                return;
            }
        }
        self.run_disk(node);
    }

    fn node_action(&mut self, node: usize, action: AcceptorAction) {
        match action {
            AcceptorAction::WriteWal { token, at, wal } => self.write_wal(node, token, at, &wal),
            AcceptorAction::Flush { token } => self.nodes[node].disk.queue.push_back(Op::Flush { token }),
            AcceptorAction::TruncateZero { token, at } => {
                self.say(|| format!("node {} cuts at {at}", node + 1));
                let lost = self.nodes[node].disk.view.get(offset(at)..).is_some_and(|t| t.iter().any(|&b| b != 0));
                self.happened.truncations += u64::from(lost);
                let safekeeper = &mut self.nodes[node];
                safekeeper.disk.queue.push_back(Op::Zero { token, at });
                safekeeper.decoder = toy_wal::Place::at(at);
                safekeeper.matched_to = safekeeper.matched_to.min(at);
            }
            AcceptorAction::DropWal(tail) => {
                self.say(|| format!("node {} drops its WAL: {tail:?}", node + 1));
                let object = self.archive.get(tail).to_vec();
                self.nodes[node].disk.queue.push_back(Op::Drop { end: tail.end, object });
            }
            AcceptorAction::PersistState { version, state } => {
                self.nodes[node].disk.queue.push_back(Op::Persist { version, state });
            }
            AcceptorAction::Reply { connection, message } => {
                self.say(|| format!("node {} answers on {}: {message:?}", node + 1, connection.0));
                self.send(connection, false, Some(message.encode()));
            }
            AcceptorAction::Close { connection, reason } => {
                self.say(|| format!("node {} closes {}: {reason}", node + 1, connection.0));
                self.send(connection, false, None);
            }
            AcceptorAction::CommitAdvanced { commit_lsn } => {
                self.say(|| format!("node {} commits {commit_lsn}", node + 1));
                let verdict = self.observed.acceptor_committed(&mut self.nodes[node], commit_lsn);
                self.verify(verdict);
            }
            AcceptorAction::StatusChanged => {
                let verdict = self.observed.moved(&mut self.nodes[node]);
                self.verify(verdict);
            }
            AcceptorAction::FetchFromPeer { fetch, peer, peer_term, from, to } => {
                self.say(|| format!("node {} fetches {from}..{to} from {peer}", node + 1));
                let (life, peer) = (self.nodes[node].life, peer.0 as usize - 1);
                let request = FetchRequest { node, life, fetch, peer, peer_term, from, to };
                self.ask_peer(request);
            }
            AcceptorAction::CancelFetch { .. } => {}
        }
    }

    fn write_wal(&mut self, node: usize, token: Token, at: Lsn, wal: &[u8]) {
        let safekeeper = &mut self.nodes[node];
        if !safekeeper.disk.is_writable() {
            return safekeeper.disk.queue.push_back(Op::Write { token, at, wal: wal.to_vec() });
        }
        safekeeper.disk.write(at, wal);
        let (life, end) = (safekeeper.life, Lsn(at.0 + wal.len() as u64));
        let record_end = safekeeper.decode(at, end);
        self.after(0, Due::WalWritten { node, life, token, end, record_end });
    }

    pub(super) fn wal_written(&mut self, node: usize, life: u64, token: Token, end: Lsn, record_end: Lsn) {
        if self.nodes[node].life == life {
            self.node_event(node, AcceptorEvent::WalWritten { token, end, record_end });
        }
    }

    pub(super) fn run_disk(&mut self, node: usize) {
        let safekeeper = &mut self.nodes[node];
        if !safekeeper.disk.begin_next() {
            return;
        }
        let life = safekeeper.life;
        let slow = safekeeper.slow_until_us > self.now_us || (!self.calm && self.rng.per_mille(10));
        let delay_us = if slow { self.rng.range(5_000, 300_000) } else { self.rng.range(20, 2_000) };
        self.after(delay_us, Due::DiskDone { node, life });
    }

    pub(super) fn disk_done(&mut self, node: usize, life: u64) {
        let safekeeper = &mut self.nodes[node];
        if safekeeper.life != life {
            return;
        }
        let Some(op) = safekeeper.disk.end_running() else { return };
        let event = match op {
            Op::Write { token, at, wal } => {
                let end = Lsn(at.0 + wal.len() as u64);
                AcceptorEvent::WalWritten { token, end, record_end: safekeeper.decode(at, end) }
            }
            Op::Flush { token } => {
                self.node_event(node, AcceptorEvent::Flushed { token });
                return self.note_acked(node, life);
            }
            Op::Zero { token, .. } => {
                let copies = self.observed.copies(&self.nodes);
                self.verify(copies);
                AcceptorEvent::TailZeroed { token }
            }
            Op::Drop { .. } => return self.dropped(node),
            Op::Persist { version, .. } => AcceptorEvent::StatePersisted { version },
        };
        self.node_event(node, event);
        self.run_disk(node);
    }

    /// What was flushed has been answered, if the node still lives.
    fn note_acked(&mut self, node: usize, life: u64) {
        let safekeeper = &mut self.nodes[node];
        if let Some(acceptor) = safekeeper.acceptor.as_ref().filter(|_| safekeeper.life == life) {
            safekeeper.disk.note_acked(acceptor.flush_lsn());
            self.run_disk(node);
        }
    }

    /// Tells the peers, as the status stream between safekeepers does; slowly in the calm, where commit news must not need it.
    pub(super) fn gossip(&mut self, node: usize) {
        let pause_us = if self.calm { 2_000_000 } else { self.rng.range(50_000, 600_000) };
        self.after(pause_us, Due::Gossip { node });
        let Some(status) = self.nodes[node].acceptor.as_ref().map(|acceptor| acceptor.status()) else { return };
        for to in (0..NODES).filter(|&to| to != node) {
            if let Some(delay_us) = self.network.datagram(Place::Node(node), Place::Node(to), &mut self.rng) {
                self.after(delay_us, Due::Status { to, status: status.clone() });
            }
        }
        if self.rng.per_mille(100) {
            self.node_event(node, AcceptorEvent::Checkpoint);
        }
        self.archive_idle_tail(node);
    }

    pub(super) fn deliver_status(&mut self, to: usize, status: PeerStatus) {
        self.node_event(to, AcceptorEvent::PeerStatus(status));
    }

    fn ask_peer(&mut self, request: FetchRequest) {
        match self.network.datagram(Place::Node(request.node), Place::Node(request.peer), &mut self.rng) {
            Some(delay_us) => self.after(delay_us, Due::ServeFetch(request)),
            None => self.after(1_000_000, Due::FetchFailed(request)),
        }
    }

    /// The peer reads the next piece, as long as its last_log_term is the one asked for.
    pub(super) fn serve_fetch(&mut self, request: FetchRequest) {
        let peer = &self.nodes[request.peer];
        let serves = peer.acceptor.as_ref().filter(|a| a.last_log_term() == request.peer_term);
        let to = serves.map_or(request.from, |a| a.flush_lsn().min(request.to));
        let length = to.bytes_since(request.from).min(self.rng.range(1, PIECE_BYTES));
        let from = offset(request.from);
        let piece = peer.disk.view.get(from..from + length as usize).filter(|piece| !piece.is_empty());
        let Some(wal) = piece.map(<[u8]>::to_vec) else {
            return self.after(1_000_000, Due::FetchFailed(request));
        };
        match self.network.datagram(Place::Node(request.peer), Place::Node(request.node), &mut self.rng) {
            Some(delay_us) => self.after(delay_us, Due::FetchedWal { request, wal }),
            None => self.after(1_000_000, Due::FetchFailed(request)),
        }
    }

    pub(super) fn deliver_fetched(&mut self, request: FetchRequest, wal: Vec<u8>) {
        if self.nodes[request.node].life != request.life {
            return;
        }
        self.happened.fetches += 1;
        let next = Lsn(request.from.0 + wal.len() as u64);
        let event = AcceptorEvent::PeerWal { fetch: request.fetch, begin: request.from, wal: wal.into() };
        self.node_event(request.node, event);
        let request = FetchRequest { from: next, ..request };
        if next < request.to {
            self.ask_peer(request);
        } else {
            self.after(1_000, Due::FetchFailed(request));
        }
    }

    pub(super) fn fail_fetch(&mut self, request: FetchRequest) {
        if self.nodes[request.node].life == request.life {
            self.node_event(request.node, AcceptorEvent::FetchEnded { fetch: request.fetch });
        }
    }

    /// Whether campaigns share one candidate id (H1 removed).
    pub(super) fn same_candidate(&self) -> bool {
        self.bug == Some(Bug::SameCandidate)
    }
}
