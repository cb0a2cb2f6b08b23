//! Memberships, and replacing a lost node.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use ogel_service::http::ApiError;
use quorum::Membership;
use serde_json::{Value, json};

use super::{Node, parse_key, refused_error};
use crate::{
    peers::report::{MembershipJson, Report},
    rejoin::{Status, Step},
    timeline::AdoptionError,
};

pub async fn tell(State(node): State<Node>, Path(path): Path<(String, String)>) -> Result<Json<Report>, ApiError> {
    let timeline = node.registry.get(parse_key(&path)?).await.map_err(|refused| refused_error(&refused))?;
    Ok(Json(Report::of(&timeline)))
}

pub async fn adopt(
    State(node): State<Node>,
    Path(path): Path<(String, String)>,
    body: Result<Json<MembershipJson>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Report>, ApiError> {
    let timeline = node.registry.get(parse_key(&path)?).await.map_err(|refused| refused_error(&refused))?;
    let next = r#"give {"generation": the present one + 1, "members": [{"node_id", "store_uuid"}, …]} with one member replaced"#;
    let Json(membership) = body.map_err(|error| ApiError::bad_request(error.body_text(), next))?;
    let membership = Membership::try_from(membership).map_err(|error| ApiError::bad_request(error, next))?;
    match timeline.adopt(membership).await {
        Ok(()) => Ok(Json(Report::of(&timeline))),
        Err(error @ AdoptionError::Slow) => Err(ApiError::unavailable(error, "look at the disk; then offer it again")),
        Err(error) => Err(ApiError::conflict(error, "GET the same path of each safekeeper to see which one it has")),
    }
}

pub async fn pull(State(node): State<Node>, Path(path): Path<(String, String)>) -> Result<Json<Value>, ApiError> {
    let key = parse_key(&path)?;
    match node.rejoin.pull(key).await {
        Step::Failed { error } => Err(ApiError::unavailable(error, "do what it says, then ask again")),
        Step::NotAMember => Err(ApiError::conflict(
            format!("no store of safekeeper {} was ever a member of timeline {key}", node.me.node_id),
            "make it a member first",
        )),
        Step::Deleted => {
            Err(ApiError::conflict(format!("timeline {key} was deleted here"), "delete it on the others too"))
        }
        step => Ok(Json(json!(step))),
    }
}

pub async fn start_rejoin(State(node): State<Node>) -> (StatusCode, Json<Status>) {
    node.rejoin.start();
    (StatusCode::ACCEPTED, Json(node.rejoin.status()))
}

pub async fn rejoin_status(State(node): State<Node>) -> Json<Status> {
    Json(node.rejoin.status())
}
