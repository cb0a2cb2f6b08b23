//! One compared page of each kind that WAL makes, for the tests of the checker itself.

use anyhow::Result;
use ogel_ids::Lsn;
use std::{collections::BTreeMap, io::Write};
use wal_decoder::{
    key::{Fork, Page},
    redo::PageRef,
    v17::rmgr,
};

/// A page as redo and PostgreSQL made it, not masked.
#[derive(Debug)]
pub struct ComparedPage {
    /// Start of the record after which it was compared.
    pub start: Lsn,
    /// Its manager.
    pub rmid: u8,
    /// The page's id in it.
    pub block_id: u8,
    /// Where the page is.
    pub at: PageRef,
    /// Redo's page.
    pub ours: Page,
    /// PostgreSQL's.
    pub theirs: Page,
}

/// The last compared page of each kind.
#[derive(Debug, Default)]
pub struct PageKinds {
    pages: BTreeMap<Kind, ComparedPage>,
}

/// Manager, fork, and for pages of an index the flags in their special area; heap pages differ by the kind of record instead.
type Kind = (u8, u8, u16);

impl PageKinds {
    pub(crate) fn add(&mut self, info: u8, page: ComparedPage) {
        self.pages.insert((page.rmid, page.at.rel.fork as u8, variety(info, &page)), page);
    }

    /// In the order of the WAL.
    pub fn pages(&self) -> Vec<&ComparedPage> {
        let mut pages: Vec<_> = self.pages.values().collect();
        pages.sort_by_key(|page| (page.start, page.block_id));
        pages
    }

    /// For each page: LSN u64, block u32, manager u8, block id u8, fork u8, one byte 0, and redo's page; little-endian.
    pub fn write(&self, output: &mut impl Write) -> Result<()> {
        for page in self.pages() {
            output.write_all(&page.start.0.to_le_bytes())?;
            output.write_all(&page.at.block.to_le_bytes())?;
            output.write_all(&[page.rmid, page.block_id, page.at.rel.fork as u8, 0])?;
            output.write_all(&page.ours)?;
        }
        Ok(output.flush()?)
    }
}

fn variety(info: u8, page: &ComparedPage) -> u16 {
    let flags_at = match page.rmid {
        _ if page.at.rel.fork != Fork::Main => return u16::from(info),
        rmgr::BTREE | rmgr::HASH | rmgr::GIST => 8188,
        rmgr::GIN | rmgr::BRIN => 8190,
        rmgr::SPGIST => 8184,
        // The only extension with generic records in the corpora is bloom.
        rmgr::GENERIC => 8186,
        _ => return u16::from(info),
    };
    u16::from_le_bytes([page.ours[flags_at], page.ours[flags_at + 1]])
}
