//! Pages at an LSN: located in all layers, fetched together, then made one by one.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use ogel_ids::Lsn;
use wal_decoder::{
    key::{PAGE_SIZE, Page, RelFork, SlruKind},
    redo::{self, PageRef, RedoError},
};

use super::{ReadError, Timeline, page_cache::Cached};
use crate::{
    keyspace::Key,
    layer::{
        Io,
        file::{LayerError, fetch},
        map::LayerMap,
        reconstruct::Reconstruction,
    },
};

/// A page that needed more deltas than this is to get an image.
const MAX_DELTAS: usize = 32;
/// A page that needed more layers than this is to get an image.
const MAX_LAYERS: u32 = 12;
/// A page that takes more deltas than this is kept in the page cache at once, others when they are read again.
const CHEAP_DELTAS: usize = 4;
/// More pages than this are asked for together by scans, which come back seldom: copying all they read would cost more than making
/// again what is read again.
const SCAN_PAGES: usize = 16;

/// Which page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageId {
    /// Of a relation fork.
    Relation(PageRef),
    /// Of an SLRU, by its number in the whole log.
    Slru(SlruKind, u32),
}

impl PageId {
    fn key(&self) -> Key {
        match *self {
            PageId::Relation(PageRef { rel, block }) => Key::rel_page(rel, block),
            PageId::Slru(kind, page) => Key::slru_page(kind, page),
        }
    }

    /// The page of this key, if it is a page's.
    pub(super) fn of(key: &Key) -> Option<PageId> {
        let relation = key.as_rel_page().map(|(rel, block)| PageId::Relation(PageRef { rel, block }));
        relation.or_else(|| key.as_slru_page().map(|(kind, page)| PageId::Slru(kind, page)))
    }

    pub(super) fn apply(&self, page: &mut Page, delta: &[u8], lsn: Lsn) -> Result<(), RedoError> {
        match *self {
            PageId::Relation(target) => redo::apply(page, delta, target, lsn),
            PageId::Slru(kind, _) => redo::apply_slru(kind, page, delta),
        }
    }
}

/// Everything that is needed to make some pages, in memory once it has been fetched.
pub struct PageBatch {
    at: Lsn,
    layers: Arc<LayerMap>,
    /// One for each page, in the order asked for.
    pages: Vec<PageId>,
    kept: Vec<Option<Bytes>>,
    /// Of the pages that were not kept, in order.
    reads: Vec<Reconstruction>,
}

impl Timeline {
    /// Gathers what makes these pages as of `at`; each layer is visited once, and what must be read from disk is read together.
    pub fn gather_pages(&self, pages: &[PageId], at: Lsn, io: Io) -> Result<PageBatch, ReadError> {
        let mut batch = self.locate_pages(pages, at, io)?;
        self.fetch_pages(&mut batch, io)?;
        Ok(batch)
    }

    /// Finds out what makes these pages as of `at`. Their values are still to be fetched.
    pub fn locate_pages(&self, pages: &[PageId], at: Lsn, io: Io) -> Result<PageBatch, ReadError> {
        let mut kept = Vec::with_capacity(pages.len());
        let mut reads = Vec::new();
        for page in pages {
            let key = page.key();
            let mut read = Reconstruction::new(key, at);
            match self.pages.get(&key, at) {
                Cached::Valid(page) => {
                    kept.push(Some(page));
                    continue;
                }
                Cached::Version(version, page) => read = read.with_kept(version, page),
                Cached::Nothing => {}
            }
            kept.push(None);
            reads.push(read);
        }
        let layers = self.pin_layers();
        self.check_readable(at)?;
        if !reads.is_empty() {
            self.lineage(&layers).locate(&mut reads, io).inspect_err(|error| self.note(error))?;
        }
        Ok(PageBatch { at, layers, pages: pages.to_vec(), kept, reads })
    }

    /// Brings into memory what was located. After [`Io::MemoryOnly`] has failed, it may be called again.
    pub fn fetch_pages(&self, batch: &mut PageBatch, io: Io) -> Result<(), ReadError> {
        fetch(&mut batch.reads, io).map_err(ReadError::Layer).inspect_err(|error| self.note(error))
    }

    /// Makes the pages one by one, in the order asked for.
    pub fn make_pages(&self, batch: PageBatch) -> PageMaker<'_> {
        PageMaker {
            of_scan: batch.pages.len() > SCAN_PAGES,
            timeline: self,
            kept: batch.kept.into_iter(),
            pages: batch.pages.into_iter(),
            reads: batch.reads.into_iter(),
            at: batch.at,
            layers: batch.layers,
        }
    }

    /// Makes `page` the relation page as of `at`. Zeros where nothing is stored: out of range, or extended without WAL.
    pub fn read_page(&self, rel: RelFork, block: u32, at: Lsn, page: &mut Page, io: Io) -> Result<(), ReadError> {
        let batch = self.gather_pages(&[PageId::Relation(PageRef { rel, block })], at, io)?;
        self.make_pages(batch).next_into(page)
    }

    /// All pages of an SLRU segment; `None` when it does not exist.
    pub fn slru_segment(&self, kind: SlruKind, segment: u32, at: Lsn, io: Io) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(pages) = self.slru_size(kind, segment, at, io)? else { return Ok(None) };
        let first = segment.saturating_mul(SlruKind::PAGES_PER_SEGMENT);
        let numbers = first..first.saturating_add(pages.min(SlruKind::PAGES_PER_SEGMENT));
        let mut content = vec![0; numbers.len() * PAGE_SIZE];
        let pages: Vec<PageId> = numbers.map(|number| PageId::Slru(kind, number)).collect();
        let batch = self.gather_pages(&pages, at, io)?;
        let mut maker = self.make_pages(batch);
        for page in content.as_chunks_mut().0 {
            maker.next_into(page)?;
        }
        Ok(Some(content))
    }

    pub(super) fn note(&self, error: &ReadError) {
        match error {
            ReadError::Layer(LayerError::WouldBlock | LayerError::Io { .. } | LayerError::Remote(_))
            | ReadError::AncestorBehind { .. }
            | ReadError::BelowCutoff { .. } => {}
            ReadError::Redo { page, .. } => self.remember_damaged(error, page.clone()),
            ReadError::BadValue { what, .. } => self.remember_damaged(error, what.clone()),
            ReadError::Layer(file) => self.remember_damaged(error, file.to_string()),
        }
    }
}

/// What a page is made of.
enum Source {
    /// It was in the page cache.
    Kept(Bytes),
    Read(Reconstruction),
}

/// Makes the pages of a batch.
pub struct PageMaker<'a> {
    timeline: &'a Timeline,
    of_scan: bool,
    at: Lsn,
    layers: Arc<LayerMap>,
    pages: std::vec::IntoIter<PageId>,
    kept: std::vec::IntoIter<Option<Bytes>>,
    reads: std::vec::IntoIter<Reconstruction>,
}

impl PageMaker<'_> {
    /// Makes the next page of the batch. A failure is that page's only.
    pub fn next_into(&mut self, page: &mut Page) -> Result<(), ReadError> {
        match self.next() {
            (_, Source::Kept(kept)) => page.copy_from_slice(&kept),
            (id, Source::Read(read)) => {
                match self.base(&read)? {
                    Some(image) => page.copy_from_slice(image),
                    None => page.fill(0),
                }
                self.redo(id, &read, page)?;
            }
        }
        Ok(())
    }

    /// Makes the next page of the batch at the end of `out`, which a failure leaves as it was. A failure is that page's only.
    pub fn next_onto(&mut self, out: &mut BytesMut) -> Result<(), ReadError> {
        let start = out.len();
        match self.next() {
            (_, Source::Kept(kept)) => out.extend_from_slice(&kept),
            (id, Source::Read(read)) => {
                match self.base(&read)? {
                    Some(image) => out.extend_from_slice(image),
                    None => out.put_bytes(0, PAGE_SIZE),
                }
                let page = (&mut out[start..]).try_into().expect("a page was appended");
                self.redo(id, &read, page).inspect_err(|_| out.truncate(start))?;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> (PageId, Source) {
        let (Some(id), Some(kept)) = (self.pages.next(), self.kept.next()) else {
            unreachable!("no more pages are taken than were asked for")
        };
        let mut read = || self.reads.next().expect("there is a read for each page that was not kept");
        (id, kept.map_or_else(|| Source::Read(read()), Source::Kept))
    }

    /// Where redo starts: an image, or zeros.
    fn base<'r>(&self, read: &'r Reconstruction) -> Result<Option<&'r Bytes>, ReadError> {
        let bad = |image: &&Bytes| ReadError::BadValue { what: read.key().describe(), len: image.len() };
        let image = read.base();
        match image.filter(|image| image.len() != PAGE_SIZE) {
            Some(wrong) => Err(bad(&wrong)).inspect_err(|error| self.timeline.note(error)),
            None => Ok(image),
        }
    }

    /// Redo in place.
    fn redo(&self, id: PageId, read: &Reconstruction, page: &mut Page) -> Result<(), ReadError> {
        let timeline = self.timeline;
        for (lsn, delta) in read.deltas() {
            let failed = |error| ReadError::Redo { page: read.key().describe(), lsn, error };
            id.apply(page, delta, lsn).map_err(failed).inspect_err(|error| timeline.note(error))?;
        }
        timeline.environment.metrics.deltas_applied.inc_by(read.delta_count() as u64);
        timeline.environment.metrics.layers_visited.inc_by(u64::from(read.layers()));
        if read.delta_count() > MAX_DELTAS || read.layers() > MAX_LAYERS {
            timeline.image_requests.add(*read.key());
        }
        if let (PageId::Relation(_), Some(version)) = (id, read.newest())
            && (read.delta_count() > CHEAP_DELTAS && !self.of_scan || timeline.pages.is_read_again(read.key()))
        {
            let unwritten = || self.is_unwritten_since(read.key());
            timeline.pages.insert(read.key(), version, self.at, page, unwritten);
        }
        Ok(())
    }

    /// Whether nothing of the key above `at` has been put into any layer so far. `false` when that cannot be told at once.
    fn is_unwritten_since(&self, key: &Key) -> bool {
        let now = self.timeline.pin_layers();
        Arc::ptr_eq(&now.open, &self.layers.open)
            && self.at >= now.open.start
            && now.open.newest_version(key).is_none_or(|newest| newest <= self.at)
    }
}
