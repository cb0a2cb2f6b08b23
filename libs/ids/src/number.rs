//! Small counters that must never be mixed up with each other.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number!(
    /// One proposer's reign over a timeline. 0 is the time before any election.
    Term(u64)
);
number!(
    /// Configured number of a node, unique among its kind, ≥ 1.
    NodeId(u64)
);
number!(
    /// Counts changes of ownership: the members of a timeline's quorum, or the attachment of a tenant to a pageserver.
    Generation(u32)
);
