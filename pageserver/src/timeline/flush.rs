//! From memory to files.
//!
//! Order: the file and its name are on disk, then the metadata that names it and moves `disk_consistent_lsn`, then readers are
//! switched over. A crash between any two leaves either a file that no metadata names (removed when opened) or the finished state.

use std::sync::{Arc, atomic::Ordering};

use anyhow::Context;
use ogel_ids::Lsn;

use super::{
    LAYERS_FOLDER, Timeline,
    metadata::{LayerEntry, TimelineMetadata},
};
use crate::{
    keyspace::{Key, KeyRange},
    layer::{
        VersionKind,
        file::{LayerFile, LayerHeader, LayerKind, LayerWriter, write_file},
        memory::{MemoryLayer, Sealed, WriteBatch},
    },
};

/// Frozen layers that may wait; ingest stops when there are more, since memory is bounded.
pub(super) const MAX_FROZEN: usize = 2;

impl Timeline {
    /// Whether the open layer has grown enough.
    pub(super) fn should_freeze(&self) -> bool {
        let open = self.pin_layers().open.clone();
        let limits = &self.environment.freeze;
        let size_bytes = open.size_bytes();
        let wal_bytes = self.last_record_lsn().bytes_since(open.start);
        let crowded = self.environment.open_bytes.load(Ordering::Relaxed) as usize > limits.all_open_bytes;
        wal_bytes > 0
            && (size_bytes >= limits.size_bytes
                || wal_bytes >= limits.wal_bytes
                || open.opened.elapsed() >= limits.age
                || (crowded && size_bytes >= limits.size_bytes / 16))
    }

    /// Closes the open layer at `last_record_lsn` and opens the next. Only the ingest of the timeline may call it, between two batches.
    pub(super) fn freeze(&self) {
        let head = self.head();
        let open = self.pin_layers().open.clone();
        if head.lsn == open.start {
            return;
        }
        let mut batch = WriteBatch::default();
        batch.put(Key::checkpoint(), head.lsn, VersionKind::Image, &head.state.encode());
        self.append(&mut batch);
        open.seal(Sealed { end: head.lsn, logical_size_bytes: self.logical_size_bytes() });
        let mut layers = self.layers.write();
        *layers = Arc::new(layers.freeze(MemoryLayer::new(head.lsn)));
    }

    /// Puts a batch into the open layer. Only the ingest of the timeline calls it, so that the open layer stays the same meanwhile.
    pub(super) fn append(&self, batch: &mut WriteBatch) {
        if !batch.is_empty() {
            let grown_bytes = self.pin_layers().open.apply(batch);
            self.pages.close(batch); // after the layer has it, before readers are told
            self.environment.open_bytes.fetch_add(grown_bytes as u64, Ordering::Relaxed);
        }
    }

    /// How many frozen layers wait.
    pub(super) fn frozen_layers(&self) -> usize {
        self.pin_layers().frozen.len()
    }

    /// Writes all frozen layers, oldest first. Blocks.
    pub(super) fn flush_frozen(&self) -> anyhow::Result<()> {
        let _one_at_a_time = self.flush.lock();
        while let Some(layer) = self.pin_layers().frozen.last().cloned() {
            self.flush_layer(&layer)?;
        }
        Ok(())
    }

    fn flush_layer(&self, layer: &Arc<MemoryLayer>) -> anyhow::Result<()> {
        let sealed = layer.sealed().expect("layers are sealed before they are frozen");
        let started = std::time::Instant::now();
        let header = LayerHeader {
            kind: LayerKind::Delta,
            tenant: self.tenant,
            timeline: self.id,
            lsns: layer.lsn_range(sealed.end),
            keys: KeyRange::ALL,
        };
        let name = layer_file_name(&header);
        let path = self.folder.join(LAYERS_FOLDER).join(&name);
        let size_bytes =
            write_file(&path, &header, self.environment.compress, |writer| write_content(layer, sealed.end, writer))
                .with_context(|| format!("layer file {} cannot be written", path.display()))?;
        let file = Arc::new(LayerFile::open(&path, &header, self.environment.block_cache.clone())?);
        {
            let mut durable = self.durable.lock();
            let mut updated = TimelineMetadata {
                disk_consistent_lsn: sealed.end,
                logical_size_bytes: sealed.logical_size_bytes,
                ..durable.clone()
            };
            updated.layers.push(LayerEntry::new(name, &header, size_bytes));
            updated.store(&self.folder).context("the timeline's metadata cannot be written")?;
            *durable = updated;
        }
        {
            let mut layers = self.layers.write();
            *layers = Arc::new(layers.replace_frozen(layer, Some(file)));
        }
        self.disk_consistent_lsn.store(sealed.end.0, Ordering::Release);
        self.environment.open_bytes.fetch_sub(layer.size_bytes() as u64, Ordering::Relaxed);
        self.environment.metrics.flushed_bytes.inc_by(size_bytes);
        tracing::info!(
            tenant = %self.tenant, timeline = %self.id, lsn = %sealed.end, size_bytes,
            ms = started.elapsed().as_millis() as u64, "layer flushed"
        );
        Ok(())
    }

    /// Freezes and writes everything: for a clean stop. Ingest must have ended. Blocks.
    pub fn flush_all(&self) -> anyhow::Result<Lsn> {
        self.freeze();
        self.flush_frozen()?;
        Ok(self.disk_consistent_lsn())
    }
}

/// Writes what the layer holds up to `end`. Beyond it there can be the first effects of a record that could not be ingested whole.
fn write_content<W: std::io::Write>(layer: &MemoryLayer, end: Lsn, writer: &mut LayerWriter<W>) -> std::io::Result<()> {
    let content = layer.content();
    for (key, lsn, kind, value) in content.versions().filter(|(_, lsn, ..)| *lsn <= end) {
        writer.version(key, lsn, kind, value)?;
    }
    content.tombstones().filter(|tombstone| tombstone.lsn <= end).for_each(|tombstone| writer.tombstone(*tombstone));
    Ok(())
}

/// A name that tells what is in it; the header and the metadata are what counts.
pub(crate) fn layer_file_name(header: &LayerHeader) -> String {
    match header.kind {
        LayerKind::Delta => format!("delta-{:016X}-{:016X}.layer", header.lsns.start.0, header.lsns.end.0),
        LayerKind::Image => format!("image-{:016X}.layer", header.lsns.end.0),
    }
}
