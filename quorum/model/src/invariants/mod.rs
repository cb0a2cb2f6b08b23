//! What must hold in every state, one file each, with the names of the simulator's (`quorum/sim/src/invariants`).

pub mod commit_monotone;
pub mod committed_equal;
pub mod election_safety;
pub mod leader_completeness;
pub mod log_matching;
pub mod truncation;
