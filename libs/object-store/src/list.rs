//! Listing.

use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;

use crate::{ObjectStore, StoreError, error::Failure};

/// Names that one step of a listing hands over at most.
const PAGE: usize = 1000;

/// An object as a listing, or a question for it, shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: String,
    /// Its length.
    pub size_bytes: u64,
    /// Seconds since 1970 when it was written, by the store's clock.
    pub modified_unix_s: i64,
}

impl ObjectStore {
    /// Everything below a folder, in pages. Objects written or deleted while it runs may or may not be in it, and a store may show
    /// changes late: never decide from a listing that something does not exist.
    pub fn list(&self, folder: &str) -> impl Stream<Item = Result<Vec<ObjectInfo>, StoreError>> + Send + use<> {
        let (this, folder) = (self.clone(), folder.trim_end_matches('/').to_owned());
        stream::try_unfold(Some(None::<object_store::path::Path>), move |state| {
            let (this, folder) = (this.clone(), folder.clone());
            async move {
                let Some(after) = state else { return Ok(None) };
                let page = this.list_page(&folder, after.as_ref()).await?;
                let next = page.last().filter(|_| page.len() == PAGE && this.inner.backend.sorted_lists);
                let next = next.map(|last| Some(last.location.clone()));
                let infos = page.into_iter().filter_map(|meta| this.info(meta)).collect();
                Ok(Some((infos, next)))
            }
        })
    }

    /// Everything below a folder at once; for folders known to be small.
    pub async fn list_all(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.list(folder).try_concat().await
    }

    /// Names of the folders directly below a folder.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let prefix = self.path(folder)?;
        let result = self
            .attempts("list", folder, 0, || async {
                Ok(self.inner.backend.store.list_with_delimiter(Some(&prefix)).await?)
            })
            .await?;
        Ok(result.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// One page after a name. A store whose lists are not sorted gives everything at once: that is the local directory, which has no
    /// requests to lose half-way.
    async fn list_page(
        &self,
        folder: &str,
        after: Option<&object_store::path::Path>,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let prefix = self.path(folder)?;
        let limit = if self.inner.backend.sorted_lists { PAGE } else { usize::MAX };
        self.attempts("list", folder, 0, || async {
            let store = &self.inner.backend.store;
            let list = match after {
                Some(after) => store.list_with_offset(Some(&prefix), after),
                None => store.list(Some(&prefix)),
            };
            list.take(limit).map_err(Failure::from).try_collect().await
        })
        .await
        .map(|page: Vec<ObjectMeta>| self.without_late(page))
    }

    pub(crate) fn info(&self, meta: ObjectMeta) -> Option<ObjectInfo> {
        let parts = meta.location.prefix_match(&self.inner.prefix)?;
        let key = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        Some(ObjectInfo { key, size_bytes: meta.size, modified_unix_s: meta.last_modified.timestamp() })
    }

    #[cfg(feature = "faults")]
    fn without_late(&self, mut page: Vec<ObjectMeta>) -> Vec<ObjectMeta> {
        if let Some(faults) = &self.inner.faults {
            page.retain(|meta| !faults.is_late(meta.location.as_ref()));
        }
        page
    }

    #[cfg(not(feature = "faults"))]
    fn without_late(&self, page: Vec<ObjectMeta>) -> Vec<ObjectMeta> {
        page
    }
}
