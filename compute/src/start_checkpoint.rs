//! The record that Postgres starts from.
//!
//! Postgres starts without redo when `pg_control` names a shutdown checkpoint. If the branch's log does not end with one, the
//! supervisor appends a real one as the first WAL of its term: every reader of the log (pageserver, replicas, stock tools)
//! sees it where it is, and nothing of it has to be made up on the compute's side.

use anyhow::{Context, ensure};
use bytes::Bytes;
use ogel_ids::Lsn;
use wal_decoder::{
    checkpoint_state::CheckpointState,
    control_file::{ControlFile, DbState},
    writer::{AppendAt, shutdown_checkpoint},
};

use crate::basebackup::Manifest;

/// How Postgres starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPlan {
    /// Where the checkpoint record begins; WAL is needed locally from the start of its segment on.
    pub checkpoint_lsn: Lsn,
    /// Where Postgres' own WAL begins: the end of the checkpoint record.
    pub end_lsn: Lsn,
    /// To be appended at the start of the term; empty when the log already ends with a shutdown checkpoint.
    pub append: Bytes,
    /// Content of `global/pg_control`.
    pub control_file: Vec<u8>,
}

/// Completes the control file of a basebackup taken at the start of the term. `now_s` is Unix time.
pub fn plan(manifest: &Manifest, control_file: &[u8], now_s: i64) -> anyhow::Result<StartPlan> {
    let mut control = ControlFile::parse(control_file).context("the basebackup's pg_control cannot be used")?;
    ensure!(
        control.system_identifier == manifest.system_identifier,
        "the basebackup's pg_control belongs to database {}, its manifest to {}: it is not used; report this",
        control.system_identifier,
        manifest.system_identifier
    );
    if manifest.clean_shutdown {
        ensure!(
            control.checkpoint == manifest.prev_record_lsn && control.state == DbState::Shutdowned,
            "the basebackup claims a clean shutdown at {}, but its pg_control names {} in state {:?}: it is not used; report this",
            manifest.prev_record_lsn,
            control.checkpoint,
            control.state
        );
        return Ok(StartPlan {
            checkpoint_lsn: control.checkpoint,
            end_lsn: manifest.lsn,
            append: Bytes::new(),
            control_file: control_file.to_vec(),
        });
    }
    let position = AppendAt {
        end: manifest.lsn,
        prev: manifest.prev_record_lsn,
        system_id: manifest.system_identifier,
        segment_size: u32::try_from(manifest.wal_segment_size).context("the WAL segment size")?,
        timeline_id: 1,
    };
    let (record, checkpoint) = shutdown_checkpoint(&position, &CheckpointState::from_control_file(&control), now_s)
        .context("the start checkpoint cannot be written")?;
    control.state = DbState::Shutdowned;
    control.time_s = now_s;
    control.checkpoint = record.start;
    control.checkpoint_copy = checkpoint;
    Ok(StartPlan {
        checkpoint_lsn: record.start,
        end_lsn: record.end,
        append: record.bytes.into(),
        control_file: control.encode().to_vec(),
    })
}
