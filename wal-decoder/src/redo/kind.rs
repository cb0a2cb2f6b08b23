//! Names of record kinds, as `pg_waldump` prints them.

use crate::v17::rmgr;

/// The name of a record kind; `info` is the resource manager's part of `xl_info`.
pub const fn record_kind(rmid: u8, info: u8) -> &'static str {
    match rmid {
        rmgr::XLOG => xlog(info),
        rmgr::XACT => transaction(info & 0x70),
        rmgr::SMGR => pick(info, &["?", "CREATE", "TRUNCATE"]),
        rmgr::CLOG => pick(info, &["ZEROPAGE", "TRUNCATE"]),
        rmgr::DBASE => pick(info, &["CREATE_FILE_COPY", "CREATE_WAL_LOG", "DROP"]),
        rmgr::TBLSPC => pick(info, &["CREATE", "DROP"]),
        rmgr::MULTIXACT => pick(info, &["ZERO_OFF_PAGE", "ZERO_MEM_PAGE", "CREATE_ID", "TRUNCATE_ID"]),
        rmgr::RELMAP => pick(info, &["UPDATE"]),
        rmgr::STANDBY => pick(info, &["LOCK", "RUNNING_XACTS", "INVALIDATIONS"]),
        rmgr::HEAP2 => heap2(info),
        rmgr::HEAP => heap(info),
        rmgr::BTREE => pick(
            info,
            &[
                "INSERT_LEAF",
                "INSERT_UPPER",
                "INSERT_META",
                "SPLIT_L",
                "SPLIT_R",
                "INSERT_POST",
                "DEDUP",
                "DELETE",
                "UNLINK_PAGE",
                "UNLINK_PAGE_META",
                "NEWROOT",
                "MARK_PAGE_HALFDEAD",
                "VACUUM",
                "REUSE_PAGE",
                "META_CLEANUP",
            ],
        ),
        rmgr::HASH => pick(
            info,
            &[
                "INIT_META_PAGE",
                "INIT_BITMAP_PAGE",
                "INSERT",
                "ADD_OVFL_PAGE",
                "SPLIT_ALLOCATE_PAGE",
                "SPLIT_PAGE",
                "SPLIT_COMPLETE",
                "MOVE_PAGE_CONTENTS",
                "SQUEEZE_PAGE",
                "DELETE",
                "SPLIT_CLEANUP",
                "UPDATE_META_PAGE",
                "VACUUM_ONE_PAGE",
            ],
        ),
        rmgr::GIN => pick(
            info,
            &[
                "?",
                "CREATE_PTREE",
                "INSERT",
                "SPLIT",
                "VACUUM_PAGE",
                "DELETE_PAGE",
                "UPDATE_META_PAGE",
                "INSERT_LISTPAGE",
                "DELETE_LISTPAGE",
                "VACUUM_DATA_LEAF_PAGE",
            ],
        ),
        rmgr::GIST => pick(info, &["PAGE_UPDATE", "DELETE", "PAGE_REUSE", "PAGE_SPLIT", "?", "?", "PAGE_DELETE"]),
        rmgr::SEQ => pick(info, &["LOG"]),
        rmgr::SPGIST => pick(
            info,
            &[
                "?",
                "ADD_LEAF",
                "MOVE_LEAFS",
                "ADD_NODE",
                "SPLIT_TUPLE",
                "PICKSPLIT",
                "VACUUM_LEAF",
                "VACUUM_ROOT",
                "VACUUM_REDIRECT",
            ],
        ),
        rmgr::BRIN => brin(info),
        rmgr::COMMIT_TS => pick(info, &["ZEROPAGE", "TRUNCATE"]),
        rmgr::REPLORIGIN => pick(info, &["SET", "DROP"]),
        rmgr::GENERIC => "Generic",
        rmgr::LOGICALMSG => pick(info, &["MESSAGE"]),
        _ => "?",
    }
}

const fn pick(info: u8, names: &[&'static str]) -> &'static str {
    let index = (info >> 4) as usize;
    if index < names.len() { names[index] } else { "?" }
}

const fn xlog(info: u8) -> &'static str {
    pick(
        info,
        &[
            "CHECKPOINT_SHUTDOWN",
            "CHECKPOINT_ONLINE",
            "NOOP",
            "NEXTOID",
            "SWITCH",
            "BACKUP_END",
            "PARAMETER_CHANGE",
            "RESTORE_POINT",
            "FPW_CHANGE",
            "END_OF_RECOVERY",
            "FPI_FOR_HINT",
            "FPI",
            "?",
            "OVERWRITE_CONTRECORD",
            "CHECKPOINT_REDO",
        ],
    )
}

const fn transaction(info: u8) -> &'static str {
    pick(info, &["COMMIT", "PREPARE", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED", "ASSIGNMENT", "INVALIDATION"])
}

const fn heap(info: u8) -> &'static str {
    match info {
        0x80 => "INSERT+INIT",
        0xa0 => "UPDATE+INIT",
        0xc0 => "HOT_UPDATE+INIT",
        _ => pick(info, &["INSERT", "DELETE", "UPDATE", "TRUNCATE", "HOT_UPDATE", "HEAP_CONFIRM", "LOCK", "INPLACE"]),
    }
}

const fn heap2(info: u8) -> &'static str {
    match info {
        0xd0 => "MULTI_INSERT+INIT",
        _ => pick(
            info,
            &[
                "REWRITE",
                "PRUNE_ON_ACCESS",
                "PRUNE_VACUUM_SCAN",
                "PRUNE_VACUUM_CLEANUP",
                "VISIBLE",
                "MULTI_INSERT",
                "LOCK_UPDATED",
                "NEW_CID",
            ],
        ),
    }
}

const fn brin(info: u8) -> &'static str {
    match info {
        0x90 => "INSERT+INIT",
        0xa0 => "UPDATE+INIT",
        _ => pick(info, &["CREATE_INDEX", "INSERT", "UPDATE", "SAMEPAGE_UPDATE", "REVMAP_EXTEND", "DESUMMARIZE"]),
    }
}

/// Record kinds that change pages and that `walcheck` expects to have seen: resource manager and info.
pub fn page_changing_kinds() -> impl Iterator<Item = (u8, u8)> {
    let kinds: [(u8, &[u8]); 10] = [
        (rmgr::HEAP, &[0x00, 0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x80, 0xa0]),
        (rmgr::HEAP2, &[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0xd0]),
        (rmgr::BTREE, &[0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xe0]),
        (rmgr::HASH, &[0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0]),
        (rmgr::GIN, &[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90]),
        (rmgr::GIST, &[0x00, 0x10, 0x30, 0x60]),
        (rmgr::SEQ, &[0x00]),
        (rmgr::SPGIST, &[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80]),
        (rmgr::BRIN, &[0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x90, 0xa0]),
        (rmgr::GENERIC, &[0x00]),
    ];
    kinds.into_iter().flat_map(|(rmid, infos)| infos.iter().map(move |&info| (rmid, info)))
}

/// The other kinds that PostgreSQL 17 writes: resource manager and info. `XLOG/NOOP` has a number, but nothing writes it.
pub fn metadata_kinds() -> impl Iterator<Item = (u8, u8)> {
    let kinds: [(u8, &[u8]); 16] = [
        (rmgr::XLOG, &[0x00, 0x10, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xd0, 0xe0]),
        (rmgr::XACT, &[0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60]),
        (rmgr::SMGR, &[0x10, 0x20]),
        (rmgr::CLOG, &[0x00, 0x10]),
        (rmgr::DBASE, &[0x00, 0x10, 0x20]),
        (rmgr::TBLSPC, &[0x00, 0x10]),
        (rmgr::MULTIXACT, &[0x00, 0x10, 0x20, 0x30]),
        (rmgr::RELMAP, &[0x00]),
        (rmgr::STANDBY, &[0x00, 0x10, 0x20]),
        (rmgr::HEAP2, &[0x00, 0x70]),
        (rmgr::HEAP, &[0x30]),
        (rmgr::BTREE, &[0xd0]),
        (rmgr::GIST, &[0x20]),
        (rmgr::COMMIT_TS, &[0x00, 0x10]),
        (rmgr::REPLORIGIN, &[0x00, 0x10]),
        (rmgr::LOGICALMSG, &[0x00]),
    ];
    kinds.into_iter().flat_map(|(rmid, infos)| infos.iter().map(move |&info| (rmid, info)))
}
