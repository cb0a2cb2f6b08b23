//! The comparison of one page: what [`Checker`](crate::Checker) does with each, and what its own tests flip bits under.

use wal_decoder::{
    key::Page,
    redo::{
        PageRef,
        mask::{Strictness, mask},
    },
};

/// Masks both versions that a record of manager `rmid` left of a page, and returns the first offset at which they differ then.
pub fn mask_and_compare(
    ours: &mut Page,
    theirs: &mut Page,
    rmid: u8,
    at: PageRef,
    strictness: Strictness,
) -> Option<usize> {
    mask(ours, rmid, at, strictness);
    mask(theirs, rmid, at, strictness);
    first_difference(ours, theirs)
}

/// First offset at which two pages differ.
pub(crate) fn first_difference(ours: &Page, theirs: &Page) -> Option<usize> {
    const PIECE: usize = 64;
    let piece = ours.chunks(PIECE).zip(theirs.chunks(PIECE)).position(|(a, b)| a != b)? * PIECE;
    (piece..piece + PIECE).find(|&at| ours[at] != theirs[at])
}
