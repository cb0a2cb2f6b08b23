//! What is specific to PostgreSQL 17: numbers of resource managers, record kinds and versions.

pub mod rmgr;

/// `XLOG_PAGE_MAGIC`: the first two bytes of every WAL page.
pub const XLOG_PAGE_MAGIC: u16 = 0xd116;
/// `PG_CONTROL_VERSION`.
pub const PG_CONTROL_VERSION: u32 = 1700;
/// `CATALOG_VERSION_NO` of the released version.
pub const CATALOG_VERSION_NO: u32 = 202_406_281;
/// Bytes of a `pg_filenode.map`.
pub const RELMAP_SIZE: usize = 524;
/// Blocks of the heap that one visibility map page covers.
pub const HEAP_BLOCKS_PER_VM_PAGE: u32 = 32_672;
/// Leaf slots of one free space map page.
pub const SLOTS_PER_FSM_PAGE: u32 = 4069;
/// `FirstNormalTransactionId`.
pub const FIRST_NORMAL_XID: u32 = 3;
/// `FirstMultiXactId`.
pub const FIRST_MULTIXACT: u32 = 1;
/// OID of the tablespace `pg_global`.
pub const GLOBAL_TABLESPACE: u32 = 1664;
