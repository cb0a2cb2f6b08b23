//! commit_lsn never goes back: of a proposer in its reign, of an acceptor in the life of its process.

use crate::state::State;

/// Its name.
pub const NAME: &str = "commit monotone";

/// Whether it holds.
pub fn holds(state: &State) -> bool {
    !state.broken.commit_monotone
}
