//! Whether a store keeps the one promise that everything rests on.

use std::time::Duration;

use bytes::Bytes;
use object_store::{PutMode, PutPayload};

use crate::{ObjectStore, StoreError, error::Failure};

/// A start does not wait longer for a store that does not answer.
const START_LIMIT: Duration = Duration::from_secs(8);

impl ObjectStore {
    /// For the start of a process: the store can be used with these settings, or somebody must change them first. A store that does not
    /// answer, or only "later", is no reason not to start.
    pub async fn probe_at_start(&self) -> Result<(), StoreError> {
        let unanswered = match tokio::time::timeout(START_LIMIT, self.probe()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if !error.is_retryable() => return Err(error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", START_LIMIT.as_secs()),
        };
        tracing::warn!(
            store = self.url(),
            cause = unanswered,
            "the object store does not answer (check OGEL_S3_ENDPOINT if it never did); the start goes on without it"
        );
        Ok(())
    }

    /// Checks that the second of two creations of one object loses; the first [`ObjectStore::put_new`] does it by itself. A store that lets
    /// both win would let two pageservers own one tenant, and is refused. Costs four requests, once per process.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probed.get_or_try_init(|| self.probe_now()).await.copied()
    }

    async fn probe_now(&self) -> Result<(), StoreError> {
        let key = format!("probe/{}", crate::store::random_hex()?);
        // No racing writers here, so that "taken" on the first is a lost reply of our own.
        let first = self.create_unprobed(&key, b"first").await;
        if !matches!(first, Ok(()) | Err(StoreError::AlreadyExists { .. })) {
            return first;
        }
        let second = self.create_unprobed(&key, b"second").await;
        let content = self.get(&key, 64).await?;
        // It is garbage from here on, whatever became of it.
        if let Err(error) = self.delete(&key).await {
            tracing::warn!(%error, "the object written to probe the object store stays there");
        }
        match second {
            Err(StoreError::AlreadyExists { .. }) if &content[..] == b"first" => Ok(()),
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => Err(StoreError::Refused {
                store: self.url().to_owned(),
                cause: "it let two creations of one object both succeed (it ignores `If-None-Match: *`), so two servers could own the same data"
                    .into(),
                remedy: "use a store with conditional writes (AWS S3, Cloudflare R2, Ceph radosgw, or a local directory), or a newer version of this one"
                    .into(),
            }),
            Err(error) => Err(error),
        }
    }

    async fn create_unprobed(&self, key: &str, bytes: &'static [u8]) -> Result<(), StoreError> {
        let path = self.path(key)?;
        self.attempts("put", key, bytes.len() as u64, || async {
            let payload = PutPayload::from_bytes(Bytes::from_static(bytes));
            self.inner.backend.store.put_opts(&path, payload, PutMode::Create.into()).await.map_err(Failure::from)?;
            Ok(())
        })
        .await
    }
}
