//! How a timeline changes: one edit of its manifest at a time.
//!
//! Files are whole on the local disk before an edit names them; readers see the edit at once; the object store gets the files, then the edit
//! (see [`crate::remote`]). What survives a restart is what the object store has: local files that its manifest does not name are removed
//! when the timeline is opened, and the WAL behind them is ingested again. What an edit made superfluous goes when the last reader that
//! pinned an older snapshot has let it go, and in the object store when the edit is durable.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use anyhow::Context;

use super::{Environment, LAYERS_FOLDER, Timeline};
use crate::{
    keyspace::KeyRange,
    layer::{
        LsnRange,
        desc::{LayerDesc, LayerName},
        file::{LayerError, LayerFile, LayerFileWriter, LayerHeader, LayerKind, LayerWriter, Packing, RemoteLayer},
        memory::MemoryLayer,
        partitions::{Partition, Partitions},
        stored::StoredLayer,
    },
    manifest::{Edit, Manifest},
    remote::{self, Ticket, TimelineStore},
};

/// What becomes of a layer file that is written.
pub(super) struct NewLayer {
    pub kind: LayerKind,
    pub lsns: LsnRange,
    pub keys: KeyRange,
}

impl Timeline {
    /// Applies an edit: to the manifest, for readers, and in the object store, where it is durable when the ticket says so. `files` are the
    /// layers that it adds; `written` is the memory layer that they replace.
    pub(crate) fn publish(
        &self,
        edit: &Edit,
        files: &[Arc<StoredLayer>],
        written: Option<&Arc<MemoryLayer>>,
    ) -> anyhow::Result<Ticket> {
        if let Some(failure) = self.store.failure() {
            return Err(failure.into());
        }
        let mut manifest = self.manifest.lock();
        let mut updated = manifest.clone();
        let dead = updated.apply(edit).context("the timeline's manifest cannot be changed")?;
        let mut gone = Vec::with_capacity(dead.len());
        {
            let mut layers = self.layers.write();
            let edited =
                layers.edited(edit, files).expect("the manifest, which has the same partitions, took the edit");
            for layer in layers.files().iter().filter(|_| !dead.is_empty()) {
                if dead.iter().any(|desc| desc.name == layer.desc.name) {
                    layer.condemn();
                    gone.push(remote::GoneLayer { name: layer.desc.name, readers: Arc::downgrade(layer) });
                }
            }
            *layers = Arc::new(match written {
                Some(written) => edited.without_frozen(written),
                None => edited,
            });
        }
        if matches!(edit, Edit::Flushed { .. } | Edit::Cutoff { .. }) {
            self.compaction_due.store(true, Ordering::Relaxed);
        }
        self.gc_cutoff.store(updated.gc_cutoff.0, Ordering::Release);
        self.disk_consistent_lsn.store(updated.disk_consistent_lsn.0, Ordering::Release);
        self.checkpoint_request.flushed();
        *manifest = updated;
        Ok(self.store.publish(edit, &manifest, files.iter().map(upload).collect(), gone))
    }

    /// Whether everything ingested is in the object store, and a safekeeper is followed that has nothing more.
    pub(crate) fn is_at_rest(&self) -> bool {
        let ingest = self.ingest.lock();
        let last = self.last_record_lsn();
        ingest.safekeeper.is_some() && ingest.commit_lsn <= last && self.remote_consistent_lsn() >= last
    }

    /// Whether more waits for the object store than may.
    pub(super) fn uploads_are_behind(&self) -> bool {
        self.store.queued_bytes() > self.environment.upload_queue_bytes
    }

    /// The manifest as it is now.
    pub fn manifest(&self) -> Manifest {
        self.manifest.lock().clone()
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
        let name = self.store.tenant().name_layer(new.lsns.end);
        let path = self.layer_path(name);
        let written =
            LayerFileWriter::create(&path, Packing::fast(self.environment.compress)).and_then(|mut writer| {
                let history_bytes = fill(&mut writer.content)?;
                Ok((writer, history_bytes))
            });
        let layer = written.map_err(|source| LayerError::Io { path: path.clone(), source });
        let layer = layer.and_then(|(writer, history_bytes)| {
            self.finish_layer(name, writer, (new.kind, new.lsns, new.keys), |_| history_bytes)
        });
        layer.inspect_err(|_| _ = std::fs::remove_file(&path)).context("a layer file cannot be written")
    }

    /// Completes a layer file and opens it; on disk when this returns. `history_bytes` estimates, of its size, what is history.
    pub(super) fn finish_layer(
        &self,
        name: LayerName,
        writer: LayerFileWriter,
        (kind, lsns, keys): (LayerKind, LsnRange, KeyRange),
        history_bytes: impl FnOnce(u64) -> u64,
    ) -> Result<Arc<StoredLayer>, LayerError> {
        let header = LayerHeader { kind, tenant: self.tenant, timeline: self.id, lsns, keys };
        let (path, tombstones) = (writer.path().to_owned(), writer.content.tombstones() as u32);
        let written = writer.finish(&header).map_err(|source| LayerError::Io { path: path.clone(), source })?;
        let desc = LayerDesc {
            name,
            kind,
            lsns,
            keys,
            size_bytes: written.size_bytes,
            index_offset: written.index_offset,
            history_bytes: history_bytes(written.size_bytes),
            tombstones,
        };
        let remote = remote_layer(&self.store, name, false, &self.environment);
        let file = LayerFile::in_store(&desc, header, path, remote, self.environment.block_cache.clone());
        Ok(StoredLayer::new(desc, Arc::new(file)))
    }
}

fn upload(layer: &Arc<StoredLayer>) -> remote::NewLayer {
    remote::NewLayer {
        name: layer.desc.name,
        path: layer.file.path().to_owned(),
        size_bytes: layer.desc.size_bytes,
        layer: layer.clone(),
    }
}

fn remote_layer(store: &TimelineStore, name: LayerName, uploaded: bool, environment: &Environment) -> RemoteLayer {
    RemoteLayer { reader: environment.remote_reader.clone(), key: store.layer_key(name), uploaded }
}

/// All layers that the manifest names, on the local disk or not: nothing is read.
pub(super) fn open_layers(
    folder: &Path,
    manifest: &Manifest,
    store: &TimelineStore,
    environment: &Environment,
) -> anyhow::Result<Partitions<Arc<StoredLayer>>> {
    let mut files = std::collections::BTreeMap::new();
    for (name, desc) in &manifest.layers {
        let path = folder.join(LAYERS_FOLDER).join(name.to_string());
        let (header, cache) = (desc.header(manifest.tenant, manifest.timeline), environment.block_cache.clone());
        let file = LayerFile::in_store(desc, header, path, remote_layer(store, *name, true, environment), cache);
        files.insert(*name, StoredLayer::new(desc.clone(), Arc::new(file)));
    }
    let partition = |(keys, stack): (KeyRange, &Arc<[LayerName]>)| Partition {
        start: keys.start,
        stack: stack.iter().filter_map(|name| files.get(name).cloned()).collect(),
    };
    Ok(Partitions::new(manifest.partitions.iter().map(partition).collect())?)
}

/// Removes local layer files that the manifest does not name or that have another size: they were not finished, or are of no use.
pub(crate) fn remove_leftovers(folder: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let entries =
        std::fs::read_dir(folder.join(LAYERS_FOLDER)).context("the folder of the layer files cannot be read")?;
    for entry in entries {
        let entry = entry?;
        let name: Option<LayerName> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let desc = name.and_then(|name| manifest.layers.get(&name));
        if !desc.is_some_and(|desc| entry.metadata().is_ok_and(|metadata| metadata.len() == desc.size_bytes)) {
            tracing::info!(file = %entry.path().display(), "removing a local layer file that the manifest does not name, or not so");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
