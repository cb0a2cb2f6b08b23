//! All pages that the WAL has built so far.

use std::collections::HashMap;

use wal_decoder::{
    key::{Fork, Page, Rel, RelFork},
    redo::PageRef,
};

/// Pages by fork and block; bounded by memory only.
#[derive(Default)]
pub(crate) struct Pages {
    forks: HashMap<RelFork, HashMap<u32, Box<Page>>>,
}

impl Pages {
    pub(crate) fn get(&self, at: PageRef) -> Option<&Page> {
        Some(self.forks.get(&at.rel)?.get(&at.block)?)
    }

    pub(crate) fn get_mut(&mut self, at: PageRef) -> Option<&mut Page> {
        Some(self.forks.get_mut(&at.rel)?.get_mut(&at.block)?)
    }

    /// All pages of one kind of fork.
    pub(crate) fn of_fork(&self, fork: Fork) -> impl Iterator<Item = (PageRef, &Page)> {
        let forks = self.forks.iter().filter(move |(rel, _)| rel.fork == fork);
        forks.flat_map(|(&rel, pages)| pages.iter().map(move |(&block, page)| (PageRef { rel, block }, &**page)))
    }

    pub(crate) fn put(&mut self, at: PageRef, page: &Page) -> &mut Page {
        let slot = self.forks.entry(at.rel).or_default().entry(at.block).or_insert_with(|| Box::new([0; 8192]));
        slot.copy_from_slice(page);
        slot
    }

    pub(crate) fn remove(&mut self, at: PageRef) {
        if let Some(pages) = self.forks.get_mut(&at.rel) {
            pages.remove(&at.block);
        }
    }

    /// Forgets a fork's pages from `blocks` on.
    pub(crate) fn truncate(&mut self, rel: RelFork, blocks: u32) {
        if let Some(pages) = self.forks.get_mut(&rel) {
            pages.retain(|&block, _| block < blocks);
        }
    }

    pub(crate) fn drop_where(&mut self, gone: impl Fn(Rel) -> bool) {
        self.forks.retain(|fork, _| !gone(fork.rel));
    }

    /// `CREATE DATABASE … STRATEGY file_copy`.
    pub(crate) fn copy_database(&mut self, (from_spc, from_db): (u32, u32), (spc, db): (u32, u32)) {
        let copies: Vec<_> = self
            .forks
            .iter()
            .filter(|(fork, _)| (fork.rel.spc, fork.rel.db) == (from_spc, from_db))
            .map(|(fork, pages)| (Rel { spc, db, rel: fork.rel.rel }.fork(fork.fork), pages.clone()))
            .collect();
        self.forks.extend(copies);
    }
}
