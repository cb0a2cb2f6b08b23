//! Where the bytes of a layer file come from: the local disk, or the object store.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use ogel_object_store::{ObjectStore, StoreError};
use parking_lot::RwLock;
use rustix::io::ReadWriteFlags;
use tokio::sync::Semaphore;

use super::LayerError;
use crate::layer::Io;

/// A layer is downloaded whole once this share of it (or this many ranges) has been read piecemeal.
const DOWNLOAD_AFTER_SHARE: u64 = 4;
const DOWNLOAD_AFTER_READS: u32 = 16;
/// Layers that are downloaded at once.
const PARALLEL_DOWNLOADS: usize = 2;

/// The object store as layers read from it; shared by all layers of a process.
pub struct RemoteReader {
    store: ObjectStore,
    runtime: tokio::runtime::Handle,
    downloads: Arc<Semaphore>,
    started: Instant,
}

impl RemoteReader {
    /// Must be made within the runtime that serves it.
    pub fn new(store: ObjectStore) -> Arc<RemoteReader> {
        Arc::new(RemoteReader {
            store,
            runtime: tokio::runtime::Handle::current(),
            downloads: Arc::new(Semaphore::new(PARALLEL_DOWNLOADS)),
            started: Instant::now(),
        })
    }
}

/// A layer's object.
pub struct RemoteLayer {
    /// The store.
    pub reader: Arc<RemoteReader>,
    /// Name of the object.
    pub key: String,
    /// Whether it is there already; until then the local file must stay.
    pub uploaded: bool,
}

/// The bytes of one layer file.
///
/// Invariant: `local` is a file of exactly `size_bytes`, or the object is there.
pub(super) struct Source {
    pub path: PathBuf,
    pub size_bytes: u64,
    local: RwLock<Option<Arc<File>>>,
    remote: Option<Remote>,
    /// Nobody needs it any more: it is not brought to the local disk. Changes under the lock of `local`.
    discarded: AtomicBool,
}

struct Remote {
    reader: Arc<RemoteReader>,
    key: String,
    uploaded: AtomicBool,
    /// Seconds since `reader.started`.
    used_s: AtomicU32,
    remote_bytes: AtomicU64,
    remote_reads: AtomicU32,
    downloading: AtomicBool,
}

/// Which one it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Local,
    Remote,
}

impl Source {
    /// A local file and nothing else.
    pub fn local(path: &Path) -> io::Result<Source> {
        let file = File::open(path)?;
        let size_bytes = file.metadata()?.len();
        let local = RwLock::new(Some(Arc::new(file)));
        Ok(Source { path: path.to_owned(), size_bytes, local, remote: None, discarded: AtomicBool::new(false) })
    }

    /// An object, and the local file if there is one of the right size.
    pub fn remote(path: PathBuf, size_bytes: u64, layer: RemoteLayer) -> Source {
        let local = File::open(&path).ok().filter(|file| file.metadata().is_ok_and(|found| found.len() == size_bytes));
        let remote = Remote {
            used_s: AtomicU32::new(layer.reader.started.elapsed().as_secs() as u32),
            reader: layer.reader,
            key: layer.key,
            uploaded: AtomicBool::new(layer.uploaded),
            remote_bytes: AtomicU64::new(0),
            remote_reads: AtomicU32::new(0),
            downloading: AtomicBool::new(false),
        };
        let (local, discarded) = (RwLock::new(local.map(Arc::new)), AtomicBool::new(false));
        Source { path, size_bytes, local, remote: Some(remote), discarded }
    }

    /// The bytes from `start` up to `end`, which lie in the file. With [`Io::MemoryOnly`] those that the system has in its memory.
    pub fn read(self: &Arc<Self>, start: u64, end: u64, io: Io) -> Result<(Bytes, Origin), LayerError> {
        let local = self.local.read().clone();
        if let Some(remote) = &self.remote {
            remote.used_s.store(remote.reader.started.elapsed().as_secs() as u32, Ordering::Relaxed);
        }
        match (local, &self.remote) {
            (Some(file), _) => {
                let mut bytes = vec![0; (end - start) as usize];
                match io {
                    Io::MemoryOnly if !read_without_waiting(&file, &mut bytes, start) => {
                        return Err(LayerError::WouldBlock);
                    }
                    Io::MemoryOnly => {}
                    Io::MayBlock => {
                        let read = file.read_exact_at(&mut bytes, start);
                        read.map_err(|source| LayerError::Io { path: self.path.clone(), source })?;
                    }
                }
                Ok((bytes.into(), Origin::Local))
            }
            (None, Some(_)) if io == Io::MemoryOnly => Err(LayerError::WouldBlock),
            (None, Some(remote)) => Ok((self.read_remote(remote, start, end)?, Origin::Remote)),
            (None, None) => Err(LayerError::Io { path: self.path.clone(), source: io::ErrorKind::NotFound.into() }),
        }
    }

    /// The first `head_bytes` of the file, and those from `start` to its end: both in the time of one. Blocks.
    pub fn read_ends(self: &Arc<Self>, head_bytes: u64, start: u64) -> Result<(Bytes, Bytes, Origin), LayerError> {
        let end = self.size_bytes;
        match (&self.remote, self.is_local()) {
            (Some(remote), false) => {
                let (store, key) = (&remote.reader.store, &remote.key[..]);
                let both =
                    futures::future::try_join(store.get_range(key, 0..head_bytes), store.get_range(key, start..end));
                let (head, tail) = self.fetch_remote(remote, head_bytes + (end - start), both)?;
                Ok((head, tail, Origin::Remote))
            }
            _ => {
                let (tail, origin) = self.read(start, end, Io::MayBlock)?;
                Ok((self.read(0, head_bytes, Io::MayBlock)?.0, tail, origin))
            }
        }
    }

    fn read_remote(self: &Arc<Self>, remote: &Remote, start: u64, end: u64) -> Result<Bytes, LayerError> {
        self.fetch_remote(remote, end - start, remote.reader.store.get_range(&remote.key, start..end))
    }

    fn fetch_remote<T>(
        self: &Arc<Self>,
        remote: &Remote,
        size_bytes: u64,
        get: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, LayerError> {
        // Callers are on threads that may block; on one of the runtime's own another takes its place meanwhile.
        let bytes = tokio::task::block_in_place(|| remote.reader.runtime.block_on(get)).map_err(LayerError::Remote)?;
        let so_far = remote.remote_bytes.fetch_add(size_bytes, Ordering::Relaxed) + size_bytes;
        let reads = remote.remote_reads.fetch_add(1, Ordering::Relaxed) + 1;
        let often = reads >= DOWNLOAD_AFTER_READS || so_far >= self.size_bytes / DOWNLOAD_AFTER_SHARE;
        if often && !remote.downloading.swap(true, Ordering::Relaxed) {
            remote.reader.runtime.spawn(download(self.clone()));
        }
        Ok(bytes)
    }

    /// The local file is damaged, and the object is there: from now on that is read. `false` when there is only the local file.
    pub fn distrust_local(&self) -> bool {
        let evicted = self.evict();
        if evicted {
            tracing::warn!(file = %self.path.display(), "a local layer file is damaged; it is read from the object store instead");
        }
        evicted
    }

    /// The object is there: the local file may go.
    pub fn mark_uploaded(&self) {
        if let Some(remote) = &self.remote {
            remote.uploaded.store(true, Ordering::Release);
        }
    }

    /// Gives the local file back; reads go on from the object store. `false` when it is not local, or nowhere else.
    pub fn evict(&self) -> bool {
        let Some(remote) = self.remote.as_ref().filter(|remote| remote.uploaded.load(Ordering::Acquire)) else {
            return false;
        };
        let Some(_file) = self.local.write().take() else { return false };
        remote.remote_bytes.store(0, Ordering::Relaxed);
        remote.remote_reads.store(0, Ordering::Relaxed);
        remote.downloading.store(false, Ordering::Relaxed);
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "a layer file cannot be removed from the local disk");
        }
        true
    }

    /// Removes the local file for good. Blocks.
    pub fn discard(&self) -> io::Result<()> {
        let mut local = self.local.write();
        self.discarded.store(true, Ordering::Relaxed);
        *local = None;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Seconds since its bytes were last asked for, when it is on the local disk and may be evicted.
    pub fn evictable_idle_s(&self) -> Option<u32> {
        let remote = self.remote.as_ref().filter(|remote| remote.uploaded.load(Ordering::Acquire))?;
        let now_s = remote.reader.started.elapsed().as_secs() as u32;
        self.is_local().then(|| now_s.saturating_sub(remote.used_s.load(Ordering::Relaxed)))
    }

    pub fn is_local(&self) -> bool {
        self.local.read().is_some()
    }
}

/// Fills `bytes` from the system's page cache. `false` when they are not all there; then the system begins to read them.
fn read_without_waiting(file: &File, bytes: &mut [u8], at: u64) -> bool {
    let wanted = bytes.len();
    rustix::io::preadv2(file, &mut [IoSliceMut::new(bytes)], at, ReadWriteFlags::NOWAIT) == Ok(wanted)
}

/// Brings a layer to the local disk.
async fn download(source: Arc<Source>) {
    let Some(remote) = &source.remote else { return };
    let Ok(_place) = remote.reader.downloads.clone().acquire_owned().await else { return };
    let partial = source.path.with_extension("download");
    let downloaded = remote.reader.store.download(&remote.key, source.size_bytes, &partial).await;
    let (arrived, file_source) = (partial.clone(), source.clone());
    let opened = match downloaded {
        Ok(()) => tokio::task::spawn_blocking(move || {
            let mut local = file_source.local.write();
            if file_source.discarded.load(Ordering::Relaxed) {
                return Err(io::Error::other("it is not needed any more"));
            }
            std::fs::rename(&arrived, &file_source.path)?;
            *local = Some(Arc::new(File::open(&file_source.path)?));
            io::Result::Ok(())
        })
        .await
        .unwrap_or_else(|join| Err(io::Error::other(join)))
        .map_err(|error| error.to_string()),
        Err(error) => Err(store_error(&error)),
    };
    if let Err(error) = opened {
        let _ = std::fs::remove_file(&partial);
        tracing::debug!(key = remote.key, error, "a layer cannot be brought to the local disk; it is read where it is");
        // Another attempt after as many reads again.
        remote.remote_reads.store(0, Ordering::Relaxed);
        remote.remote_bytes.store(0, Ordering::Relaxed);
        remote.downloading.store(false, Ordering::Relaxed);
    }
}

fn store_error(error: &StoreError) -> String {
    error.to_string()
}
