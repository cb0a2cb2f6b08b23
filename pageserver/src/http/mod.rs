//! The HTTP side (`docs/protocols.md` §6, `openapi.json`).
//!
//! - `timelines`: create, show, list, checkpoint. - `layers`: what a timeline is stored in. - `pages`: what it says, page by page.
//! - `tenants`: tenants and memory budgets. - `branches`: branches and time. - `routes`: the table of all paths.

mod branches;
mod layers;
mod pages;
mod routes;
mod tenants;
mod timelines;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State, rejection::QueryRejection},
    http::header,
    response::IntoResponse,
    routing::get,
};
use ogel_ids::{Lsn, TenantId, TimelineId};
use ogel_object_store::StoreError;
use ogel_service::http::ApiError;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use routes::Routes;

use crate::{
    pageserver::{Pageserver, TimelineSlot, TimelineUnavailable},
    timeline::{ReadError, Timeline},
};

type Server = State<Arc<Pageserver>>;

/// The interface for programs.
const OPENAPI: &str = include_str!("openapi.json");

/// The service's own routes.
pub fn routes(pageserver: Arc<Pageserver>) -> Router {
    table().into_router().with_state(pageserver)
}

/// All paths, as [`routes`] serves them.
pub fn paths() -> Vec<&'static str> {
    table().paths
}

fn table() -> Routes {
    Routes::default()
        .route("/v1/status", get(status))
        .route("/v1/openapi.json", get(openapi))
        .merge(tenants::routes())
        .merge(timelines::routes())
        .merge(layers::routes())
        .merge(pages::routes())
        .merge(branches::routes())
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
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

/// A listing that failed.
fn not_listed(error: StoreError) -> ApiError {
    ApiError::unavailable(error, "the object store does not answer; try again")
}

const IDS: &str = "ids are 32 hexadecimal digits";

fn tenant_id(text: &str) -> Result<TenantId, ApiError> {
    text.parse().map_err(|error| ApiError::bad_request(error, IDS))
}

fn ids(tenant: &str, timeline: &str) -> Result<(TenantId, TimelineId), ApiError> {
    Ok((tenant_id(tenant)?, timeline.parse().map_err(|error| ApiError::bad_request(error, IDS))?))
}

/// The timeline, attached if need be.
async fn find(pageserver: &Pageserver, tenant: &str, timeline: &str) -> Result<Arc<Timeline>, ApiError> {
    let (tenant, timeline) = ids(tenant, timeline)?;
    pageserver.attached(tenant, timeline).await.map_err(|error| unavailable(&error))
}

fn unavailable(error: &TimelineUnavailable) -> ApiError {
    match error {
        TimelineUnavailable::Unknown(..) => ApiError::not_found(error, "create it by PUT, or ask another pageserver"),
        TimelineUnavailable::Broken(..) => ApiError::conflict(error, "repair what it names and restart the pageserver"),
        TimelineUnavailable::Elsewhere(..) => ApiError::conflict(error, "ask the pageserver that it names"),
        TimelineUnavailable::NotNow(..) => ApiError::unavailable(error, "mend what it names, then try again"),
    }
}

/// The fields of a query, or what is wrong with it.
fn query<T>(query: Result<Query<T>, QueryRejection>, next: &str) -> Result<T, ApiError> {
    query.map(|Query(fields)| fields).map_err(|error| ApiError::bad_request(error.body_text(), next))
}

/// A JSON body, or what is wrong with it.
fn body<T: DeserializeOwned>(body: &Bytes, next: &str) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(error, next))
}

/// Where to read: the newest record, or what was asked for when that can be had.
fn position(timeline: &Timeline, asked: Option<Lsn>) -> Result<Lsn, ApiError> {
    let newest = timeline.last_record_lsn();
    match asked {
        None => Ok(newest),
        Some(lsn) if lsn > newest => {
            let error = format!("{lsn} has not been ingested, {newest} is the newest position");
            Err(ApiError::conflict(error, "leave lsn out to read at the newest"))
        }
        Some(lsn) if lsn < timeline.start_lsn => {
            let error = format!("the history of the timeline begins at {}, {lsn} lies before it", timeline.start_lsn);
            Err(ApiError::conflict(error, "take a later position"))
        }
        Some(lsn) => Ok(lsn),
    }
}

/// Reads where waiting for the disk hinders nobody.
async fn read<T: Send + 'static>(read: impl FnOnce() -> Result<T, ReadError> + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(read).await;
    match done.map_err(|error| ApiError::internal(format!("the read failed: {error}"), "report this"))? {
        Ok(value) => Ok(value),
        Err(error @ ReadError::AncestorBehind { .. }) => Err(ApiError::unavailable(error, "try again in a moment")),
        Err(error @ ReadError::BelowCutoff { .. }) => Err(ApiError::conflict(error, "take a later position")),
        Err(error) => Err(ApiError::internal(error, "see the timeline's \"damaged\" in its status")),
    }
}
