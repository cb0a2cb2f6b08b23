//! The `CheckPoint` struct: the body of checkpoint records, and a part of `pg_control`.

use crate::byte_reader::{ByteReader, ShortInput};
use ogel_ids::Lsn;

/// `sizeof(CheckPoint)`.
pub const CHECKPOINT_SIZE: usize = 88;

/// PostgreSQL's `CheckPoint`, field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Where redo starts; of a shutdown checkpoint its own start.
    pub redo: Lsn,
    /// PostgreSQL's timeline number.
    pub timeline_id: u32,
    /// Timeline before, if this checkpoint begins a new one, else the same.
    pub prev_timeline_id: u32,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    /// Next free transaction id, epoch in the high 32 bits.
    pub next_xid: u64,
    /// Next free OID.
    pub next_oid: u32,
    /// Next free multixact.
    pub next_multi: u32,
    /// Next free member offset.
    pub next_multi_offset: u32,
    /// Cluster-wide minimum `datfrozenxid`.
    pub oldest_xid: u32,
    /// Database that has it.
    pub oldest_xid_db: u32,
    /// Cluster-wide minimum `datminmxid`.
    pub oldest_multi: u32,
    /// Database that has it.
    pub oldest_multi_db: u32,
    /// Seconds since 1970-01-01 UTC.
    pub time_s: i64,
    /// Oldest transaction with a commit timestamp, 0 when there is none.
    pub oldest_commit_ts_xid: u32,
    /// Newest transaction with a commit timestamp, 0 when there is none.
    pub newest_commit_ts_xid: u32,
    /// Oldest running transaction; 0 in a shutdown checkpoint.
    pub oldest_active_xid: u32,
}

impl Checkpoint {
    /// Reads the struct at the beginning of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ShortInput> {
        let mut r = ByteReader::new(bytes);
        let checkpoint = Self {
            redo: Lsn(r.u64()?),
            timeline_id: r.u32()?,
            prev_timeline_id: r.u32()?,
            full_page_writes: {
                let value = r.u8()? != 0;
                r.skip(3)?;
                value
            },
            wal_level: r.i32()?,
            next_xid: r.u64()?,
            next_oid: r.u32()?,
            next_multi: r.u32()?,
            next_multi_offset: r.u32()?,
            oldest_xid: r.u32()?,
            oldest_xid_db: r.u32()?,
            oldest_multi: r.u32()?,
            oldest_multi_db: r.u32()?,
            time_s: {
                r.skip(4)?;
                r.i64()?
            },
            oldest_commit_ts_xid: r.u32()?,
            newest_commit_ts_xid: r.u32()?,
            oldest_active_xid: r.u32()?,
        };
        r.skip(4)?;
        Ok(checkpoint)
    }

    /// The struct's bytes, padding zeroed.
    pub fn encode(&self) -> [u8; CHECKPOINT_SIZE] {
        let mut out = [0; CHECKPOINT_SIZE];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.redo.0.to_le_bytes());
        put(8, &self.timeline_id.to_le_bytes());
        put(12, &self.prev_timeline_id.to_le_bytes());
        put(16, &[u8::from(self.full_page_writes)]);
        put(20, &self.wal_level.to_le_bytes());
        put(24, &self.next_xid.to_le_bytes());
        put(32, &self.next_oid.to_le_bytes());
        put(36, &self.next_multi.to_le_bytes());
        put(40, &self.next_multi_offset.to_le_bytes());
        put(44, &self.oldest_xid.to_le_bytes());
        put(48, &self.oldest_xid_db.to_le_bytes());
        put(52, &self.oldest_multi.to_le_bytes());
        put(56, &self.oldest_multi_db.to_le_bytes());
        put(64, &self.time_s.to_le_bytes());
        put(72, &self.oldest_commit_ts_xid.to_le_bytes());
        put(76, &self.newest_commit_ts_xid.to_le_bytes());
        put(80, &self.oldest_active_xid.to_le_bytes());
        out
    }
}
