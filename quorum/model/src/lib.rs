//! The consensus protocol, written down once more as a model and checked exhaustively within bounds.
//!
//! Where the simulator tries many long random runs of the production code, this goes through **every** reachable state of a
//! small system: three acceptors, two competing proposers, a few terms and records; messages that are lost, late, repeated and
//! out of order; crashes at any step and between the two disk writes of a cut. The rules are those of `quorum/src/lib.rs`, told
//! in as few lines as possible, so that a person can compare them with `docs/protocols.md` and `02-quorum.md`.
//!
//! What the model leaves out: bytes (a record is whole or absent; torn writes, rot and the decoder are the simulator's),
//! windows and back-pressure (a proposer always has more WAL), and membership changes. Where it differs otherwise it allows **more**
//! than the code does: an acceptor forgets commit_lsn in every crash, a deposed proposer goes on for ever.
//!
//! `cargo test -p quorum-model -- --nocapture` prints the counts of its bounds. `quorum-model --terms 3` takes minutes: 5.6
//! million states.
//!
//! | file | what |
//! |---|---|
//! | `state.rs` | the state, histories, the common point of two logs |
//! | `step.rs` | every step of the protocol, and of what goes wrong |
//! | `invariants/` | what must hold, by the names of the simulator |
//! | `rule.rs` | rules that can be removed: the checker must find a violation for each |

pub mod invariants;
mod rule;
pub mod state;
mod step;

pub use rule::Removed;
use state::State;
use stateright::{Checker, Model, Property};
pub use step::Step;
use step::Stepper;

/// How large the system may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Highest term, at most [`state::MAX_TERMS`].
    pub terms: u8,
    /// Longest log, at most [`state::MAX_RECORDS`].
    pub records: u8,
}

/// The protocol within bounds.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    /// How large.
    pub bounds: Bounds,
    /// A rule that is left out.
    pub removed: Option<Removed>,
    /// Where to begin.
    pub start: State,
}

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// Different states seen, up to symmetry.
    pub states: usize,
    /// Steps taken between them.
    pub steps: usize,
    /// Longest of the shortest ways from the start.
    pub depth: usize,
    /// The first broken invariant, and a shortest way there.
    pub violation: Option<(&'static str, String)>,
    /// Situations without which the check would prove little, that never came about.
    pub unreached: Vec<&'static str>,
}

impl Protocol {
    /// Goes through every state, or up to the first violation.
    pub fn check(self, threads: usize) -> Report {
        let checker =
            self.checker().threads(threads).finish_when(stateright::HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        let invariant = |name: &&str| INVARIANTS.iter().any(|(invariant, _)| invariant == name);
        let violation = found.iter().find(|(name, _)| invariant(name));
        let describe = |path: &stateright::Path<State, Step>| {
            path.clone().into_actions().iter().map(|step| format!("  {step:?}\n")).collect()
        };
        Report {
            states: checker.unique_state_count(),
            steps: checker.state_count(),
            depth: checker.max_depth(),
            violation: violation.map(|(name, path)| (*name, describe(path))),
            unreached: SITUATIONS.iter().map(|(name, _)| *name).filter(|name| !found.contains_key(name)).collect(),
        }
    }
}

type Condition = fn(&Protocol, &State) -> bool;

const INVARIANTS: [(&str, Condition); 6] = [
    (invariants::election_safety::NAME, |_, state| invariants::election_safety::holds(state)),
    (invariants::log_matching::NAME, |_, state| invariants::log_matching::holds(state)),
    (invariants::leader_completeness::NAME, |_, state| invariants::leader_completeness::holds(state)),
    (invariants::commit_monotone::NAME, |_, state| invariants::commit_monotone::holds(state)),
    (invariants::truncation::NAME, |_, state| invariants::truncation::holds(state)),
    (invariants::committed_equal::NAME, |_, state| invariants::committed_equal::holds(state)),
];

const SITUATIONS: [(&str, Condition); 3] = [
    ("two candidates in one term", |_, state| {
        let [a, b] = state.proposers;
        a.campaigning && b.campaigning && a.term == b.term
    }),
    ("commits of two terms", |_, state| {
        let mut terms = state.committed.iter().map(|known| known.written_by).filter(|&term| term != 0);
        terms.next().is_some_and(|first| terms.any(|term| term != first))
    }),
    ("acknowledged WAL is cut", |_, state| {
        let cut = |node: &state::Acceptor| node.acked.iter().flatten().any(|&lsn| lsn > node.flush);
        state.acceptors.iter().any(cut)
    }),
];

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.start]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        step::all(state, self.bounds, actions);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        Stepper::after(state, self.bounds, self.removed, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let invariants = INVARIANTS.iter().map(|&(name, holds)| Property::always(name, holds));
        let situations = SITUATIONS.iter().map(|&(name, reached)| Property::sometimes(name, reached));
        invariants.chain(situations).collect()
    }
}
