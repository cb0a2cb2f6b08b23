//! The log of an elected proposer has everything that was ever committed in terms before its own.

use crate::state::State;

/// Its name.
pub const NAME: &str = "leader completeness";

/// Whether it holds.
pub fn holds(state: &State) -> bool {
    let reigns = state.reigns.iter().zip(0..).filter_map(|(reign, term)| Some((reign.as_ref()?, term)));
    reigns.into_iter().all(|(reign, term)| {
        let before = |position: &u8| {
            let known = state.committed[usize::from(*position)];
            known.written_by != 0 && known.announced_in < term
        };
        let mut committed = (0..state.committed.len() as u8).filter(before);
        committed.all(|position| {
            let written_by = state.committed[usize::from(position)].written_by;
            position < reign.start && state.writer(reign.history, position) == written_by
        })
    })
}
