//! No cut or crash takes committed WAL away from a quorum of disks, or an acceptor's log below its own commit_lsn.

use crate::state::{ACCEPTORS, Acceptor, State};

/// Its name.
pub const NAME: &str = "no truncation below commit";

/// Whether it holds.
pub fn holds(state: &State) -> bool {
    let end = state.committed.iter().take_while(|known| known.written_by != 0).count();
    let has = |node: &&Acceptor| {
        let mut log = node.disk[..usize::from(node.flush)].iter().zip(&state.committed);
        usize::from(node.flush) >= end && log.all(|(&w, known)| known.written_by == 0 || w == known.written_by)
    };
    state.acceptors.iter().filter(has).count() > ACCEPTORS / 2
        && state.acceptors.iter().all(|node| node.commit <= node.flush)
}
