//! Plans as text: `size` or `=size` (complete) of each layer, newest first, with `@start-end`, `h` history, `e` erased, `!` wanted.

use proptest::prelude::*;

use super::*;

fn layer(text: &str) -> LayerState {
    let wanted = text.ends_with('!');
    let text = text.trim_end_matches('!');
    let (head, lsns) = text.split_once('@').unwrap_or((text, "100-200"));
    let mut lsns = lsns.split(['-', 'h', 'e']);
    let mut number = |or| lsns.next().map_or(or, |digits| digits.parse().unwrap());
    let (start, end) = (number(0), number(0));
    let amount = number(0);
    let (history_bytes, erased_bytes) = if text.contains('e') { (0, amount) } else { (amount, 0) };
    LayerState {
        size_bytes: head.trim_start_matches('=').parse().unwrap(),
        complete: head.starts_with('='),
        lsns: LsnRange { start: Lsn(start), end: Lsn(end) },
        history_bytes,
        erased_bytes,
        wanted,
    }
}

const LIMITS: CompactionLimits = CompactionLimits {
    max_depth: 8,
    fan_in: 3,
    target_bytes: 1000,
    trim_percent: 30,
    min_trim_bytes: 10,
    small_bytes: 4,
    max_chain: 4,
};

/// The plan for one partition, as text.
fn planned(stack: &str, cutoff: u64, pace: Pace) -> String {
    let layers = stack.split_whitespace().map(layer).collect();
    let jobs = plan(&[PartitionState { start: Key::MIN, layers }], Lsn(cutoff), &LIMITS, pace);
    jobs.first().map_or("-".to_owned(), |job| format!("{:?} {:?}", job.reason, job.run))
}

#[test]
fn plans() {
    for (stack, cutoff, expected) in [
        ("", 0, "-"),
        ("=1000", 0, "-"),
        // Layers of like size.
        ("10 =1000", 0, "-"),
        ("10 10 =1000", 0, "-"),
        ("10 10 10 =1000", 0, "Depth 0..3"),
        ("10 10 10 40 =1000", 0, "Depth 0..4"),
        ("10 10 10 400 =1000", 0, "Depth 0..3"),
        ("10 10 10 40 =100", 0, "Depth 0..5"),
        ("1 4 3 1000 =9999", 0, "Depth 0..3"),
        // Sizes that grow fast wait, up to the bound.
        ("10 30 90 270 =1000", 0, "-"),
        ("1 10 100 1000 10000 100000 1000000", 0, "-"),
        ("1 10 100 1000 10000 100000 1000000 =9999999", 0, "Depth 0..2"),
        // What readers want.
        ("10 20! =1000", 0, "Redo 1..2"),
        ("10! 10 10 =1000", 0, "Depth 0..3"),
        // History below the cutoff.
        ("10@200-300 =1000@200-200", 200, "-"),
        ("500@200-300 =1000@200-200", 250, "-"),
        ("500@200-300 =1000@200-200", 300, "Trim 0..2"),
        ("5@300-400 500@200-300 =1000@200-200", 300, "Trim 1..3"),
        ("200@200-300 =1000@200-200", 300, "-"),
        ("=1000@200-300h800", 200, "-"),
        ("=1000@200-300h800", 230, "-"),
        ("=1000@200-300h800", 240, "Trim 0..1"),
        ("=1000@300-300h0", 900, "-"),
        ("9@200-300h9", 900, "-"),
        ("900@200-300h0", 900, "-"),
        ("900@200-300h800", 900, "Trim 0..1"),
        // A tombstone hides much.
        ("1@300-400e800 =1000@200-200", 400, "Trim 0..2"),
        ("1@300-400e100 =1000@200-200", 400, "-"),
    ] {
        assert_eq!(planned(stack, cutoff, Pace::Calm), expected, "{stack:?} with cutoff {cutoff}");
    }
}

#[test]
fn while_much_comes_in_only_long_stacks_are_merged_and_cheaply() {
    for (stack, expected) in [
        ("10 10 10 10 =1000", "-"),
        ("10 20! =1000", "-"),
        ("500@200-300 =1000@200-200", "-"),
        ("10 10 10 10 10 =1000", "Depth 0..5"),
        ("10 10 10 40 50 =1000", "Depth 0..3"),
        ("1 10 100 1000 10000 =100000", "Depth 0..2"),
    ] {
        assert_eq!(planned(stack, 300, Pace::Busy), expected, "{stack:?}");
    }
}

#[test]
fn the_longest_stack_comes_first() {
    let partition = |number, stack: &str| PartitionState {
        start: Key::two_phase(number),
        layers: stack.split_whitespace().map(layer).collect(),
    };
    let partitions = [partition(1, "5! =9"), partition(2, "9 9 9 =9"), partition(3, "9 9 9 9 =9"), partition(4, "9")];
    let jobs = plan(&partitions, Lsn(0), &LIMITS, Pace::Calm);
    let order: Vec<_> = jobs.iter().map(|job| job.partition.as_two_phase().unwrap()).collect();
    assert_eq!(order, [3, 2, 1]);
}

proptest! {
    /// However flushes come, no stack is ever longer than the bound, and what merging writes stays in proportion to what was flushed.
    #[test]
    fn stacks_are_bounded_and_the_cost_too(
        bottom in prop_oneof![Just(0_u64), 1..100_000_u64],
        flushes in prop::collection::vec(prop_oneof![Just(1_000_u64), 1..100_u64, 1..100_000_u64], 1..400),
        lazy in any::<bool>(),
        busy in any::<bool>(),
    ) {
        let limits = CompactionLimits::default();
        let pace = if busy { Pace::Busy } else { Pace::Calm };
        let mut stack: Vec<LayerState> = Vec::new();
        let of = |size_bytes, complete| LayerState { size_bytes, complete, ..layer("1") };
        if bottom > 0 {
            stack.push(of(bottom, true));
        }
        let (mut flushed, mut merged) = (bottom, 0_u64);
        let merge = |stack: &mut Vec<LayerState>, run: Range<usize>| {
            let complete = stack[run.end - 1].complete;
            let size: u64 = stack.drain(run).map(|layer| layer.size_bytes).sum();
            stack.insert(0, of(size, complete));
            size
        };
        for size in flushes {
            // What a flush does first; a lazy compaction leaves everything to it.
            while stack.len() >= limits.max_depth || (!lazy && depth_run(&stack, &limits, pace).is_some()) {
                let run = depth_run(&stack, &limits, pace).expect("a stack at its bound is merged");
                prop_assert!(run.len() >= 2);
                merged += merge(&mut stack, run);
            }
            stack.insert(0, of(size, false));
            flushed += size;
            prop_assert!(stack.len() <= limits.max_depth, "{} layers", stack.len());
        }
        // What is cheapest now is not in the long run; a load's pace ends after half a minute, these flushes take longer.
        let most = if busy { 16 } else { 12 };
        prop_assert!(merged <= most * flushed, "{merged} bytes merged for {flushed} flushed");
    }
}
