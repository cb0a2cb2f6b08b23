//! WAL that is not here any more.

use bytes::Bytes;
use ogel_ids::{Lsn, Term};
use ogel_object_store::StoreError;
use quorum::ArchivedTail;

use super::{
    Archive, ArchiveError,
    names::{self, Form},
    object::WalObject,
    packed::PIECE_BYTES,
};
use crate::timeline::TimelineKey;

/// Bytes that one request reads for a reader at most.
const READ_BYTES: u64 = 4 << 20;

impl Archive {
    /// WAL from `from` on, not beyond `to`, the end of the segment or [`READ_BYTES`]; less where the next read then begins with a
    /// piece.
    pub async fn read(
        &self,
        key: TimelineKey,
        segment_size_bytes: u64,
        tail: Option<ArchivedTail>,
        (from, to): (Lsn, Lsn),
    ) -> Result<Bytes, ArchiveError> {
        let start = from.segment_start(segment_size_bytes);
        let end = to.0.min(from.0 + READ_BYTES).min(start.0 + segment_size_bytes);
        let in_tail = tail.filter(|tail| tail.end.segment_start(segment_size_bytes) == start);
        let length = in_tail.map_or(segment_size_bytes, |tail| tail.end.segment_offset(segment_size_bytes));
        let mut range = from.0 - start.0..end - start.0;
        let whole_pieces = range.end - range.end % PIECE_BYTES;
        if range.end < length && whole_pieces > range.start {
            range.end = whole_pieces;
        }
        let wal = match in_tail {
            Some(tail) => self.tail_range(key, segment_size_bytes, tail, range).await?,
            None => {
                let number = from.segment_number(segment_size_bytes);
                let object = WalObject::segment(key, number, segment_size_bytes);
                let missing = StoreError::NotFound { key: object.key(Form::Packed) };
                object.range(&self.store, range).await?.ok_or(missing)?
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
            let object = WalObject::tail(key, (tail.term, tail.end), segment_size_bytes);
            return Err(ArchiveError::Damaged { key: object.key(Form::Packed) });
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
    ) -> Result<Bytes, ArchiveError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let own = WalObject::tail(key, (tail.term, tail.end), segment_size_bytes);
        let whole = WalObject::segment(key, tail.end.segment_number(segment_size_bytes), segment_size_bytes);
        for object in [&own, &whole] {
            if let Some(wal) = object.range(&self.store, range.clone()).await? {
                return Ok(wal);
            }
        }
        let longer = |(_, end, _): &(Term, Lsn, Form)| {
            *end > tail.end && end.segment_start(segment_size_bytes) == tail.end.segment_start(segment_size_bytes)
        };
        let missing = || StoreError::NotFound { key: own.key(Form::Packed) };
        let tails = self.store.list_all(&names::tails_folder(key)).await?;
        let names = tails.iter().filter_map(|object| object.key.rsplit('/').next());
        let found = names.filter_map(|name| names::parse_tail(name, segment_size_bytes)).find(longer);
        let (term, end, _) = found.ok_or_else(missing)?;
        let longer = WalObject::tail(key, (term, end), segment_size_bytes);
        Ok(longer.range(&self.store, range).await?.ok_or_else(missing)?)
    }
}
