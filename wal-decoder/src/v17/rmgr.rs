//! Resource managers and the kinds of their records (the four high bits of `xl_info`).

#![allow(missing_docs)] // The names are PostgreSQL's; what each record does is told where it is interpreted.

/// Resource manager ids (`rmgrlist.h`).
pub const XLOG: u8 = 0;
pub const XACT: u8 = 1;
pub const SMGR: u8 = 2;
pub const CLOG: u8 = 3;
pub const DBASE: u8 = 4;
pub const TBLSPC: u8 = 5;
pub const MULTIXACT: u8 = 6;
pub const RELMAP: u8 = 7;
pub const STANDBY: u8 = 8;
pub const HEAP2: u8 = 9;
pub const HEAP: u8 = 10;
pub const BTREE: u8 = 11;
pub const HASH: u8 = 12;
pub const GIN: u8 = 13;
pub const GIST: u8 = 14;
pub const SEQ: u8 = 15;
pub const SPGIST: u8 = 16;
pub const BRIN: u8 = 17;
pub const COMMIT_TS: u8 = 18;
pub const REPLORIGIN: u8 = 19;
pub const GENERIC: u8 = 20;
pub const LOGICALMSG: u8 = 21;
/// Highest id of a built-in manager.
pub const MAX_BUILTIN: u8 = LOGICALMSG;
/// First id of a custom manager; 22..128 are never valid.
pub const MIN_CUSTOM: u8 = 128;

/// Name of a resource manager, as `pg_waldump` prints it.
pub const fn name(rmid: u8) -> &'static str {
    match rmid {
        XLOG => "XLOG",
        XACT => "Transaction",
        SMGR => "Storage",
        CLOG => "CLOG",
        DBASE => "Database",
        TBLSPC => "Tablespace",
        MULTIXACT => "MultiXact",
        RELMAP => "RelMap",
        STANDBY => "Standby",
        HEAP2 => "Heap2",
        HEAP => "Heap",
        BTREE => "Btree",
        HASH => "Hash",
        GIN => "Gin",
        GIST => "Gist",
        SEQ => "Sequence",
        SPGIST => "SPGist",
        BRIN => "BRIN",
        COMMIT_TS => "CommitTs",
        REPLORIGIN => "ReplicationOrigin",
        GENERIC => "Generic",
        LOGICALMSG => "LogicalMessage",
        MIN_CUSTOM.. => "custom",
        _ => "unknown",
    }
}

pub mod xlog {
    pub const CHECKPOINT_SHUTDOWN: u8 = 0x00;
    pub const CHECKPOINT_ONLINE: u8 = 0x10;
    pub const NOOP: u8 = 0x20;
    pub const NEXTOID: u8 = 0x30;
    pub const SWITCH: u8 = 0x40;
    pub const BACKUP_END: u8 = 0x50;
    pub const PARAMETER_CHANGE: u8 = 0x60;
    pub const RESTORE_POINT: u8 = 0x70;
    pub const FPW_CHANGE: u8 = 0x80;
    pub const END_OF_RECOVERY: u8 = 0x90;
    pub const FPI_FOR_HINT: u8 = 0xa0;
    pub const FPI: u8 = 0xb0;
    pub const OVERWRITE_CONTRECORD: u8 = 0xd0;
    pub const CHECKPOINT_REDO: u8 = 0xe0;
}

pub mod xact {
    pub const OPMASK: u8 = 0x70;
    pub const HAS_INFO: u8 = 0x80;
    pub const COMMIT: u8 = 0x00;
    pub const PREPARE: u8 = 0x10;
    pub const ABORT: u8 = 0x20;
    pub const COMMIT_PREPARED: u8 = 0x30;
    pub const ABORT_PREPARED: u8 = 0x40;
    pub const ASSIGNMENT: u8 = 0x50;
    pub const INVALIDATIONS: u8 = 0x60;

    pub const XINFO_HAS_DBINFO: u32 = 1 << 0;
    pub const XINFO_HAS_SUBXACTS: u32 = 1 << 1;
    pub const XINFO_HAS_RELFILELOCATORS: u32 = 1 << 2;
    pub const XINFO_HAS_INVALS: u32 = 1 << 3;
    pub const XINFO_HAS_TWOPHASE: u32 = 1 << 4;
    pub const XINFO_HAS_ORIGIN: u32 = 1 << 5;
    pub const XINFO_HAS_AE_LOCKS: u32 = 1 << 6;
    pub const XINFO_HAS_GID: u32 = 1 << 7;
    pub const XINFO_HAS_DROPPED_STATS: u32 = 1 << 8;
}

pub mod smgr {
    pub const CREATE: u8 = 0x10;
    pub const TRUNCATE: u8 = 0x20;
    pub const TRUNCATE_HEAP: u32 = 1;
    pub const TRUNCATE_VM: u32 = 2;
    pub const TRUNCATE_FSM: u32 = 4;
}

pub mod clog {
    pub const ZEROPAGE: u8 = 0x00;
    pub const TRUNCATE: u8 = 0x10;
}

pub mod dbase {
    pub const CREATE_FILE_COPY: u8 = 0x00;
    pub const CREATE_WAL_LOG: u8 = 0x10;
    pub const DROP: u8 = 0x20;
}

pub mod tblspc {
    pub const CREATE: u8 = 0x00;
    pub const DROP: u8 = 0x10;
}

pub mod multixact {
    pub const ZERO_OFF_PAGE: u8 = 0x00;
    pub const ZERO_MEM_PAGE: u8 = 0x10;
    pub const CREATE_ID: u8 = 0x20;
    pub const TRUNCATE_ID: u8 = 0x30;
}

pub mod relmap {
    pub const UPDATE: u8 = 0x00;
}

pub mod standby {
    pub const LOCK: u8 = 0x00;
    pub const RUNNING_XACTS: u8 = 0x10;
    pub const INVALIDATIONS: u8 = 0x20;
}

pub mod heap2 {
    pub const OPMASK: u8 = 0x70;
    pub const INIT_PAGE: u8 = 0x80;
    pub const REWRITE: u8 = 0x00;
    pub const PRUNE_ON_ACCESS: u8 = 0x10;
    pub const PRUNE_VACUUM_SCAN: u8 = 0x20;
    pub const PRUNE_VACUUM_CLEANUP: u8 = 0x30;
    pub const VISIBLE: u8 = 0x40;
    pub const MULTI_INSERT: u8 = 0x50;
    pub const LOCK_UPDATED: u8 = 0x60;
    pub const NEW_CID: u8 = 0x70;
}

pub mod heap {
    pub const OPMASK: u8 = 0x70;
    pub const INIT_PAGE: u8 = 0x80;
    pub const INSERT: u8 = 0x00;
    pub const DELETE: u8 = 0x10;
    pub const UPDATE: u8 = 0x20;
    pub const TRUNCATE: u8 = 0x30;
    pub const HOT_UPDATE: u8 = 0x40;
    pub const CONFIRM: u8 = 0x50;
    pub const LOCK: u8 = 0x60;
    pub const INPLACE: u8 = 0x70;

    /// In the `flags` of insert, multi-insert, delete, update and lock: our compute has appended the command ids to the main data.
    pub const FLAG_COMMAND_ID: u8 = 0x80;
}

pub mod btree {
    pub const REUSE_PAGE: u8 = 0xd0;
}

pub mod commit_ts {
    pub const ZEROPAGE: u8 = 0x00;
    pub const TRUNCATE: u8 = 0x10;
}

pub mod replorigin {
    pub const SET: u8 = 0x00;
    pub const DROP: u8 = 0x10;
}

pub mod logicalmsg {
    pub const MESSAGE: u8 = 0x00;
}
