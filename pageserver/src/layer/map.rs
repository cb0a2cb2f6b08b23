//! Which layers there are, and the order in which they are read.

use std::sync::Arc;

use super::{
    Io,
    file::{LayerError, LayerFile},
    memory::MemoryLayer,
    reconstruct::{Reconstruction, Scan},
};

/// An immutable snapshot of a timeline's layers. Changing it means swapping in another one, so that readers are never blocked by
/// a flush or a rewrite: they keep the one they pinned.
///
/// Invariants: `open.start` ≥ end of every frozen layer, those ≥ end of every file; `frozen` and `files` newest first.
/// A reader that took its LSN before it pinned the snapshot finds every version up to that LSN in it.
#[derive(Clone)]
pub struct LayerMap {
    /// Where ingest appends.
    pub open: Arc<MemoryLayer>,
    /// Waiting to be written.
    pub frozen: Vec<Arc<MemoryLayer>>,
    /// On disk.
    pub files: Vec<Arc<LayerFile>>,
}

impl LayerMap {
    /// With the open layer frozen and a new one opened.
    pub fn freeze(&self, next: MemoryLayer) -> LayerMap {
        let mut frozen = Vec::with_capacity(self.frozen.len() + 1);
        frozen.push(self.open.clone());
        frozen.extend(self.frozen.iter().cloned());
        LayerMap { open: Arc::new(next), frozen, files: self.files.clone() }
    }

    /// With a frozen layer replaced by the file it became (or by none, when it was empty).
    pub fn replace_frozen(&self, layer: &Arc<MemoryLayer>, file: Option<Arc<LayerFile>>) -> LayerMap {
        let frozen = self.frozen.iter().filter(|other| !Arc::ptr_eq(other, layer)).cloned().collect();
        let mut files = self.files.clone();
        files.extend(file);
        sort_newest_first(&mut files);
        LayerMap { open: self.open.clone(), frozen, files }
    }

    /// Locates the versions that the reads need, from the newest layer to the oldest, until each has enough. Each layer is visited once.
    pub fn locate(&self, reads: &mut [Reconstruction], io: Io) -> Result<(), LayerError> {
        for layer in self.memory() {
            layer.locate(reads);
        }
        for file in &self.files {
            if reads.iter().all(Reconstruction::is_done) {
                break;
            }
            file.locate(reads, io)?;
        }
        Ok(())
    }

    /// Collects the newest versions of a range of keys.
    pub fn scan(&self, scan: &mut Scan, io: Io) -> Result<(), LayerError> {
        self.memory().for_each(|layer| layer.scan(scan));
        let range = scan.range;
        for file in self.files.iter().filter(|file| file.header().keys.overlaps(&range)) {
            if scan.is_settled() {
                break;
            }
            file.scan(scan, io)?;
        }
        Ok(())
    }

    fn memory(&self) -> impl Iterator<Item = &Arc<MemoryLayer>> {
        std::iter::once(&self.open).chain(&self.frozen)
    }
}

/// Brings files into the order in which readers visit them; an image layer comes before the delta layer that ends where it stands.
pub fn sort_newest_first(files: &mut [Arc<LayerFile>]) {
    files.sort_by_key(|file| {
        let lsns = file.header().lsns;
        std::cmp::Reverse((lsns.end, lsns.start))
    });
}
