//! What a customer would lose if this failed: an acknowledged commit.

use quorum_sim::run_many;

const RUNS: u64 = 2_000;

#[test]
fn no_seed_breaks_an_invariant() {
    let from = std::env::var("QUORUM_SIM_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    match run_many(from..from + RUNS, None, |_| {}) {
        Ok(tally) => {
            println!("{tally:?}");
            assert!(
                tally.counted * 2 >= tally.runs,
                "too few runs have a contest, a truncation and two commits: {tally:?}"
            );
        }
        Err(outcome) => panic!("seed {}: {:?}", outcome.seed, outcome.violation),
    }
}
