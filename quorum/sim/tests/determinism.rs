//! A seed that does not replay its run would leave a violation without a cause.

use quorum_sim::{Trace, World};

const SEEDS: u64 = 25;

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| World::new(seed, None, Trace::kept()).run().trace;
    let mut before: Vec<String> = Vec::new();
    for seed in 0..SEEDS {
        let first = trace(seed);
        assert!(first.len() > 1_000, "seed {seed}: a trace of {} lines shows nothing", first.len());
        let (second, length) = (trace(seed), first.len());
        let difference = first.iter().zip(&second).find(|(first, second)| first != second);
        assert_eq!((difference, length), (None, second.len()), "seed {seed} replays another run");
        assert_ne!(first, before, "seeds {seed} and the one before give the same run");
        before = first;
    }
}
