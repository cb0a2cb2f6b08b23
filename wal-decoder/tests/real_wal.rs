//! A stock cluster's WAL: what we decode is what PostgreSQL's own `pg_waldump` decodes, and the state that we follow is the one that the
//! cluster itself wrote down when it stopped. See `data/README.md`.

#![allow(clippy::disallowed_methods)] // The crate does no I/O; its tests read their samples.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use ogel_ids::Lsn;
use wal_decoder::{
    checkpoint_state::CheckpointState,
    control_file::{ControlFile, DbState},
    delta::DeltaView,
    effect::{Effect, Version},
    interpret::Interpreter,
    key::{Fork, SlruKind},
    record::ParsedRecord,
    stream::{Record, StreamDecoder},
    v17::rmgr,
    writer::{AppendAt, rewrite_system_identifier, shutdown_checkpoint},
};

const SEGMENT: u32 = 1 << 20;
const START: Lsn = Lsn(0x60_0000);

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn unpacked(name: &str) -> Vec<u8> {
    zstd::decode_all(&file(name)[..]).expect("a zstd file")
}

fn wal() -> Vec<u8> {
    unpacked("pg17_segments_1mib_from_0-600000.wal.zst")
}

fn control(name: &str) -> ControlFile {
    ControlFile::parse(&file(name)).expect("PostgreSQL's own control file")
}

fn decode(wal: &[u8], chunk: usize) -> Vec<Record> {
    let system_id = control("pg_control.shutdown").system_identifier;
    let mut decoder = StreamDecoder::new(START, SEGMENT, Some(system_id)).expect("a segment's start");
    let mut records = Vec::new();
    let wal = Bytes::copy_from_slice(wal);
    for at in (0..wal.len()).step_by(chunk) {
        decoder.feed(wal.slice(at..wal.len().min(at + chunk)));
        loop {
            match decoder.next_record() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(error) => {
                    assert!(error.is_end_of_wal(), "{error}");
                    return records;
                }
            }
        }
    }
    panic!("the segment's unused tail was not seen");
}

fn describe(record: &Record) -> String {
    let parsed = ParsedRecord::parse(&record.bytes).expect("PostgreSQL's own record");
    let mut line = format!(
        "{} {} {} {} {}",
        rmgr::name(record.rmid()),
        record.bytes.len(),
        record.xid(),
        record.start,
        record.prev
    );
    for block in parsed.blocks() {
        let (rel, fork) = (block.rel.rel, ["main", "fsm", "vm", "init"][block.rel.fork as usize]);
        let image = if block.applied_image().is_some() { ":FPW" } else { "" };
        line += &format!(" {}:{}/{}/{}:{fork}:{}{image}", block.id, rel.spc, rel.db, rel.rel, block.block);
    }
    line
}

#[test]
fn records_and_block_references_are_those_of_pg_waldump() {
    let expected = String::from_utf8(unpacked("pg17_segments_1mib_from_0-600000.waldump.zst")).expect("text");
    for chunk in [usize::MAX >> 1, 8192, 1000] {
        let records = decode(&wal(), chunk);
        for (record, line) in records.iter().zip(expected.lines()) {
            assert_eq!(describe(record), line);
        }
        assert_eq!(records.len(), expected.lines().count());
    }
}

#[test]
fn the_state_before_the_last_checkpoint_is_what_the_cluster_wrote_into_it() {
    let records = decode(&wal(), 1 << 20);
    let (last, before) = records.split_last().expect("records");
    let mut interpreter = Interpreter::new(CheckpointState::from_control_file(&control("pg_control.at_0-600000")));
    for record in before {
        interpreter.interpret(record, &mut |_: Effect<'_>| {}).expect("PostgreSQL's own record");
    }
    let end = control("pg_control.shutdown");
    assert_eq!((end.state, end.checkpoint), (DbState::Shutdowned, last.start));
    let mut followed = interpreter.state.to_checkpoint(last.start);
    // The OID counter is logged 8192 ahead and taken back at a clean stop; the time is the clock's.
    assert!(followed.next_oid >= end.checkpoint_copy.next_oid);
    (followed.next_oid, followed.time_s) = (end.checkpoint_copy.next_oid, end.checkpoint_copy.time_s);
    assert_eq!(followed, end.checkpoint_copy);
    assert_eq!(interpreter.state.settings, end.settings);

    interpreter.interpret(last, &mut |_: Effect<'_>| {}).expect("a shutdown checkpoint");
    assert_eq!(interpreter.state.checkpoint, end.checkpoint_copy);
    assert_eq!(interpreter.state.last_checkpoint, end.checkpoint);
    let stored = interpreter.state.encode();
    assert_eq!(CheckpointState::decode(&stored), Ok(interpreter.state));
}

/// The compute's start checkpoint must be the very bytes that PostgreSQL would have written.
#[test]
fn our_shutdown_checkpoint_is_byte_for_byte_postgres_own() {
    let wal = wal();
    let records = decode(&wal, 1 << 20);
    let [.., before, last] = &records[..] else { panic!("two records") };
    let end = control("pg_control.shutdown");
    let at = AppendAt {
        end: before.end,
        prev: before.start,
        system_id: end.system_identifier,
        segment_size: SEGMENT,
        timeline_id: 1,
    };
    let state = CheckpointState::from_control_file(&end);
    let (appended, checkpoint) =
        shutdown_checkpoint(&at, &state, end.checkpoint_copy.time_s).expect("a valid position");
    let from = (before.end.0 - START.0) as usize;
    assert_eq!(appended.bytes, wal[from..from + appended.bytes.len()]);
    assert_eq!((appended.start, appended.end, checkpoint), (last.start, last.end, end.checkpoint_copy));
}

#[test]
fn effects_agree_with_what_the_session_did() {
    let mut interpreter = Interpreter::new(CheckpointState::from_control_file(&control("pg_control.at_0-600000")));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut prepared = Vec::new();
    let mut origins = Vec::new();
    let mut commit_times = Vec::new();
    let mut created = Vec::new();
    let mut references = 0;
    for record in decode(&wal(), 1 << 20) {
        references += ParsedRecord::parse(&record.bytes).expect("a record").blocks().len();
        let mut pages = Vec::new();
        let mut sink = |effect: Effect<'_>| {
            let kind = match effect {
                Effect::Page { rel, block, version, only_existing } => {
                    pages.push((rel, block));
                    match version {
                        Version::Image(page) => {
                            assert_ne!(page[..], [0; 8192][..], "no page of this session is empty");
                            "image"
                        }
                        Version::Delta { bytes, .. } => match DeltaView::parse(bytes).expect("our own delta") {
                            DeltaView::VmClear(_) if only_existing => "map bits cleared without a reference",
                            DeltaView::VmClear(_) => "map bits cleared",
                            DeltaView::VmCut { .. } => "map cut",
                            DeltaView::Record(_) if rel.fork == Fork::VisibilityMap => "map bits set",
                            _ => "delta",
                        },
                    }
                }
                Effect::TwoPhasePut { xid, .. } => {
                    prepared.push(xid);
                    "prepare"
                }
                Effect::TwoPhaseRemove { xid } => {
                    prepared.retain(|other| *other != xid);
                    "finish prepared"
                }
                Effect::OriginSet { origin, remote_lsn } => {
                    origins.push((origin, remote_lsn));
                    "origin"
                }
                Effect::CommitTime { at_us } => {
                    commit_times.push(at_us);
                    "commit"
                }
                Effect::DatabaseCreate { copy_of, .. } => {
                    created.push(copy_of);
                    "create database"
                }
                Effect::Slru { kind: SlruKind::CommitTs, .. } => "commit timestamp",
                Effect::Slru { kind: SlruKind::Clog, .. } => "status",
                Effect::Slru { kind: SlruKind::MultixactOffsets, .. } => "multixact offsets",
                Effect::Slru { kind: SlruKind::MultixactMembers, .. } => "multixact members",
                Effect::RelCreate { .. } => "create",
                Effect::RelDrop { .. } => "drop",
                Effect::DatabaseDrop { .. } => "drop database",
                Effect::OriginDrop { .. } => "drop origin",
                _ => "other",
            };
            *kinds.entry(kind).or_default() += 1;
        };
        interpreter.interpret(&record, &mut sink).expect("PostgreSQL's own record");
        let count = pages.len();
        pages.sort();
        pages.dedup();
        assert_eq!(pages.len(), count, "a record gives a page one version: {}", record.start);
    }
    let count = |kind| kinds.get(kind).copied().unwrap_or(0);
    let pages = count("image") + count("delta") + count("map bits cleared") + count("map bits set");
    assert_eq!(pages, references, "every block reference is a version of its page: {kinds:?}");
    // 35 COMMIT and 1 COMMIT PREPARED; 3 ABORT and 1 ABORT PREPARED; all on one clog page.
    assert_eq!((count("commit"), count("status"), count("commit timestamp")), (36, 40, 36), "{kinds:?}");
    assert_eq!((count("prepare"), prepared), (3, vec![758]), "one prepared transaction stays");
    assert_eq!(origins, [(1, Lsn(0x1234)), (1, Lsn(0x5678))]);
    assert_eq!((count("drop origin"), created), (1, vec![Some((1663, 1))]), "the copy is of template1");
    assert_eq!((count("drop database"), count("multixact offsets"), count("multixact members")), (1, 1, 2));
    assert!(count("map bits set") >= 2 && count("map bits cleared") >= 1 && count("drop") >= 3, "{kinds:?}");
    assert!(commit_times.is_sorted());
}

#[test]
fn a_template_gets_its_own_system_identifier() {
    let mut wal = wal();
    rewrite_system_identifier(&mut wal, START, SEGMENT, 42).expect("whole segments");
    let mut decoder = StreamDecoder::new(START, SEGMENT, Some(42)).expect("a segment's start");
    decoder.feed_slice(&wal);
    let mut count = 0;
    while let Ok(Some(_)) = decoder.next_record() {
        count += 1;
    }
    assert_eq!(count, decode(&self::wal(), 1 << 20).len(), "no checksum covers the identifier");
    assert!(rewrite_system_identifier(&mut wal[8192..], START, SEGMENT, 42).is_err(), "not the segment's first page");
}

#[test]
fn control_files_are_written_as_they_were_read() {
    for name in ["pg_control.at_0-600000", "pg_control.shutdown"] {
        let bytes = file(name);
        assert_eq!(ControlFile::parse(&bytes).expect("a control file").encode(), bytes);
        let mut damaged = bytes.clone();
        damaged[60] ^= 1;
        assert!(ControlFile::parse(&damaged).is_err());
        damaged[8] = 0;
        assert!(ControlFile::parse(&damaged).is_err_and(|error| error.to_string().contains("major version")));
        assert!(ControlFile::parse(&bytes[..200]).is_err());
    }
}
