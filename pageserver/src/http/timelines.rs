//! Timelines over HTTP.

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ogel_ids::TenantId;
use ogel_service::http::ApiError;
use serde_json::{Value, json};

use super::{
    Routes, Server,
    branches::{create, remove, wal_prefix},
    find, ids, state_of,
};
use crate::{manifest::TimelineState, pageserver::TimelineSlot, timeline::CheckpointError};

pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/v1/tenant/{tenant}/timeline", get(list))
        .route("/v1/tenant/{tenant}/timeline/{timeline}", get(show).put(create).delete(remove))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/wal_prefix", get(wal_prefix))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/control_file", get(control_file))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/checkpoint", post(checkpoint))
}

async fn list(State(pageserver): Server, Path(tenant): Path<String>) -> Result<Json<Value>, ApiError> {
    let tenant: TenantId = super::tenant_id(&tenant)?;
    let timelines = pageserver.stored_timelines(tenant).await.map_err(super::not_listed)?;
    let state = |slot: &Option<_>| slot.as_ref().map_or("at_rest", state_of);
    let timelines: Vec<Value> =
        timelines.iter().map(|(timeline, slot)| json!({"timeline": timeline, "state": state(slot)})).collect();
    Ok(Json(json!({"timelines": timelines})))
}

async fn show(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let (tenant_id, timeline_id) = ids(&tenant, &timeline)?;
    if let Some(TimelineSlot::Broken(error)) = pageserver.timelines().get(&(tenant_id, timeline_id)) {
        return Ok(Json(json!({"state": "broken", "error": &**error})));
    }
    let timeline = find(&pageserver, &tenant, &timeline).await?;
    let (head, ingest, damaged) = (timeline.head(), timeline.ingest_status(), timeline.damaged_pages());
    Ok(Json(json!({
        "state": match timeline.lifecycle() {
            TimelineState::Deleting => "deleting",
            _ if ingest.stopped => "stopped",
            _ => "active",
        },
        "start_lsn": timeline.start_lsn,
        "ancestor": timeline.ancestor.as_ref().map(|ancestor| json!({"timeline": ancestor.timeline.id, "lsn": ancestor.lsn})),
        "branches": timeline.branches(),
        "leases": timeline.leases(),
        "last_record_lsn": head.lsn,
        "prev_record_lsn": head.state.prev_record_lsn,
        "clean_shutdown": head.state.clean_shutdown,
        "disk_consistent_lsn": timeline.disk_consistent_lsn(),
        "remote_consistent_lsn": timeline.remote_consistent_lsn(),
        "commit_lsn": ingest.commit_lsn,
        "safekeeper": ingest.safekeeper,
        "term_history": &timeline.term_history()[..],
        "logical_size_bytes": timeline.logical_size_bytes(),
        "system_identifier": timeline.system_identifier.to_string(),
        "pg_version_num": timeline.pg_version_num,
        "wal_segment_size": timeline.wal_segment_size,
        "layers": timeline.layer_summary(),
        "damaged_pages": damaged.named.len() as u64 + damaged.unnamed,
        "damaged": damaged.named,
        "error": ingest.error,
    })))
}

/// `pg_control` as the timeline was created with it, its own system identifier included.
async fn control_file(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let timeline = find(&pageserver, &tenant, &timeline).await?;
    raw(move || timeline.original_control_file()).await
}

async fn raw(read: impl FnOnce() -> std::io::Result<Vec<u8>> + Send + 'static) -> Result<Response, ApiError> {
    let bytes = tokio::task::spawn_blocking(read)
        .await
        .map_err(std::io::Error::other)
        .and_then(|result| result)
        .map_err(|error| ApiError::internal(format!("the file cannot be read: {error}"), "check the disk"))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// Writes everything ingested so far to files and answers when it is there.
async fn checkpoint(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let timeline = find(&pageserver, &tenant, &timeline).await?;
    let limit = pageserver.wait_lsn_timeout;
    match timeline.checkpoint(limit, &pageserver.shutdown).await {
        Ok(lsn) => Ok(Json(json!({"disk_consistent_lsn": lsn}))),
        Err(error @ CheckpointError::Stopped(_)) => Err(ApiError::conflict(error, "see the timeline's \"error\"")),
        Err(error) => Err(ApiError::unavailable(error, "see the pageserver's log, then try again")),
    }
}
