//! Whole relations as somebody else rebuilt them, compared with a cluster's files after a clean shutdown.

use crate::{
    cluster_files::relation_file,
    comparison::{first_difference, mask_and_compare},
    report::{excerpt, page_name},
};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};
use wal_decoder::{
    key::{Fork, PAGE_SIZE, Page, Rel, RelFork},
    redo::{PageRef, mask::Strictness},
    v17::rmgr,
};

/// Differences that are told one by one.
const MAX_TOLD: usize = 100;

/// What a comparison of all relations found.
#[derive(Debug, Default, Serialize)]
pub struct RelationReport {
    /// Forks compared.
    pub forks: u64,
    /// Pages compared.
    pub pages: u64,
    /// Of these, with content.
    pub nonzero_pages: u64,
    /// Pages that differ after masking.
    pub different: u64,
    /// The first of them.
    pub differences: Vec<PageDifference>,
}

/// A page that differs.
#[derive(Debug, Serialize)]
pub struct PageDifference {
    /// Which.
    pub page: String,
    /// First byte that differs after masking.
    pub offset: usize,
    /// The bytes there.
    pub ours: String,
    /// The same in the cluster's file.
    pub postgres: String,
}

/// Compares main, visibility-map and init forks. `ours` has a file for each fork, named as in `1663/5/16384_vm`; pages that either side
/// does not have are zeros. Main forks of unlogged relations are left out: a recovery resets them.
pub fn compare_relations(ours: &Path, data: &Path) -> Result<RelationReport> {
    let mut report = RelationReport::default();
    let mut forks = dumped_forks(ours)?;
    ensure!(!forks.is_empty(), "{} has no relations", ours.display());
    forks.extend(cluster_forks(data)?);
    for fork in &forks {
        let unlogged = fork.fork != Fork::Init && forks.contains(&fork.rel.fork(Fork::Init));
        if fork.fork != Fork::FreeSpaceMap && !unlogged {
            compare_fork(ours, data, *fork, &mut report)?;
        }
    }
    Ok(report)
}

fn compare_fork(ours: &Path, data: &Path, fork: RelFork, report: &mut RelationReport) -> Result<()> {
    let ours = read_whole(&dumped_file(ours, fork))?.unwrap_or_default();
    let theirs = cluster_content(data, fork)?;
    let (ours, theirs): (&[Page], &[Page]) = (ours.as_chunks().0, theirs.as_chunks().0);
    let page_of = |pages: &[Page], block: usize| pages.get(block).copied().unwrap_or([0; PAGE_SIZE]);
    report.forks += 1;
    for block in 0..ours.len().max(theirs.len()) {
        let at = PageRef { rel: fork, block: block as u32 };
        let (mut ours, mut theirs) = (page_of(ours, block), page_of(theirs, block));
        report.pages += 1;
        report.nonzero_pages += u64::from(theirs != [0; PAGE_SIZE]);
        let found = match manager(&theirs, at.block) {
            Some(rmid) => mask_and_compare(&mut ours, &mut theirs, rmid, at, Strictness::default()),
            None => first_difference(&ours, &theirs),
        };
        if let Some(offset) = found {
            report.different += 1;
            if report.differences.len() < MAX_TOLD {
                let (ours, postgres) = (excerpt(&ours, offset), excerpt(&theirs, offset));
                report.differences.push(PageDifference { page: page_name(at), offset, ours, postgres });
            }
        }
    }
    Ok(())
}

/// A fork's file, gigabyte behind gigabyte.
fn cluster_content(data: &Path, fork: RelFork) -> Result<Vec<u8>> {
    let first = relation_file(data, fork)?;
    let mut content = read_whole(&first)?.unwrap_or_default();
    for segment in 1.. {
        match read_whole(&PathBuf::from(format!("{}.{segment}", first.display())))? {
            Some(more) => content.extend(more),
            None => break,
        }
    }
    Ok(content)
}

fn read_whole(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => {
            ensure!(content.len().is_multiple_of(PAGE_SIZE), "{} is not whole pages", path.display());
            Ok(Some(content))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The resource manager whose mask fits a page, told by its special area. `None` for a page without content.
fn manager(page: &Page, block: u32) -> Option<u8> {
    const HASH_ID: u16 = 0xff80;
    const GIST_ID: u16 = 0xff81;
    const SPGIST_ID: u16 = 0xff82;
    const BLOOM_ID: u16 = 0xff83;
    const BRIN_IDS: std::ops::RangeInclusive<u16> = 0xf091..=0xf093;
    const SEQUENCE_MAGIC: u32 = 0x1717;
    let number = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let special = usize::from(number(16));
    let id = number(PAGE_SIZE - 2);
    match PAGE_SIZE.checked_sub(special)? {
        PAGE_SIZE => None,
        0 => Some(rmgr::HEAP),
        16 if id == HASH_ID => Some(rmgr::HASH),
        16 if id == GIST_ID => Some(rmgr::GIST),
        16 => Some(rmgr::BTREE),
        8 if id == SPGIST_ID => Some(rmgr::SPGIST),
        8 if id == BLOOM_ID => Some(rmgr::GENERIC),
        8 if BRIN_IDS.contains(&id) => Some(rmgr::BRIN),
        8 if block == 0 && page[special..special + 4] == SEQUENCE_MAGIC.to_le_bytes() => Some(rmgr::SEQ),
        8 => Some(rmgr::GIN),
        _ => Some(rmgr::GENERIC),
    }
}

fn dumped_file(ours: &Path, fork: RelFork) -> PathBuf {
    let Rel { spc, db, rel } = fork.rel;
    ours.join(format!("{spc}/{db}/{rel}{}", fork.fork.file_suffix()))
}

fn dumped_forks(ours: &Path) -> Result<BTreeSet<RelFork>> {
    let mut forks = BTreeSet::new();
    for (spc, folder) in numbered_folders(ours)? {
        for (db, folder) in numbered_folders(&folder)? {
            forks.extend(forks_in(&folder, spc, db)?);
        }
    }
    Ok(forks)
}

/// Forks of the default and the global tablespace; others are found by what was dumped.
fn cluster_forks(data: &Path) -> Result<BTreeSet<RelFork>> {
    let mut forks: BTreeSet<RelFork> = forks_in(&data.join("global"), 1664, 0)?;
    for (db, folder) in numbered_folders(&data.join("base"))? {
        forks.extend(forks_in(&folder, 1663, db)?);
    }
    Ok(forks)
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let read = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    read.map(|entry| {
        let path = entry?.path();
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path))
    })
    .collect()
}

fn numbered_folders(folder: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let numbered = |(name, path): (String, PathBuf)| Some((name.parse().ok()?, path));
    Ok(entries(folder)?.into_iter().filter_map(numbered).collect())
}

fn forks_in(folder: &Path, spc: u32, db: u32) -> Result<BTreeSet<RelFork>> {
    let fork = |name: &str| {
        let (rel, suffix) = name.find('_').map_or((name, ""), |at| name.split_at(at));
        let fork = Fork::ALL.into_iter().find(|fork| fork.file_suffix() == suffix)?;
        Some(Rel { spc, db, rel: rel.parse().ok()? }.fork(fork))
    };
    Ok(entries(folder)?.iter().filter_map(|(name, _)| fork(name)).collect())
}
