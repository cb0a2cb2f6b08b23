//! What safekeepers ask each other while a lost node is replaced: `LIST_TIMELINES`, `MEMBERSHIP`, `ADOPT_MEMBERSHIP`.

use std::sync::Arc;

use ogel_pgwire::{Column, Connection, ServerMessage, sqlstate};
use quorum::Membership;

use super::row;
use crate::{
    peers::report::{MembershipJson, Report},
    registry::Registry,
    timeline::{Timeline, TimelineKey},
};

/// Timelines in one answer.
const PAGE: usize = 5_000;

/// The timelines behind `after`, in order.
pub async fn list(
    connection: &mut Connection,
    registry: &Registry,
    after: Option<TimelineKey>,
) -> Result<(), ServerMessage> {
    let mut keys = registry.keys().await.map_err(|error| {
        ServerMessage::error(sqlstate::DATA_CORRUPTED, format!("the data folder cannot be listed: {error}"))
    })?;
    keys.sort_unstable();
    keys.retain(|key| after.is_none_or(|after| *key > after));
    let writer = connection.writer();
    writer.row_description(&[Column::text("timeline")]);
    for key in keys.iter().take(PAGE) {
        writer.data_row(&[Some(key.to_string().as_bytes())]);
    }
    writer.command_complete("LIST_TIMELINES");
    Ok(())
}

/// What this node holds.
pub fn tell(connection: &mut Connection, timeline: &Timeline) -> Result<(), ServerMessage> {
    let json = serde_json::to_string(&Report::of(timeline));
    let json = json.map_err(|error| ServerMessage::error(sqlstate::DATA_CORRUPTED, error.to_string()))?;
    row(connection, &[Column::text("membership")], &[Some(&json)], "MEMBERSHIP");
    Ok(())
}

/// Adopts the next membership.
pub async fn adopt(connection: &mut Connection, timeline: &Arc<Timeline>, json: &str) -> Result<(), ServerMessage> {
    let invalid = |error: String| ServerMessage::error(sqlstate::INVALID_PARAMETER_VALUE, error);
    let membership: MembershipJson = serde_json::from_str(json).map_err(|error| invalid(error.to_string()))?;
    let membership = Membership::try_from(membership).map_err(|error| invalid(error.to_string()))?;
    timeline
        .adopt(membership)
        .await
        .map_err(|error| ServerMessage::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, error.to_string()))?;
    connection.writer().command_complete("ADOPT_MEMBERSHIP");
    Ok(())
}
