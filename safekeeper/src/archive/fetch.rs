//! WAL that is not here any more.

use bytes::Bytes;
use ogel_ids::{Lsn, Term};
use ogel_object_store::StoreError;
use quorum::ArchivedTail;

use super::{Archive, ArchiveError, names};
use crate::timeline::TimelineKey;

/// Bytes that one request reads for a reader at most.
const READ_BYTES: u64 = 4 << 20;

impl Archive {
    /// WAL from `from` on, not beyond `to`, the end of the segment or [`READ_BYTES`].
    pub async fn read(
        &self,
        key: TimelineKey,
        segment_size_bytes: u64,
        tail: Option<ArchivedTail>,
        (from, to): (Lsn, Lsn),
    ) -> Result<Bytes, ArchiveError> {
        let start = from.segment_start(segment_size_bytes);
        let end = to.0.min(from.0 + READ_BYTES).min(start.0 + segment_size_bytes);
        let range = from.0 - start.0..end - start.0;
        let in_tail = tail.filter(|tail| tail.end.segment_start(segment_size_bytes) == start);
        let wal = match in_tail {
            Some(tail) => self.tail_range(key, segment_size_bytes, tail, range).await?,
            None => {
                let object = names::segment(key, from.segment_number(segment_size_bytes), segment_size_bytes);
                self.store.get_range(&object, range).await?
            }
        };
        self.metrics.fetched_bytes.inc_by(wal.len() as u64);
        Ok(wal)
    }

    /// What was dropped: from the start of the tail's segment to its end, and certainly that.
    pub async fn restore(
        &self,
        key: TimelineKey,
        segment_size_bytes: u64,
        tail: ArchivedTail,
    ) -> Result<Bytes, ArchiveError> {
        let length = tail.end.segment_offset(segment_size_bytes);
        let wal = self.tail_range(key, segment_size_bytes, tail, 0..length).await?;
        if crc32c::crc32c(&wal) != tail.crc32c {
            let key = names::tail(key, tail.term, tail.end, segment_size_bytes);
            return Err(ArchiveError::Damaged { key });
        }
        self.metrics.restored_tails.inc();
        Ok(wal)
    }

    /// The tail itself is deleted when something is there that begins with it: the whole segment, or a longer tail.
    async fn tail_range(
        &self,
        key: TimelineKey,
        segment_size_bytes: u64,
        tail: ArchivedTail,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let own = names::tail(key, tail.term, tail.end, segment_size_bytes);
        let missing = match self.store.get_range(&own, range.clone()).await {
            Err(error @ StoreError::NotFound { .. }) => error,
            other => return other,
        };
        let whole = names::segment(key, tail.end.segment_number(segment_size_bytes), segment_size_bytes);
        match self.store.get_range(&whole, range.clone()).await {
            Err(StoreError::NotFound { .. }) => {}
            other => return other,
        }
        let longer = |(_, end): &(Term, Lsn)| {
            *end > tail.end && end.segment_start(segment_size_bytes) == tail.end.segment_start(segment_size_bytes)
        };
        let tails = self.store.list_all(&names::tails_folder(key)).await?;
        let names = tails.iter().filter_map(|object| object.key.rsplit('/').next());
        let found = names.filter_map(|name| names::parse_tail(name, segment_size_bytes)).find(longer);
        let (term, end) = found.ok_or(missing)?;
        self.store.get_range(&names::tail(key, term, end, segment_size_bytes), range).await
    }
}
