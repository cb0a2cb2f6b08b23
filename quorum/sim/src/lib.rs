//! Deterministic simulator of the consensus core.
//!
//! The production [`quorum::Acceptor`] and [`quorum::Proposer`] run against a virtual clock, a network that delays, loses, repeats,
//! reorders and partitions, and disks that lose or tear what was not synced, or rot. Nodes crash between any two actions; computes
//! compete. One seed is one run, bit for bit. After the faults stop, progress is demanded.
//!
//! | file | what it simulates |
//! |---|---|
//! | `world.rs` | the clock, and what happens when |
//! | `world/node_shell.rs`, `world/compute_shell.rs` | carrying out the cores' actions |
//! | `world/faults.rs` | what goes wrong, and the calm in which progress is demanded |
//! | `world/idle.rs` | nodes that nobody talks to, and drop their WAL |
//! | `archive.rs`, `disk.rs`, `network.rs`, `toy_wal.rs` | what the shells stand on |
//! | `invariants/` | what must hold |
//! | `trace.rs` | what a run says |

mod archive;
mod bug;
mod compute;
mod disk;
mod invariants;
mod network;
mod node;
mod rng;
mod toy_wal;
mod trace;
mod world;

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

pub use bug::Bug;
pub use trace::Trace;
pub use world::{Outcome, Tally, World};

/// Seeds that a thread takes at once.
const BLOCK: u64 = 50;

/// Runs one seed. An assertion that fails in the core is a violation like any other.
pub fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    std::panic::catch_unwind(|| World::new(seed, bug, Trace::Off).run()).unwrap_or_else(|_| {
        let violation = Some("an assertion of the core failed, see above".to_string());
        Outcome { seed, violation, happened: world::Happened::default(), trace: Vec::new() }
    })
}

/// Runs seeds on two threads, up to the first violation. `progress` hears of the sums now and then.
pub fn run_many(seeds: Range<u64>, bug: Option<Bug>, progress: impl Fn(&Tally) + Sync) -> Result<Tally, Box<Outcome>> {
    let (next, over, sum) = (AtomicU64::new(seeds.start), AtomicBool::new(false), Mutex::new(Tally::default()));
    let part = || {
        loop {
            let from = next.fetch_add(BLOCK, Ordering::Relaxed);
            let mut tally = Tally::default();
            for seed in from..seeds.end.min(from.saturating_add(BLOCK)) {
                if over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let outcome = run(seed, bug);
                if outcome.violation.is_some() {
                    over.store(true, Ordering::Relaxed);
                    return Err(Box::new(outcome));
                }
                tally.add(&outcome);
            }
            if tally.runs == 0 {
                return Ok(());
            }
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            *sum = sum.sum(tally);
            progress(&sum);
        }
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(part);
        let second = part();
        first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(second)
    })?;
    Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner))
}
