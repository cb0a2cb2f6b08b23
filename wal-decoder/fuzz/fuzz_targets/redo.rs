//! An arbitrary page and an arbitrary delta. Input: fork u8, block u32, page, delta.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ogel_ids::Lsn;
use wal_decoder::{
    key::{Fork, PAGE_SIZE, Page, Rel, SlruKind},
    redo::{self, PageRef, mask},
};

fuzz_target!(|input: &[u8]| {
    let Some(([fork, block @ ..], rest)) = input.split_first_chunk::<5>() else { return };
    let Some((page, delta)) = rest.split_first_chunk::<PAGE_SIZE>() else { return };
    let rel = Rel { spc: 1663, db: 5, rel: 16_384 }.fork(Fork::from_number(fork & 3).unwrap_or(Fork::Main));
    let at = PageRef { rel, block: u32::from_le_bytes(*block) };
    let mut changed: Page = *page;
    let _ = redo::apply(&mut changed, delta, at, Lsn(0x2000));
    // A damaged page may be compared, too.
    for rmid in 9..=20 {
        mask::mask(&mut changed.clone(), rmid, at, mask::Strictness::default());
    }
    if let Some(kind) = SlruKind::from_number(fork & 3) {
        let _ = redo::apply_slru(kind, &mut changed, delta);
    }
});
