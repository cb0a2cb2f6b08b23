//! Branches and time over HTTP.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    routing::get,
};
use ogel_service::http::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Routes, Server, find};
use crate::branch::{
    Timestamp,
    commit_index::Position,
    point::{self, Point, PointError},
};

pub(super) fn routes() -> Routes {
    Routes::default().route("/v1/tenant/{tenant}/timeline/{timeline}/lsn_by_time", get(lsn_by_time))
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
    let timeline = find(&pageserver, &tenant, &timeline)?;
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
