//! At most one candidate ever wins a term.

use crate::state::State;

/// Its name.
pub const NAME: &str = "election safety";

/// Whether it holds.
pub fn holds(state: &State) -> bool {
    !state.broken.election_safety
}
