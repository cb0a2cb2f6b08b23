//! Deterministic simulator of the consensus core.
//!
//! The production [`quorum::Acceptor`] and [`quorum::Proposer`] run against a virtual clock, a network that delays, loses, repeats,
//! reorders and partitions, and disks that lose or tear what was not synced. Nodes crash between any two actions; computes
//! compete. One seed is one run, bit for bit. After the faults stop, progress is demanded.
//!
//! | file | what it simulates |
//! |---|---|
//! | `world.rs` | the clock, and what happens when |
//! | `world/node_shell.rs`, `world/compute_shell.rs` | carrying out the cores' actions |
//! | `world/faults.rs` | what goes wrong, and the calm in which progress is demanded |
//! | `disk.rs`, `network.rs`, `toy_wal.rs` | what the shells stand on |
//! | `invariants/` | what must hold |

mod bug;
mod compute;
mod disk;
mod invariants;
mod network;
mod node;
mod rng;
mod toy_wal;
mod world;

pub use bug::Bug;
pub use world::{Outcome, Tally, World};

/// Runs one seed. An assertion that fails in the core is a violation like any other.
pub fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    std::panic::catch_unwind(|| World::new(seed, bug, false).run()).unwrap_or_else(|_| {
        let violation = Some("an assertion of the core failed, see above".to_string());
        Outcome { seed, violation, happened: world::Happened::default() }
    })
}

/// Runs seeds on two threads, up to the first violation.
pub fn run_many(seeds: std::ops::Range<u64>, bug: Option<Bug>) -> Result<Tally, Outcome> {
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    let part = |range: std::ops::Range<u64>| {
        let mut tally = Tally::default();
        for seed in range {
            let outcome = run(seed, bug);
            if outcome.violation.is_some() {
                return Err(outcome);
            }
            tally.add(&outcome);
        }
        Ok(tally)
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| part(seeds.start..middle));
        let second = part(middle..seeds.end);
        let first = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(first.sum(second?))
    })
}
