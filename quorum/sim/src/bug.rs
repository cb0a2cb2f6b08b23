//! Known bugs that the simulator must catch, by the hazard whose rule is removed.

/// One rule removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Bug {
    /// H1: every campaign has the same candidate id.
    SameCandidate,
    /// H2: the log is cut only logically.
    NoZeroing,
    /// H2: answers count whatever their last_log_term.
    CountAnyLogTerm,
    /// H3: commit_lsn is taken from a peer with another last_log_term.
    PeerCommitUnchecked,
    /// H3: completions from before a cut are believed.
    StaleCompletion,
    /// H4: a node that lost its store votes.
    AmnesiacVotes,
    /// H5: acceptors count what peers of other logs have flushed.
    SelfAdvanceUnchecked,
    /// H5: local WAL is dropped although not all of it is known to be committed.
    DropAboveCommit,
    /// H5: local WAL is dropped without a look at what the object store has.
    DropUncompared,
    /// H6: rot in acknowledged WAL is taken for a torn tail.
    RotAsTorn,
    /// H4: a new store joins before all the others know that it is a member.
    JoinEarly,
    /// H4: a new store votes before it has the others' WAL.
    VoteBeforePull,
    /// H8: no empty appends.
    NoBroadcast,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 13] = [
        Bug::SameCandidate,
        Bug::NoZeroing,
        Bug::CountAnyLogTerm,
        Bug::PeerCommitUnchecked,
        Bug::StaleCompletion,
        Bug::AmnesiacVotes,
        Bug::SelfAdvanceUnchecked,
        Bug::DropAboveCommit,
        Bug::DropUncompared,
        Bug::RotAsTorn,
        Bug::JoinEarly,
        Bug::VoteBeforePull,
        Bug::NoBroadcast,
    ];

    /// Whether the rule lies in the core, and its removal in the feature `mutations`.
    pub fn is_in_core(self) -> bool {
        !matches!(
            self,
            Bug::SameCandidate | Bug::DropUncompared | Bug::RotAsTorn | Bug::JoinEarly | Bug::VoteBeforePull
        )
    }

    /// The rule to remove in the core, if it is there.
    #[cfg(feature = "mutations")]
    pub fn in_core(self) -> Option<quorum::Mutation> {
        use quorum::Mutation;
        Some(match self {
            Bug::SameCandidate | Bug::DropUncompared | Bug::RotAsTorn | Bug::JoinEarly | Bug::VoteBeforePull => {
                return None;
            }
            Bug::NoZeroing => Mutation::NoZeroing,
            Bug::CountAnyLogTerm => Mutation::CountAnyLogTerm,
            Bug::PeerCommitUnchecked => Mutation::PeerCommitUnchecked,
            Bug::StaleCompletion => Mutation::StaleCompletion,
            Bug::AmnesiacVotes => Mutation::AmnesiacVotes,
            Bug::SelfAdvanceUnchecked => Mutation::SelfAdvanceUnchecked,
            Bug::DropAboveCommit => Mutation::DropAboveCommit,
            Bug::NoBroadcast => Mutation::NoBroadcast,
        })
    }
}
