//! The checker is checked: every bit of a redone page of each kind is flipped, one at a time. It must report exactly the flips that
//! PostgreSQL finds when its `rm_mask` masks the page; `data/found_flips.txt` holds PostgreSQL's answers.
//!
//! A line is: sample, start of the record, manager, block id, fork; runs of bytes as count*bits, where bit n says that the flipped bit n of
//! the byte is found, and bit 8 that the byte with all its bits flipped is. `test_runner/tests/test_walcheck.py` compares the file with
//! PostgreSQL, and writes it.

mod sample;

use ogel_ids::Lsn;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use wal_decoder::{
    checkpoint_state::CheckpointState,
    effect::{Effect, Version},
    interpret::Interpreter,
    key::{Fork, PAGE_SIZE, Page},
    record::ParsedRecord,
    redo::{self, PageRef, mask::Strictness},
    v17::rmgr,
};
use walcheck::{Checker, ComparedPage, Options, PageKinds, Range, mask_and_compare};

/// LSN and checksum: all that is masked of a visibility map page, and of pages of managers without a mask.
const UNCOMPARED: usize = 10;
const ALL: u16 = 0x1ff;
const POSTGRESQLS: Strictness = Strictness { command_ids: false };

type Place = (String, Lsn, u8, u8, u8);

fn found_by_postgresql() -> BTreeMap<Place, Vec<u16>> {
    let text = include_str!("data/found_flips.txt");
    text.lines()
        .map(|line| {
            let (place, runs) = line.split_once(": ").expect("place: runs");
            let fields: Vec<_> = place.split(' ').collect();
            let number = |at: usize| fields[at].parse().expect("a number");
            let lsn = fields[1].parse().expect("an LSN");
            let found = runs.split(' ').flat_map(|run| {
                let (count, bits) = run.split_once('*').expect("count*bits");
                let bits = u16::from_str_radix(bits, 16).expect("hex");
                std::iter::repeat_n(bits, count.parse().expect("a count"))
            });
            ((fields[0].to_owned(), lsn, number(2), number(3), number(4)), found.collect())
        })
        .collect()
}

fn checked(name: &str) -> Checker {
    let mut checker = Checker::new(Options { strictness: POSTGRESQLS });
    checker.keep_page_kinds();
    let wal = sample::read(name);
    let _end = walcheck::check(&mut checker, &mut sample::decoder(&wal), Range::EVERYTHING).expect("readable WAL");
    assert_eq!(checker.report().difference_count, 0, "{}", checker.report());
    checker
}

fn kinds(checker: &Checker) -> &PageKinds {
    checker.page_kinds().expect("it was told to keep them")
}

/// For each byte, which flips of it the checker finds.
fn found_by_checker(page: &ComparedPage, strictness: Strictness) -> Vec<u16> {
    let finds = |at: usize, flip: u8| {
        let (mut ours, mut theirs) = (page.ours, page.theirs);
        ours[at] ^= flip;
        mask_and_compare(&mut ours, &mut theirs, page.rmid, page.at, strictness).is_some()
    };
    let byte =
        |at: usize| (0..9).filter(|&bit| finds(at, if bit < 8 { 1 << bit } else { 0xff })).map(|bit| 1 << bit).sum();
    (0..PAGE_SIZE).map(byte).collect()
}

fn expected_bits(page: &ComparedPage, postgresql: &[u16]) -> Vec<u16> {
    // Stricter than PostgreSQL, which blanks the map; see `redo::mask`.
    if page.at.rel.fork == Fork::VisibilityMap {
        return (0..PAGE_SIZE).map(|at| if at < UNCOMPARED { 0 } else { ALL }).collect();
    }
    postgresql.to_vec()
}

#[track_caller]
fn every_flip_of(name: &str, managers: &[u8]) {
    let expected = found_by_postgresql();
    let checker = checked(name);
    let mut seen = BTreeSet::new();
    for page in kinds(&checker).pages() {
        let place = (name.to_owned(), page.start, page.rmid, page.block_id, page.at.rel.fork as u8);
        let postgresql = expected.get(&place).unwrap_or_else(|| panic!("found_flips.txt does not have {place:?}"));
        let expected = expected_bits(page, postgresql);
        let found = found_by_checker(page, POSTGRESQLS);
        if let Some(at) = (0..PAGE_SIZE).find(|&at| found[at] != expected[at]) {
            panic!("{place:?}, byte {at}: found {:#05x}, PostgreSQL finds {:#05x}", found[at], expected[at]);
        }
        assert!(found.iter().filter(|&&bits| bits == ALL).count() > 4, "{place:?}: hardly anything is compared");
        seen.insert(page.rmid);
    }
    assert!(managers.iter().all(|rmid| seen.contains(rmid)), "pages of {seen:?} only");
}

#[test]
fn every_flipped_bit_of_heap_btree_and_sequence_pages_is_found_unless_postgresql_masks_it() {
    every_flip_of("heap_btree", &[rmgr::HEAP, rmgr::HEAP2, rmgr::BTREE, rmgr::SEQ]);
}

#[test]
fn every_flipped_bit_of_index_pages_is_found_unless_postgresql_masks_it() {
    every_flip_of("index", &[rmgr::HASH, rmgr::GIN, rmgr::GIST, rmgr::SPGIST, rmgr::BRIN, rmgr::GENERIC]);
    every_flip_of("gin_deleted_page", &[rmgr::GIN]);
}

/// With command ids compared, the checker finds more on heap pages: the ids and the bits that belong to them.
#[test]
fn flipped_command_ids_are_found_in_wal_that_carries_them() {
    let checker = checked("heap_btree");
    for page in
        kinds(&checker).pages().into_iter().filter(|page| page.rmid == rmgr::HEAP && page.at.rel.fork == Fork::Main)
    {
        let (lax, strict) =
            (found_by_checker(page, POSTGRESQLS), found_by_checker(page, Strictness { command_ids: true }));
        let more = lax.iter().zip(&strict).filter(|(lax, strict)| lax != strict).count();
        assert!(lax.iter().zip(&strict).all(|(lax, strict)| lax & !strict == 0), "strict comparison misses a flip");
        let tuples = usize::from(u16::from_le_bytes([page.ours[12], page.ours[13]]) - 24) / 4;
        // Four bytes of command id a tuple, and the byte of the combo bit; dead line pointers have no tuple.
        assert!(more > 0 && more <= 5 * tuples, "{more} bytes more of {tuples} tuples");
    }
}

/// A record whose page the WAL's last image of that page replaced, and that image.
struct AfterImage {
    at: PageRef,
    image: Page,
    delta: Vec<u8>,
    end: Lsn,
    theirs: Page,
    rmid: u8,
}

impl AfterImage {
    /// Offsets of the image's bytes before and behind the hole.
    fn content(&self) -> impl Iterator<Item = usize> {
        let field = |at: usize| usize::from(u16::from_le_bytes([self.image[at], self.image[at + 1]]));
        (0..field(12)).chain(field(14)..PAGE_SIZE)
    }
}

/// For each manager, a page that an applied image replaced and the next record, which is compared: the fullest page.
fn records_after_images(name: &str) -> Vec<AfterImage> {
    let wal = sample::read(name);
    let mut decoder = sample::decoder(&wal);
    let mut interpreter = Interpreter::new(CheckpointState::default());
    let mut images: HashMap<PageRef, Page> = HashMap::new();
    let mut found: BTreeMap<u8, AfterImage> = BTreeMap::new();
    while let Ok(Some(record)) = decoder.next_record() {
        let parsed = ParsedRecord::parse(&record.bytes).expect("record");
        let mut sink = |effect: Effect<'_>| {
            let Effect::Page { rel, block, version, .. } = effect else { return };
            let at = PageRef { rel, block };
            match version {
                Version::Image(page) => {
                    images.insert(at, *page);
                }
                Version::Delta { bytes, will_init } => {
                    let Some(image) = images.remove(&at).filter(|_| !will_init) else { return };
                    let tag = parsed.blocks().iter().find(|tag| tag.rel == rel && tag.block == block);
                    let Some(compared) = tag.and_then(|tag| tag.image()) else { return };
                    let mut theirs = [0; PAGE_SIZE];
                    parsed.restore_image(&compared, &mut theirs).expect("image");
                    let delta = bytes.to_vec();
                    found.insert(
                        parsed.rmid,
                        AfterImage { at, image, delta, end: record.end, theirs, rmid: parsed.rmid },
                    );
                }
            }
        };
        interpreter.interpret(&record, &mut sink).expect("the sample is good");
    }
    found.into_values().collect()
}

/// An image that replaces a page (`XLOG/FPI`, and of records that log one instead of a change) is compared with nothing itself. A wrong byte
/// of it is found at the page's next record: redo refuses the page, or makes another one than PostgreSQL did. Only what that record
/// overwrites is right again.
#[test]
fn every_wrong_byte_of_an_image_is_found_at_the_next_record_of_its_page() {
    let masked = |after: &AfterImage, page: &Page, at: usize, flip: u8| {
        let (mut flipped, mut page) = (*page, *page);
        flipped[at] ^= flip;
        mask_and_compare(&mut flipped, &mut page, after.rmid, after.at, POSTGRESQLS).is_none()
    };
    let mut managers = BTreeMap::new();
    for after in ["heap_btree", "index", "gin_deleted_page"].into_iter().flat_map(records_after_images) {
        let redone = |image: &Page| {
            let mut page = *image;
            redo::apply(&mut page, &after.delta, after.at, after.end).map(|()| page)
        };
        let right = redone(&after.image).expect("redo");
        for at in after.content() {
            for flip in [0xff, 1 << (at % 8)] {
                let mut wrong = after.image;
                wrong[at] ^= flip;
                if masked(&after, &after.image, at, flip) || redone(&wrong).is_ok_and(|page| page == right) {
                    continue;
                }
                let found = redone(&wrong).map_or(true, |mut page| {
                    mask_and_compare(&mut page, &mut { after.theirs }, after.rmid, after.at, POSTGRESQLS).is_some()
                });
                assert!(found, "manager {}, byte {at} ^ {flip:#x} of the image at {:?}", after.rmid, after.at);
                *managers.entry(after.rmid).or_insert(0) += 1;
            }
        }
    }
    let hardly_any = managers.iter().any(|(_, &flips)| flips < 30);
    assert!(managers.len() >= 5 && !hardly_any, "images of these managers, so many flips: {managers:?}");
}
