//! Timelines come from the object store, and are made in it.
//!
//! A timeline is attached when it is first asked for: the tenant is claimed once per process, then the timeline's manifest is read and becomes
//! the base of our generation. A timeline exists from the moment its first base is durable: whatever a failed creation left beside it is
//! garbage, and is taken out of the way by the next attempt.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::Context;
use futures::{FutureExt, future::BoxFuture};
use ogel_ids::{TenantId, TimelineId};
use ogel_object_store::StoreError;
use ogel_service::durable_file;
use tokio::sync::Mutex;

use super::{Pageserver, TimelineSlot, TimelineUnavailable};
use crate::{
    layer::file::LayerError,
    manifest::Manifest,
    remote::{AttachError, TenantStore, TimelineStore, claim::Insistence, layout},
    timeline::{Ancestor, CONTROL_FILE, LAYERS_FOLDER, ReadError, Timeline, WAL_PREFIX_FILE, remove_leftovers},
};

/// A tenant's claim, when it has one. The lock is held while one of its timelines is attached or made.
pub(super) type Claim = Arc<Mutex<Option<Arc<TenantStore>>>>;

/// Tenants that somebody has asked for.
#[derive(Default)]
pub(super) struct Tenants(parking_lot::Mutex<BTreeMap<TenantId, Claim>>);

impl Tenants {
    pub(super) fn get(&self, tenant: TenantId) -> Claim {
        self.0.lock().entry(tenant).or_default().clone()
    }

    /// Forgets one that was asked for and does not exist.
    pub(super) fn forget_unclaimed(&self, tenant: TenantId) {
        let mut tenants = self.0.lock();
        let unused = tenants.get(&tenant).is_some_and(|claim| {
            Arc::strong_count(claim) == 1 && claim.try_lock().is_ok_and(|claimed| claimed.is_none())
        });
        if unused {
            tenants.remove(&tenant);
        }
    }
}

/// Why an attachment ended early.
enum Trouble {
    Unknown,
    Elsewhere(String),
    Passing(String),
    Lasting(String),
}

impl From<Trouble> for anyhow::Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unknown => anyhow::anyhow!("it was deleted meanwhile"),
            Trouble::Elsewhere(error) | Trouble::Passing(error) | Trouble::Lasting(error) => anyhow::anyhow!(error),
        }
    }
}

/// Whether an error came from an object store that may answer later.
fn is_passing(error: &anyhow::Error) -> bool {
    let retryable = |error: &LayerError| matches!(error, LayerError::Remote(cause) if cause.is_retryable());
    error.chain().any(|cause| match cause.downcast_ref::<ReadError>() {
        Some(ReadError::Layer(error)) => retryable(error),
        _ => cause.downcast_ref::<LayerError>().is_some_and(retryable),
    })
}

impl From<AttachError> for Trouble {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Damaged { .. } => Trouble::Lasting(error.to_string()),
            AttachError::Elsewhere { .. } => Trouble::Elsewhere(error.to_string()),
            AttachError::Store(_) => Trouble::Passing(error.to_string()),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        AttachError::from(error).into()
    }
}

impl Pageserver {
    /// The timeline, attached when it is not yet.
    pub async fn attached(&self, tenant: TenantId, id: TimelineId) -> Result<Arc<Timeline>, TimelineUnavailable> {
        match self.timeline(tenant, id) {
            Err(TimelineUnavailable::Unknown(..)) => {}
            known => return known,
        }
        let claim = self.tenants.get(tenant);
        let (result, is_new) = {
            let mut claimed = claim.lock().await;
            let was_ours = claimed.is_some();
            (self.attach_locked(&mut claimed, tenant, id).await, !was_ours && claimed.is_some())
        };
        drop(claim);
        if is_new {
            Box::pin(self.finish_interrupted(tenant)).await;
        }
        result.map_err(|trouble| self.unavailable(tenant, id, trouble))
    }

    /// Takes a tenant over from whichever pageserver has it, which is fenced by that.
    pub async fn take_over(&self, tenant: TenantId) -> Result<(), AttachError> {
        let claim = self.tenants.get(tenant);
        let mut claimed = claim.lock().await;
        if claimed.as_ref().is_some_and(|ours| ours.fenced().is_none()) {
            return Ok(());
        }
        *claimed = Some(TenantStore::attach(&self.store, tenant, self.node_id, Insistence::TakeOver).await?);
        // Timelines of the lost generation are of no use: they are attached anew when they are asked for.
        self.timelines.write().retain(|(owner, _), _| *owner != tenant);
        Ok(())
    }

    fn unavailable(&self, tenant: TenantId, id: TimelineId, trouble: Trouble) -> TimelineUnavailable {
        match trouble {
            Trouble::Unknown => {
                self.tenants.forget_unclaimed(tenant);
                TimelineUnavailable::Unknown(tenant, id)
            }
            Trouble::Elsewhere(error) => {
                self.tenants.forget_unclaimed(tenant);
                TimelineUnavailable::Elsewhere(id, error.into())
            }
            Trouble::Passing(error) => {
                tracing::warn!(%tenant, timeline = %id, error, "timeline cannot be attached now");
                TimelineUnavailable::NotNow(id, error.into())
            }
            Trouble::Lasting(error) => {
                tracing::error!(%tenant, timeline = %id, error, "timeline cannot be opened; the others go on");
                let error: Arc<str> = error.into();
                self.timelines.write().insert((tenant, id), TimelineSlot::Broken(error.clone()));
                TimelineUnavailable::Broken(id, error)
            }
        }
    }

    fn attach_locked<'a>(
        &'a self,
        claimed: &'a mut Option<Arc<TenantStore>>,
        tenant: TenantId,
        id: TimelineId,
    ) -> BoxFuture<'a, Result<Arc<Timeline>, Trouble>> {
        async move {
            match self.timeline(tenant, id) {
                Ok(timeline) => return Ok(timeline),
                Err(TimelineUnavailable::Unknown(..)) => {}
                Err(other) => return Err(Trouble::Lasting(other.to_string())),
            }
            if claimed.is_none() && self.store.list_all(&layout::manifests(tenant, id)).await?.is_empty() {
                return Err(Trouble::Unknown); // a claim would be left behind for every wrong id
            }
            let tenant_store = self.claim(claimed, tenant).await?;
            let Some((store, manifest)) = TimelineStore::open(&tenant_store, id).await? else {
                return Err(Trouble::Unknown);
            };
            let ancestor = match manifest.ancestor {
                Some(ancestor) => Some(Ancestor {
                    timeline: self.attach_locked(claimed, tenant, ancestor.timeline).await?,
                    lsn: ancestor.lsn,
                }),
                None => None,
            };
            self.open(manifest, store, ancestor).await
        }
        .boxed()
    }

    async fn claim(
        &self,
        claimed: &mut Option<Arc<TenantStore>>,
        tenant: TenantId,
    ) -> Result<Arc<TenantStore>, AttachError> {
        match claimed.as_ref().map(|store| (store, store.fenced())) {
            Some((store, None)) => return Ok(store.clone()),
            Some((_, Some(fenced))) => return Err(fenced.clone().into()),
            None => {}
        }
        let store = TenantStore::attach(&self.store, tenant, self.node_id, Insistence::IfOurs).await?;
        self.apply_tenant_config(tenant);
        Ok(claimed.insert(store).clone())
    }

    /// Opens a timeline of which the object store has the manifest, and starts its ingest.
    async fn open(
        &self,
        manifest: Manifest,
        store: TimelineStore,
        ancestor: Option<Ancestor>,
    ) -> Result<Arc<Timeline>, Trouble> {
        let folder = self.timelines_folder(manifest.tenant).join(manifest.timeline.to_string());
        let layers = folder.join(LAYERS_FOLDER);
        durable_file::create_folders(&layers).map_err(|error| Trouble::Passing(error.to_string()))?;
        let (checked, known) = (folder.clone(), manifest.clone());
        tokio::task::spawn_blocking(move || remove_leftovers(&checked, &known))
            .await
            .map_err(anyhow::Error::from)
            .and_then(|result| result)
            .map_err(|error| Trouble::Passing(format!("{error:#}")))?;
        let environment = self.environment.clone();
        let opened =
            tokio::task::spawn_blocking(move || Timeline::open(&folder, manifest, store, ancestor, environment)).await;
        let timeline =
            opened.map_err(anyhow::Error::from).and_then(|result| result).map_err(|error| {
                match is_passing(&error) {
                    true => Trouble::Passing(format!("{error:#}")),
                    false => Trouble::Lasting(format!("{error:#}")),
                }
            })?;
        self.activate(timeline.clone()).await;
        Ok(timeline)
    }

    /// Creates a timeline from the template; `false` when it was there already. It is durable when this returns.
    pub async fn create(&self, tenant: TenantId, id: TimelineId) -> anyhow::Result<(Arc<Timeline>, bool)> {
        let mut cached = self.template.lock().await; // also: one creation at a time
        let claim = self.tenants.get(tenant);
        let mut claimed = claim.lock().await;
        match self.attach_locked(&mut claimed, tenant, id).await {
            Ok(timeline) => return Ok((timeline, false)),
            Err(Trouble::Unknown) => {}
            Err(trouble) => return Err(trouble.into()),
        }
        let template = self.template(&mut cached).await?;
        let tenant_store = self.claim(&mut claimed, tenant).await?;
        let folder = self.timelines_folder(tenant).join(id.to_string());
        let layer = tenant_store.name_layer(template.start_lsn());
        let target = folder.clone();
        let manifest = tokio::task::spawn_blocking(move || {
            if target.exists() {
                std::fs::remove_dir_all(&target).context("what an unfinished creation left cannot be cleared away")?;
            }
            template.instantiate(&target, tenant, id, layer)
        })
        .await?
        .with_context(|| format!("the timeline cannot be created in {}", folder.display()))?;
        self.upload_creation(&manifest, &folder).await?;
        let timeline = self.register(&tenant_store, manifest, None).await?;
        tracing::info!(%tenant, timeline = %id, lsn = %timeline.start_lsn, "timeline created");
        Ok((timeline, true))
    }

    async fn upload_creation(&self, manifest: &Manifest, folder: &Path) -> Result<(), StoreError> {
        let key = |name| layout::creation_file(manifest.tenant, manifest.timeline, name);
        let files = [CONTROL_FILE, WAL_PREFIX_FILE];
        self.store.delete_all(files.map(key)).await?;
        for name in files {
            self.store.upload(&key(name), &folder.join(name)).await?;
        }
        for name in manifest.layers.keys() {
            let object = layout::layer(manifest.tenant, manifest.timeline, *name);
            self.store.upload(&object, &folder.join(LAYERS_FOLDER).join(name.to_string())).await?;
        }
        Ok(())
    }

    /// Makes a new timeline of its first manifest; everything that it names is in the object store. From here on it exists, durably, and is
    /// open.
    pub(crate) async fn register(
        &self,
        tenant: &Arc<TenantStore>,
        manifest: Manifest,
        ancestor: Option<Ancestor>,
    ) -> anyhow::Result<Arc<Timeline>> {
        let (store, manifest) = TimelineStore::create(tenant, manifest).await?;
        Ok(self.open(manifest, store, ancestor).await?)
    }
}
