//! Large objects, from and to files, with bounded memory.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path as FilePath, sync::Arc};

use bytes::Bytes;
use object_store::{MultipartUpload, PutPayload, multipart::MultipartStore, path::Path};

use crate::{ObjectStore, StoreError, error::Failure};

/// Length of all parts but the last: some stores (R2) demand equal ones, all demand 5 MiB.
const PART_BYTES: u64 = 8 << 20;
/// Objects up to this size go in one request, whose create-if-absent is exact.
const SINGLE_PUT_BYTES: u64 = 2 * PART_BYTES;

impl ObjectStore {
    /// Uploads a file as a new object under a name that is used only once. Above 16 MiB in equal parts: there the store does not check
    /// that the name is free, so an object that is there is taken for an earlier upload of the same file when its length is the same.
    pub async fn upload(&self, key: &str, file: &FilePath) -> Result<(), StoreError> {
        let opened = open(file).await.map_err(|error| self.local_error(key, file, &error))?;
        let (file_handle, size) = opened;
        if size <= SINGLE_PUT_BYTES {
            let content = read(&file_handle, 0, size).await.map_err(|error| self.local_error(key, file, &error))?;
            return self.put_new(key, content).await;
        }
        match self.head(key).await {
            Ok(info) if info.size_bytes == size => return Ok(()),
            Ok(_) => return Err(StoreError::AlreadyExists { key: key.to_owned() }),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let path = self.path(key)?;
        match self.inner.backend.multipart.clone() {
            Some(store) => self.upload_parts(key, &path, store, &file_handle, size).await,
            None => self.upload_local(key, &path, &file_handle, size).await,
        }
    }

    async fn upload_parts(
        &self,
        key: &str,
        path: &Path,
        store: Arc<dyn MultipartStore>,
        file: &Arc<File>,
        size: u64,
    ) -> Result<(), StoreError> {
        let id = self.attempts("part", key, 0, || async { Ok(store.create_multipart(path).await?) }).await?;
        let result = async {
            let mut parts = Vec::new();
            for (number, start) in (0..size).step_by(PART_BYTES as usize).enumerate() {
                let length = PART_BYTES.min(size - start);
                let part = self.attempts("part", key, length, || async {
                    let content = read(file, start, length).await.map_err(Failure::transient)?;
                    Ok(store.put_part(path, &id, number, PutPayload::from_bytes(content)).await?)
                });
                parts.push(part.await?);
            }
            self.attempts("put", key, 0, || async {
                match store.complete_multipart(path, &id, parts.clone()).await.map_err(Failure::from) {
                    Ok(_) => Ok(()),
                    // The reply to a completion that worked may have been lost: the upload is gone, the object is there.
                    Err(error) => match self.inner.backend.store.get_opts(path, head()).await {
                        Ok(result) if result.meta.size == size => Ok(()),
                        _ => Err(error),
                    },
                }
            })
            .await
        }
        .await;
        if result.is_err() {
            // Parts left behind are removed by the store's own rule for unfinished uploads if this fails too.
            let _ = store.abort_multipart(path, &id).await;
        }
        result
    }

    async fn upload_local(&self, key: &str, path: &Path, file: &Arc<File>, size: u64) -> Result<(), StoreError> {
        self.attempts("put", key, size, || async {
            let mut upload = self.inner.backend.store.put_multipart_opts(path, Default::default()).await?;
            for start in (0..size).step_by(PART_BYTES as usize) {
                let content = read(file, start, PART_BYTES.min(size - start)).await.map_err(Failure::transient)?;
                if let Err(error) = upload.put_part(PutPayload::from_bytes(content)).await {
                    let _ = upload.abort().await;
                    return Err(error.into());
                }
            }
            upload.complete().await?;
            Ok(())
        })
        .await
    }

    /// Writes an object of a known length to a new file, piece by piece. Not fsynced: what is downloaded can be downloaded again.
    pub async fn download(&self, key: &str, size_bytes: u64, file: &FilePath) -> Result<(), StoreError> {
        let (path, key_text) = (file.to_owned(), key);
        let file_handle = tokio::task::spawn_blocking(move || File::create(path))
            .await
            .unwrap_or_else(|join| Err(io::Error::other(join)))
            .map_err(|error| self.local_error(key, file, &error))?;
        let file_handle = Arc::new(file_handle);
        for start in (0..size_bytes).step_by(PART_BYTES as usize) {
            let content = self.get_range(key_text, start..size_bytes.min(start + PART_BYTES)).await?;
            let handle = file_handle.clone();
            tokio::task::spawn_blocking(move || handle.write_all_at(&content, start))
                .await
                .unwrap_or_else(|join| Err(io::Error::other(join)))
                .map_err(|error| self.local_error(key, file, &error))?;
        }
        Ok(())
    }

    fn local_error(&self, key: &str, file: &FilePath, error: &io::Error) -> StoreError {
        StoreError::Unavailable {
            operation: "copy",
            key: key.to_owned(),
            cause: format!("the local file {}: {error}", file.display()),
            retryable: error.kind() != io::ErrorKind::NotFound,
        }
    }
}

fn head() -> object_store::GetOptions {
    object_store::GetOptions { head: true, ..Default::default() }
}

async fn open(path: &FilePath) -> io::Result<(Arc<File>, u64)> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok((Arc::new(file), size))
    });
    opened.await.unwrap_or_else(|join| Err(io::Error::other(join)))
}

async fn read(file: &Arc<File>, start: u64, length: u64) -> io::Result<Bytes> {
    let file = file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut content = vec![0; length as usize];
        file.read_exact_at(&mut content, start)?;
        Ok(content.into())
    });
    read.await.unwrap_or_else(|join| Err(io::Error::other(join)))
}
