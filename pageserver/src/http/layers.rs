//! What a timeline is stored in, and merging it now instead of when it is due.

use std::time::SystemTime;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    routing::{get, post},
};
use ogel_service::http::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Routes, Server, find, query};

pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/v1/tenant/{tenant}/timeline/{timeline}/layers", get(layers))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/compact", post(compact))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/gc", post(gc))
}

async fn layers(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let timeline = find(&pageserver, &tenant, &timeline).await?;
    Ok(Json(json!({
        "summary": timeline.layer_summary(),
        "layers": timeline.layer_list(),
        "images_wanted": timeline.image_requests.len(),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompactQuery {
    /// Merge whole stacks, needed or not.
    #[serde(default)]
    full: bool,
}

/// Merges layers and answers when nothing is left to merge.
async fn compact(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
    asked: Result<Query<CompactQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let CompactQuery { full } = query(asked, "ask for ?full=true, or leave it out")?;
    let (timeline, shutdown) = (find(&pageserver, &tenant, &timeline).await?, pageserver.shutdown.clone());
    let stop = move || shutdown.has_begun();
    work(move || if full { timeline.compact_fully(&stop) } else { timeline.compact(&stop) }).await
}

/// Lets go of expired leases and of history that is not kept any more.
async fn gc(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let (timeline, retention) = (find(&pageserver, &tenant, &timeline).await?, pageserver.retention());
    work(move || timeline.collect_garbage(&retention, SystemTime::now())).await
}

async fn work<T: serde::Serialize + Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<Json<Value>, ApiError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(anyhow::Error::from).and_then(|done| done);
    let failed =
        |error| ApiError::internal(format!("{error:#}"), "see the pageserver's log and its disk, then try again");
    done.map(|report| Json(json!(report))).map_err(failed)
}
