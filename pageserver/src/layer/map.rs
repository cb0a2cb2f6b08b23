//! Which layers there are.

use std::sync::Arc;

use super::{file::LayerFile, memory::MemoryLayer};

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
}

/// Brings files into the order in which readers visit them; an image layer comes before the delta layer that ends where it stands.
pub fn sort_newest_first(files: &mut [Arc<LayerFile>]) {
    files.sort_by_key(|file| {
        let lsns = file.header().lsns;
        std::cmp::Reverse((lsns.end, lsns.start))
    });
}
