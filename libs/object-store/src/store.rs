//! The operations on whole objects and ranges.

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, PutMode, PutPayload, multipart::MultipartStore, path::Path};
use tokio::sync::{OnceCell, Semaphore};

use crate::{ObjectInfo, StoreError, StoreMetrics, error::Failure, retry};

/// Requests under way at once, of one process.
const MAX_REQUESTS: usize = 64;
/// What a store takes in one delete.
const DELETE_BATCH: usize = 1000;

/// A handle to the object store; clones are cheap and share everything.
#[derive(Clone)]
pub struct ObjectStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) backend: Backend,
    url: String,
    pub(crate) prefix: Path,
    metrics: StoreMetrics,
    timeout: Duration,
    requests: Semaphore,
    pub(crate) probed: OnceCell<()>,
    /// Pauses are divided by this: 1, but for tests with faults.
    haste: u32,
    #[cfg(feature = "faults")]
    pub(crate) faults: Option<Arc<crate::faults::Faults>>,
}

#[cfg(feature = "faults")]
impl Inner {
    pub(crate) fn with_faults(&self, faults: Arc<crate::faults::Faults>) -> Inner {
        Inner {
            backend: self.backend.clone(),
            url: self.url.clone(),
            prefix: self.prefix.clone(),
            metrics: self.metrics.clone(),
            timeout: self.timeout,
            requests: Semaphore::new(MAX_REQUESTS),
            probed: OnceCell::new(),
            haste: 50,
            faults: Some(faults),
        }
    }
}

/// What is underneath.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) store: Arc<dyn object_store::ObjectStore>,
    /// Uploads in numbered parts; without it large objects go through the store's own writer.
    pub(crate) multipart: Option<Arc<dyn MultipartStore>>,
    /// Lists come in the order of names, and can be resumed after one.
    pub(crate) sorted_lists: bool,
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectStore").field(&self.inner.url).finish()
    }
}

impl ObjectStore {
    pub(crate) fn over(
        backend: Backend,
        url: String,
        prefix: &str,
        metrics: StoreMetrics,
        timeout: Duration,
    ) -> ObjectStore {
        let inner = Inner {
            backend,
            url,
            prefix: Path::from(prefix),
            metrics,
            timeout,
            requests: Semaphore::new(MAX_REQUESTS),
            probed: OnceCell::new(),
            haste: 1,
            #[cfg(feature = "faults")]
            faults: None,
        };
        ObjectStore { inner: Arc::new(inner) }
    }

    /// Its address, without secrets.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// What is counted.
    pub fn metrics(&self) -> &StoreMetrics {
        &self.inner.metrics
    }

    /// Creates an object that must not be there yet. Of several writers with different bytes exactly one succeeds. Calling it again with
    /// the same bytes, after a lost reply or a restart, succeeds again.
    pub async fn put_new(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        self.probe().await?;
        let (path, bytes) = (self.path(key)?, bytes.into());
        let size = bytes.len() as u64;
        self.attempts("put", key, size, || async {
            let payload = PutPayload::from_bytes(bytes.clone());
            match self.inner.backend.store.put_opts(&path, payload, PutMode::Create.into()).await.map_err(Failure::from)
            {
                Ok(_) => Ok(()),
                Err(Failure::Conflict) => match self.holds(&path, &bytes).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Failure::Conflict),
                    // 409 while another creation was under way that failed in the end.
                    Err(Failure::NotFound) => Err(Failure::transient("a creation of the same object was under way")),
                    Err(other) => Err(other),
                },
                Err(other) => Err(other),
            }
        })
        .await
    }

    /// Whether the object holds exactly these bytes.
    async fn holds(&self, path: &Path, bytes: &Bytes) -> Result<bool, Failure> {
        let result = self.inner.backend.store.get_opts(path, GetOptions::default()).await?;
        if result.meta.size != bytes.len() as u64 {
            return Ok(false);
        }
        let mut rest = bytes.clone();
        let mut pieces = result.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(Failure::from)?;
            if piece.len() > rest.len() || rest.split_to(piece.len()) != piece {
                return Ok(false);
            }
        }
        if rest.is_empty() { Ok(true) } else { Err(Failure::transient("the answer was cut short")) }
    }

    /// The whole object, which may have at most `limit_bytes`.
    pub async fn get(&self, key: &str, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        self.attempts("get", key, 0, || async {
            let result = self.inner.backend.store.get_opts(&path, GetOptions::default()).await?;
            let size = result.meta.size;
            if size > limit_bytes {
                return Err(Failure::Permanent {
                    cause: format!("the object {key} has {size} bytes, at most {limit_bytes} are possible"),
                    remedy: "somebody else has written there: restore the object, or use another bucket or prefix",
                });
            }
            collect(result.into_stream(), size).await
        })
        .await
    }

    /// Bytes of an object, exactly as many as asked for.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = self.path(key)?;
        let size = range.end - range.start;
        self.attempts("get", key, size, || async {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            let result = self.inner.backend.store.get_opts(&path, options).await?;
            collect(result.into_stream(), size).await
        })
        .await
    }

    /// Size and age of an object.
    pub async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        let path = self.path(key)?;
        let meta = self
            .attempts("head", key, 0, || async {
                let options = GetOptions { head: true, ..GetOptions::default() };
                Ok(self.inner.backend.store.get_opts(&path, options).await?.meta)
            })
            .await?;
        Ok(ObjectInfo { key: key.to_owned(), size_bytes: meta.size, modified_unix_s: meta.last_modified.timestamp() })
    }

    /// Deletes an object; one that is not there counts as deleted.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.delete_all([key.to_owned()]).await
    }

    /// Deletes objects, in as few requests as the store allows. After an error some may be left.
    pub async fn delete_all(&self, keys: impl IntoIterator<Item = String>) -> Result<(), StoreError> {
        let paths = keys.into_iter().map(|key| self.path(&key)).collect::<Result<Vec<_>, _>>()?;
        for batch in paths.chunks(DELETE_BATCH) {
            let first = batch[0].to_string();
            self.attempts("delete", &first, 0, || async {
                let locations = stream::iter(batch.to_vec()).map(Ok).boxed();
                let mut results = self.inner.backend.store.delete_stream(locations).map_err(Failure::from);
                let mut failed = Ok(());
                while let Some(result) = results.next().await {
                    match result {
                        Ok(_) | Err(Failure::NotFound) => {}
                        Err(error) => failed = Err(error),
                    }
                }
                failed
            })
            .await?;
        }
        Ok(())
    }

    pub(crate) fn path(&self, key: &str) -> Result<Path, StoreError> {
        let key = Path::parse(key).map_err(|error| StoreError::Refused {
            store: self.inner.url.clone(),
            cause: format!("{key:?} is not a name of an object: {error}"),
            remedy: "report this".into(),
        })?;
        Ok(self.inner.prefix.parts().chain(key.parts()).collect())
    }

    /// Runs an operation until it succeeds, fails for good, or has failed too often.
    pub(crate) async fn attempts<T, F: Future<Output = Result<T, Failure>> + Send>(
        &self,
        operation: &'static str,
        key: &str,
        size_bytes: u64,
        run: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let limit = retry::time_limit(self.inner.timeout, size_bytes);
        for attempt in 1.. {
            let failure = match self.attempt(operation, key, size_bytes, limit, &run).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let slow_down = match failure {
                Failure::Transient { slow_down, .. } if attempt < retry::MAX_ATTEMPTS => slow_down,
                last => return Err(self.error(operation, key, last)),
            };
            tracing::debug!(operation, key, attempt, "the object store failed; trying again");
            let pause = retry::pause(attempt, slow_down, getrandom::u32().unwrap_or_default());
            tokio::time::sleep(pause / self.inner.haste).await;
        }
        unreachable!("the loop ends by returning")
    }

    async fn attempt<T, F: Future<Output = Result<T, Failure>> + Send>(
        &self,
        operation: &'static str,
        key: &str,
        size_bytes: u64,
        limit: Duration,
        run: &impl Fn() -> F,
    ) -> Result<T, Failure> {
        let _place = self.inner.requests.acquire().await.expect("the semaphore is never closed");
        let started = Instant::now();
        let result = tokio::time::timeout(limit, self.with_faults(operation, key, run))
            .await
            .unwrap_or_else(|_| Err(Failure::transient(format!("no answer within {} s", limit.as_secs()))));
        let kind = result.as_ref().err().map(Failure::kind);
        self.inner.metrics.attempt(operation, started.elapsed(), size_bytes, kind);
        result
    }

    #[cfg(not(feature = "faults"))]
    async fn with_faults<T, F: Future<Output = Result<T, Failure>> + Send>(
        &self,
        _: &str,
        _: &str,
        run: &impl Fn() -> F,
    ) -> Result<T, Failure> {
        run().await
    }

    #[cfg(feature = "faults")]
    async fn with_faults<T, F: Future<Output = Result<T, Failure>> + Send>(
        &self,
        operation: &str,
        key: &str,
        run: &impl Fn() -> F,
    ) -> Result<T, Failure> {
        match &self.inner.faults {
            Some(faults) => faults.around(operation, key, run).await,
            None => run().await,
        }
    }

    fn error(&self, operation: &'static str, key: &str, failure: Failure) -> StoreError {
        let key = key.to_owned();
        match failure {
            Failure::NotFound => StoreError::NotFound { key },
            Failure::Conflict => StoreError::AlreadyExists { key },
            Failure::Transient { cause, .. } => StoreError::Unavailable { operation, key, cause, retryable: true },
            Failure::Permanent { cause, remedy } => {
                StoreError::Refused { store: self.inner.url.clone(), cause, remedy: remedy.to_owned() }
            }
        }
    }
}

/// Takes an answer's body, which must have exactly this length.
async fn collect(
    mut pieces: stream::BoxStream<'static, object_store::Result<Bytes>>,
    size: u64,
) -> Result<Bytes, Failure> {
    let mut content = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(Failure::from)?;
        if content.is_empty() && piece.len() as u64 == size {
            return Ok(piece);
        }
        content.extend_from_slice(&piece);
        if content.len() as u64 > size {
            break;
        }
    }
    if content.len() as u64 != size {
        return Err(Failure::transient(format!("{} of {size} bytes came", content.len())));
    }
    Ok(content.freeze())
}

/// 128 random bits, in hexadecimal digits.
pub(crate) fn random_hex() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Unavailable {
        operation: "name",
        key: "a new object".into(),
        cause: format!("the system gives no random numbers: {error}"),
        retryable: true,
    })?;
    Ok(hex::encode(bytes))
}
