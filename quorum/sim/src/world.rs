//! The clock, and what happens when.

mod compute_shell;
mod faults;
mod idle;
mod node_shell;
mod replacement;

use std::collections::BTreeMap;

use bytes::Bytes;
use ogel_ids::{Lsn, Term};
use quorum::{ArchivedTail, ConnectionId, FetchId, Membership, PeerStatus, Token};
use replacement::Replacement;

use crate::{
    archive::Archive,
    bug::Bug,
    compute::Compute,
    invariants::{Observed, Verdict, Violation},
    network::Network,
    node::{NODES, Safekeeper, first_membership},
    rng::Rng,
    trace::Trace,
};

/// Where computes may run.
pub const COMPUTES: usize = 2;

/// Something that is due at a time.
#[derive(Debug)]
enum Due {
    ToNode { connection: ConnectionId, payload: Option<Bytes> },
    ToCompute { connection: ConnectionId, payload: Option<Bytes> },
    Connect { compute: usize, life: u64, node: usize },
    Draw { compute: usize, life: u64 },
    Tick { compute: usize, life: u64 },
    Write { compute: usize, life: u64 },
    AwaitBasebackup { compute: usize, life: u64 },
    StartCompute { compute: usize },
    DiskDone { node: usize, life: u64 },
    WalWritten { node: usize, life: u64, token: Token, end: Lsn, record_end: Lsn },
    StartNode { node: usize },
    Gossip { node: usize },
    Status { to: usize, status: PeerStatus },
    ServeFetch(FetchRequest),
    FetchedWal { request: FetchRequest, wal: Vec<u8> },
    FetchFailed(FetchRequest),
    TailRead { node: usize, life: u64, tail: ArchivedTail },
    Replace,
    Fault,
    Heal,
    Calm,
    Stage(faults::CalmStage),
}

/// WAL that a node reads from a peer.
#[derive(Debug, Clone, Copy)]
struct FetchRequest {
    node: usize,
    life: u64,
    fetch: FetchId,
    peer: usize,
    peer_term: Term,
    from: Lsn,
    to: Lsn,
}

/// What became of one run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// What happened in it.
    pub happened: Happened,
    /// Everything that was said, if it was to be kept.
    pub trace: Vec<String>,
}

/// What makes a run worth counting.
#[derive(Debug, Clone, Copy, Default)]
pub struct Happened {
    /// Elections won.
    pub elections: u64,
    /// Votes that were refused and reigns that were ended by a higher term.
    pub contests: u64,
    /// Cuts that took WAL away.
    pub truncations: u64,
    /// Terms that committed WAL of their own.
    pub commit_terms: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Stores whose acknowledged WAL went bad.
    pub rots: u64,
    /// Lost stores that were replaced.
    pub replacements: u64,
    /// Idle nodes that dropped their WAL.
    pub drops: u64,
    /// WAL pieces fetched from peers.
    pub fetches: u64,
    /// Bytes committed.
    pub committed_bytes: u64,
}

impl Happened {
    /// A run without a contested election, a non-empty truncation and commits in two terms proves nothing.
    pub fn counts(&self) -> bool {
        self.contests > 0 && self.truncations > 0 && self.commit_terms >= 2
    }
}

/// Sums over many runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// All runs.
    pub runs: u64,
    /// Runs that count.
    pub counted: u64,
    /// Over all runs.
    pub total: Happened,
}

impl Tally {
    /// Adds one run.
    pub fn add(&mut self, outcome: &Outcome) {
        let one = Tally { runs: 1, counted: outcome.happened.counts().into(), total: outcome.happened };
        *self = self.sum(one);
    }

    /// Adds two sums.
    pub fn sum(self, other: Tally) -> Tally {
        let (a, b) = (self.total, other.total);
        let total = Happened {
            elections: a.elections + b.elections,
            contests: a.contests + b.contests,
            truncations: a.truncations + b.truncations,
            commit_terms: a.commit_terms + b.commit_terms,
            crashes: a.crashes + b.crashes,
            rots: a.rots + b.rots,
            replacements: a.replacements + b.replacements,
            drops: a.drops + b.drops,
            fetches: a.fetches + b.fetches,
            committed_bytes: a.committed_bytes + b.committed_bytes,
        };
        Tally { runs: self.runs + other.runs, counted: self.counted + other.counted, total }
    }
}

/// One run.
#[derive(Debug)]
pub struct World {
    seed: u64,
    bug: Option<Bug>,
    rng: Rng,
    now_us: u64,
    sequence: u64,
    due: BTreeMap<(u64, u64), Due>,
    nodes: Vec<Safekeeper>,
    computes: Vec<Compute>,
    network: Network,
    archive: Archive,
    /// The newest that is complete.
    membership: Membership,
    replacement: Option<Replacement>,
    observed: Observed,
    happened: Happened,
    /// Faults have stopped.
    calm: bool,
    /// Everybody has had time to catch up.
    settled: bool,
    /// Clients write.
    writing: bool,
    over: bool,
    violation: Option<Violation>,
    trace: Trace,
}

impl World {
    /// Sets a run up.
    pub fn new(seed: u64, bug: Option<Bug>, trace: Trace) -> Self {
        Self {
            seed,
            bug,
            rng: Rng::new(seed),
            now_us: 0,
            sequence: 0,
            due: BTreeMap::new(),
            nodes: (0..NODES).map(Safekeeper::new).collect(),
            computes: (0..COMPUTES).map(|_| Compute::new()).collect(),
            network: Network::new(),
            archive: Archive::default(),
            membership: first_membership(),
            replacement: None,
            observed: Observed::default(),
            happened: Happened::default(),
            calm: false,
            settled: false,
            writing: true,
            over: false,
            violation: None,
            trace,
        }
    }

    /// Runs to the end, or to the first violation.
    pub fn run(mut self) -> Outcome {
        self.plan_run();
        while self.violation.is_none() && !self.over {
            let Some(((now_us, _), due)) = self.due.pop_first() else { break };
            self.now_us = now_us;
            self.happen(due);
        }
        self.happened.commit_terms = self.observed.commit_terms.len() as u64;
        self.happened.committed_bytes = self.observed.committed.len() as u64;
        if let Some(violation) = &self.violation {
            self.say(|| format!("VIOLATION {violation}"));
        }
        let trace = self.trace.into_lines();
        Outcome { seed: self.seed, violation: self.violation, happened: self.happened, trace }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::ToNode { connection, payload } => self.deliver_to_node(connection, payload),
            Due::ToCompute { connection, payload } => self.deliver_to_compute(connection, payload),
            Due::Connect { compute, life, node } => self.connect(compute, life, node),
            Due::Draw { compute, life } => self.draw_candidate(compute, life),
            Due::Tick { compute, life } => self.tick(compute, life),
            Due::Write { compute, life } => self.client_writes(compute, life),
            Due::AwaitBasebackup { compute, life } => self.await_basebackup(compute, life),
            Due::StartCompute { compute } => self.start_compute(compute),
            Due::DiskDone { node, life } => self.disk_done(node, life),
            Due::WalWritten { node, life, token, end, record_end } => {
                self.wal_written(node, life, token, end, record_end);
            }
            Due::StartNode { node } => self.start_node(node),
            Due::Gossip { node } => self.gossip(node),
            Due::Status { to, status } => self.deliver_status(to, status),
            Due::ServeFetch(request) => self.serve_fetch(request),
            Due::FetchedWal { request, wal } => self.deliver_fetched(request, wal),
            Due::FetchFailed(request) => self.fail_fetch(request),
            Due::TailRead { node, life, tail } => self.tail_read(node, life, tail),
            Due::Replace => self.go_on_replacing(),
            Due::Fault => self.fault(),
            Due::Heal => self.network.heal(),
            Due::Calm => self.begin_calm(),
            Due::Stage(stage) => self.calm_stage(stage),
        }
    }

    fn after(&mut self, delay_us: u64, due: Due) {
        self.sequence += 1;
        self.due.insert((self.now_us + delay_us, self.sequence), due);
    }

    fn verify(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict {
            self.violation.get_or_insert(violation);
        }
    }

    fn say(&self, text: impl FnOnce() -> String) {
        self.trace.line(self.now_us, text);
    }
}
