//! The HTTP side (`docs/protocols.md` §6).

mod branches;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use ogel_ids::{TenantId, TimelineId};
use ogel_service::http::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    pageserver::{Pageserver, TimelineSlot, TimelineUnavailable},
    timeline::Timeline,
};

type Server = State<Arc<Pageserver>>;

/// The service's own routes.
pub fn routes(pageserver: Arc<Pageserver>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/tenant/{tenant}/timeline/{timeline}", get(show).put(create))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/wal_prefix", get(wal_prefix))
        .merge(branches::routes())
        .with_state(pageserver)
}

async fn status(State(pageserver): Server) -> Json<Value> {
    let timelines: Vec<Value> = pageserver
        .timelines()
        .iter()
        .map(|((tenant, timeline), slot)| json!({"tenant": tenant, "timeline": timeline, "state": state_of(slot)}))
        .collect();
    Json(json!({
        "node_id": pageserver.node_id,
        "version": env!("CARGO_PKG_VERSION"),
        "timelines": timelines,
    }))
}

fn state_of(slot: &TimelineSlot) -> &'static str {
    match slot {
        TimelineSlot::Broken(_) => "broken",
        TimelineSlot::Active(timeline) if timeline.ingest_status().stopped => "stopped",
        TimelineSlot::Active(_) => "active",
    }
}

fn ids(tenant: &str, timeline: &str) -> Result<(TenantId, TimelineId), ApiError> {
    let next = "ids are 32 hexadecimal digits";
    let tenant = tenant.parse().map_err(|error| ApiError::bad_request(error, next))?;
    Ok((tenant, timeline.parse().map_err(|error| ApiError::bad_request(error, next))?))
}

fn find(pageserver: &Pageserver, tenant: &str, timeline: &str) -> Result<Arc<Timeline>, ApiError> {
    let (tenant, timeline) = ids(tenant, timeline)?;
    pageserver.timeline(tenant, timeline).map_err(|error| match error {
        TimelineUnavailable::Unknown(..) => ApiError::not_found(error, "create it by PUT, or ask another pageserver"),
        TimelineUnavailable::Broken(..) => ApiError::conflict(error, "repair what it names and restart the pageserver"),
        TimelineUnavailable::Elsewhere(..) => ApiError::conflict(error, "ask the pageserver that it names"),
        TimelineUnavailable::NotNow(..) => ApiError::unavailable(error, "mend what it names, then try again"),
    })
}

async fn show(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let (tenant_id, timeline_id) = ids(&tenant, &timeline)?;
    if let Some(TimelineSlot::Broken(error)) = pageserver.timelines().get(&(tenant_id, timeline_id)) {
        return Ok(Json(json!({"state": "broken", "error": &**error})));
    }
    let timeline = find(&pageserver, &tenant, &timeline)?;
    let (head, ingest, damaged) = (timeline.head(), timeline.ingest_status(), timeline.damaged_pages());
    Ok(Json(json!({
        "state": if ingest.stopped { "stopped" } else { "active" },
        "start_lsn": timeline.start_lsn,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    source: String,
}

async fn create(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (tenant, id) = ids(&tenant, &timeline)?;
    let next = r#"send {"source": "template"}"#;
    let request: CreateRequest = serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(error, next))?;
    if request.source != "template" {
        return Err(ApiError::bad_request(format!("source {:?} is not known", request.source), next));
    }
    let (timeline, created) = pageserver.create(tenant, id).await.map_err(|error| {
        ApiError::conflict(format!("{error:#}"), "mend what it names, then send the same request again")
    })?;
    let answer = json!({
        "system_identifier": timeline.system_identifier.to_string(),
        "pg_version_num": timeline.pg_version_num,
        "wal_segment_size": timeline.wal_segment_size,
        "start_lsn": timeline.start_lsn,
    });
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(answer)).into_response())
}

async fn wal_prefix(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let timeline = find(&pageserver, &tenant, &timeline)?;
    let bytes = tokio::task::spawn_blocking(move || timeline.wal_prefix())
        .await
        .map_err(std::io::Error::other)
        .and_then(|result| result)
        .map_err(|error| ApiError::internal(format!("the WAL prefix cannot be read: {error}"), "check the disk"))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}
