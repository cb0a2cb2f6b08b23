//! Applies records and compares the pages.

use crate::{
    cluster_files,
    comparison::mask_and_compare,
    page_kinds::{ComparedPage, PageKinds},
    page_section::section,
    pages::Pages,
    report::{Difference, Report, excerpt, kind_name, page_name},
    slru_pages::SlruPages,
    wal_dump::WalDump,
};
use anyhow::Result;
use ogel_ids::Lsn;
use std::path::Path;
use wal_decoder::{
    checkpoint_state::CheckpointState,
    effect::{Effect, Version},
    interpret::{InterpretError, InterpretErrorKind, Interpreter},
    key::{Fork, PAGE_SIZE, Page},
    record::{BlockRef, ParsedRecord},
    redo::{self, PageRef, RedoError, mask::Strictness},
    v17::rmgr,
};

/// `XLOG_HASH_MOVE_PAGE_CONTENTS`, `XLOG_HASH_SQUEEZE_PAGE`, `XLOG_HASH_DELETE`.
const HASH_KINDS_WITH_PINNED_BUCKET: [u8; 3] = [0x70, 0x80, 0x90];

/// What to compare.
#[derive(Debug, Default, Clone, Copy)]
pub struct Options {
    /// Beyond PostgreSQL's own comparison.
    pub strictness: Strictness,
}

/// See the crate's documentation.
pub struct Checker {
    interpreter: Interpreter,
    work: Work,
    dump: Option<WalDump>,
}

impl Checker {
    /// Knows no page yet.
    pub fn new(options: Options) -> Checker {
        let interpreter = Interpreter::new(CheckpointState::default());
        Checker { interpreter, work: Work { options, ..Work::default() }, dump: None }
    }

    /// Adds to each difference what `pg_waldump` prints of its record.
    pub fn describe_with(&mut self, dump: Option<WalDump>) {
        self.dump = dump;
    }

    /// Keeps a page of each kind that is compared from now on.
    pub fn keep_page_kinds(&mut self) {
        self.work.kinds = Some(PageKinds::default());
    }

    /// What [`Checker::keep_page_kinds`] has kept.
    pub fn page_kinds(&self) -> Option<&PageKinds> {
        self.work.kinds.as_ref()
    }

    /// Takes the transaction logs from the data directory of the cluster as it was before this WAL.
    pub fn start_from(&mut self, data: &Path) -> Result<()> {
        self.work.slru = SlruPages::read(data)?;
        Ok(())
    }

    /// Compares visibility maps and transaction logs with the data directory of the cluster, which was stopped cleanly after this WAL.
    pub fn compare_files(&mut self, data: &Path) -> Result<()> {
        let Work { pages, slru, report, .. } = &mut self.work;
        let end = report.end.unwrap_or(Lsn(0));
        cluster_files::compare_visibility_maps(pages, data, end, report)?;
        cluster_files::compare_logs(slru, data, end, report)
    }

    /// The report, with what it says of the whole run.
    pub fn finish(mut self) -> Report {
        self.work.report.unreached = self.work.report.unreached();
        self.work.report
    }

    /// What was found so far.
    pub fn report(&self) -> &Report {
        &self.work.report
    }

    /// Applies one record and compares the pages of which it has an image for comparison.
    pub fn record(&mut self, start: Lsn, end: Lsn, bytes: &[u8]) -> Result<(), InterpretError> {
        let record = ParsedRecord::parse(bytes).map_err(|error| InterpretError {
            start,
            rmid: 0,
            info: 0,
            kind: InterpretErrorKind::Record(error),
        })?;
        let kind = kind_name(record.rmid, record.rmgr_info());
        let work = &mut self.work;
        work.report.counts(&kind).records += 1;
        work.report.start.get_or_insert(start);
        work.report.end = Some(end);
        let listed = work.report.differences.len();
        let mut step = Step { start, end, kind: &kind, record: &record, failed: Vec::new() };
        self.interpreter
            .interpret_bytes(start, end, bytes, &mut |effect: Effect<'_>| work.effect(&mut step, effect))?;
        self.work.compare(&step);
        if let (Some(dump), [first, rest @ ..]) = (&self.dump, &mut self.work.report.differences[listed..]) {
            let line = dump.describe(start, bytes).unwrap_or_else(|error| format!("{error:#}"));
            rest.iter_mut().for_each(|difference| difference.waldump = Some(line.clone()));
            first.waldump = Some(line);
        }
        Ok(())
    }
}

/// The pages and what was found.
#[derive(Default)]
struct Work {
    options: Options,
    pages: Pages,
    slru: SlruPages,
    report: Report,
    kinds: Option<PageKinds>,
}

impl Work {
    fn effect(&mut self, step: &mut Step<'_>, effect: Effect<'_>) {
        match effect {
            Effect::Page { rel, block, version, only_existing } => {
                self.page_version(step, PageRef { rel, block }, version, only_existing)
            }
            Effect::RelTruncate { rel, blocks } => self.pages.truncate(rel, blocks),
            Effect::RelDrop { rel } => self.pages.drop_where(|other| other == rel),
            Effect::DatabaseDrop { spc, db } => self.pages.drop_where(|rel| (rel.spc, rel.db) == (spc, db)),
            Effect::DatabaseCreate { spc, db, copy_of: Some(source) } => self.pages.copy_database(source, (spc, db)),
            Effect::Slru { .. } | Effect::SlruTruncate { .. } | Effect::SlruDropSegments { .. } => {
                if let Err(error) = self.slru.effect(&effect) {
                    self.report.add_difference(Difference::of_error(
                        step.kind,
                        step.start,
                        format!("{effect:?}"),
                        &error,
                    ));
                }
            }
            _ => {}
        }
    }

    fn page_version(&mut self, step: &mut Step<'_>, at: PageRef, version: Version<'_>, only_existing: bool) {
        let (bytes, will_init) = match version {
            Version::Image(page) => {
                self.report.counts(step.kind).images += 1;
                if at.rel.fork == Fork::VisibilityMap && step.image_lacks_content(at) {
                    self.pages.remove(at);
                } else {
                    self.pages.put(at, page);
                }
                return;
            }
            Version::Delta { bytes, will_init } => (bytes, will_init),
        };
        if self.pages.get(at).is_none() {
            if !will_init || only_existing {
                // Its history is not in this WAL: `compare` starts it from the record's image.
                return;
            }
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
            if step.image_is_unlocked(block) {
                continue;
            }
            let at = PageRef { rel: block.rel, block: block.block };
            let mut theirs = [0; PAGE_SIZE];
            if let Err(error) = step.record.restore_image(&image, &mut theirs) {
                self.fails(step, block, &error);
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
                self.fails(step, block, error);
            }
            return;
        }
        let Some(ours) = self.pages.get(at) else {
            self.report.counts(step.kind).seeded += 1;
            return;
        };
        let (mut ours, mut theirs) = (*ours, *theirs);
        let rmid = step.record.rmid;
        if let Some(kinds) = &mut self.kinds {
            let page = ComparedPage { start: step.start, rmid, block_id: block.id, at, ours, theirs };
            kinds.add(step.record.rmgr_info(), page);
        }
        let difference = mask_and_compare(&mut ours, &mut theirs, rmid, at, self.options.strictness);
        self.report.counts(step.kind).compared += 1;
        self.report.compared += 1;
        if let Some(offset) = difference {
            self.differs(step, block, offset, &ours, &theirs);
        }
    }

    fn differs(&mut self, step: &Step<'_>, block: &BlockRef, offset: usize, ours: &Page, theirs: &Page) {
        let at = PageRef { rel: block.rel, block: block.block };
        self.report.add_difference(Difference {
            record: step.kind.to_owned(),
            start: step.start,
            page: page_name(at),
            block_id: block.id,
            offset: Some(offset),
            section: section(theirs, at, offset),
            ours: excerpt(ours, offset),
            postgres: excerpt(theirs, offset),
            waldump: None,
        });
    }

    fn fails(&mut self, step: &Step<'_>, block: &BlockRef, error: &dyn std::error::Error) {
        let page = page_name(PageRef { rel: block.rel, block: block.block });
        let difference = Difference::of_error(step.kind, step.start, page, error);
        self.report.add_difference(Difference { block_id: block.id, ..difference });
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

impl Step<'_> {
    /// Hash vacuum and squeeze, at work on an overflow page, register the bucket's primary page as well, unchanged, only so that replay
    /// waits for it (`hash.c`, `hashovfl.c`). That page is pinned and not locked: its image may hold what a concurrent insert has not
    /// logged yet, or lack what one has.
    fn image_is_unlocked(&self, block: &BlockRef) -> bool {
        self.record.rmid == rmgr::HASH
            && HASH_KINDS_WITH_PINNED_BUCKET.contains(&self.record.rmgr_info())
            && block.id == 0
    }

    /// `CREATE DATABASE` logs visibility map pages as if they had a hole, which is all of the map: after replay, PostgreSQL's own too, its
    /// bits are clear where the primary's are set. That is lawful, and leaves nothing to compare with later images.
    fn image_lacks_content(&self, at: PageRef) -> bool {
        let is_page = |block: &&BlockRef| block.rel == at.rel && block.block == at.block;
        let image = self.record.blocks().iter().find(is_page).and_then(|block| block.image());
        image.is_some_and(|image| image.info.hole_length > 0)
    }
}
