//! Who owns a tenant. Pure.
//!
//! A claim is an object that is created once: of two processes that want the same generation one wins. The newest claim owns the tenant;
//! its writer is the only one whose metadata is read by the next.

use ogel_ids::{Generation, NodeId};
use serde::{Deserialize, Serialize};

/// Version of a claim's bytes, which is the only one known.
const VERSION: u32 = 1;

/// Content of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    version: u32,
    /// Pageserver.
    pub node_id: NodeId,
    /// 128 random bits of the process, hexadecimal: tells a claim of ours whose reply was lost from another's.
    pub writer: String,
    /// Seconds since 1970, by the claimer's clock. For people.
    pub claimed_unix_s: u64,
}

/// How much a process insists on a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insistence {
    /// After a restart: only what this node owned last, or nobody ever.
    IfOurs,
    /// Somebody has decided that this node takes it over.
    TakeOver,
}

/// What to do about a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Claim this generation.
    Claim(Generation),
    /// It belongs to another node.
    Refuse {
        /// The owner.
        owner: NodeId,
        /// Since when.
        generation: Generation,
    },
    /// Generations are used up.
    Exhausted,
}

impl Claim {
    /// A claim of this process.
    pub fn new(node_id: NodeId, writer: String, claimed_unix_s: u64) -> Claim {
        Claim { version: VERSION, node_id, writer, claimed_unix_s }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and texts are always JSON")
    }

    /// Reads its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Claim, String> {
        let claim: Claim = serde_json::from_slice(bytes).map_err(|error| format!("it is not a claim: {error}"))?;
        match claim.version {
            VERSION => Ok(claim),
            other => {
                Err(format!("it has version {other}, this program knows {VERSION}: start the newer program again"))
            }
        }
    }
}

/// Decides, given the newest claim. A restart must not take back what another node was given meanwhile (H24).
pub fn decide(newest: Option<(Generation, &Claim)>, node_id: NodeId, insistence: Insistence) -> Decision {
    match newest {
        Some((generation, claim)) if insistence == Insistence::IfOurs && claim.node_id != node_id => {
            Decision::Refuse { owner: claim.node_id, generation }
        }
        Some((generation, _)) => {
            generation.0.checked_add(1).map_or(Decision::Exhausted, |next| Decision::Claim(Generation(next)))
        }
        None => Decision::Claim(Generation(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_claims_its_own_and_nothing_else() {
        let claim = Claim::new(NodeId(1), "ab".into(), 5);
        assert_eq!(Claim::decode(&claim.encode()), Ok(claim.clone()));
        let (ours, theirs) = (NodeId(1), NodeId(2));
        let newest = |generation| Some((Generation(generation), &claim));
        assert_eq!(decide(None, ours, Insistence::IfOurs), Decision::Claim(Generation(1)));
        assert_eq!(decide(newest(7), ours, Insistence::IfOurs), Decision::Claim(Generation(8)));
        let refused = Decision::Refuse { owner: ours, generation: Generation(7) };
        assert_eq!(decide(newest(7), theirs, Insistence::IfOurs), refused);
        assert_eq!(decide(newest(7), theirs, Insistence::TakeOver), Decision::Claim(Generation(8)));
        assert_eq!(decide(newest(u32::MAX), ours, Insistence::TakeOver), Decision::Exhausted);
    }

    #[test]
    fn what_is_not_a_claim_is_an_error() {
        for bytes in [&b""[..], b"{}", b"\xff", br#"{"version":2,"node_id":1,"writer":"","claimed_unix_s":0}"#] {
            assert!(Claim::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
