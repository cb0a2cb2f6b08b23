//! One object: the WAL of a segment, or of the beginning of one.

use std::{io, ops::Range};

use bytes::Bytes;
use ogel_ids::{Lsn, Term};
use ogel_object_store::{ObjectStore, StoreError};
use tokio::task::spawn_blocking;

use super::{
    ArchiveError,
    names::{self, Form},
    packed::{self, Index},
};
use crate::timeline::TimelineKey;

/// Where WAL is, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WalObject {
    /// Of its raw form.
    name: String,
    /// Bytes of WAL, more than 0.
    length: u64,
}

impl WalObject {
    /// A whole segment.
    pub fn segment(key: TimelineKey, number: u64, size: u64) -> Self {
        Self { name: names::segment(key, number, size), length: size }
    }

    /// The beginning of a segment up to `end`, which is not its end.
    pub fn tail(key: TimelineKey, (term, end): (Term, Lsn), size: u64) -> Self {
        Self { name: names::tail(key, term, end, size), length: end.segment_offset(size) }
    }

    /// Name of the object in this form.
    pub fn key(&self, form: Form) -> String {
        form.of(&self.name)
    }

    /// The object as it is stored, in the first form that is there.
    pub async fn find(&self, store: &ObjectStore) -> Result<Option<(Form, Bytes)>, StoreError> {
        for form in Form::ALL {
            if let Some(stored) = self.stored(store, form).await? {
                return Ok(Some((form, stored)));
            }
        }
        Ok(None)
    }

    /// The packed object, which must be there.
    pub async fn packed(&self, store: &ObjectStore) -> Result<Bytes, StoreError> {
        let missing = || StoreError::NotFound { key: self.key(Form::Packed) };
        self.stored(store, Form::Packed).await?.ok_or_else(missing)
    }

    /// The object in one form, `None` if it is not there.
    pub async fn stored(&self, store: &ObjectStore, form: Form) -> Result<Option<Bytes>, StoreError> {
        let limit = match form {
            Form::Packed => packed::max_bytes(self.length),
            Form::Raw => self.length,
        };
        there(store.get(&self.key(form), limit).await)
    }

    /// A range of its WAL, not empty; `None` when there is no such object. Every piece that is unpacked is checked.
    pub async fn range(&self, store: &ObjectStore, range: Range<u64>) -> Result<Option<Bytes>, ArchiveError> {
        match self.packed_range(store, range.clone()).await? {
            None => Ok(there(store.get_range(&self.key(Form::Raw), range).await)?),
            packed => Ok(packed),
        }
    }

    async fn packed_range(&self, store: &ObjectStore, range: Range<u64>) -> Result<Option<Bytes>, ArchiveError> {
        let (key, length) = (self.key(Form::Packed), self.length);
        let damaged = |error| ArchiveError::Packed { key: key.clone(), error };
        let unpacked = if range == (0..length) {
            let Some(object) = self.stored(store, Form::Packed).await? else { return Ok(None) };
            spawn_blocking(move || packed::unpack(&object, length)).await
        } else {
            let index = store.get_range(&key, 0..packed::index_bytes(length)).await;
            let Some(index) = there(index)? else { return Ok(None) };
            let index = Index::parse(&index, length).map_err(damaged)?;
            let Some(stored) = there(store.get_range(&key, index.stored_range(&range)).await)? else { return Ok(None) };
            spawn_blocking(move || index.unpack(range, &stored)).await
        };
        unpacked.map_err(io::Error::other)?.map(Some).map_err(damaged)
    }
}

/// That there is no such object is an answer.
fn there(result: Result<Bytes, StoreError>) -> Result<Option<Bytes>, StoreError> {
    match result {
        Err(StoreError::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    }
}
