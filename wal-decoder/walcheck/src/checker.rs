//! Applies records and compares the pages.

use crate::{
    pages::Pages,
    report::{Difference, Report, excerpt, first_difference, kind_name, page_name},
};
use ogel_ids::Lsn;
use wal_decoder::{
    effect::{Effect, Version},
    key::{PAGE_SIZE, Page},
    record::{BlockRef, ParsedRecord},
    redo::{
        self, PageRef, RedoError,
        mask::{Strictness, mask},
    },
};

/// What to compare.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Beyond PostgreSQL's own comparison.
    pub strictness: Strictness,
}

/// See the crate's documentation.
pub struct Checker {
    options: Options,
    pages: Pages,
    report: Report,
}

impl Checker {
    /// Knows no page yet.
    pub fn new(options: Options) -> Checker {
        Checker { options, pages: Pages::default(), report: Report::default() }
    }

    /// What was found so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Applies one record and compares the pages of which it has an image for comparison.
    pub fn record(&mut self, start: Lsn, end: Lsn, record: &ParsedRecord<'_>) {
        let kind = kind_name(record.rmid, record.rmgr_info());
        self.report.counts(&kind).records += 1;
        self.report.start.get_or_insert(start);
        self.report.end = Some(end);
        let mut step = Step { start, end, kind: &kind, record, failed: Vec::new() };
        let mut delta = Vec::new();
        for block in record.blocks() {
            let at = PageRef { rel: block.rel, block: block.block };
            if let Some(image) = block.applied_image() {
                let mut page = [0; PAGE_SIZE];
                if record.restore_image(&image, &mut page).is_ok() {
                    self.pages.put(at, &page);
                    self.report.counts(&kind).images += 1;
                }
                continue;
            }
            wal_decoder::delta::encode_record(&mut delta, record, block, (record.main_data, &[]));
            let version = Version::Delta { bytes: &delta, will_init: block.will_init() };
            self.effect(&mut step, Effect::Page { rel: at.rel, block: at.block, version, only_existing: false });
        }
        self.compare(&step);
    }

    fn effect(&mut self, step: &mut Step<'_>, effect: Effect<'_>) {
        match effect {
            Effect::Page { rel, block, version, only_existing } => {
                self.page_version(step, PageRef { rel, block }, version, only_existing)
            }
            Effect::RelTruncate { rel, blocks } => self.pages.truncate(rel, blocks),
            Effect::RelDrop { rel } => self.pages.drop_where(|other| other == rel),
            Effect::DatabaseDrop { spc, db } => self.pages.drop_where(|rel| (rel.spc, rel.db) == (spc, db)),
            Effect::DatabaseCreate { spc, db, copy_of: Some(source) } => self.pages.copy_database(source, (spc, db)),
            _ => {}
        }
    }

    fn page_version(&mut self, step: &mut Step<'_>, at: PageRef, version: Version<'_>, only_existing: bool) {
        let (bytes, will_init) = match version {
            Version::Image(page) => {
                self.report.counts(step.kind).images += 1;
                self.pages.put(at, page);
                return;
            }
            Version::Delta { bytes, will_init } => (bytes, will_init),
        };
        if self.pages.get(at).is_none() {
            if !will_init {
                // Its history is not in this WAL: `compare` starts it from the record's image.
                return;
            }
            debug_assert!(!only_existing, "a page that is initialised need not exist");
            self.pages.put(at, &[0; PAGE_SIZE]);
        }
        let page = self.pages.get_mut(at).expect("it was looked up or put");
        if let Err(error) = redo::apply(page, bytes, at, step.end) {
            step.failed.push((at, error));
        }
    }

    fn compare(&mut self, step: &Step<'_>) {
        for block in step.record.blocks() {
            let Some(image) = block.image().filter(|image| !image.apply) else { continue };
            let at = PageRef { rel: block.rel, block: block.block };
            let mut theirs = [0; PAGE_SIZE];
            if let Err(error) = step.record.restore_image(&image, &mut theirs) {
                self.differs(step, block, None, error.to_string(), String::new());
                continue;
            }
            self.compare_page(step, block, at, &theirs);
            self.pages.put(at, &theirs);
        }
    }

    fn compare_page(&mut self, step: &Step<'_>, block: &BlockRef, at: PageRef, theirs: &Page) {
        if let Some((_, error)) = step.failed.iter().find(|(failed, _)| *failed == at) {
            if matches!(error, RedoError::NotImplemented { .. }) {
                self.report.counts(step.kind).not_implemented += 1;
                self.report.not_implemented += 1;
            } else {
                self.differs(step, block, None, error.to_string(), String::new());
            }
            return;
        }
        let Some(ours) = self.pages.get(at) else {
            self.report.counts(step.kind).seeded += 1;
            return;
        };
        let (mut ours, mut theirs) = (*ours, *theirs);
        mask(&mut ours, step.record.rmid, at, self.options.strictness);
        mask(&mut theirs, step.record.rmid, at, self.options.strictness);
        self.report.counts(step.kind).compared += 1;
        self.report.compared += 1;
        if let Some(offset) = first_difference(&ours, &theirs) {
            self.differs(step, block, Some(offset), excerpt(&ours, offset), excerpt(&theirs, offset));
        }
    }

    fn differs(&mut self, step: &Step<'_>, block: &BlockRef, offset: Option<usize>, ours: String, postgres: String) {
        self.report.add_difference(Difference {
            record: step.kind.to_owned(),
            start: step.start,
            page: page_name(PageRef { rel: block.rel, block: block.block }),
            block_id: block.id,
            offset,
            ours,
            postgres,
        });
    }
}

/// The record at hand.
struct Step<'a> {
    start: Lsn,
    end: Lsn,
    kind: &'a str,
    record: &'a ParsedRecord<'a>,
    failed: Vec<(PageRef, RedoError)>,
}
