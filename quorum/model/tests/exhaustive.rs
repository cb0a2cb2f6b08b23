//! Every reachable state of a small system keeps every invariant; with a rule removed, some state does not.

use quorum_model::{Bounds, Protocol, Removed, Report, state::State};

const THREADS: usize = 2;

fn check(start: State, terms: u8, records: u8, removed: Option<Removed>) -> Report {
    let report = Protocol { bounds: Bounds { terms, records }, removed, start }.check(THREADS);
    println!(
        "{terms} terms, {records} records, removed {removed:?}: {} states, {} steps, depth {}, violation {:?}",
        report.states,
        report.steps,
        report.depth,
        report.violation.as_ref().map(|(name, _)| name)
    );
    report
}

#[test]
fn no_state_breaks_an_invariant() {
    let report = check(State::created(), 2, 3, None);
    assert!(report.violation.is_none(), "{:?}", report.violation);
    assert!(report.unreached.is_empty(), "the check proves little without: {:?}", report.unreached);
    assert!(report.states > 500_000, "a check of {} states has left something out", report.states);
    for (start, terms, records) in [(State::created(), 3, 1), (State::contested(), 3, 2)] {
        let report = check(start, terms, records, None);
        assert!(report.violation.is_none(), "{:?}", report.violation);
    }
}

#[test]
fn every_removed_rule_is_found() {
    for removed in Removed::ALL {
        let report = match removed {
            // It takes four terms to lose WAL this way.
            Removed::CountBelowStart => check(State::contested(), 4, 2, Some(removed)),
            _ => check(State::created(), 2, 2, Some(removed)),
        };
        assert!(report.violation.is_some(), "the removal of {removed:?} stayed unnoticed");
    }
}
