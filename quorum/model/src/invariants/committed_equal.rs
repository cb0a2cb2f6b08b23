//! What anybody calls committed is the same everywhere and for ever.

use crate::state::State;

/// Its name.
pub const NAME: &str = "committed WAL equal";

/// Whether it holds.
pub fn holds(state: &State) -> bool {
    let same = |commit: u8, disk: &[u8]| {
        let committed = state.committed.iter().zip(disk).take(usize::from(commit));
        committed.into_iter().all(|(known, &writer)| known.written_by == writer)
    };
    !state.broken.committed_equal && state.acceptors.iter().all(|node| same(node.commit, &node.disk))
}
