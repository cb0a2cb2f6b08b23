//! `ControlFileData`, field by field.

use super::{CHECKPOINT_SIZE, CRC_AT, Checkpoint, ControlFileError, FILE_SIZE, STRUCT_SIZE};
use crate::{
    byte_reader::{ByteReader, ShortInput},
    checkpoint_state::ServerSettings,
    stream::is_valid_segment_size,
    v17::PG_CONTROL_VERSION,
};
use ogel_ids::Lsn;

/// What the cluster was doing when the file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DbState {
    /// Being set up.
    Startup = 0,
    /// Stopped cleanly: the checkpoint is the last record.
    Shutdowned = 1,
    /// Stopped cleanly during recovery.
    ShutdownedInRecovery = 2,
    /// Stopping.
    Shutdowning = 3,
    /// Recovering from a crash.
    InCrashRecovery = 4,
    /// Recovering from a backup or following a primary.
    InArchiveRecovery = 5,
    /// Running.
    InProduction = 6,
}

/// PostgreSQL 17's `ControlFileData`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ControlFile {
    /// Identifies the cluster.
    pub system_identifier: u64,
    /// `CATALOG_VERSION_NO`.
    pub catalog_version: u32,
    /// What the cluster was doing.
    pub state: DbState,
    /// When the file was written, seconds since 1970.
    pub time_s: i64,
    /// Start of the last checkpoint record.
    pub checkpoint: Lsn,
    /// Copy of that record.
    pub checkpoint_copy: Checkpoint,
    /// Fake LSN for unlogged relations.
    pub unlogged_lsn: Lsn,
    /// Recovery must reach this first.
    pub min_recovery_point: Lsn,
    /// Its timeline.
    pub min_recovery_point_timeline: u32,
    /// Redo position of the backup that is being recovered.
    pub backup_start_point: Lsn,
    /// End of the backup from a standby.
    pub backup_end_point: Lsn,
    /// A backup-end record must be seen.
    pub backup_end_required: bool,
    /// Settings that standbys depend on.
    pub settings: ServerSettings,
    /// `MAXIMUM_ALIGNOF`.
    pub max_align: u32,
    /// 1234567.0.
    pub float_format: f64,
    /// `BLCKSZ`.
    pub block_size: u32,
    /// Blocks of one relation segment file.
    pub relation_segment_blocks: u32,
    /// `XLOG_BLCKSZ`.
    pub wal_block_size: u32,
    /// `wal_segment_size` in bytes.
    pub wal_segment_size: u32,
    /// `NAMEDATALEN`.
    pub name_data_len: u32,
    /// `INDEX_MAX_KEYS`.
    pub index_max_keys: u32,
    /// `TOAST_MAX_CHUNK_SIZE`.
    pub toast_max_chunk_size: u32,
    /// `LOBLKSIZE`.
    pub large_object_block_size: u32,
    /// `FLOAT8PASSBYVAL`.
    pub float8_by_value: bool,
    /// 0 without page checksums, else their version.
    pub data_checksum_version: u32,
    /// Secret for SASL exchanges with unknown users; must stay the same for a cluster.
    pub mock_authentication_nonce: [u8; 32],
}

impl From<ShortInput> for ControlFileError {
    fn from(error: ShortInput) -> Self {
        ControlFileError::Short(error.left)
    }
}

impl DbState {
    const fn from_number(number: u32) -> Option<DbState> {
        Some(match number {
            0 => DbState::Startup,
            1 => DbState::Shutdowned,
            2 => DbState::ShutdownedInRecovery,
            3 => DbState::Shutdowning,
            4 => DbState::InCrashRecovery,
            5 => DbState::InArchiveRecovery,
            6 => DbState::InProduction,
            _ => return None,
        })
    }
}

impl ControlFile {
    /// Reads the file, or its first 296 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let content = bytes.get(..STRUCT_SIZE).ok_or(ControlFileError::Short(bytes.len()))?;
        let mut r = ByteReader::new(content);
        let system_identifier = r.u64()?;
        let version = r.u32()?;
        if version != PG_CONTROL_VERSION {
            return Err(ControlFileError::Version(version));
        }
        let stored = ByteReader::new(&content[CRC_AT..]).u32()?;
        let computed = crc32c::crc32c(&content[..CRC_AT]);
        if stored != computed {
            return Err(ControlFileError::Checksum { stored, computed });
        }
        let control = Self::parse_fields(r, system_identifier)?;
        if !is_valid_segment_size(control.wal_segment_size) {
            return Err(ControlFileError::Field("WAL segment size is not a power of two from 1 MiB to 1 GiB"));
        }
        if control.block_size != 8192 || control.wal_block_size != 8192 || control.max_align != 8 {
            return Err(ControlFileError::Field("only builds with 8 kB pages and an alignment of 8 are supported"));
        }
        Ok(control)
    }

    fn parse_fields(mut r: ByteReader<'_>, system_identifier: u64) -> Result<Self, ControlFileError> {
        fn flag(r: &mut ByteReader<'_>) -> Result<bool, ShortInput> {
            let value = r.u8()? != 0;
            r.skip(3)?;
            Ok(value)
        }
        let catalog_version = r.u32()?;
        let state = DbState::from_number(r.u32()?).ok_or(ControlFileError::Field("unknown cluster state"))?;
        r.skip(4)?;
        let (time_s, checkpoint) = (r.i64()?, Lsn(r.u64()?));
        let checkpoint_copy = Checkpoint::parse(r.bytes(CHECKPOINT_SIZE)?)?;
        let (unlogged_lsn, min_recovery_point) = (Lsn(r.u64()?), Lsn(r.u64()?));
        let min_recovery_point_timeline = r.u32()?;
        r.skip(4)?;
        let (backup_start_point, backup_end_point) = (Lsn(r.u64()?), Lsn(r.u64()?));
        let backup_end_required = flag(&mut r)?;
        let settings = ServerSettings {
            wal_level: r.i32()?,
            wal_log_hints: flag(&mut r)?,
            max_connections: r.i32()?,
            max_worker_processes: r.i32()?,
            max_wal_senders: r.i32()?,
            max_prepared_xacts: r.i32()?,
            max_locks_per_xact: r.i32()?,
            track_commit_timestamp: flag(&mut r)?,
        };
        Ok(Self {
            system_identifier,
            catalog_version,
            state,
            time_s,
            checkpoint,
            checkpoint_copy,
            unlogged_lsn,
            min_recovery_point,
            min_recovery_point_timeline,
            backup_start_point,
            backup_end_point,
            backup_end_required,
            settings,
            max_align: r.u32()?,
            float_format: f64::from_bits(r.u64()?),
            block_size: r.u32()?,
            relation_segment_blocks: r.u32()?,
            wal_block_size: r.u32()?,
            wal_segment_size: r.u32()?,
            name_data_len: r.u32()?,
            index_max_keys: r.u32()?,
            toast_max_chunk_size: r.u32()?,
            large_object_block_size: r.u32()?,
            float8_by_value: flag(&mut r)?,
            data_checksum_version: r.u32()?,
            mock_authentication_nonce: r.bytes(32)?.try_into().map_err(|_| ControlFileError::Short(0))?,
        })
    }

    /// The whole file, checksum included.
    pub fn encode(&self) -> Vec<u8> {
        fn flag(value: bool) -> [u8; 4] {
            [u8::from(value), 0, 0, 0]
        }
        let mut out = Vec::with_capacity(FILE_SIZE);
        let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
        put(&self.system_identifier.to_le_bytes());
        put(&PG_CONTROL_VERSION.to_le_bytes());
        put(&self.catalog_version.to_le_bytes());
        put(&(self.state as u64).to_le_bytes());
        put(&self.time_s.to_le_bytes());
        put(&self.checkpoint.0.to_le_bytes());
        put(&self.checkpoint_copy.encode());
        put(&self.unlogged_lsn.0.to_le_bytes());
        put(&self.min_recovery_point.0.to_le_bytes());
        put(&u64::from(self.min_recovery_point_timeline).to_le_bytes());
        put(&self.backup_start_point.0.to_le_bytes());
        put(&self.backup_end_point.0.to_le_bytes());
        put(&flag(self.backup_end_required));
        put(&self.settings.wal_level.to_le_bytes());
        put(&flag(self.settings.wal_log_hints));
        put(&self.settings.max_connections.to_le_bytes());
        put(&self.settings.max_worker_processes.to_le_bytes());
        put(&self.settings.max_wal_senders.to_le_bytes());
        put(&self.settings.max_prepared_xacts.to_le_bytes());
        put(&self.settings.max_locks_per_xact.to_le_bytes());
        put(&flag(self.settings.track_commit_timestamp));
        put(&self.max_align.to_le_bytes());
        put(&self.float_format.to_bits().to_le_bytes());
        put(&self.block_size.to_le_bytes());
        put(&self.relation_segment_blocks.to_le_bytes());
        put(&self.wal_block_size.to_le_bytes());
        put(&self.wal_segment_size.to_le_bytes());
        put(&self.name_data_len.to_le_bytes());
        put(&self.index_max_keys.to_le_bytes());
        put(&self.toast_max_chunk_size.to_le_bytes());
        put(&self.large_object_block_size.to_le_bytes());
        put(&flag(self.float8_by_value));
        put(&self.data_checksum_version.to_le_bytes());
        put(&self.mock_authentication_nonce);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(FILE_SIZE, 0);
        out
    }
}
