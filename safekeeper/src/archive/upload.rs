//! Segments and idle tails into the object store.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ogel_ids::Lsn;
use ogel_object_store::StoreError;
use ogel_service::Background;
use quorum::ArchivedTail;
use wal_decoder::stream::StreamDecoder;

use super::{
    Archive, ArchiveError,
    names::{self, Form},
    object::WalObject,
    packed,
    plan::TAKE_OVER,
};
use crate::timeline::{Timeline, TimelineKey};

/// Finished segments of a timeline that wait for their upload. When there are more, uploads take a larger part of the processors: the
/// segments take disk space until they are there.
const MAX_WAITING: u64 = 32;
/// Uploads rest while more WAL than this is committed in [`REST_PIECE`], bytes.
const BUSY_BYTES: u64 = 1 << 20;
/// How often uploads that rest look up.
const REST_PIECE: Duration = Duration::from_millis(100);
/// A segment waits no longer: nobody shall take its upload over for that.
const LONGEST_REST: Duration = Duration::from_secs(1);
const _: () = assert!(LONGEST_REST.as_millis() < TAKE_OVER.as_millis());

/// Whether too many segments wait behind this one.
fn is_behind(timeline: &Timeline, number: u64) -> bool {
    let newest = timeline.watch().borrow().commit_lsn.segment_number(timeline.folder().segment_size_bytes());
    newest.saturating_sub(number) > MAX_WAITING
}

/// Commits go first: waits while much WAL comes in, unless uploads are behind already.
async fn rest(timeline: &Timeline, number: u64) {
    let commit_lsn = || timeline.watch().borrow().commit_lsn;
    let (mut before, began) = (commit_lsn(), Instant::now());
    while !is_behind(timeline, number) && began.elapsed() < LONGEST_REST {
        tokio::time::sleep(REST_PIECE).await;
        let now = commit_lsn();
        if now.bytes_since(before) < BUSY_BYTES {
            return;
        }
        before = now;
    }
}

impl Archive {
    /// Where segment `number` is worked on.
    fn threads(&self, timeline: &Timeline, number: u64) -> &Background {
        if is_behind(timeline, number) { &self.behind } else { &self.background }
    }

    /// Puts a finished, committed segment into the object store. If it is there already, in either form, it must be the same WAL.
    /// `decoder` goes on from segment to segment.
    pub(super) async fn upload_segment(
        &self,
        timeline: &Timeline,
        number: u64,
        decoder: &mut Option<StreamDecoder>,
    ) -> Result<(), ArchiveError> {
        rest(timeline, number).await;
        let size = timeline.folder().segment_size_bytes();
        let _room = self.room(2 * size).await;
        let (wal, continued) = self.read_local(timeline, number, size, decoder.take()).await?;
        *decoder = Some(continued);
        let object = WalObject::segment(timeline.key(), number, size);
        match object.stored(&self.store, Form::Raw).await? {
            Some(there) => self.compare(&object, (Form::Raw, there), wal).await?,
            None => {
                if !self.put(self.threads(timeline, number), &object, wal.clone()).await? {
                    let there = object.packed(&self.store).await?;
                    self.compare(&object, (Form::Packed, there), wal).await?;
                }
            }
        }
        // They are parts of what is there now.
        self.delete_tails(timeline, Lsn((number + 1) * size)).await;
        Ok(())
    }

    /// Puts the end of an idle log, up to `tail.end`, into the object store unless it is there, and reads it back: `None` if what
    /// comes back is not what is here (H5).
    pub(super) async fn upload_tail(
        &self,
        timeline: &Timeline,
        term: ogel_ids::Term,
        end: Lsn,
    ) -> Result<ArchivedTail, ArchiveError> {
        let size = timeline.folder().segment_size_bytes();
        let length = end.segment_offset(size);
        if length == 0 {
            return Ok(ArchivedTail { term, end, crc32c: crc32c::crc32c(&[]) });
        }
        let _room = self.room(2 * length).await;
        let (wal, decoder) = self.read_local(timeline, end.segment_number(size), length, None).await?;
        if decoder.last_good_end() != end {
            let text = format!("its last whole record ends at {}, not at {end}", decoder.last_good_end());
            return Err(std::io::Error::other(text).into());
        }
        let object = WalObject::tail(timeline.key(), (term, end), size);
        let there = match object.find(&self.store).await? {
            Some(there) => there,
            None => {
                self.put(&self.background, &object, wal.clone()).await?;
                (Form::Packed, object.packed(&self.store).await?)
            }
        };
        self.compare(&object, there, wal.clone()).await?;
        Ok(ArchivedTail { term, end, crc32c: crc32c::crc32c(&wal) })
    }

    /// Deletes all WAL of a timeline that was deleted.
    pub async fn delete(&self, key: TimelineKey) -> Result<(), StoreError> {
        self.stop(key).await;
        for folder in [names::segments_folder(key), names::tails_folder(key)] {
            let objects = self.store.list_all(&folder).await?;
            self.store.delete_all(objects.into_iter().map(|object| object.key)).await?;
        }
        Ok(())
    }

    /// Packs WAL and puts it there; false when there is something else already, be it the same WAL packed by another version of zstd.
    async fn put(&self, threads: &Background, object: &WalObject, wal: Bytes) -> Result<bool, ArchiveError> {
        let wal_bytes = wal.len() as u64;
        let pack = threads.run_blocking(move || packed::pack(&wal));
        let packed = Bytes::from(pack.await.map_err(io::Error::other)??);
        let stored_bytes = packed.len() as u64;
        let (store, key) = (self.store.clone(), object.key(Form::Packed));
        let put = threads.run(async move { store.put_new(&key, packed).await });
        match put.await.map_err(io::Error::other)? {
            Err(StoreError::AlreadyExists { .. }) => return Ok(false),
            put => put?,
        }
        self.metrics.uploaded_bytes.inc_by(wal_bytes);
        self.metrics.stored_bytes.inc_by(stored_bytes);
        Ok(true)
    }

    /// What is there must be exactly this WAL.
    async fn compare(&self, object: &WalObject, there: (Form, Bytes), wal: Bytes) -> Result<(), ArchiveError> {
        let (form, there) = there;
        let same = self.background.run_blocking(move || match form {
            Form::Raw => there == wal,
            Form::Packed => packed::holds(&there, &wal).unwrap_or(false),
        });
        if same.await.map_err(io::Error::other)? {
            return Ok(());
        }
        Err(ArchiveError::Differs { key: object.key(form) })
    }

    /// Deletes tails that end at or before `end` once more than they have is there. A failure costs nothing but space.
    pub(super) async fn delete_tails(&self, timeline: &Timeline, end: Lsn) {
        let size = timeline.folder().segment_size_bytes();
        let deleted = async {
            let tails = self.store.list_all(&names::tails_folder(timeline.key())).await?;
            let old = |key: &str| names::parse_tail(key.rsplit('/').next()?, size).filter(|(_, tail, _)| *tail <= end);
            self.store.delete_all(tails.into_iter().map(|object| object.key).filter(|key| old(key).is_some())).await
        };
        if let Err(error) = deleted.await {
            tracing::warn!(timeline = %timeline.key(), %error, "tails that are not needed any more stay in the object store");
        }
    }

    /// The first `length` bytes of a local segment, decoded: rot on this disk must not get into the object store, because others
    /// remove their copies once it is there. A record that began before the first segment that is read is not checked.
    async fn read_local(
        &self,
        timeline: &Timeline,
        number: u64,
        length: u64,
        decoder: Option<StreamDecoder>,
    ) -> Result<(Bytes, StreamDecoder), ArchiveError> {
        let (folder, identity) = (timeline.folder().clone(), *timeline.identity());
        let read = move || {
            let start = Lsn(number * folder.segment_size_bytes());
            let mut wal = vec![0; length as usize];
            folder.read(start, &mut wal)?;
            let wal = Bytes::from(wal);
            let mut decoder = match decoder.filter(|decoder| decoder.fed_until() == start) {
                Some(decoder) => decoder,
                None => {
                    StreamDecoder::find_first(start, identity.wal_segment_size_bytes, Some(identity.system_identifier))?
                }
            };
            decoder.feed(wal.clone());
            decoder.skip_to_boundary()?;
            Ok((wal, decoder))
        };
        self.threads(timeline, number).run_blocking(read).await.map_err(io::Error::other)?
    }
}
