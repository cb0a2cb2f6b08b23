//! Timelines made, branched, leased and deleted, and time, over HTTP.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use ogel_ids::{Lsn, TimelineId};
use ogel_service::http::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Routes, Server, ids, unavailable};
use crate::{
    branch::{
        self, Timestamp,
        commit_index::Position,
        create::BranchError,
        delete::DeleteError,
        lease::LeaseError,
        point::{self, Point, PointError},
    },
    manifest::EditError,
    pageserver::Pageserver,
    timeline::Timeline,
};

pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/v1/tenant/{tenant}/timeline/{timeline}/lsn_by_time", get(lsn_by_time))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/lease", post(lease))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/lease/{lease}", delete(return_lease))
}

async fn attached(pageserver: &Pageserver, tenant: &str, timeline: &str) -> Result<Arc<Timeline>, ApiError> {
    let (tenant, id) = ids(tenant, timeline)?;
    pageserver.attached(tenant, id).await.map_err(|error| unavailable(&error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    source: Source,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Template,
    Branch(BranchSource),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchSource {
    ancestor: TimelineId,
    lsn: Option<Lsn>,
    time: Option<String>,
}

/// The moment that a request names: an LSN, a time, or neither for the head.
fn moment(lsn: Option<Lsn>, time: Option<&str>) -> Result<Point, ApiError> {
    match (lsn, time) {
        (None, None) => Ok(Point::Head),
        (Some(lsn), None) => Ok(Point::Lsn(lsn)),
        (None, Some(time)) => {
            let time = time.parse().map_err(|error| ApiError::bad_request(error, "correct the time"))?;
            Ok(Point::Time(time))
        }
        (Some(_), Some(_)) => Err(ApiError::bad_request("both lsn and time are given", "give one of them, or neither")),
    }
}

pub(super) async fn create(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (tenant, id) = ids(&tenant, &timeline)?;
    let next = r#"send {"source": "template"} or {"source": {"branch": {"ancestor": ID}}}, with "lsn" or "time" beside the ancestor"#;
    let request: CreateRequest = super::body(&body, next)?;
    let (timeline, created) = match request.source {
        Source::Template => pageserver.create(tenant, id).await.map_err(|error| {
            ApiError::conflict(format!("{error:#}"), "mend what it names, then send the same request again")
        })?,
        Source::Branch(BranchSource { ancestor, lsn, time }) => {
            let point = moment(lsn, time.as_deref())?;
            pageserver.create_branch(tenant, id, ancestor, point).await.map_err(|error| no_branch(&error))?
        }
    };
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(made(&timeline))).into_response())
}

/// What safekeepers must know to hold the timeline's WAL.
fn made(timeline: &Timeline) -> Value {
    let ancestor = timeline.ancestor.as_ref();
    json!({
        "system_identifier": timeline.system_identifier.to_string(),
        "pg_version_num": timeline.pg_version_num,
        "wal_segment_size": timeline.wal_segment_size,
        "start_lsn": timeline.start_lsn,
        "ancestor": ancestor.map(|ancestor| json!({"timeline": ancestor.timeline.id, "lsn": ancestor.lsn})),
    })
}

fn no_branch(error: &BranchError) -> ApiError {
    match error {
        BranchError::Source(source) => unavailable(source),
        BranchError::Taken(..) => ApiError::conflict(error, "use another id"),
        BranchError::Broken(_) => ApiError::conflict(error, "use another id, or repair the timeline"),
        BranchError::Point(point) => refused(point),
        BranchError::Deleting(_) => ApiError::conflict(error, "branch from another timeline"),
        BranchError::Storage(cause) if cause.is::<EditError>() => ApiError::conflict(error, "take a later moment"),
        BranchError::Storage(_) => ApiError::internal(error, "mend what it names, then send the same request again"),
    }
}

pub(super) async fn remove(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let (tenant, id) = ids(&tenant, &timeline)?;
    match pageserver.delete(tenant, id).await {
        Ok(()) => Ok(Json(json!({"deleted": id}))),
        Err(DeleteError::Unavailable(error)) => Err(unavailable(&error)),
        Err(error @ DeleteError::HasBranches { .. }) => Err(ApiError::conflict(error, "delete those first")),
        Err(error @ DeleteError::Storage(_)) => {
            Err(ApiError::internal(error, "mend what it names, then send the same request again"))
        }
    }
}

pub(super) async fn wal_prefix(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let timeline = attached(&pageserver, &tenant, &timeline).await?;
    let bytes = branch::wal_prefix(&timeline, pageserver.safekeepers()).await.map_err(|error| {
        ApiError::unavailable(format!("{error:#}"), "check the disk, or the safekeepers, then ask again")
    })?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseRequest {
    id: String,
    ttl_s: u64,
    lsn: Option<Lsn>,
    time: Option<String>,
}

async fn lease(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let next = r#"send {"id": NAME, "ttl_s": SECONDS, "lsn": LSN}, or "time" in place of "lsn", or neither"#;
    let request: LeaseRequest = super::body(&body, next)?;
    let point = moment(request.lsn, request.time.as_deref())?;
    let timeline = attached(&pageserver, &tenant, &timeline).await?;
    let length = Duration::from_secs(request.ttl_s);
    let (origin, lease) =
        pageserver.lease(timeline, &request.id, point, length).await.map_err(|error| match error {
            LeaseError::Point(error) => refused(&error),
            LeaseError::Record(_) => ApiError::conflict(error, "take another id or a later moment"),
        })?;
    Ok(Json(json!({
        "id": request.id,
        "timeline": origin.timeline.id,
        "lsn": lease.lsn,
        "expires_s": lease.expires_s,
        "newest_commit": origin.state.newest_commit,
    })))
}

async fn return_lease(
    State(pageserver): Server,
    Path((tenant, timeline, lease)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let timeline = attached(&pageserver, &tenant, &timeline).await?;
    match timeline.return_lease(&lease).await {
        Ok(true) => Ok(Json(json!({"returned": lease}))),
        Ok(false) => Err(ApiError::not_found(format!("there is no lease {lease:?}"), "GET the timeline to see them")),
        Err(error) => Err(ApiError::internal(format!("{error:#}"), "check the disk, then ask again")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeQuery {
    at: String,
}

/// Where a moment is, without making anything there.
async fn lsn_by_time(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
    query: Result<Query<TimeQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let next = "ask for ?at=2026-11-21T10:59:00Z (a + of an offset is written %2B)";
    let Query(TimeQuery { at }) = query.map_err(|error| ApiError::bad_request(error.body_text(), next))?;
    let at: Timestamp = at.parse().map_err(|error| ApiError::bad_request(error, next))?;
    let timeline = attached(&pageserver, &tenant, &timeline).await?;
    let in_future = at > Timestamp::now();
    let resolved = match in_future {
        true => point::resolve(&pageserver, timeline.clone(), Point::Head).await,
        false => point::resolve(&pageserver, timeline.clone(), Point::Time(at)).await,
    };
    match resolved {
        Ok(origin) => Ok(Json(json!({
            "kind": if in_future { "future" } else { "exact" },
            "timeline": origin.timeline.id,
            "lsn": origin.lsn,
            "newest_commit": origin.state.newest_commit,
        }))),
        Err(PointError::BeforeHistory { .. }) => {
            let first = match point::position(&timeline, at) {
                Ok(Position::BeforeHistory(first)) => first,
                _ => None,
            };
            Ok(Json(json!({
                "kind": "before_history",
                "lsn": first.map(|entry| entry.lsn),
                "newest_commit": first.and_then(|entry| entry.newest_commit),
            })))
        }
        Err(error) => Err(refused(&error)),
    }
}

/// A moment that cannot be had.
pub(super) fn refused(error: &PointError) -> ApiError {
    match error {
        PointError::FutureLsn { .. } | PointError::FutureTime { .. } => {
            ApiError::conflict(error, "leave the position out to take the newest")
        }
        PointError::BeforeHistory { .. } => ApiError::conflict(error, "take a later moment"),
        PointError::NoMajority(_) | PointError::Wait(_) => {
            ApiError::unavailable(error, "check the safekeepers, then try again")
        }
        PointError::Storage(_) => ApiError::internal(error, "see the pageserver's log and its disk"),
    }
}
