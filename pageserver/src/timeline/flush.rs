//! From memory to files.
//!
//! A memory layer becomes one delta file per partition that it has data for; see `publish` for the order of things.

use std::sync::{Arc, atomic::Ordering};

use ogel_ids::Lsn;

use super::{Timeline, publish::NewLayer};
use crate::{
    failpoints,
    keyspace::{Key, KeyRange},
    layer::{
        VersionKind,
        file::{LayerKind, LayerWriter},
        memory::{MemoryLayer, Sealed, WriteBatch},
    },
    manifest::Edit,
};

/// Frozen layers, that which is being written included; ingest waits when there are more, since memory is bounded.
pub(super) const MAX_FROZEN: usize = 1;
/// Neighbouring partitions with less new data than this share a file.
const SMALL_FILE_BYTES: u64 = 1 << 20;

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
                || self.checkpoint_request.take()
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
        let mut files = Vec::new();
        failpoints::reach(failpoints::FLUSH_BEGUN);
        if let Err(error) = self.make_room(&self.cut(layer, sealed.end)) {
            // Better a stack that is too long than WAL that cannot be taken.
            let error = format!("{error:#}");
            tracing::error!(tenant = %self.tenant, timeline = %self.id, error, "layers cannot be merged: reads become slower");
        }
        for keys in self.cut(layer, sealed.end) {
            let new = NewLayer { kind: LayerKind::Delta, lsns: layer.lsn_range(sealed.end), keys };
            files.push(self.write_layer(&new, |writer| write_content(layer, sealed.end, keys, writer))?);
        }
        let size_bytes = files.iter().map(|file| file.desc.size_bytes).sum();
        let edit = Edit::Flushed {
            layers: files.iter().map(|file| file.desc.clone()).collect(),
            disk_consistent_lsn: sealed.end,
            logical_size_bytes: sealed.logical_size_bytes,
        };
        failpoints::reach(failpoints::FLUSH_FILES_WRITTEN);
        self.publish(&edit, &files, Some(layer))?;
        self.layer_flushed.notify_waiters();
        failpoints::reach(failpoints::FLUSH_PUBLISHED);
        self.environment.open_bytes.fetch_sub(layer.size_bytes() as u64, Ordering::Relaxed);
        self.environment.metrics.flushed_bytes.inc_by(size_bytes);
        tracing::info!(
            tenant = %self.tenant, timeline = %self.id, lsn = %sealed.end, size_bytes, files = files.len(),
            ms = started.elapsed().as_millis() as u64, "layer flushed"
        );
        Ok(())
    }

    /// The key ranges of the files that a memory layer becomes: it is cut where partitions begin, but small neighbours share a file, as long
    /// as no partition without data lies between them (its stack would grow for nothing).
    fn cut(&self, layer: &MemoryLayer, end: Lsn) -> Vec<KeyRange> {
        let partitions = self.pin_layers().partitions.clone();
        let content = layer.content();
        let mut bytes = vec![None; partitions.count()];
        for (key, lsn, _, value) in content.versions() {
            if lsn <= end {
                *bytes[partitions.place(&key)].get_or_insert(0) += value.len() as u64;
            }
        }
        for tombstone in content.tombstones().filter(|tombstone| tombstone.lsn <= end) {
            let first = partitions.place(&tombstone.range.start);
            for place in
                (first..partitions.count()).take_while(|place| partitions.at(*place).start < tombstone.range.end)
            {
                bytes[place].get_or_insert(0);
            }
        }
        let mut cuts: Vec<(KeyRange, u64)> = Vec::new();
        for (place, bytes) in bytes.iter().enumerate().filter_map(|(place, bytes)| Some((place, (*bytes)?))) {
            let range = partitions.range(place);
            match cuts.last_mut() {
                Some((before, held))
                    if before.end == range.start && *held < SMALL_FILE_BYTES && bytes < SMALL_FILE_BYTES =>
                {
                    before.end = range.end;
                    *held += bytes;
                }
                _ => cuts.push((range, bytes)),
            }
        }
        cuts.into_iter().map(|(range, _)| range).collect()
    }

    /// Freezes and writes everything: for a clean stop. Ingest must have ended. Blocks.
    pub fn flush_all(&self) -> anyhow::Result<Lsn> {
        self.freeze();
        self.flush_frozen()?;
        Ok(self.disk_consistent_lsn())
    }
}

/// Writes what the layer holds of `keys` up to `end`, and says how much of it is not the newest of its key. Beyond `end` there can be the
/// first effects of a record that could not be ingested whole.
fn write_content<W: std::io::Write>(
    layer: &MemoryLayer,
    end: Lsn,
    keys: KeyRange,
    writer: &mut LayerWriter<W>,
) -> std::io::Result<u64> {
    let content = layer.content();
    let (mut last, mut all_bytes) = (None, 0);
    let (mut history_bytes, mut newest_bytes) = (0, 0);
    for (key, lsn, kind, value) in content.versions_of(keys).filter(|(_, lsn, ..)| *lsn <= end) {
        writer.version(key, lsn, kind, value)?;
        if last.replace(key) == Some(key) {
            history_bytes += newest_bytes;
        }
        newest_bytes = value.len() as u64;
        all_bytes += newest_bytes;
    }
    for tombstone in content.tombstones().filter(|tombstone| tombstone.lsn <= end) {
        if let Some(tombstone) = tombstone.clipped(keys) {
            writer.tombstone(tombstone);
        }
    }
    Ok(share(writer.written_bytes(), history_bytes, all_bytes))
}

/// `whole` × `part` / `total`.
pub(super) fn share(whole: u64, part: u64, total: u64) -> u64 {
    (u128::from(whole) * u128::from(part) / u128::from(total.max(1))) as u64
}
