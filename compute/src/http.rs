//! `docs/protocols.md` §6, the compute's part.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State as Shared,
    routing::{get, post, put},
};
use ogel_ids::{Lsn, Term};
use ogel_service::{
    http::{ApiError, base_routes},
    metrics::registry::Registry,
};
use serde::{Deserialize, Serialize};

use crate::{
    board::{Board, Startup, State},
    conf_file::ConfFile,
    propose::Progress,
    stop::{Stop, StopMode},
};

/// What the handlers see.
#[derive(Clone)]
pub struct Surface {
    /// What is shown.
    pub board: Board,
    /// How far the WAL is.
    pub progress: Progress,
    /// Where a wish to stop goes.
    pub stop: Stop,
    /// Postgres' settings.
    pub conf_file: ConfFile,
    /// For clients.
    pub connection_string: String,
}

#[derive(Serialize)]
struct Status {
    state: State,
    term: Option<Term>,
    start_lsn: Option<Lsn>,
    commit_lsn: Lsn,
    flush_lsn: Lsn,
    last_record_lsn: Lsn,
    disk_consistent_lsn: Lsn,
    remote_consistent_lsn: Lsn,
    waits_for: Option<String>,
    connection_string: String,
    pid: Option<i32>,
    safekeepers: Vec<SafekeeperStatus>,
    error: Option<String>,
}

#[derive(Serialize)]
struct SafekeeperStatus {
    node_id: u64,
    state: &'static str,
    flush_lsn: Lsn,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StopRequest {
    #[serde(default)]
    mode: StopKind,
}

/// In MiB.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCacheSize {
    size_mb: u32,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum StopKind {
    #[default]
    Fast,
    Immediate,
}

/// All paths.
pub fn routes(surface: Surface, registry: Arc<Registry>) -> Router {
    let base = base_routes(surface.board.readiness.clone(), registry);
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/startup", get(startup))
        .route("/v1/stop", post(stop))
        .route("/v1/file_cache", put(resize_file_cache))
        .with_state(surface)
        .merge(base)
}

async fn status(Shared(surface): Shared<Surface>) -> Json<Status> {
    let shown = surface.board.shown();
    let nodes = match &shown.nodes {
        Some(query) => query.nodes().await,
        None => Vec::new(),
    };
    let safekeepers = nodes.into_iter().map(|node| SafekeeperStatus {
        node_id: node.node.0,
        state: node.state.as_str(),
        flush_lsn: node.flush_lsn,
        error: node.error,
    });
    Json(Status {
        state: shown.state,
        term: shown.term,
        start_lsn: shown.start_lsn,
        commit_lsn: surface.progress.commit_lsn(),
        flush_lsn: surface.progress.flush_lsn(),
        last_record_lsn: surface.progress.last_record_lsn(),
        disk_consistent_lsn: surface.progress.disk_consistent_lsn(),
        remote_consistent_lsn: surface.progress.remote_consistent_lsn(),
        waits_for: surface.progress.waits_for(),
        connection_string: surface.connection_string,
        pid: shown.pid,
        safekeepers: safekeepers.collect(),
        error: shown.error,
    })
}

async fn startup(Shared(surface): Shared<Surface>) -> Json<Startup> {
    Json(surface.board.startup())
}

async fn resize_file_cache(Shared(surface): Shared<Surface>, body: Bytes) -> Result<Json<FileCacheSize>, ApiError> {
    let size: FileCacheSize = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(error, r#"send {"size_mb":256}; 0 turns the file cache off"#))?;
    let postmaster = surface.board.shown().pid;
    surface
        .conf_file
        .resize_file_cache(size.size_mb, postmaster)
        .map_err(|error| ApiError::unavailable(format!("{error:#}"), "try again"))?;
    tracing::info!(size.size_mb, "file cache resized");
    Ok(Json(size))
}

async fn stop(Shared(surface): Shared<Surface>, body: Bytes) -> Result<Json<serde_json::Value>, ApiError> {
    let request: StopRequest = if body.is_empty() {
        StopRequest { mode: StopKind::Fast }
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| ApiError::bad_request(error, r#"send {"mode":"fast"} or {"mode":"immediate"}"#))?
    };
    tracing::info!("stop asked for over HTTP");
    surface.stop.ask(match request.mode {
        StopKind::Fast => StopMode::Fast,
        StopKind::Immediate => StopMode::Immediate,
    });
    Ok(Json(serde_json::json!({"state": "stopping"})))
}
