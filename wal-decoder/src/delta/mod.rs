//! The delta: the smallest self-contained piece of a record that redo needs to make one page's next version.
//!
//! A delta never names the page that it belongs to (its key does), carries no other page's data and is stored for years, hence its own
//! encoding with a version. Little-endian; `varint` is LEB128 of at most 5 bytes; numbers named `index` count from the page's first entry.
//!
//! ```text
//! version u8 = 1, kind u8, then by kind
//!   0 record                 rmid u8, info u8, xid u32, page's block id u8, block count u8 (1..=33),
//!                            count × (id u8, flags u8, block number u32),
//!                            main data length varint, main data, the page's block data (rest)
//!   1 visibility-map clear   n × (heap block index u16, bits u8)
//!   2 visibility-map cut     heap blocks that stay on this page u16
//!   3 free-space-map cut     leaf slots that stay on this page u16
//!   4 clog status            status u8, n × (index u16)
//!   5 multixact offsets      n × (index u16, offset u32)
//!   6 multixact members      first index u16, n × (xid u32, status u8)
//!   7 commit timestamps      time i64, origin u16, n × (index u16)
//!   8 zero                   nothing: the page becomes all zeros
//! ```
//!
//! A block's flags are those of the record's block header: fork in the low 4 bits, 0x10 has an image, 0x20 has data, 0x40 redo starts from
//! an initialised page; 0x80 (in WAL: same relation as before) says here that the image replaces the page.

mod encode;
mod view;

pub use encode::{
    encode_clog_status, encode_commit_ts, encode_fsm_cut, encode_multixact_members, encode_multixact_offsets,
    encode_record, encode_vm_clear, encode_vm_cut, encode_zero,
};
pub use view::{
    BlockTag, BlockTags, ClogStatus, CommitTs, DeltaError, DeltaView, MultixactMembers, MultixactOffsets, RecordDelta,
    VmClear,
};

/// First byte of every delta written by this version.
pub const DELTA_VERSION: u8 = 1;

/// Second byte of a delta.
pub(crate) mod kind {
    pub const RECORD: u8 = 0;
    pub const VM_CLEAR: u8 = 1;
    pub const VM_CUT: u8 = 2;
    pub const FSM_CUT: u8 = 3;
    pub const CLOG_STATUS: u8 = 4;
    pub const MULTIXACT_OFFSETS: u8 = 5;
    pub const MULTIXACT_MEMBERS: u8 = 6;
    pub const COMMIT_TS: u8 = 7;
    pub const ZERO: u8 = 8;
}

#[cfg(test)]
mod tests;
