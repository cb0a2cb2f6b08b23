//! Which layers there are, and the order in which they are read.

use std::sync::Arc;

use super::{
    Io,
    desc::LayerName,
    file::LayerError,
    memory::MemoryLayer,
    partitions::{PartitionError, Partitions, Piece},
    reconstruct::{Reconstruction, Scan},
    stored::StoredLayer,
};
use crate::manifest::Edit;

/// An immutable snapshot of a timeline's layers. Changing it means swapping in another one, so that readers are never blocked by
/// a flush or a rewrite: they keep the one they pinned. Clones share what did not change.
///
/// Invariants: `open.start` ≥ end of every frozen layer, those ≥ end of every file; `frozen` newest first.
/// A reader that took its LSN before it pinned the snapshot finds every version up to that LSN in it.
#[derive(Clone)]
pub struct LayerMap {
    /// Where ingest appends.
    pub open: Arc<MemoryLayer>,
    /// Waiting to be written.
    pub frozen: Vec<Arc<MemoryLayer>>,
    /// On disk: which files serve which keys.
    pub partitions: Arc<Partitions<Arc<StoredLayer>>>,
}

impl LayerMap {
    /// Files only, and an empty open layer.
    pub fn new(open: MemoryLayer, partitions: Partitions<Arc<StoredLayer>>) -> LayerMap {
        LayerMap { open: Arc::new(open), frozen: Vec::new(), partitions: Arc::new(partitions) }
    }

    /// With the open layer frozen and a new one opened.
    pub fn freeze(&self, next: MemoryLayer) -> LayerMap {
        let mut frozen = Vec::with_capacity(self.frozen.len() + 1);
        frozen.push(self.open.clone());
        frozen.extend(self.frozen.iter().cloned());
        LayerMap { open: Arc::new(next), frozen, partitions: self.partitions.clone() }
    }

    /// Without a frozen layer that was written out.
    pub fn without_frozen(&self, layer: &Arc<MemoryLayer>) -> LayerMap {
        let frozen = self.frozen.iter().filter(|other| !Arc::ptr_eq(other, layer)).cloned().collect();
        LayerMap { open: self.open.clone(), frozen, partitions: self.partitions.clone() }
    }

    /// With the layers as an edit of the manifest leaves them. `files` has all that it adds.
    pub fn edited(&self, edit: &Edit, files: &[Arc<StoredLayer>]) -> Result<LayerMap, PartitionError> {
        let mut partitions = (*self.partitions).clone();
        match edit {
            Edit::Flushed { .. } => {
                files.iter().try_for_each(|file| partitions.push_flush(file, file.desc.keys))?;
            }
            Edit::Replaced { partition, removed, added } => {
                let file_of = |name: LayerName| files.iter().find(|file| file.desc.name == name).cloned();
                let pieces: Vec<_> = added
                    .iter()
                    .map(|piece| Piece {
                        start: piece.start,
                        layer: piece.layer.as_ref().and_then(|desc| file_of(desc.name)),
                    })
                    .collect();
                partitions.replace(*partition, removed, &pieces)?;
            }
            _ => return Ok(self.clone()),
        }
        Ok(LayerMap { open: self.open.clone(), frozen: self.frozen.clone(), partitions: Arc::new(partitions) })
    }

    /// Locates the versions that the reads need, from the newest layer to the oldest, until each has enough. Each layer is visited once.
    pub fn locate(&self, reads: &mut [Reconstruction], io: Io) -> Result<(), LayerError> {
        for layer in self.memory() {
            layer.locate(reads);
        }
        let open = reads.iter().filter(|read| !read.is_done());
        let mut places: Vec<usize> = open.map(|read| self.partitions.place(read.key())).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            let keys = self.partitions.range(place);
            for layer in self.partitions.at(place).stack.iter() {
                if reads.iter().all(|read| read.is_done() || !keys.contains(read.key())) {
                    break;
                }
                layer.file.locate(reads, keys, io)?;
            }
        }
        Ok(())
    }

    /// Collects the newest versions of a range of keys.
    pub fn scan(&self, scan: &mut Scan, io: Io) -> Result<(), LayerError> {
        self.memory().for_each(|layer| layer.scan(scan));
        let range = scan.range;
        for (keys, stack) in self.partitions.overlapping(range) {
            for layer in stack.iter().filter(|layer| layer.desc.keys.overlaps(&range)) {
                if scan.is_settled_in(keys) {
                    break;
                }
                layer.file.scan(scan, keys, io)?;
            }
        }
        Ok(())
    }

    fn memory(&self) -> impl Iterator<Item = &Arc<MemoryLayer>> {
        std::iter::once(&self.open).chain(&self.frozen)
    }

    /// What one partition's share of a file is, when several share it.
    pub fn share_of_bytes(&self, layer: &Arc<StoredLayer>, bytes: u64) -> u64 {
        let sharing = self.partitions.overlapping(layer.desc.keys);
        let sharing = sharing.filter(|(_, stack)| stack.iter().any(|other| Arc::ptr_eq(other, layer)));
        bytes / (sharing.count() as u64).max(1)
    }

    /// What one partition's share of a file's size is.
    pub fn share_of(&self, layer: &Arc<StoredLayer>) -> u64 {
        self.share_of_bytes(layer, layer.desc.size_bytes)
    }

    /// Every file once.
    pub fn files(&self) -> Vec<Arc<StoredLayer>> {
        let mut files: Vec<_> = self.partitions.iter().flat_map(|(_, stack)| stack.iter().cloned()).collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.desc.name));
        files.dedup_by_key(|file| file.desc.name);
        files
    }
}
