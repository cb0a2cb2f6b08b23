//! Deleting timelines and tenants.

use axum::{
    Json,
    extract::{Path, State},
};
use ogel_ids::TenantId;
use ogel_service::http::ApiError;
use serde_json::{Value, json};

use super::{Node, parse_key};
use crate::registry::DeletionError;

pub async fn delete_timeline(
    State(node): State<Node>,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let key = parse_key(&path)?;
    answer(node.registry.delete(key.tenant, Some(key.timeline)).await)
}

pub async fn delete_tenant(State(node): State<Node>, Path(tenant): Path<String>) -> Result<Json<Value>, ApiError> {
    let tenant: TenantId =
        tenant.parse().map_err(|error| ApiError::bad_request(error, "give the id as 32 hexadecimal digits"))?;
    answer(node.registry.delete(tenant, None).await)
}

fn answer(result: Result<u64, DeletionError>) -> Result<Json<Value>, ApiError> {
    match result {
        Ok(time) => Ok(Json(json!({"deleted": true, "deleted_at_s": time}))),
        Err(error @ DeletionError::Archive(_)) => {
            Err(ApiError::unavailable(error, "delete it again when the object store answers"))
        }
        Err(error) => Err(ApiError::internal(error, "check the disk and the permissions, then delete it again")),
    }
}
