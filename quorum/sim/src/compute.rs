//! A compute: the production proposer, and a client that writes records through it.

use std::collections::BTreeMap;

use bytes::Bytes;
use ogel_ids::{CandidateId, Lsn, NodeId};
use quorum::{ConnectionId, Proposer, ProposerConfig, Victory};

use crate::{
    node::{TENANT, TIMELINE},
    rng::Rng,
    toy_wal::{HEADER_BYTES, record},
};

/// Small, so that laggards and back-pressure are common.
const WINDOW_BYTES: u64 = 1_500;
/// Words in a start checkpoint: every start appends an equally long record (H2).
const CHECKPOINT_WORDS: usize = 2;
/// No run makes more WAL in one reign.
const REIGN_BYTES: u64 = 12_000;

/// A place where computes run, one after the other.
#[derive(Debug)]
pub struct Compute {
    /// The process; `None` while it is down.
    pub proposer: Option<Proposer>,
    /// Number of the process.
    pub life: u64,
    /// Its current connection to each node.
    pub connections: BTreeMap<NodeId, ConnectionId>,
    /// Of the last campaign.
    pub candidate: CandidateId,
    /// Since it was elected.
    pub reign: Option<Writer>,
    /// The proposer wants no WAL.
    pub back_pressure: bool,
}

/// The elected compute's Postgres.
#[derive(Debug)]
pub struct Writer {
    /// The election.
    pub victory: Victory,
    /// When it was won.
    pub elected_us: u64,
    /// Whether the basebackup has arrived.
    pub started: bool,
    /// Start of the last record.
    prev: Lsn,
    /// End of the WAL made.
    pub end: Lsn,
    /// Made, not given to the proposer yet.
    outbox: Vec<u8>,
}

impl Compute {
    /// Nothing runs.
    pub fn new() -> Self {
        Self {
            proposer: None,
            life: 0,
            connections: BTreeMap::new(),
            candidate: CandidateId::from_bytes([0; 16]),
            reign: None,
            back_pressure: false,
        }
    }

    /// Starts a process.
    pub fn start(&mut self) {
        let config = ProposerConfig {
            window_bytes: WINDOW_BYTES,
            in_flight_bytes: WINDOW_BYTES / 2,
            ..ProposerConfig::new(TENANT, TIMELINE)
        };
        self.proposer = Some(Proposer::new(config));
        self.reign = None;
        self.back_pressure = false;
    }

    /// Ends the process.
    pub fn stop(&mut self) {
        self.life += 1;
        self.proposer = None;
        self.reign = None;
        self.connections.clear();
    }
}

impl Default for Compute {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Won.
    pub fn new(victory: Victory, elected_us: u64) -> Self {
        let (end, prev) = (victory.start_lsn, Lsn(0));
        Self { victory, elected_us, started: false, prev, end, outbox: Vec::new() }
    }

    /// The basebackup has arrived: appends the start checkpoint behind the record that starts at `prev`.
    pub fn start(&mut self, prev: Lsn) {
        self.started = true;
        self.prev = prev;
        self.append(&[self.victory.term.0; CHECKPOINT_WORDS]);
    }

    /// Whether the run has enough WAL.
    pub fn is_full(&self) -> bool {
        self.end.bytes_since(self.victory.start_lsn) >= REIGN_BYTES
    }

    /// Clients write a few records, now and then one that is longer than every window.
    pub fn write(&mut self, rng: &mut Rng) {
        for _ in 0..rng.range(1, 5) {
            let words = if rng.per_mille(5) { 300 } else { rng.range(0, 12) };
            let payload: Vec<u64> = (0..words).map(|_| rng.bits()).collect();
            self.append(&payload);
        }
    }

    fn append(&mut self, payload: &[u64]) {
        self.outbox.extend(record(self.end, self.prev, payload));
        self.prev = self.end;
        self.end.0 += (HEADER_BYTES + 8 * payload.len()) as u64;
    }

    /// Takes WAL off the walsender: any number of bytes, not only whole records.
    pub fn take_chunk(&mut self, limit: usize) -> Option<(Lsn, Bytes)> {
        if self.outbox.is_empty() {
            return None;
        }
        let begin = Lsn(self.end.0 - self.outbox.len() as u64);
        let rest = self.outbox.split_off(limit.min(self.outbox.len()));
        Some((begin, std::mem::replace(&mut self.outbox, rest).into()))
    }
}
