//! A tenant that this process has claimed.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use ogel_ids::{Generation, Lsn, NodeId, TenantId};
use ogel_object_store::{ObjectStore, StoreError};

use super::{
    claim::{self, Claim, Decision, Insistence},
    layout,
    timeline::Fenced,
};
use crate::{failpoints, layer::desc::LayerName};

/// Longest claim that is read.
const MAX_CLAIM_BYTES: u64 = 4096;

/// A claimed tenant: who we are in the object store, and whether we still are.
#[derive(Debug)]
pub struct TenantStore {
    /// Where the objects are.
    pub store: ObjectStore,
    /// The tenant.
    pub tenant: TenantId,
    /// Ours.
    pub generation: Generation,
    next_layer: AtomicU32,
    fenced: OnceLock<Fenced>,
}

/// Why a tenant cannot be attached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AttachError {
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another node has it.
    #[error(
        "tenant {tenant} belongs to pageserver {owner} since generation {generation}: ask that one, or attach it here explicitly, which fences the other"
    )]
    Elsewhere {
        /// The tenant.
        tenant: TenantId,
        /// Its owner.
        owner: NodeId,
        /// Since when.
        generation: Generation,
    },
    /// What is stored cannot be used.
    #[error("object {key} cannot be used: {what}")]
    Damaged {
        /// Name of the object.
        key: String,
        /// What is wrong.
        what: String,
    },
}

impl From<Fenced> for AttachError {
    fn from(fenced: Fenced) -> Self {
        AttachError::Elsewhere { tenant: fenced.tenant, owner: fenced.owner, generation: fenced.generation }
    }
}

impl TenantStore {
    /// Claims the next generation of a tenant.
    pub async fn attach(
        store: &ObjectStore,
        tenant: TenantId,
        node_id: NodeId,
        insistence: Insistence,
    ) -> Result<Arc<TenantStore>, AttachError> {
        loop {
            let newest = newest_claim(store, tenant).await?;
            let known = newest.as_ref().map(|(generation, claim)| (*generation, claim));
            let generation = match claim::decide(known, node_id, insistence) {
                Decision::Claim(generation) => generation,
                Decision::Refuse { owner, generation } => {
                    return Err(AttachError::Elsewhere { tenant, owner, generation });
                }
                Decision::Exhausted => {
                    let (key, what) = (layout::claims(tenant), "generations are used up".to_owned());
                    return Err(AttachError::Damaged { key, what });
                }
            };
            let claim = Claim::new(node_id, random_writer(&layout::claim(tenant, generation))?, unix_s());
            match store.put_new(&layout::claim(tenant, generation), claim.encode()).await {
                Ok(()) => {}
                // Somebody was faster: look again who it was.
                Err(StoreError::AlreadyExists { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            tracing::info!(%tenant, %generation, "tenant claimed");
            failpoints::reach(failpoints::ATTACH_CLAIMED);
            return Ok(Arc::new(TenantStore {
                store: store.clone(),
                tenant,
                generation,
                next_layer: AtomicU32::new(0),
                fenced: OnceLock::new(),
            }));
        }
    }

    /// Whether somebody has ever claimed this tenant.
    pub async fn exists(store: &ObjectStore, tenant: TenantId) -> Result<bool, AttachError> {
        Ok(newest_claim(store, tenant).await?.is_some())
    }

    /// A name that no layer file had before.
    pub fn name_layer(&self, end_lsn: Lsn) -> LayerName {
        let sequence = self.next_layer.fetch_add(1, Ordering::Relaxed);
        LayerName { end_lsn, generation: self.generation, sequence }
    }

    /// Looks whether the tenant is still ours. Claims have no gaps, so the one behind ours is enough to ask for. Whatever is to be
    /// acknowledged, advertised or deleted needs this after it has been written (H24).
    pub async fn confirm(&self) -> Result<(), ConfirmError> {
        if let Some(fenced) = self.fenced() {
            return Err(ConfirmError::Fenced(fenced.clone()));
        }
        let next = Generation(self.generation.0.saturating_add(1));
        match read_claim(&self.store, self.tenant, next).await {
            Ok(None) => Ok(()),
            Ok(Some(claim)) => {
                let fenced =
                    Fenced { tenant: self.tenant, owner: claim.node_id, ours: self.generation, generation: next };
                tracing::error!(tenant = %self.tenant, error = %fenced, "fenced");
                Err(ConfirmError::Fenced(self.fenced.get_or_init(|| fenced).clone()))
            }
            Err(error) => Err(ConfirmError::Unknown(error)),
        }
    }

    /// Who has taken over, if that is known.
    pub fn fenced(&self) -> Option<&Fenced> {
        self.fenced.get()
    }
}

/// Why it is not certain that the tenant is ours.
#[derive(Debug)]
pub enum ConfirmError {
    /// It is not.
    Fenced(Fenced),
    /// The store did not say.
    Unknown(AttachError),
}

async fn newest_claim(store: &ObjectStore, tenant: TenantId) -> Result<Option<(Generation, Claim)>, AttachError> {
    let listed = store.list_all(&layout::claims(tenant)).await?;
    let number = |key: &str| u32::from_str_radix(key.rsplit('/').next()?, 16).ok();
    // A listing may lag behind; what it shows is there, and the claims behind it are asked for by name.
    let hint = listed.iter().filter_map(|info| number(&info.key)).max().unwrap_or(0);
    let mut newest = None;
    for next in hint.max(1)..=u32::MAX {
        match read_claim(store, tenant, Generation(next)).await? {
            Some(claim) => newest = Some((Generation(next), claim)),
            None => break,
        }
    }
    Ok(newest)
}

async fn read_claim(
    store: &ObjectStore,
    tenant: TenantId,
    generation: Generation,
) -> Result<Option<Claim>, AttachError> {
    let key = layout::claim(tenant, generation);
    match store.get(&key, MAX_CLAIM_BYTES).await {
        Ok(bytes) => Claim::decode(&bytes).map(Some).map_err(|what| AttachError::Damaged { key, what }),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn random_writer(key: &str) -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Unavailable {
        operation: "claim",
        key: key.to_owned(),
        cause: format!("the system gives no random numbers: {error}"),
        retryable: true,
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
