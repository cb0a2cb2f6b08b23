//! Up to its flush_lsn, an acceptor's disk holds what the terms of its history wrote, and its term is not behind them.

use crate::state::{Acceptor, State};

/// Its name.
pub const NAME: &str = "log matching";

/// Whether it holds.
pub fn holds(state: &State) -> bool {
    let matches = |node: &Acceptor| {
        let mut log = node.disk.iter().zip(0..node.flush);
        node.history.last() <= node.term && log.all(|(&writer, at)| writer == state.writer(node.history, at))
    };
    state.acceptors.iter().all(matches)
}
