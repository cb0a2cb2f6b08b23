//! `pg_control` for a compute that starts at an LSN.

use anyhow::Context;
use ogel_ids::Lsn;
use wal_decoder::control_file::{ControlFile, DbState};

use crate::timeline::state::RunningState;

/// `FirstNormalUnloggedLSN`: where PostgreSQL's fake LSNs begin anew after each start.
const FIRST_UNLOGGED_LSN: Lsn = Lsn(1000);

/// The original file, brought to `state`. It names the shutdown checkpoint when there is one; else its position is for the receiver to
/// fill in, together with the checkpoint that it appends.
pub fn build(original: &[u8], state: &RunningState) -> anyhow::Result<Vec<u8>> {
    let original = ControlFile::parse(original).context("the timeline's original pg_control is damaged")?;
    let checkpoint = if state.clean_shutdown { state.prev_record_lsn } else { Lsn::INVALID };
    let checkpoint_copy = state.checkpoint.to_checkpoint(checkpoint);
    let control = ControlFile {
        state: DbState::Shutdowned,
        checkpoint,
        checkpoint_copy,
        time_s: checkpoint_copy.time_s,
        unlogged_lsn: FIRST_UNLOGGED_LSN,
        min_recovery_point: Lsn::INVALID,
        min_recovery_point_timeline: 0,
        backup_start_point: Lsn::INVALID,
        backup_end_point: Lsn::INVALID,
        backup_end_required: false,
        settings: state.checkpoint.settings,
        ..original
    };
    Ok(control.encode().to_vec())
}
