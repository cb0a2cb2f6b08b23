//! Known bugs, put back on request: the simulator must catch each (feature `mutations`, absent from product builds).

/// One rule removed, named after the hazard that it prevents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "mutations"), allow(dead_code))]
pub enum Mutation {
    /// H2: Elected cuts the log only logically; stale records stay on disk behind the cut.
    NoZeroing,
    /// H2: the proposer counts answers whatever their last_log_term.
    CountAnyLogTerm,
    /// H3: commit_lsn is taken from a peer whose last_log_term differs.
    PeerCommitUnchecked,
    /// H3: completions of writes and syncs from before a truncation or term change are believed.
    StaleCompletion,
    /// H5: acceptors count what peers of other logs have flushed, and below the term's start.
    SelfAdvanceUnchecked,
    /// H8: no empty appends, neither heartbeats nor commit news.
    NoBroadcast,
    /// H5: local WAL is dropped although not all of it is known to be committed.
    DropAboveCommit,
    /// H4: a node that lost its store votes and counts.
    AmnesiacVotes,
}

/// The mutation in force, if any; always none in product builds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mutations {
    #[cfg(feature = "mutations")]
    active: Option<Mutation>,
}

impl Mutations {
    /// Whether `mutation` is in force.
    pub(crate) fn has(self, mutation: Mutation) -> bool {
        #[cfg(feature = "mutations")]
        return self.active == Some(mutation);
        #[cfg(not(feature = "mutations"))]
        {
            let _ = mutation;
            false
        }
    }

    #[cfg(feature = "mutations")]
    pub(crate) fn set(&mut self, mutation: Option<Mutation>) {
        self.active = mutation;
    }
}
