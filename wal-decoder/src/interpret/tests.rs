//! Hand-built records, one per trap. Each test says what a user would lose.

use super::*;
use crate::{
    delta::DeltaView,
    effect::Version,
    key::{Fork, Rel, RelFork},
    v17::rmgr::{heap, heap2, multixact, smgr, xact, xlog},
};

mod build;
mod metadata;
use build::{Build, le};

const REL: Rel = Rel { spc: 1663, db: 5, rel: 16384 };
const MAP_PAGE: u32 = 32_672;

fn state() -> CheckpointState {
    let mut state = CheckpointState::default();
    state.checkpoint.next_xid = 1000;
    state.checkpoint.oldest_xid = 700;
    state.checkpoint.next_multi = 10;
    state.checkpoint.oldest_multi = 1;
    state
}

fn name(rel: RelFork) -> &'static str {
    assert_eq!(rel.rel, REL);
    ["main", "fsm", "vm", "init"][rel.fork as usize]
}

fn show(effect: Effect<'_>) -> String {
    fn version(version: Version<'_>) -> String {
        match version {
            Version::Image(page) if page.iter().all(|byte| *byte == 0) => "zeros".into(),
            Version::Image(page) => format!("image lsn {:?}", &page[..8]),
            Version::Delta { bytes, will_init } => {
                let init = if will_init { " init" } else { "" };
                match DeltaView::parse(bytes).expect("our own delta") {
                    DeltaView::Record(record) => format!(
                        "record block {} main {:?} data {:?}{init}",
                        record.page_block_id, record.main_data, record.block_data
                    ),
                    DeltaView::VmClear(clear) => format!("clear {:?}", clear.entries().collect::<Vec<_>>()),
                    DeltaView::VmCut { keep_heap_blocks } => format!("keep {keep_heap_blocks}"),
                    DeltaView::FsmCut { keep_slots } => format!("keep {keep_slots}"),
                    DeltaView::ClogStatus(status) => {
                        format!("status {} of {:?}", status.status, status.entries().collect::<Vec<_>>())
                    }
                    DeltaView::MultixactOffsets(offsets) => format!("{:?}", offsets.entries().collect::<Vec<_>>()),
                    DeltaView::MultixactMembers(members) => {
                        format!("from {} {:?}", members.first_index, members.entries().collect::<Vec<_>>())
                    }
                    DeltaView::CommitTs(ts) => {
                        format!("at {} origin {} of {:?}", ts.at_us, ts.origin, ts.entries().collect::<Vec<_>>())
                    }
                    DeltaView::Zero => "zero".into(),
                }
            }
        }
    }
    match effect {
        Effect::Page { rel, block, version: new, only_existing } => {
            let existing = if only_existing { " if there" } else { "" };
            format!("{} {block}{existing}: {}", name(rel), version(new))
        }
        Effect::Slru { kind, page, version: new } => format!("{kind:?} {page}: {}", version(new)),
        Effect::RelTruncate { rel, blocks } => format!("truncate {} to {blocks}", name(rel)),
        Effect::RelCreate { rel } => format!("create {}", name(rel)),
        other => format!("{other:?}"),
    }
}

fn try_run(state: &mut CheckpointState, record: &Build) -> Result<Vec<String>, InterpretErrorKind> {
    let mut interpreter = Interpreter::new(state.clone());
    let mut effects = Vec::new();
    let mut sink = |effect: Effect<'_>| effects.push(show(effect));
    interpreter
        .interpret_bytes(Lsn(0x100), Lsn(0x1_0000_0200), &record.encode(), &mut sink)
        .map_err(|error| error.kind)?;
    *state = interpreter.state;
    Ok(effects)
}

fn run(state: &mut CheckpointState, record: &Build) -> Vec<String> {
    try_run(state, record).expect("a sound record")
}

fn main_of(rel: Rel) -> RelFork {
    rel.fork(Fork::Main)
}

fn map_of(rel: Rel) -> RelFork {
    rel.fork(Fork::VisibilityMap)
}

/// An image that is there for comparison would overwrite the page with what redo has not made yet.
#[test]
fn an_image_without_apply_is_no_page_content() {
    let record = |apply| {
        Build::new(rmgr::HEAP, heap::INSERT).main(&[1, 0, 0]).block_with_image(0, main_of(REL), 3, apply, b"tuple")
    };
    let effects = run(&mut state(), &record(false));
    assert_eq!(effects, ["main 3: record block 0 main [1, 0, 0] data [116, 117, 112, 108, 101]"]);
    // High half first, then low half: the record's end.
    assert_eq!(run(&mut state(), &record(true)), ["main 3: image lsn [1, 0, 0, 0, 0, 2, 0, 0]"]);
}

#[test]
fn a_hint_record_without_image_is_lawful_and_an_fpi_without_one_is_not() {
    let hint = Build::new(rmgr::XLOG, xlog::FPI_FOR_HINT).block(0, main_of(REL), 3, b"");
    assert_eq!(run(&mut state(), &hint), [""; 0]);
    let fpi = Build::new(rmgr::XLOG, xlog::FPI).block(0, main_of(REL), 3, b"");
    assert!(try_run(&mut state(), &fpi).is_err());
    let several = Build::new(rmgr::XLOG, xlog::FPI).block_with_image(0, main_of(REL), 3, true, b"").block_with_image(
        1,
        main_of(REL),
        4,
        true,
        b"",
    );
    assert_eq!(run(&mut state(), &several).len(), 2);
}

/// A stale all-visible bit makes index-only scans return deleted rows.
#[test]
fn map_bits_are_cleared_in_the_form_of_older_minor_versions() {
    let insert = Build::new(rmgr::HEAP, heap::INSERT).main(&[1, 0, 1]).block(0, main_of(REL), MAP_PAGE + 7, b"t");
    assert_eq!(run(&mut state(), &insert)[1], "vm 1 if there: clear [(7, 3)]");
    let delete = Build::new(rmgr::HEAP, heap::DELETE).main(&[0, 0, 0, 0, 1, 0, 0, 1]).block(0, main_of(REL), 7, b"");
    assert_eq!(run(&mut state(), &delete)[1], "vm 0 if there: clear [(7, 3)]");
    let multi = Build::new(rmgr::HEAP2, heap2::MULTI_INSERT).main(&[1, 0, 0, 0]).block(0, main_of(REL), 7, b"t");
    assert_eq!(run(&mut state(), &multi)[1], "vm 0 if there: clear [(7, 3)]");
    for (rmid, info) in [(rmgr::HEAP, heap::LOCK), (rmgr::HEAP2, heap2::LOCK_UPDATED)] {
        let lock = Build::new(rmid, info).main(&[0, 0, 0, 0, 1, 0, 0, 1]).block(0, main_of(REL), 7, b"");
        assert_eq!(run(&mut state(), &lock)[1], "vm 0 if there: clear [(7, 2)]", "only all-frozen goes");
        let lock = Build::new(rmid, info).main(&[0, 0, 0, 0, 1, 0, 0, 0]).block(0, main_of(REL), 7, b"");
        assert_eq!(run(&mut state(), &lock).len(), 1);
    }
}

fn update(flags: u8) -> Build {
    let mut main = [0; 14];
    main[7] = flags;
    Build::new(rmgr::HEAP, heap::UPDATE).main(&main)
}

#[test]
fn an_update_clears_the_bits_of_both_pages_on_one_or_two_map_pages() {
    let two = update(3).block(0, main_of(REL), MAP_PAGE, b"t").block(1, main_of(REL), 5, b"");
    let effects = run(&mut state(), &two);
    assert_eq!(effects[2..], ["vm 1 if there: clear [(0, 3)]", "vm 0 if there: clear [(5, 3)]"]);
    let one = update(3).block(0, main_of(REL), 6, b"t").block(1, main_of(REL), 5, b"");
    assert_eq!(run(&mut state(), &one)[2..], ["vm 0 if there: clear [(6, 3), (5, 3)]"]);
    let same_block = update(3).block(0, main_of(REL), 6, b"t");
    assert_eq!(run(&mut state(), &same_block)[1..], ["vm 0 if there: clear [(6, 3)]"]);
    let old_only = update(1).block(0, main_of(REL), 6, b"t").block(1, main_of(REL), 5, b"");
    assert_eq!(run(&mut state(), &old_only)[2..], ["vm 0 if there: clear [(5, 3)]"]);
}

/// Since 17.11 the last block reference is a map page: taking it for the old heap block would damage both.
#[test]
fn map_pages_that_are_block_references_are_found_by_id() {
    let insert = Build::new(rmgr::HEAP, heap::INSERT).main(&[1, 0, 1]).block(0, main_of(REL), 7, b"t").block(
        1,
        map_of(REL),
        0,
        b"",
    );
    assert_eq!(run(&mut state(), &insert)[1..], ["vm 0: clear [(7, 3)]"]);
    // One map page, registered as the new block's, covers the old block too.
    let shared = update(3).block(0, main_of(REL), 6, b"t").block(1, main_of(REL), 5, b"").block(2, map_of(REL), 0, b"");
    assert_eq!(run(&mut state(), &shared)[2..], ["vm 0: clear [(6, 3), (5, 3)]"]);
    let both = update(3)
        .block(0, main_of(REL), MAP_PAGE + 1, b"t")
        .block(1, main_of(REL), 5, b"")
        .block(2, map_of(REL), 1, b"")
        .block(3, map_of(REL), 0, b"");
    assert_eq!(run(&mut state(), &both)[2..], ["vm 1: clear [(1, 3)]", "vm 0: clear [(5, 3)]"]);
    let image = Build::new(rmgr::HEAP, heap::INSERT).main(&[1, 0, 1]).block(0, main_of(REL), 7, b"t").block_with_image(
        1,
        map_of(REL),
        0,
        true,
        b"",
    );
    assert_eq!(run(&mut state(), &image)[1..], ["vm 0: image lsn [1, 0, 0, 0, 0, 2, 0, 0]"], "one version per page");
}

#[test]
fn setting_map_bits_is_a_version_of_the_heap_page_too() {
    let visible = Build::new(rmgr::HEAP2, heap2::VISIBLE).main(&[0, 0, 0, 0, 3]).block(0, map_of(REL), 0, b"").block(
        1,
        main_of(REL),
        7,
        b"",
    );
    let effects = run(&mut state(), &visible);
    assert_eq!(effects.len(), 2);
    assert!(effects[0].starts_with("vm 0: record block 0") && effects[1].starts_with("main 7: record block 1"));
}

/// The old tuple may be megabytes; the command ids behind it are what a cursor sees its own rows by.
#[test]
fn logged_old_tuples_stay_out_of_deltas_and_command_ids_stay_in() {
    let mut main = vec![1, 0, 0, 0, 2, 0, 0, 0x82];
    main.extend_from_slice(&[99; 500]);
    main.extend_from_slice(&[7, 8, 9, 10]);
    let delete = Build::new(rmgr::HEAP, heap::DELETE).main(&main).block(0, main_of(REL), 7, b"");
    let expected = "main 7: record block 0 main [1, 0, 0, 0, 2, 0, 0, 130, 7, 8, 9, 10] data []";
    assert_eq!(run(&mut state(), &delete), [expected]);
    let update = update(0x80).block(0, main_of(REL), 7, b"t");
    assert!(try_run(&mut state(), &update).is_err(), "announced command ids are missing");
}

#[test]
fn logical_decoding_records_have_no_effects() {
    for (rmid, info) in [
        (rmgr::HEAP, heap::TRUNCATE),
        (rmgr::HEAP2, heap2::NEW_CID),
        (rmgr::HEAP2, heap2::REWRITE),
        (rmgr::LOGICALMSG, 0),
        (rmgr::XACT, xact::INVALIDATIONS),
        (rmgr::STANDBY, 0),
        (rmgr::STANDBY, 0x20),
        (rmgr::TBLSPC, 0),
        (rmgr::XLOG, xlog::SWITCH),
        (rmgr::XLOG, xlog::NOOP),
        (rmgr::XLOG, xlog::RESTORE_POINT),
        (rmgr::XLOG, xlog::BACKUP_END),
        (rmgr::XLOG, xlog::OVERWRITE_CONTRECORD),
        (rmgr::XLOG, xlog::CHECKPOINT_REDO),
    ] {
        assert_eq!(run(&mut state(), &Build::new(rmid, info).main(&[0; 64])), [""; 0], "{rmid} {info:#x}");
    }
}

#[test]
fn what_is_unknown_stops_ingest_and_names_the_record() {
    for (rmid, info) in [(22, 0), (128, 0), (255, 0)] {
        assert_eq!(try_run(&mut state(), &Build::new(rmid, info)), Err(InterpretErrorKind::UnknownManager));
    }
    for (rmid, info) in [
        (rmgr::XLOG, 0xf0),
        (rmgr::XLOG, 0xc0),
        (rmgr::XACT, 0x70),
        (rmgr::SMGR, 0),
        (rmgr::CLOG, 0x20),
        (rmgr::DBASE, 0x30),
        (rmgr::TBLSPC, 0x20),
        (rmgr::MULTIXACT, 0x40),
        (rmgr::RELMAP, 0x10),
        (rmgr::STANDBY, 0x30),
        (rmgr::BTREE, 0xf0),
        (rmgr::HASH, 0xd0),
        (rmgr::GIN, 0),
        (rmgr::GIST, 0x40),
        (rmgr::SEQ, 0x10),
        (rmgr::SPGIST, 0),
        (rmgr::BRIN, 0x60),
        (rmgr::COMMIT_TS, 0x20),
        (rmgr::REPLORIGIN, 0x20),
        (rmgr::GENERIC, 0x10),
        (rmgr::LOGICALMSG, 0x10),
    ] {
        let error = try_run(&mut state(), &Build::new(rmid, info).main(&[0; 64]));
        assert_eq!(error, Err(InterpretErrorKind::UnknownInfo), "{} {info:#x}", rmgr::name(rmid));
    }
    let error = Interpreter::new(state())
        .interpret_bytes(Lsn(0x100), Lsn(0x200), &Build::new(140, 0).encode(), &mut |_: Effect<'_>| {})
        .expect_err("an extension's manager");
    assert!(error.to_string().contains("0/100") && error.to_string().contains("140"), "{error}");
}

/// A next transaction id that is too low makes index insertions wait for a "future" transaction for ever.
#[test]
fn next_xid_is_beyond_every_id_in_the_wal() {
    let mut seen = state();
    run(&mut seen, &Build::new(rmgr::TBLSPC, 0).xid(1500).toplevel(1600));
    assert_eq!(seen.checkpoint.next_xid, 1601);
    let main = [&le(&[0u32, 0]), &le(&[2u32, 2, 1700, 1800])[..]].concat();
    run(&mut seen, &Build::new(rmgr::XACT, xact::COMMIT | xact::HAS_INFO).xid(1650).main(&main));
    assert_eq!(seen.checkpoint.next_xid, 1801, "subtransactions of a commit");
    run(&mut seen, &Build::new(rmgr::XACT, xact::ASSIGNMENT).main(&le(&[1900u32, 1, 1950])));
    assert_eq!(seen.checkpoint.next_xid, 1951);
    run(&mut seen, &Build::new(rmgr::STANDBY, 0x10).main(&le(&[0u32, 0, 0, 2000, 1960, 1999])));
    assert_eq!(seen.checkpoint.next_xid, 2000);
    assert_eq!(seen.checkpoint.oldest_active_xid, 1960);
    run(&mut seen, &Build::new(rmgr::TBLSPC, 0).xid(1400));
    assert_eq!(seen.checkpoint.next_xid, 2000, "never backwards");
}

#[test]
fn next_xid_wraps_into_the_next_epoch_and_skips_the_special_ids() {
    let mut seen = state();
    seen.checkpoint.next_xid = 0xffff_fff0;
    run(&mut seen, &Build::new(rmgr::TBLSPC, 0).xid(u32::MAX));
    assert_eq!(seen.checkpoint.next_xid, 0x1_0000_0003);
    run(&mut seen, &Build::new(rmgr::TBLSPC, 0).xid(0xffff_fff8));
    assert_eq!(seen.checkpoint.next_xid, 0x1_0000_0003, "of the epoch before");
    assert_eq!(seen.full_xid(2_000_000_000), 2_000_000_000, "of the epoch before");
}
