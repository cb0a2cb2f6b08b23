//! Connections that delay, lose, repeat and reorder.

use std::collections::{BTreeMap, BTreeSet};

use quorum::ConnectionId;

use crate::rng::Rng;

/// A safekeeper or a compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// By index.
    Node(usize),
    /// By index.
    Compute(usize),
}

/// One connection from a compute to a node.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// The compute.
    pub compute: usize,
    /// The node.
    pub node: usize,
    /// Number of its process.
    pub node_life: u64,
    /// When the last message to the node, and to the compute, arrives.
    last_us: [u64; 2],
}

/// The links between all places.
#[derive(Debug)]
pub struct Network {
    connections: BTreeMap<ConnectionId, Connection>,
    blocked: BTreeSet<(Place, Place)>,
    last: u64,
    /// Whether messages get lost, repeated and reordered.
    pub faulty: bool,
}

impl Network {
    /// No connections yet.
    pub fn new() -> Self {
        Self { connections: BTreeMap::new(), blocked: BTreeSet::new(), last: 0, faulty: true }
    }

    /// A new connection.
    pub fn connect(&mut self, compute: usize, node: usize, node_life: u64) -> ConnectionId {
        self.last += 1;
        let connection = Connection { compute, node, node_life, last_us: [0; 2] };
        self.connections.insert(ConnectionId(self.last), connection);
        ConnectionId(self.last)
    }

    /// Who is connected.
    pub fn get(&self, id: ConnectionId) -> Option<Connection> {
        self.connections.get(&id).copied()
    }

    /// Whether messages pass.
    pub fn is_open(&self, from: Place, to: Place) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// Stops messages from one place to another, until all is healed.
    pub fn block(&mut self, from: Place, to: Place) {
        self.blocked.insert((from, to));
    }

    /// Every message passes again.
    pub fn heal(&mut self) {
        self.blocked.clear();
    }

    /// How long something takes that is not part of a stream, or `None` if it is lost.
    pub fn datagram(&mut self, from: Place, to: Place, rng: &mut Rng) -> Option<u64> {
        let lost = !self.is_open(from, to) || (self.faulty && rng.per_mille(50));
        (!lost).then(|| self.delay_us(rng))
    }

    /// When the copies of a message on a connection arrive.
    pub fn send(&mut self, id: ConnectionId, to_node: bool, now_us: u64, rng: &mut Rng) -> Vec<u64> {
        let Some(connection) = self.get(id) else { return Vec::new() };
        let (compute, node) = (Place::Compute(connection.compute), Place::Node(connection.node));
        let open = if to_node { self.is_open(compute, node) } else { self.is_open(node, compute) };
        if !open || (self.faulty && rng.per_mille(2)) {
            return Vec::new();
        }
        let mut arrivals = vec![now_us + self.delay_us(rng)];
        if self.faulty && rng.per_mille(3) {
            arrivals.push(now_us + self.delay_us(rng));
        }
        let reorder = self.faulty && rng.per_mille(3);
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        let last = &mut connection.last_us[usize::from(to_node)];
        if !reorder {
            arrivals.iter_mut().for_each(|arrival| *arrival = (*arrival).max(*last + 1));
            *last = arrivals.iter().copied().max().unwrap_or(*last);
        }
        arrivals
    }

    fn delay_us(&self, rng: &mut Rng) -> u64 {
        let slow = self.faulty && rng.per_mille(20);
        if slow { rng.range(10_000, 400_000) } else { rng.range(50, 3_000) }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}
