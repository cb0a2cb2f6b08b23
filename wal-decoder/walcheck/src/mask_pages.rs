//! `walcheck --mask RMID`: masks pages, so that a test can compare the masks with PostgreSQL's `rm_mask` functions.

use anyhow::{Context, Result};
use std::io::{ErrorKind, Read, Write};
use wal_decoder::{
    key::{Fork, PAGE_SIZE, Rel},
    redo::{
        PageRef,
        mask::{Strictness, mask},
    },
};

/// Reads pages, each behind its block number (u32, little-endian), up to the end of `input`, and writes them masked, without the numbers.
pub fn mask_pages(rmid: u8, input: &mut impl Read, output: &mut impl Write) -> Result<()> {
    let rel = Rel { spc: 1663, db: 1, rel: 1 }.fork(Fork::Main);
    loop {
        let mut block = [0; 4];
        match input.read_exact(&mut block) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(output.flush()?),
            read => read?,
        }
        let mut page = [0; PAGE_SIZE];
        input.read_exact(&mut page).context("the input ends within a page")?;
        let at = PageRef { rel, block: u32::from_le_bytes(block) };
        mask(&mut page, rmid, at, Strictness { command_ids: false });
        output.write_all(&page)?;
    }
}
