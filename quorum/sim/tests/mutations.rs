//! The simulator notices when a rule is removed: otherwise its silence would prove nothing.
#![cfg(feature = "mutations")]

use quorum_sim::{Bug, run_many};

const RUNS: u64 = 2_000;

#[test]
fn every_removed_rule_is_caught() {
    for bug in Bug::ALL {
        let caught = run_many(0..RUNS, Some(bug), |_| {}).expect_err("the rule's removal stayed unnoticed");
        println!("{bug:?}: seed {}: {}", caught.seed, caught.violation.unwrap_or_default());
    }
}
