//! Adopting the next membership (H4).

use std::{sync::Arc, time::Duration};

use quorum::{AcceptorState, AdoptError, Membership, PeerStatus};

use super::Timeline;

/// A control file is written well within this, unless the disk is full.
const DURABLE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Why a membership is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionError {
    /// It cannot follow the present one.
    #[error(transparent)]
    Refused(#[from] AdoptError),
    /// It may become durable later.
    #[error("the membership is not durable after {DURABLE_LIMIT:?}: offer it again")]
    Slow,
    /// The timeline was deleted.
    #[error("{0}")]
    Ended(String),
}

impl Timeline {
    /// Adopts a membership; when this returns it is durable. Proposers are disconnected and learn it by greeting again.
    pub async fn adopt(self: &Arc<Self>, membership: Membership) -> Result<(), AdoptionError> {
        let generation = membership.generation();
        {
            let mut inner = self.lock();
            if let Some(refused) = &inner.ended {
                return Err(AdoptionError::Ended(refused.text.clone()));
            }
            let actions = inner.acceptor.adopt(membership)?;
            if !actions.is_empty() {
                tracing::info!(timeline = %self.key(), %generation, "membership adopted");
            }
            for action in actions {
                self.carry_out(&mut inner, action);
            }
            self.start_turn(&mut inner);
        }
        let durable = async {
            while self.status().generation < generation {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::time::timeout(DURABLE_LIMIT, durable).await.map_err(|_| AdoptionError::Slow)
    }

    /// What is durable, and the newest state, of one moment.
    pub fn snapshot(&self) -> (PeerStatus, AcceptorState) {
        let inner = self.lock();
        (inner.acceptor.status(), inner.acceptor.state().clone())
    }
}
