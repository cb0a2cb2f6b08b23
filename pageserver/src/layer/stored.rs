//! A layer file in use.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    desc::{LayerDesc, LayerName},
    file::LayerFile,
    partitions::Stacked,
};

/// A layer that the manifest names, or named when the oldest snapshot in use was made. Dropped with the last snapshot that names it;
/// then its file goes, if no manifest names it any more.
pub struct StoredLayer {
    /// As the manifest has it.
    pub desc: LayerDesc,
    /// Where its bytes are.
    pub file: Arc<LayerFile>,
    dead: AtomicBool,
}

impl StoredLayer {
    /// A layer whose file is open.
    pub fn new(desc: LayerDesc, file: Arc<LayerFile>) -> Arc<Self> {
        Arc::new(Self { desc, file, dead: AtomicBool::new(false) })
    }

    /// No manifest will name it again: its file is removed when the last reader lets it go.
    pub fn condemn(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }
}

impl Drop for StoredLayer {
    fn drop(&mut self) {
        if *self.dead.get_mut()
            && let Err(error) = self.file.discard()
        {
            // Removed as a leftover when the timeline is opened again.
            tracing::warn!(file = %self.file.path().display(), %error, "a layer file that is not needed cannot be removed");
        }
    }
}

impl Stacked for Arc<StoredLayer> {
    fn name(&self) -> LayerName {
        self.desc.name
    }
}
