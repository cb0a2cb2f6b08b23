//! Effects that are not page versions.

use super::*;

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A commit record's main data with everything that can be in it, behind `time`.
fn completion(xinfo: u32, two_phase: Option<u32>) -> Vec<u8> {
    let mut main = 77i64.to_le_bytes().to_vec();
    main.extend_from_slice(&le(&[xinfo]));
    let has = |bit| xinfo & bit != 0;
    for (bit, part) in [
        (xact::XINFO_HAS_DBINFO, le(&[5, 1663])),
        (xact::XINFO_HAS_SUBXACTS, le(&[2, 1001, 33_000])),
        (xact::XINFO_HAS_RELFILELOCATORS, le(&[1, 1663, 5, 4711])),
        (xact::XINFO_HAS_DROPPED_STATS, le(&[1, 2, 5, 4711])),
        (xact::XINFO_HAS_INVALS, le(&[1, 0, 0, 0, 0])),
        (xact::XINFO_HAS_TWOPHASE, le(&[two_phase.unwrap_or(0)])),
        (xact::XINFO_HAS_GID, b"odd\0".to_vec()),
        (xact::XINFO_HAS_ORIGIN, join(&[&0x1234u64.to_le_bytes(), &88i64.to_le_bytes()])),
    ] {
        if has(bit) {
            main.extend_from_slice(&part);
        }
    }
    main
}

const EVERYTHING: u32 = xact::XINFO_HAS_DBINFO
    | xact::XINFO_HAS_SUBXACTS
    | xact::XINFO_HAS_RELFILELOCATORS
    | xact::XINFO_HAS_DROPPED_STATS
    | xact::XINFO_HAS_TWOPHASE
    | xact::XINFO_HAS_GID
    | xact::XINFO_HAS_ORIGIN;
const DROP: &str = "RelDrop { rel: Rel { spc: 1663, db: 5, rel: 4711 } }";

#[test]
fn a_prepared_commit_uses_the_transaction_in_its_data_and_skips_the_gid() {
    let mut seen = state();
    seen.settings.track_commit_timestamp = true;
    let record = Build::new(rmgr::XACT, xact::COMMIT_PREPARED | xact::HAS_INFO)
        .origin(9)
        .main(&completion(EVERYTHING | xact::XINFO_HAS_INVALS, Some(900)));
    assert_eq!(
        run(&mut seen, &record),
        [
            "Clog 0: status 1 of [900, 1001]",
            "Clog 1: status 1 of [232]",
            // The time at the origin, and its id; 819 entries a page.
            "CommitTs 1: at 88 origin 9 of [81, 182]",
            "CommitTs 40: at 88 origin 9 of [240]",
            "CommitTime { at_us: 77 }",
            "OriginSet { origin: 9, remote_lsn: 0/1234 }",
            DROP,
            "TwoPhaseRemove { xid: 900 }",
        ]
    );
    assert_eq!((seen.checkpoint.next_xid, seen.checkpoint.newest_commit_ts_xid), (33_001, 33_000));
}

#[test]
fn aborts_drop_the_relations_that_the_transaction_made() {
    let record = Build::new(rmgr::XACT, xact::ABORT | xact::HAS_INFO)
        .xid(1002)
        .origin(9)
        .main(&completion(EVERYTHING & !(xact::XINFO_HAS_TWOPHASE | xact::XINFO_HAS_GID), None));
    let effects = run(&mut state(), &record);
    assert_eq!(effects[0], "Clog 0: status 2 of [1001, 1002]");
    assert!(effects.contains(&DROP.to_string()) && !effects.iter().any(|effect| effect.contains("CommitT")));
    let prepared = Build::new(rmgr::XACT, xact::ABORT_PREPARED | xact::HAS_INFO)
        .origin(9)
        .main(&completion(EVERYTHING, Some(900)));
    assert_eq!(run(&mut state(), &prepared).last().map(String::as_str), Some("TwoPhaseRemove { xid: 900 }"));
}

#[test]
fn origin_progress_follows_its_flag_and_not_the_header() {
    let main = completion(0, None);
    let commit = Build::new(rmgr::XACT, xact::COMMIT).xid(1002).origin(9).main(&main);
    assert_eq!(run(&mut state(), &commit), ["Clog 0: status 1 of [1002]", "CommitTime { at_us: 77 }"]);
    // DoNotReplicateId marks records and makes no progress.
    let marked = Build::new(rmgr::XACT, xact::COMMIT | xact::HAS_INFO)
        .xid(1002)
        .origin(u16::MAX)
        .main(&completion(xact::XINFO_HAS_ORIGIN, None));
    assert_eq!(run(&mut state(), &marked).len(), 2);
}

fn prepare(xid: u32, gid: &[u8; 8], subxids: &[u32]) -> Vec<u8> {
    let mut main = le(&[0x57f9_4534, 0, xid, 5]);
    main.extend_from_slice(&[0; 8]);
    main.extend_from_slice(&le(&[10, subxids.len() as u32, 0, 0, 0, 0, 0]));
    main.extend_from_slice(&[0, 0, 8, 0]);
    main.extend_from_slice(&0x99u64.to_le_bytes());
    main.extend_from_slice(&[0; 8]);
    main.extend_from_slice(gid);
    main.extend_from_slice(&le(subxids));
    let total = (main.len() + 4) as u32;
    main[4..8].copy_from_slice(&total.to_le_bytes());
    main
}

/// Without its file the prepared transaction would disappear silently.
#[test]
fn a_prepared_transaction_is_kept_under_its_full_id() {
    let mut seen = state();
    seen.checkpoint.next_xid = 0x2_0000_0010;
    let mut data = Vec::new();
    let mut interpreter = Interpreter::new(seen.clone());
    let main = prepare(0xffff_ff00, b"transac\0", &[0x20, 0x30]);
    let record = Build::new(rmgr::XACT, xact::PREPARE).origin(3).main(&main).encode();
    let mut origins = 0;
    interpreter
        .interpret_bytes(Lsn(1), Lsn(2), &record, &mut |effect: Effect<'_>| match effect {
            Effect::TwoPhasePut { xid, data } => assert_eq!((xid, data), (0x1_ffff_ff00, &main[..])),
            Effect::OriginSet { origin: 3, remote_lsn: Lsn(0x99) } => origins += 1,
            other => data.push(show(other)),
        })
        .expect("a sound record");
    assert_eq!((data.len(), origins, interpreter.state.checkpoint.next_xid), (0, 1, 0x2_0000_0031));
    let mut wrong = main.clone();
    wrong[4] ^= 1;
    assert!(try_run(&mut seen, &Build::new(rmgr::XACT, xact::PREPARE).main(&wrong)).is_err(), "length contradicts");
}

#[test]
fn commit_timestamps_are_kept_only_while_they_are_on() {
    let change = |on| {
        let mut main = le(&[100, 8, 10, 0, 64, 2]);
        main.extend_from_slice(&[1, on, 0, 0]);
        Build::new(rmgr::XLOG, xlog::PARAMETER_CHANGE).main(&main)
    };
    let commit = Build::new(rmgr::XACT, xact::COMMIT).xid(1002).main(&completion(0, None));
    let mut seen = state();
    assert_eq!(run(&mut seen, &commit).len(), 2);
    assert_eq!(run(&mut seen, &change(1)), ["CommitTs 1: zeros"], "the page is made without a record of its own");
    assert_eq!((seen.checkpoint.oldest_commit_ts_xid, seen.checkpoint.newest_commit_ts_xid), (1003, 1003));
    assert_eq!(run(&mut seen, &change(1)), [""; 0], "nothing changed");
    assert_eq!(run(&mut seen, &commit).len(), 3);
    assert_eq!(run(&mut seen, &change(0)).len(), 2, "all segments go");
    assert_eq!(run(&mut seen, &commit).len(), 2);
    let expected = crate::checkpoint_state::ServerSettings {
        wal_level: 2,
        wal_log_hints: true,
        max_connections: 100,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_xacts: 0,
        max_locks_per_xact: 64,
        track_commit_timestamp: false,
    };
    assert_eq!(seen.settings, expected);
}

#[test]
fn checkpoints_set_what_recovery_would() {
    let mut new = state().checkpoint;
    (new.next_xid, new.next_oid, new.next_multi, new.next_multi_offset) = (500, 20_000, 5, 50);
    (new.oldest_xid, new.oldest_xid_db, new.oldest_multi, new.oldest_multi_db) = (600, 4, 3, 4);
    let mut before = state();
    (before.checkpoint.next_oid, before.checkpoint.next_multi_offset) = (30_000, 100);
    let mut online = before.clone();
    run(&mut online, &Build::new(rmgr::XLOG, xlog::CHECKPOINT_ONLINE).main(&new.encode()));
    let got = online.checkpoint;
    assert_eq!((got.next_xid, got.next_oid, got.next_multi, got.next_multi_offset), (1000, 30_000, 10, 100), "minima");
    assert_eq!((got.oldest_xid, got.oldest_multi, got.oldest_multi_db), (700, 3, 4), "oldest ids only forwards");
    let mut shutdown = before.clone();
    run(&mut shutdown, &Build::new(rmgr::XLOG, xlog::CHECKPOINT_SHUTDOWN).main(&new.encode()));
    assert_eq!(shutdown.checkpoint, new, "exactly");
    run(&mut shutdown, &Build::new(rmgr::XLOG, xlog::NEXTOID).main(&le(&[10_000])));
    assert_eq!(shutdown.checkpoint.next_oid, 10_000, "exactly: OIDs wrap");
    run(&mut shutdown, &Build::new(rmgr::XLOG, xlog::FPW_CHANGE).main(&[1]));
    assert!(shutdown.checkpoint.full_page_writes);
    assert!(try_run(&mut before, &Build::new(rmgr::XLOG, xlog::CHECKPOINT_ONLINE).main(&[0; 80])).is_err());
}

#[test]
fn clog_truncation_advances_the_oldest_xid_and_refuses_a_wrap() {
    let truncate = |page: i64, xid| {
        let main = join(&[&page.to_le_bytes(), &le(&[xid, 5])]);
        Build::new(rmgr::CLOG, rmgr::clog::TRUNCATE).main(&main)
    };
    let mut seen = state();
    seen.checkpoint.next_xid = 200_000;
    assert_eq!(run(&mut seen, &truncate(3, 100_000)), ["SlruTruncate { kind: Clog, cutoff_page: 3 }"]);
    assert_eq!((seen.checkpoint.oldest_xid, seen.checkpoint.oldest_xid_db), (100_000, 5));
    assert_eq!(run(&mut seen, &truncate(40, 100_000)), [""; 0], "the newest page would go");
    assert!(try_run(&mut seen, &truncate(-1, 1)).is_err());
    assert!(try_run(&mut seen, &truncate(1 << 33, 1)).is_err());
    let zero = |rmid| Build::new(rmid, 0).main(&7i64.to_le_bytes());
    assert_eq!(run(&mut seen, &zero(rmgr::CLOG)), ["Clog 7: zeros"]);
    assert_eq!(run(&mut seen, &zero(rmgr::COMMIT_TS)), ["CommitTs 7: zeros"]);
    let main = join(&[&3i64.to_le_bytes(), &le(&[2000])]);
    let effects = run(&mut seen, &Build::new(rmgr::COMMIT_TS, 0x10).main(&main));
    assert_eq!(effects, ["SlruTruncate { kind: CommitTs, cutoff_page: 3 }"]);
}

fn create_multi(multi: u32, offset: u32, members: &[(u32, u32)]) -> Build {
    let mut main = le(&[multi, offset, members.len() as u32]);
    members.iter().for_each(|(xid, status)| main.extend_from_slice(&le(&[*xid, *status])));
    Build::new(rmgr::MULTIXACT, multixact::CREATE_ID).main(&main)
}

#[test]
fn a_multixact_also_sets_where_its_members_end() {
    let mut seen = state();
    let effects = run(&mut seen, &create_multi(10, 100, &[(1001, 5), (1500, 0)]));
    let expected =
        ["MultixactOffsets 0: [(10, 100), (11, 102)]", "MultixactMembers 0: from 100 [(1001, 5), (1500, 0)]"];
    assert_eq!(effects, expected);
    let got = seen.checkpoint;
    assert_eq!((got.next_multi, got.next_multi_offset, got.next_xid), (11, 102, 1501));
    // On the next page.
    let effects = run(&mut seen, &create_multi(2047, 102, &[(1001, 1)]));
    assert_eq!(effects[..2], ["MultixactOffsets 0: [(2047, 102)]", "MultixactOffsets 1: [(0, 103)]"]);
    for bad in [create_multi(0, 1, &[(5, 1)]), create_multi(1, 1, &[]), create_multi(1, 1, &[(5, 6)])] {
        assert!(try_run(&mut seen, &bad).is_err());
    }
}

/// 2³² is no multiple of the 1,636 members of a page: dividing the run by pages alone would misplace those behind the wrap.
#[test]
fn member_offsets_wrap_in_the_middle_of_a_page() {
    let mut seen = state();
    seen.checkpoint.next_multi_offset = u32::MAX - 1;
    let last = u32::MAX / 1636;
    let effects = run(&mut seen, &create_multi(10, u32::MAX - 1, &[(1, 1), (2, 1), (3, 1)]));
    let index = (u32::MAX - 1) % 1636;
    assert_eq!(
        effects[1..],
        [
            format!("MultixactMembers {last}: from {index} [(1, 1), (2, 1)]"),
            "MultixactMembers 0: from 0 [(3, 1)]".into()
        ]
    );
    // An end of 0 is written as 1: 0 means "not set".
    assert_eq!(
        run(&mut seen, &create_multi(11, u32::MAX, &[(1, 1)]))[0],
        "MultixactOffsets 0: [(11, 4294967295), (12, 1)]"
    );
    // Behind the last multixact comes the first one.
    let effects = run(&mut seen, &create_multi(u32::MAX, 5, &[(1, 1)]));
    assert_eq!(effects[..2], ["MultixactOffsets 2097151: [(2047, 5)]", "MultixactOffsets 0: [(1, 6)]"]);
}

/// PostgreSQL before 17.7 zeroes the next offsets page only after the multixact whose end is its first entry.
#[test]
fn wal_of_older_minor_versions_does_not_zero_an_offset_away() {
    let zero = |page: i64| Build::new(rmgr::MULTIXACT, multixact::ZERO_OFF_PAGE).main(&page.to_le_bytes());
    let mut seen = state();
    run(&mut seen, &zero(0));
    let effects = run(&mut seen, &create_multi(2047, 102, &[(1001, 1)]));
    assert!(effects[1].starts_with("MultixactOffsets 1: image"), "the page begins with the entry: {effects:?}");
    assert_eq!(run(&mut seen, &zero(1)), [""; 0], "its own record comes later and is ignored");
    assert_eq!(run(&mut seen, &zero(1)), ["MultixactOffsets 1: zeros"], "but only once");
    // Newer versions zero the page first.
    let mut seen = state();
    run(&mut seen, &zero(0));
    run(&mut seen, &zero(1));
    assert_eq!(run(&mut seen, &create_multi(2047, 102, &[(1001, 1)]))[1], "MultixactOffsets 1: [(0, 103)]");
    assert_eq!(seen.early_offsets_page, None);
}

#[test]
fn multixact_truncation_drops_member_segments_and_offsets() {
    let mut seen = state();
    seen.checkpoint.next_multi = 300_000;
    let main = le(&[5, 1, 200_000, 1636 * 32, 1636 * 32 * 4]);
    assert_eq!(
        run(&mut seen, &Build::new(rmgr::MULTIXACT, multixact::TRUNCATE_ID).main(&main)),
        [
            "SlruDropSegments { kind: MultixactMembers, first: 1, end: 4 }",
            "SlruTruncate { kind: MultixactOffsets, cutoff_page: 97 }"
        ]
    );
    assert_eq!((seen.checkpoint.oldest_multi, seen.checkpoint.oldest_multi_db), (200_000, 5));
}

/// A heap that grows again would inherit stale bits.
#[test]
fn truncation_cuts_the_maps_where_the_heap_ends() {
    let truncate = |blocks| Build::new(rmgr::SMGR, smgr::TRUNCATE).main(&le(&[blocks, REL.spc, REL.db, REL.rel, 7]));
    assert_eq!(
        run(&mut state(), &truncate(MAP_PAGE + 5)),
        [
            "create main",
            "truncate main to 32677",
            // 32,677 = 8 × 4,069 + 125; leaf 8 follows two inner pages.
            "fsm 10 if there: keep 125",
            "truncate fsm to 11",
            "vm 1 if there: keep 5",
            "truncate vm to 2",
        ]
    );
    let effects = run(&mut state(), &truncate(0));
    assert_eq!(effects, ["create main", "truncate main to 0", "truncate fsm to 2", "truncate vm to 0"]);
    let only_maps = Build::new(rmgr::SMGR, smgr::TRUNCATE).main(&le(&[0, REL.spc, REL.db, REL.rel, 2]));
    assert_eq!(run(&mut state(), &only_maps), ["create main", "truncate vm to 0"]);
    let create = |fork| Build::new(rmgr::SMGR, smgr::CREATE).main(&le(&[REL.spc, REL.db, REL.rel, fork]));
    assert_eq!(run(&mut state(), &create(3)), ["create init"]);
    assert!(try_run(&mut state(), &create(4)).is_err());
}

#[test]
fn databases_come_and_go() {
    let record = |info, main: &[u32]| Build::new(rmgr::DBASE, info).main(&le(main));
    assert_eq!(
        run(&mut state(), &record(0, &[20, 1663, 1, 1664])),
        ["DatabaseCreate { spc: 1663, db: 20, copy_of: Some((1664, 1)) }"]
    );
    assert_eq!(run(&mut state(), &record(0x10, &[20, 1663])), ["DatabaseCreate { spc: 1663, db: 20, copy_of: None }"]);
    assert_eq!(
        run(&mut state(), &record(0x20, &[20, 2, 1663, 1700])),
        ["DatabaseDrop { spc: 1663, db: 20 }", "DatabaseDrop { spc: 1700, db: 20 }"]
    );
    assert!(try_run(&mut state(), &record(0x20, &[20, 3, 1663, 1700])).is_err());
    let relmap = |size: u32| {
        let main = join(&[&le(&[5, 1663, size]), &vec![1; size as usize]]);
        Build::new(rmgr::RELMAP, 0).main(&main)
    };
    assert!(run(&mut state(), &relmap(524))[0].starts_with("RelMap { spc: 1663, db: 5, image: [1, 1"));
    assert!(try_run(&mut state(), &relmap(512)).is_err());
}

#[test]
fn replication_origins() {
    let main = join(&[&0x55u64.to_le_bytes(), &[4, 0, 1, 0, 0, 0, 0, 0]]);
    let set = Build::new(rmgr::REPLORIGIN, 0).main(&main);
    assert_eq!(run(&mut state(), &set), ["OriginSet { origin: 4, remote_lsn: 0/55 }"]);
    let drop = Build::new(rmgr::REPLORIGIN, 0x10).main(&[4, 0]);
    assert_eq!(run(&mut state(), &drop), ["OriginDrop { origin: 4 }"]);
}

fn message(db: u32, transactional: u8, prefix: &str, body: &[u8]) -> Build {
    let sizes = [(prefix.len() as u64 + 1).to_le_bytes(), (body.len() as u64).to_le_bytes()].concat();
    let main = join(&[&le(&[db]), &[transactional, 0, 0, 0], &sizes, prefix.as_bytes(), b"\0", body]);
    Build::new(rmgr::LOGICALMSG, 0).main(&main)
}

fn aux_entry(kind: u8, path: &str, content: Option<&[u8]>) -> Vec<u8> {
    let mut entry = vec![kind];
    entry.extend_from_slice(&(path.len() as u16).to_le_bytes());
    entry.extend_from_slice(path.as_bytes());
    if let Some(content) = content {
        entry.extend_from_slice(&(content.len() as u32).to_le_bytes());
        entry.extend_from_slice(content);
    }
    entry
}

#[test]
fn auxiliary_files_come_from_messages_that_sql_cannot_emit() {
    let slot = "pg_replslot/s_1/state";
    let body = join(&[&[1], &aux_entry(1, slot, Some(b"abc")), &aux_entry(0, "pg_stat/pgstat.stat", None)]);
    let effects = run(&mut state(), &message(0, 0, AUX_FILES_PREFIX, &body));
    assert_eq!(
        effects,
        [
            r#"AuxFile { path: "pg_replslot/s_1/state", content: Some([97, 98, 99]) }"#,
            r#"AuxFile { path: "pg_stat/pgstat.stat", content: None }"#
        ]
    );
    for theirs in
        [message(5, 0, AUX_FILES_PREFIX, &body), message(0, 1, AUX_FILES_PREFIX, &body), message(0, 0, "x", &body)]
    {
        assert_eq!(run(&mut state(), &theirs), [""; 0], "a user's own message");
    }
    assert_eq!(run(&mut state(), &message(5, 1, "", b"")), [""; 0]);
}

#[test]
fn auxiliary_files_stay_below_the_data_directory() {
    for path in ["/etc/passwd", "../x", "a/../b", "a//b", "", "a/", ".hidden", "a b", "\u{e4}"] {
        let body = join(&[&[1], &aux_entry(1, path, Some(b""))]);
        assert!(try_run(&mut state(), &message(0, 0, AUX_FILES_PREFIX, &body)).is_err(), "{path:?}");
    }
    let whole = join(&[&[1], &aux_entry(1, "a", Some(b"xyz"))]);
    for end in 2..whole.len() {
        assert!(try_run(&mut state(), &message(0, 0, AUX_FILES_PREFIX, &whole[..end])).is_err(), "cut at {end}");
    }
    for body in [&[][..], &[2], &aux_entry(7, "a", None)] {
        assert!(try_run(&mut state(), &message(0, 0, AUX_FILES_PREFIX, body)).is_err(), "{body:?}");
    }
}
