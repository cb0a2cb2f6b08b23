//! What no record has images of, compared with the files of the cluster after its clean shutdown.

use crate::{
    comparison::first_difference,
    page_section::section,
    pages::Pages,
    report::{Difference, Report, excerpt, page_name},
    slru_pages::SlruPages,
};
use anyhow::{Context, Result, bail};
use ogel_ids::Lsn;
use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};
use wal_decoder::{
    key::{Fork, PAGE_SIZE, Page, RelFork, SlruKind},
    redo::PageRef,
};

const GLOBAL_TABLESPACE: u32 = 1664;
const DEFAULT_TABLESPACE: u32 = 1663;
/// LSN and checksum; all else of a visibility map page is compared.
const UNCOMPARED: usize = 10;

pub(crate) fn compare_logs(slru: &SlruPages, data: &Path, end: Lsn, report: &mut Report) -> Result<()> {
    for ((kind, number), ours, theirs) in slru.pairs(&SlruPages::read(data)?) {
        let name = format!("{} page {number}", kind.directory());
        compare(report, file_kind(kind), name, end, (ours, theirs), |_| "log".to_owned());
    }
    Ok(())
}

pub(crate) fn compare_visibility_maps(pages: &Pages, data: &Path, end: Lsn, report: &mut Report) -> Result<()> {
    for (at, page) in pages.of_fork(Fork::VisibilityMap) {
        let (mut ours, mut theirs) = (*page, read_page(data, at)?);
        ours[..UNCOMPARED].fill(0);
        theirs[..UNCOMPARED].fill(0);
        let section = |offset| section(&theirs, at, offset);
        compare(report, "file/visibility map", page_name(at), end, (&ours, &theirs), section);
    }
    Ok(())
}

const fn file_kind(kind: SlruKind) -> &'static str {
    match kind {
        SlruKind::Clog => "file/clog",
        SlruKind::MultixactOffsets => "file/multixact offsets",
        SlruKind::MultixactMembers => "file/multixact members",
        SlruKind::CommitTs => "file/commit_ts",
    }
}

fn compare(
    report: &mut Report,
    kind: &str,
    page: String,
    start: Lsn,
    (ours, theirs): (&Page, &Page),
    section: impl Fn(usize) -> String,
) {
    report.counts(kind).compared += 1;
    report.compared += 1;
    if let Some(offset) = first_difference(ours, theirs) {
        report.add_difference(Difference {
            record: kind.to_owned(),
            start,
            page,
            block_id: 0,
            offset: Some(offset),
            section: section(offset),
            ours: excerpt(ours, offset),
            postgres: excerpt(theirs, offset),
            waldump: None,
        });
    }
}

/// A page that the file does not have reads as zeros.
fn read_page(data: &Path, at: PageRef) -> Result<Page> {
    let mut page = [0; PAGE_SIZE];
    let path = relation_file(data, at.rel)?;
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(page),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    file.seek(SeekFrom::Start(u64::from(at.block) * PAGE_SIZE as u64))?;
    match file.read_exact(&mut page) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok([0; PAGE_SIZE]),
        read => read.map(|()| page).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Where a fork is, or its first gigabyte.
pub(crate) fn relation_file(data: &Path, fork: RelFork) -> Result<PathBuf> {
    let name = format!("{}{}", fork.rel.rel, fork.fork.file_suffix());
    Ok(match fork.rel.spc {
        GLOBAL_TABLESPACE => data.join("global").join(name),
        DEFAULT_TABLESPACE => data.join(format!("base/{}", fork.rel.db)).join(name),
        spc => tablespace(data, spc)?.join(fork.rel.db.to_string()).join(name),
    })
}

/// A tablespace has one folder per major version of PostgreSQL.
fn tablespace(data: &Path, spc: u32) -> Result<PathBuf> {
    let link = data.join(format!("pg_tblspc/{spc}"));
    let is_ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("PG_17_"));
    let entries = fs::read_dir(&link).with_context(|| format!("cannot read {}", link.display()))?;
    match entries.filter_map(|entry| Some(entry.ok()?.path())).find(is_ours) {
        Some(folder) => Ok(folder),
        None => bail!("{} has no folder of PostgreSQL 17", link.display()),
    }
}
