//! A disk that keeps what was synced, and after a crash any part of what was not.

use std::collections::VecDeque;

use ogel_ids::Lsn;
use quorum::{AcceptorState, Token};

use crate::{rng::Rng, toy_wal::offset};

/// Bytes that reach the disk together or not at all.
const SECTOR_BYTES: usize = 16;

/// A disk operation of one timeline.
#[derive(Debug, Clone)]
pub enum Op {
    /// Write without sync.
    Write { token: Token, at: Lsn, wal: Vec<u8> },
    /// Sync.
    Flush { token: Token },
    /// Zeros to the end, and sync.
    Zero { token: Token, at: Lsn },
    /// Removes the WAL. What is read from now on is what the object store has, whatever that is.
    Drop { end: Lsn, object: Vec<u8> },
    /// Control file.
    Persist { version: u64, state: Box<AcceptorState> },
}

/// The operation under way, and how many writes came before it.
#[derive(Debug)]
pub struct Running {
    /// Which.
    pub op: Op,
    writes_before: usize,
}

/// One node's WAL image and control file.
#[derive(Debug)]
pub struct Disk {
    /// Survives a crash.
    pub durable: Vec<u8>,
    /// What the process reads: `durable` and everything written since.
    pub view: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Survives a crash.
    pub control: AcceptorState,
    /// The side file of H6: end of acknowledged WAL, as synced and as last written. Invariant: `acked ≤ acked_written` except
    /// while a cut is being synced, and both ≤ what is durable.
    pub acked: Lsn,
    acked_written: Lsn,
    /// Waiting.
    pub queue: VecDeque<Op>,
    /// Under way.
    pub running: Option<Running>,
}

impl Disk {
    /// A fresh timeline without WAL.
    pub fn new(control: AcceptorState) -> Self {
        let (durable, view, unsynced) = (Vec::new(), Vec::new(), Vec::new());
        let acked = control.identity.start_lsn;
        Self { durable, view, unsynced, control, acked, acked_written: acked, queue: VecDeque::new(), running: None }
    }

    /// Begins the next operation, if none is under way.
    pub fn begin_next(&mut self) -> bool {
        if self.running.is_some() {
            return false;
        }
        let Some(op) = self.queue.pop_front() else { return false };
        match &op {
            Op::Write { at, wal, .. } => self.write(*at, wal),
            Op::Zero { at, .. } => {
                // What is about to be cut is no longer promised; noted first, or the cut would look like rot.
                self.acked = self.acked.min(*at);
                self.acked_written = self.acked;
                let zeros = vec![0; self.view.len().saturating_sub(offset(*at))];
                self.write(*at, &zeros);
            }
            Op::Flush { .. } | Op::Drop { .. } | Op::Persist { .. } => {}
        }
        self.running = Some(Running { op, writes_before: self.unsynced.len() });
        true
    }

    /// Whether bytes may be written at once, because nothing but a sync is under way.
    pub fn is_writable(&self) -> bool {
        self.queue.is_empty() && matches!(self.running, Some(Running { op: Op::Flush { .. }, .. }))
    }

    /// Writes without sync.
    pub fn write(&mut self, at: Lsn, bytes: &[u8]) {
        put(&mut self.view, offset(at), bytes);
        self.unsynced.push((offset(at), bytes.to_vec()));
    }

    /// Ends the operation under way.
    pub fn end_running(&mut self) -> Option<Op> {
        let running = self.running.take()?;
        self.acked = self.acked_written;
        match &running.op {
            Op::Write { .. } => {}
            Op::Flush { .. } | Op::Zero { .. } => {
                for (at, bytes) in self.unsynced.drain(..running.writes_before) {
                    put(&mut self.durable, at, &bytes);
                }
            }
            Op::Drop { end, object } => self.replace(*end, object.clone()),
            Op::Persist { state, .. } => self.control = (**state).clone(),
        }
        Some(running.op)
    }

    /// Has the object store's WAL instead of its own, up to `end`.
    pub fn replace(&mut self, end: Lsn, object: Vec<u8>) {
        self.unsynced.clear();
        self.view.clone_from(&object);
        (self.durable, self.acked, self.acked_written) = (object, end, end);
    }

    /// Notes that WAL up to `end` was acknowledged; durable with the next operation that ends.
    pub fn note_acked(&mut self, end: Lsn) {
        self.acked_written = self.acked_written.max(end);
    }

    /// Damages a byte of WAL that was acknowledged and that a restart will read. `false`: there is none.
    pub fn rot(&mut self, rng: &mut Rng) -> bool {
        let scanned = self.control.commit_lsn.0..self.acked.0;
        if scanned.is_empty() {
            return false;
        }
        let at = offset(Lsn(rng.range(scanned.start, scanned.end)));
        self.durable[at] ^= 1 << rng.index(8);
        self.view.clone_from(&self.durable);
        true
    }

    /// Loses power: of each unsynced write nothing, everything or some sectors survive; of the control file the old or the new.
    pub fn crash(&mut self, rng: &mut Rng) {
        for (at, bytes) in std::mem::take(&mut self.unsynced) {
            let fate = rng.range(0, 3);
            let mut from = 0;
            while from < bytes.len() {
                let to = bytes.len().min(from + SECTOR_BYTES - (at + from) % SECTOR_BYTES);
                if fate == 1 || (fate == 2 && rng.per_mille(500)) {
                    put(&mut self.durable, at + from, &bytes[from..to]);
                }
                from = to;
            }
        }
        if let Some(Running { op: Op::Persist { state, .. }, .. }) = self.running.take()
            && rng.per_mille(500)
        {
            self.control = *state;
        }
        if rng.per_mille(500) {
            self.acked = self.acked_written;
        }
        self.acked_written = self.acked;
        self.queue.clear();
        self.view.clone_from(&self.durable);
    }
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}
