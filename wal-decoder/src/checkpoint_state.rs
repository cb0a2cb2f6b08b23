//! What a running cluster's next checkpoint would hold, as far as its WAL tells: PostgreSQL's `CheckPoint` struct and those settings in
//! `pg_control` that replay changes.
//!
//! Stored form, little-endian, 176 bytes: version u8 = 1, flags u8 (1 wal_log_hints, 2 track_commit_timestamp, 4 running-xacts known,
//! 8 its subxids overflowed, 16 and 32 the two optional page numbers known), 6 bytes 0, then `CheckPoint` (88 bytes, as in WAL), then the fields below in order.

use crate::{
    byte_reader::{ByteReader, ShortInput},
    control_file::{CHECKPOINT_SIZE, Checkpoint, ControlFile},
    slru::{wrapping_precedes, xid_precedes},
    v17::FIRST_NORMAL_XID,
};
use ogel_ids::Lsn;

const VERSION: u8 = 1;
const ENCODED_SIZE: usize = 176;

const FLAG_WAL_LOG_HINTS: u8 = 1;
const FLAG_TRACK_COMMIT_TIMESTAMP: u8 = 2;
const FLAG_RUNNING: u8 = 4;
const FLAG_SUBXIDS_OVERFLOWED: u8 = 8;
const FLAG_LAST_OFFSETS_PAGE: u8 = 16;
const FLAG_EARLY_OFFSETS_PAGE: u8 = 32;

/// Bytes that are not a stored checkpoint state of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointStateError {
    /// Too short or too long.
    #[error("checkpoint state has {0} bytes, {ENCODED_SIZE} are expected")]
    Length(usize),
    /// Unknown version byte.
    #[error("checkpoint state has version {0}, this program reads version {VERSION}")]
    Version(u8),
    /// Ends early.
    #[error("checkpoint state: {0}")]
    Short(#[from] ShortInput),
}

/// Settings that `pg_control` keeps because standbys depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerSettings {
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: i32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

/// Summary of the last running-transactions record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunningXacts {
    /// Top-level transactions that ran.
    pub xact_count: u32,
    /// Subtransactions that ran and are listed.
    pub subxact_count: u32,
    /// Not all subtransactions are listed.
    pub subxids_overflowed: bool,
    /// Next transaction id then.
    pub next_xid: u32,
    /// Oldest running one.
    pub oldest_running_xid: u32,
    /// Newest completed one.
    pub latest_completed_xid: u32,
}

/// See the module. `next_xid` in `checkpoint` is beyond every transaction id that the WAL so far has shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckpointState {
    /// PostgreSQL's struct. `redo` and `time_s` are those of the last checkpoint record.
    pub checkpoint: Checkpoint,
    /// Settings in `pg_control`.
    pub settings: ServerSettings,
    /// Start of the last checkpoint record; invalid when none was seen.
    pub last_checkpoint: Lsn,
    /// The last running-transactions record.
    pub running: Option<RunningXacts>,
    /// The last multixact offsets page that a record of its own has zeroed. PostgreSQL before 17.7 wrote that record only when the page's first
    /// multixact was made, newer ones write to the page before: this tells them apart.
    pub last_offsets_page: Option<u32>,
    /// The offsets page that was begun early, for the multixact before its first: a record that zeroes it is to be ignored.
    pub early_offsets_page: Option<u32>,
}

impl CheckpointState {
    /// The state of a cleanly stopped cluster, or of a running one as of its last checkpoint.
    pub fn from_control_file(control: &ControlFile) -> Self {
        Self {
            checkpoint: control.checkpoint_copy,
            settings: control.settings,
            last_checkpoint: control.checkpoint,
            running: None,
            last_offsets_page: None,
            early_offsets_page: None,
        }
    }

    /// The shutdown checkpoint that a cluster which stopped right now would write at `redo`.
    pub fn to_checkpoint(&self, redo: Lsn) -> Checkpoint {
        Checkpoint { redo, prev_timeline_id: self.checkpoint.timeline_id, oldest_active_xid: 0, ..self.checkpoint }
    }

    /// Makes `next_xid` come after `xid` (`AdvanceNextFullTransactionIdPastXid`). Special ids change nothing.
    pub fn advance_past_xid(&mut self, xid: u32) {
        let next = self.checkpoint.next_xid as u32;
        if xid < FIRST_NORMAL_XID || xid_precedes(xid, next) {
            return;
        }
        let new = xid.wrapping_add(1).max(FIRST_NORMAL_XID);
        let epoch = (self.checkpoint.next_xid >> 32) + u64::from(new < next);
        self.checkpoint.next_xid = epoch << 32 | u64::from(new);
    }

    /// The full id of a transaction that is not newer than the next one and not older than half the number space.
    pub fn full_xid(&self, xid: u32) -> u64 {
        let next = self.checkpoint.next_xid;
        let epoch = (next >> 32).wrapping_sub(u64::from(xid > next as u32)) & 0xffff_ffff;
        epoch << 32 | u64::from(xid)
    }

    pub(crate) fn advance_multi(&mut self, next_multi: u32, next_offset: u32) {
        if wrapping_precedes(self.checkpoint.next_multi, next_multi) {
            self.checkpoint.next_multi = next_multi;
        }
        if wrapping_precedes(self.checkpoint.next_multi_offset, next_offset) {
            self.checkpoint.next_multi_offset = next_offset;
        }
    }

    pub(crate) fn advance_oldest_xid(&mut self, xid: u32, db: u32) {
        if xid_precedes(self.checkpoint.oldest_xid, xid) {
            (self.checkpoint.oldest_xid, self.checkpoint.oldest_xid_db) = (xid, db);
        }
    }

    pub(crate) fn advance_oldest_multi(&mut self, multi: u32, db: u32) {
        if wrapping_precedes(self.checkpoint.oldest_multi, multi) {
            (self.checkpoint.oldest_multi, self.checkpoint.oldest_multi_db) = (multi, db);
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut flags = 0;
        let mut flag = |bit, set: bool| flags |= if set { bit } else { 0 };
        flag(FLAG_WAL_LOG_HINTS, self.settings.wal_log_hints);
        flag(FLAG_TRACK_COMMIT_TIMESTAMP, self.settings.track_commit_timestamp);
        flag(FLAG_RUNNING, self.running.is_some());
        flag(FLAG_SUBXIDS_OVERFLOWED, self.running.is_some_and(|running| running.subxids_overflowed));
        flag(FLAG_LAST_OFFSETS_PAGE, self.last_offsets_page.is_some());
        flag(FLAG_EARLY_OFFSETS_PAGE, self.early_offsets_page.is_some());
        let mut out = Vec::with_capacity(ENCODED_SIZE);
        out.extend_from_slice(&[VERSION, flags, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.checkpoint.encode());
        let s = &self.settings;
        for value in [
            s.wal_level,
            s.max_connections,
            s.max_worker_processes,
            s.max_wal_senders,
            s.max_prepared_xacts,
            s.max_locks_per_xact,
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.last_checkpoint.0.to_le_bytes());
        let running = self.running.unwrap_or_default();
        for value in [
            running.xact_count,
            running.subxact_count,
            running.next_xid,
            running.oldest_running_xid,
            running.latest_completed_xid,
            self.last_offsets_page.unwrap_or(0),
            self.early_offsets_page.unwrap_or(0),
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.resize(ENCODED_SIZE, 0);
        out
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointStateError> {
        let mut r = ByteReader::new(bytes);
        let (version, flags) = (r.u8()?, r.u8()?);
        if version != VERSION {
            return Err(CheckpointStateError::Version(version));
        }
        if bytes.len() != ENCODED_SIZE {
            return Err(CheckpointStateError::Length(bytes.len()));
        }
        let is = |bit| flags & bit != 0;
        r.skip(6)?;
        let checkpoint = Checkpoint::parse(r.bytes(CHECKPOINT_SIZE)?)?;
        let settings = ServerSettings {
            wal_level: r.i32()?,
            max_connections: r.i32()?,
            max_worker_processes: r.i32()?,
            max_wal_senders: r.i32()?,
            max_prepared_xacts: r.i32()?,
            max_locks_per_xact: r.i32()?,
            wal_log_hints: is(FLAG_WAL_LOG_HINTS),
            track_commit_timestamp: is(FLAG_TRACK_COMMIT_TIMESTAMP),
        };
        let last_checkpoint = Lsn(r.u64()?);
        let running = RunningXacts {
            xact_count: r.u32()?,
            subxact_count: r.u32()?,
            subxids_overflowed: is(FLAG_SUBXIDS_OVERFLOWED),
            next_xid: r.u32()?,
            oldest_running_xid: r.u32()?,
            latest_completed_xid: r.u32()?,
        };
        let (last_offsets_page, early_offsets_page) = (r.u32()?, r.u32()?);
        Ok(Self {
            checkpoint,
            settings,
            last_checkpoint,
            running: is(FLAG_RUNNING).then_some(running),
            last_offsets_page: is(FLAG_LAST_OFFSETS_PAGE).then_some(last_offsets_page),
            early_offsets_page: is(FLAG_EARLY_OFFSETS_PAGE).then_some(early_offsets_page),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// States are stored for years: these are the bytes of version 1.
    #[test]
    fn version_1_stays_readable() {
        let mut stored = vec![0; ENCODED_SIZE];
        stored[..2].copy_from_slice(&[1, FLAG_WAL_LOG_HINTS | FLAG_RUNNING | FLAG_EARLY_OFFSETS_PAGE]);
        stored[8 + 24..8 + 32].copy_from_slice(&0x1_0000_0005u64.to_le_bytes());
        for (at, value) in [(96, 2u32), (100, 100), (120, 0x28), (128, 7), (148, 0), (152, 9)] {
            stored[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let state = CheckpointState::decode(&stored).expect("version 1");
        assert_eq!((state.checkpoint.next_xid, state.last_checkpoint), (0x1_0000_0005, Lsn(0x28)));
        assert_eq!((state.settings.wal_level, state.settings.max_connections), (2, 100));
        assert_eq!((state.running.map(|running| running.xact_count), state.early_offsets_page), (Some(7), Some(9)));
        assert_eq!((state.settings.wal_log_hints, state.last_offsets_page), (true, None));
        assert_eq!(state.encode(), stored);
    }

    #[test]
    fn other_versions_and_lengths_are_refused() {
        let stored = CheckpointState::default().encode();
        assert!(matches!(CheckpointState::decode(&stored[..100]), Err(CheckpointStateError::Length(100))));
        assert!(CheckpointState::decode(&[]).is_err());
        let mut newer = stored;
        newer[0] = 2;
        assert_eq!(CheckpointState::decode(&newer), Err(CheckpointStateError::Version(2)));
    }
}
