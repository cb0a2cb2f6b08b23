//! How a timeline changes: one edit of its manifest at a time.
//!
//! Files are whole and on disk before an edit names them; the edit is on disk before readers see it; what it made superfluous goes when the
//! last reader that pinned an older snapshot has let it go. A crash between any two leaves either files that no manifest names (removed
//! when the timeline is opened) or the finished state.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use anyhow::{Context, ensure};
use ogel_ids::{Lsn, TenantId, TimelineId};
use ogel_service::durable_file;

use super::{LAYERS_FOLDER, Timeline};
use crate::{
    keyspace::KeyRange,
    layer::{
        LsnRange,
        desc::{LayerDesc, LayerName},
        file::{BlockCache, LayerFile, LayerHeader, LayerKind, LayerWriter, write_file},
        memory::MemoryLayer,
        partitions::{Partition, Partitions},
        stored::StoredLayer,
    },
    manifest::{Edit, Manifest},
};

/// File with the manifest, in a timeline's folder.
pub const MANIFEST_FILE: &str = "manifest";

/// What becomes of a layer file that is written.
pub(super) struct NewLayer {
    pub kind: LayerKind,
    pub lsns: LsnRange,
    pub keys: KeyRange,
}

impl Timeline {
    /// Applies an edit: to the manifest, durably, then for readers. `files` are the layers that it adds; `written` is the memory layer that
    /// they replace.
    pub(super) fn publish(
        &self,
        edit: &Edit,
        files: &[Arc<StoredLayer>],
        written: Option<&Arc<MemoryLayer>>,
    ) -> anyhow::Result<()> {
        let mut manifest = self.manifest.lock();
        let mut updated = manifest.clone();
        let dead = updated.apply(edit).context("the timeline's manifest cannot be changed")?;
        self.persist(&updated)?;
        {
            let mut layers = self.layers.write();
            let edited =
                layers.edited(edit, files).expect("the manifest, which has the same partitions, took the edit");
            for layer in layers.files().iter().filter(|_| !dead.is_empty()) {
                if dead.iter().any(|desc| desc.name == layer.desc.name) {
                    layer.condemn();
                }
            }
            *layers = Arc::new(match written {
                Some(written) => edited.without_frozen(written),
                None => edited,
            });
        }
        self.disk_consistent_lsn.store(updated.disk_consistent_lsn.0, Ordering::Release);
        *manifest = updated;
        Ok(())
    }

    /// Puts the manifest where a restart finds it. The only place that knows where that is.
    fn persist(&self, manifest: &Manifest) -> anyhow::Result<()> {
        durable_file::replace(&self.folder.join(MANIFEST_FILE), &manifest.encode())
            .context("the timeline's manifest cannot be written")
    }

    /// The manifest as it is now.
    pub fn manifest(&self) -> Manifest {
        self.manifest.lock().clone()
    }

    /// A name that no layer had before.
    fn new_layer_name(&self, end_lsn: Lsn) -> LayerName {
        let sequence = self.next_sequence.fetch_add(1, Ordering::Relaxed);
        LayerName { end_lsn, generation: self.generation, sequence }
    }

    pub(super) fn layer_path(&self, name: LayerName) -> PathBuf {
        self.folder.join(LAYERS_FOLDER).join(name.to_string())
    }

    /// Writes a layer file with what `fill` adds and opens it; on disk when this returns. `fill` returns the estimate of history in it.
    pub(super) fn write_layer(
        &self,
        new: &NewLayer,
        fill: impl FnOnce(&mut LayerWriter<std::io::BufWriter<std::fs::File>>) -> std::io::Result<u64>,
    ) -> anyhow::Result<Arc<StoredLayer>> {
        let name = self.new_layer_name(new.lsns.end);
        let path = self.layer_path(name);
        let NewLayer { kind, lsns, keys } = *new;
        let header = LayerHeader { kind, tenant: self.tenant, timeline: self.id, lsns, keys };
        let (mut history_bytes, mut tombstones) = (0, 0);
        let written = write_file(&path, &header, self.environment.compress, |writer| {
            history_bytes = fill(writer)?;
            tombstones = writer.tombstones() as u32;
            Ok(())
        });
        let written = written.inspect_err(|_| _ = std::fs::remove_file(&path));
        let written = written.with_context(|| format!("layer file {} cannot be written", path.display()))?;
        let desc = LayerDesc {
            name,
            kind,
            lsns,
            keys,
            size_bytes: written.size_bytes,
            index_offset: written.index_offset,
            history_bytes,
            tombstones,
        };
        let file = LayerFile::open(&path, &header, self.environment.block_cache.clone())?;
        Ok(StoredLayer::new(desc, Arc::new(file)))
    }
}

/// Reads the manifest from a timeline's folder.
pub(super) fn load_manifest(folder: &Path, tenant: TenantId, timeline: TimelineId) -> anyhow::Result<Manifest> {
    let path = folder.join(MANIFEST_FILE);
    let bytes = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let manifest =
        Manifest::decode(&bytes).with_context(|| format!("the manifest {} cannot be used", path.display()))?;
    ensure!(
        (manifest.tenant, manifest.timeline) == (tenant, timeline),
        "{} belongs to tenant {}, timeline {}: the folder was moved or copied by mistake",
        path.display(),
        manifest.tenant,
        manifest.timeline
    );
    Ok(manifest)
}

/// Opens all layers that the manifest names.
pub(super) fn open_layers(
    folder: &Path,
    manifest: &Manifest,
    cache: &Arc<BlockCache>,
) -> anyhow::Result<Partitions<Arc<StoredLayer>>> {
    let mut files = std::collections::BTreeMap::new();
    for (name, desc) in &manifest.layers {
        let path = folder.join(LAYERS_FOLDER).join(name.to_string());
        let file = LayerFile::open(&path, &desc.header(manifest.tenant, manifest.timeline), cache.clone())?;
        files.insert(*name, StoredLayer::new(desc.clone(), Arc::new(file)));
    }
    let partition = |(keys, stack): (KeyRange, &Arc<[LayerName]>)| Partition {
        start: keys.start,
        stack: stack.iter().filter_map(|name| files.get(name).cloned()).collect(),
    };
    Ok(Partitions::new(manifest.partitions.iter().map(partition).collect())?)
}

/// Removes layer files that the manifest does not name.
pub(super) fn remove_leftovers(folder: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let entries =
        std::fs::read_dir(folder.join(LAYERS_FOLDER)).context("the folder of the layer files cannot be read")?;
    for entry in entries {
        let entry = entry?;
        let name: Option<LayerName> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if !name.is_some_and(|name| manifest.layers.contains_key(&name)) {
            tracing::info!(file = %entry.path().display(), "removing a layer file that no manifest names");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
