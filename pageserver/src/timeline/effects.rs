//! Effects of records become versions of keys.
//!
//! Sizes are kept here as they will be after the batch, so that one record sees what the one before it did without the batch being in
//! the open layer yet. Effects that must look at what is stored (drop, copy, truncate by page order) push the batch first; readers do
//! not see it before `last_record_lsn` advances.

use std::collections::{HashMap, HashSet};

use ogel_ids::Lsn;
use wal_decoder::{
    effect::{Effect, EffectSink, Version},
    key::{Fork, PAGE_SIZE, Rel, RelFork, SlruKind},
    slru,
};

use super::{ReadError, Timeline, aux_file::AuxFile};
use crate::{
    branch::Timestamp,
    keyspace::{Key, KeyRange},
    layer::{Io, VersionKind, memory::WriteBatch},
};

/// The caches of sizes are emptied between batches when they have more entries.
const MAX_CACHED_SIZES: usize = 200_000;
/// While a database is copied, the batch is pushed whenever it has grown to this.
const COPY_BATCH_BYTES: usize = 8 << 20;

/// Sizes as of the newest effect; `None` is known absence.
#[derive(Debug, Default)]
pub(super) struct SizeCache {
    relations: HashMap<RelFork, Option<u32>>,
    segments: HashMap<(SlruKind, u32), Option<u32>>,
}

/// Collects the effects of records into a batch.
pub struct EffectWriter<'a> {
    timeline: &'a Timeline,
    batch: &'a mut WriteBatch,
    sizes: &'a mut SizeCache,
    /// End of the current record, and of the one before it.
    lsn: Lsn,
    previous: Lsn,
    grown_bytes: i64,
    news: News,
    error: Option<ReadError>,
}

/// What the current record tells clients and the commit index.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct News {
    /// When its transaction committed.
    pub committed_at: Option<Timestamp>,
    /// Somebody may have been told that what it did will last: the state behind it is kept, so that a branch can begin there.
    pub acknowledged: bool,
}

impl<'a> EffectWriter<'a> {
    pub(super) fn new(timeline: &'a Timeline, batch: &'a mut WriteBatch, sizes: &'a mut SizeCache) -> Self {
        let (lsn, previous) = (Lsn::INVALID, timeline.last_record_lsn());
        Self { timeline, batch, sizes, lsn, previous, grown_bytes: 0, news: News::default(), error: None }
    }

    /// The effects of this record follow.
    pub(super) fn begin_record(&mut self, end: Lsn) {
        if self.lsn.is_valid() {
            self.previous = self.lsn;
        }
        (self.lsn, self.news) = (end, News::default());
    }

    /// The effects of the record were all given. An error leaves the timeline's ingest unable to go on.
    pub(super) fn end_record(&mut self) -> Result<News, ReadError> {
        self.error.take().map_or(Ok(self.news), Err)
    }

    /// Adds something beside the record's effects.
    pub(super) fn put_image(&mut self, key: Key, value: &[u8]) {
        self.batch.put(key, self.lsn, VersionKind::Image, value);
    }

    /// Bytes waiting in the batch.
    pub(super) fn pending_bytes(&self) -> usize {
        self.batch.value_bytes()
    }

    /// Sum of all relation sizes as of the newest effect.
    pub(super) fn logical_size_bytes(&self) -> u64 {
        self.timeline.logical_size_bytes().saturating_add_signed(self.grown_bytes)
    }

    /// Puts the batch into the open layer.
    pub(super) fn push(&mut self) {
        self.timeline.apply_batch(self.batch, std::mem::take(&mut self.grown_bytes));
    }

    /// Puts the batch into the open layer at the end of a record, and bounds the caches.
    pub(super) fn finish(mut self) {
        self.push();
        if self.sizes.relations.len() + self.sizes.segments.len() > MAX_CACHED_SIZES {
            *self.sizes = SizeCache::default();
        }
    }

    fn put_version(&mut self, key: Key, version: Version<'_>) {
        let (kind, bytes) = match version {
            Version::Image(page) => (VersionKind::Image, &page[..]),
            Version::Delta { bytes, will_init: true } => (VersionKind::InitDelta, bytes),
            Version::Delta { bytes, will_init: false } => (VersionKind::Delta, bytes),
        };
        self.batch.put(key, self.lsn, kind, bytes);
    }

    fn rel_size(&mut self, rel: RelFork) -> Result<Option<u32>, ReadError> {
        if let Some(size) = self.sizes.relations.get(&rel) {
            return Ok(*size);
        }
        let size = self.timeline.rel_size(rel, Lsn::MAX, Io::MayBlock)?;
        self.sizes.relations.insert(rel, size);
        Ok(size)
    }

    fn set_rel_size(&mut self, rel: RelFork, blocks: u32) -> Result<(), ReadError> {
        let before = self.rel_size(rel)?;
        self.grown_bytes += (i64::from(blocks) - i64::from(before.unwrap_or(0))) * PAGE_SIZE as i64;
        self.sizes.relations.insert(rel, Some(blocks));
        self.put_image(Key::rel_size(rel), &blocks.to_be_bytes());
        Ok(())
    }

    fn page(&mut self, rel: RelFork, block: u32, version: Version<'_>, only_existing: bool) -> Result<(), ReadError> {
        // Computes log free space without holding a lock on the relation: it may have been dropped just before.
        if rel.fork == Fork::FreeSpaceMap && self.rel_size(rel.rel.fork(Fork::Main))?.is_none() {
            return Ok(());
        }
        let size = self.rel_size(rel)?;
        if size.is_none_or(|size| size <= block) {
            if only_existing {
                return Ok(());
            }
            // Block u32::MAX is PostgreSQL's InvalidBlockNumber: the size cannot overflow on what it writes.
            self.set_rel_size(rel, block.saturating_add(1))?;
        }
        self.put_version(Key::rel_page(rel, block), version);
        Ok(())
    }

    fn truncate(&mut self, rel: RelFork, blocks: u32) -> Result<(), ReadError> {
        match self.rel_size(rel)? {
            None if rel.fork == Fork::Main => self.set_rel_size(rel, 0),
            Some(size) if size > blocks => {
                self.batch.erase(KeyRange::rel_pages_from(rel, blocks), self.lsn);
                self.set_rel_size(rel, blocks)
            }
            _ => Ok(()),
        }
    }

    fn drop_relation(&mut self, rel: Rel) -> Result<(), ReadError> {
        let mut existed = false;
        for fork in Fork::ALL {
            if let Some(blocks) = self.rel_size(rel.fork(fork))? {
                existed = true;
                self.grown_bytes -= i64::from(blocks) * PAGE_SIZE as i64;
            }
            self.sizes.relations.insert(rel.fork(fork), None);
        }
        if existed {
            self.batch.erase(KeyRange::rel_pages(rel), self.lsn);
            self.batch.erase(KeyRange::rel_sizes(rel), self.lsn);
        }
        Ok(())
    }

    fn drop_database(&mut self, spc: u32, db: u32) -> Result<(), ReadError> {
        self.push();
        for (_, blocks) in
            self.timeline.relations(spc, db, self.lsn, Io::MayBlock)?.into_iter().filter(|(rel, _)| rel.rel.spc == spc)
        {
            self.grown_bytes -= i64::from(blocks) * PAGE_SIZE as i64;
        }
        self.sizes.relations.retain(|rel, _| (rel.rel.spc, rel.rel.db) != (spc, db));
        for range in [
            KeyRange::database_pages(spc, db),
            KeyRange::database_sizes(spc, db),
            KeyRange::single(Key::relmap(spc, db)),
            KeyRange::single(Key::database(spc, db)),
        ] {
            self.batch.erase(range, self.lsn);
        }
        self.push();
        Ok(())
    }

    fn create_database(&mut self, spc: u32, db: u32, copy_of: Option<(u32, u32)>) -> Result<(), ReadError> {
        if let Some(source) = copy_of {
            self.drop_database(spc, db)?;
            self.copy_database(source, (spc, db))?;
        }
        self.put_image(Key::database(spc, db), &[]);
        Ok(())
    }

    /// Copies pages, sizes and relation map as of the end of the previous record.
    fn copy_database(&mut self, source: (u32, u32), target: (u32, u32)) -> Result<(), ReadError> {
        let (timeline, at) = (self.timeline, self.previous);
        let mut page = [0; PAGE_SIZE];
        for (from, blocks) in timeline.relations(source.0, source.1, at, Io::MayBlock)? {
            let to = Rel { spc: target.0, db: target.1, rel: from.rel.rel }.fork(from.fork);
            self.set_rel_size(to, blocks)?;
            for block in 0..blocks {
                timeline.read_page(from, block, at, &mut page, Io::MayBlock)?;
                if page != [0; PAGE_SIZE] {
                    self.put_image(Key::rel_page(to, block), &page);
                }
                if self.pending_bytes() >= COPY_BATCH_BYTES {
                    self.push();
                }
            }
        }
        if let Some(map) = timeline.read_value(&Key::relmap(source.0, source.1), at, Io::MayBlock)? {
            self.put_image(Key::relmap(target.0, target.1), &map);
        }
        Ok(())
    }

    fn slru_page(&mut self, kind: SlruKind, page: u32, version: Version<'_>) -> Result<(), ReadError> {
        let (segment, index) = (page / SlruKind::PAGES_PER_SEGMENT, page % SlruKind::PAGES_PER_SEGMENT);
        let size = match self.sizes.segments.get(&(kind, segment)) {
            Some(size) => *size,
            None => self.timeline.slru_size(kind, segment, Lsn::MAX, Io::MayBlock)?,
        };
        if size.is_none_or(|size| size <= index) {
            self.put_image(Key::slru_size(kind, segment), &(index + 1).to_be_bytes());
        }
        self.sizes.segments.insert((kind, segment), Some(size.unwrap_or(0).max(index + 1)));
        self.put_version(Key::slru_page(kind, page), version);
        Ok(())
    }

    fn slru_segments(&mut self, kind: SlruKind) -> Result<Vec<u32>, ReadError> {
        self.push();
        let sizes = self.timeline.scan(KeyRange::slru_sizes(kind), self.lsn, Io::MayBlock)?;
        Ok(sizes.keys().filter_map(Key::as_slru_segment).collect())
    }

    fn drop_segments(&mut self, kind: SlruKind, segments: impl IntoIterator<Item = u32>) {
        for segment in segments {
            self.batch.erase(KeyRange::slru_segment_pages(kind, segment), self.lsn);
            self.batch.erase(KeyRange::single(Key::slru_size(kind, segment)), self.lsn);
            self.sizes.segments.insert((kind, segment), None);
        }
    }

    fn take(&mut self, effect: Effect<'_>) -> Result<(), ReadError> {
        match effect {
            Effect::Page { rel, block, version, only_existing } => self.page(rel, block, version, only_existing)?,
            Effect::RelCreate { rel } => {
                if self.rel_size(rel)?.is_none() {
                    self.set_rel_size(rel, 0)?;
                }
            }
            Effect::RelTruncate { rel, blocks } => self.truncate(rel, blocks)?,
            Effect::RelDrop { rel } => self.drop_relation(rel)?,
            Effect::DatabaseCreate { spc, db, copy_of } => self.create_database(spc, db, copy_of)?,
            Effect::DatabaseDrop { spc, db } => self.drop_database(spc, db)?,
            Effect::RelMap { spc, db, image } => self.put_image(Key::relmap(spc, db), image),
            Effect::Slru { kind, page, version } => self.slru_page(kind, page, version)?,
            Effect::SlruTruncate { kind, cutoff_page } => {
                let mut segments = self.slru_segments(kind)?;
                segments.retain(|segment| slru::segment_precedes(kind, *segment, cutoff_page));
                self.drop_segments(kind, segments);
            }
            Effect::SlruDropSegments { kind, first, end } => {
                let present: HashSet<u32> = self.slru_segments(kind)?.into_iter().collect();
                self.drop_segments(kind, slru::segments_between(kind, first, end).filter(|s| present.contains(s)));
            }
            Effect::TwoPhasePut { xid, data } => {
                self.news.acknowledged = true;
                self.put_image(Key::two_phase(xid), data);
            }
            Effect::TwoPhaseRemove { xid } => {
                self.news.acknowledged = true;
                self.batch.erase(KeyRange::single(Key::two_phase(xid)), self.lsn);
            }
            Effect::OriginSet { origin, remote_lsn } => {
                self.put_image(Key::origin(origin), &remote_lsn.0.to_be_bytes());
            }
            Effect::OriginDrop { origin } => self.batch.erase(KeyRange::single(Key::origin(origin)), self.lsn),
            Effect::AuxFile { path, content: Some(packed) } => {
                self.put_image(Key::aux_file(path), &AuxFile::encode(path, self.lsn, packed));
            }
            Effect::AuxFile { path, content: None } => {
                self.batch.erase(KeyRange::single(Key::aux_file(path)), self.lsn);
            }
            Effect::CommitTime { at_us } => {
                self.news = News { committed_at: Some(Timestamp(at_us)), acknowledged: true };
            }
        }
        Ok(())
    }
}

impl EffectSink for EffectWriter<'_> {
    fn effect(&mut self, effect: Effect<'_>) {
        if self.error.is_none() {
            self.error = self.take(effect).err();
        }
    }
}

impl Timeline {
    fn apply_batch(&self, batch: &mut WriteBatch, grown_bytes: i64) {
        if grown_bytes != 0 {
            use std::sync::atomic::Ordering::Relaxed;
            let _ = self
                .logical_size_bytes
                .fetch_update(Relaxed, Relaxed, |size| Some(size.saturating_add_signed(grown_bytes)));
        }
        self.append(batch);
    }
}
