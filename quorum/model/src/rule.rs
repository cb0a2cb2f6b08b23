//! Rules that can be left out, to show that the checker notices.

/// One rule removed, named after the hazard that it prevents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Removed {
    /// H1: campaigns share one candidate id.
    SameCandidate,
    /// H2: the log is cut only logically.
    NoZeroing,
    /// H2: answers count whatever their last_log_term.
    CountAnyLogTerm,
    /// The own-term rule: WAL of earlier terms is committed by counting copies.
    CountBelowStart,
    /// H3: commit_lsn is taken from a peer whose last_log_term differs.
    PeerCommitUnchecked,
    /// H3: WAL is fetched from peers without cutting at the common point first.
    FetchWithoutCut,
    /// H5: acceptors count peers that have not the same last_log_term.
    SelfAdvanceAnyLog,
}

impl Removed {
    /// All of them.
    pub const ALL: [Removed; 7] = [
        Removed::SameCandidate,
        Removed::NoZeroing,
        Removed::CountAnyLogTerm,
        Removed::CountBelowStart,
        Removed::PeerCommitUnchecked,
        Removed::FetchWithoutCut,
        Removed::SelfAdvanceAnyLog,
    ];
}
