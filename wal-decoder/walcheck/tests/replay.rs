//! The checked-in WAL samples must replay without a difference, and reach every
//! record kind that they are there for.

mod sample;

use wal_decoder::{
    record::{BlockRef, ParsedRecord},
    redo::mask::Strictness,
    stream::Record,
};
use walcheck::{Checker, Options, Range, Report};

fn checker() -> Checker {
    Checker::new(Options { strictness: Strictness { command_ids: true } })
}

fn assert_equal_and_reached(report: &Report, managers: &[&str]) {
    assert_eq!((report.difference_count, report.not_implemented), (0, 0), "{report}");
    let unreached: Vec<_> =
        report.unreached_page_kinds().filter(|kind| managers.iter().any(|manager| kind.starts_with(manager))).collect();
    assert!(unreached.is_empty(), "no page was compared after {unreached:?}");
}

#[test]
fn heap_btree_and_sequence_pages_are_what_postgresql_made_of_them() {
    let wal = sample::read("heap_btree");
    let mut checker = checker();
    let _end = walcheck::check(&mut checker, &mut sample::decoder(&wal), Range::EVERYTHING).expect("readable WAL");
    assert!(checker.report().compared > 5000, "{}", checker.report());
    assert_equal_and_reached(checker.report(), &["Heap", "Btree", "Sequence"]);
}

#[test]
fn index_pages_are_what_postgresql_made_of_them() {
    let wal = sample::read("index");
    let mut checker = checker();
    let _end = walcheck::check(&mut checker, &mut sample::decoder(&wal), Range::EVERYTHING).expect("readable WAL");
    let report = checker.report();
    assert!(report.compared > 2000, "{report}");
    assert_eq!((report.difference_count, report.not_implemented), (0, 0), "{report}");
    // These take more WAL than is worth a checked-in file; the regression suite and `coverage/gin_posting_tree.sql` reach them.
    let elsewhere = ["Hash/MOVE_PAGE_CONTENTS", "Gin/DELETE_PAGE", "BRIN/UPDATE"];
    let managers = ["Hash", "Gin", "Gist", "SPGist", "BRIN", "Generic"];
    let unreached: Vec<_> = report
        .unreached_page_kinds()
        .filter(|kind| managers.iter().any(|manager| kind.starts_with(manager)) && !elsewhere.contains(&kind.as_str()))
        .collect();
    assert!(unreached.is_empty(), "no page was compared after {unreached:?}");
}

/// Changes a byte of a comparison image; the checker must say so. The image's first bytes are the LSN, which is masked.
#[test]
fn a_changed_byte_is_noticed() {
    let wal = sample::read("heap_btree");
    let mut decoder = sample::decoder(&wal);
    let mut checker = checker();
    let mut changed = 0;
    let mut masked = 0;
    while let Ok(Some(record)) = decoder.next_record() {
        let expected = checker.report().difference_count;
        let Some((bytes, is_masked)) = with_changed_image(&record, changed + masked) else {
            checker.record(record.start, record.end, &record.bytes).expect("record");
            assert_eq!(checker.report().difference_count, expected, "{}", checker.report());
            continue;
        };
        checker.record(record.start, record.end, &bytes).expect("record");
        if is_masked {
            masked += 1;
            assert_eq!(checker.report().difference_count, expected);
        } else {
            changed += 1;
            assert_eq!(
                checker.report().difference_count,
                expected + 1,
                "a changed byte was not noticed at {}",
                record.start
            );
        }
        if changed + masked == 20 {
            return;
        }
        // The checker goes on from the changed image: begin anew with an unharmed page set.
        checker = self::checker();
    }
    panic!("too few records to change: {changed} and {masked}");
}

/// The record with one byte of its first block's image changed: alternately the special size field (compared) and the checksum (masked).
/// Only of records whose page is initialised by them, so that there is something to compare with.
fn with_changed_image(record: &Record, turn: u64) -> Option<(Vec<u8>, bool)> {
    let parsed = ParsedRecord::parse(&record.bytes).expect("record");
    let is_checked = |block: &&BlockRef| block.will_init() && block.image().is_some_and(|image| !image.apply);
    let image = parsed.blocks().iter().find(is_checked)?.image()?;
    let offset = parsed.image_bytes(&image).as_ptr() as usize - record.bytes.as_ptr() as usize;
    let masked = turn % 2 == 1;
    let mut bytes = record.bytes.to_vec();
    bytes[offset + if masked { 8 } else { 18 }] ^= 0x10;
    Some((bytes, masked))
}
