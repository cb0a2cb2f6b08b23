//! Tenants, and memory that can be changed while the pageserver runs.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    routing::get,
};
use ogel_ids::{TenantId, TimelineId};
use ogel_service::http::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Routes, Server};
use crate::pageserver::Pageserver;

pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/v1/config", get(config).put(set_config))
        .route("/v1/tenant", get(list))
        .route("/v1/tenant/{tenant}", get(show))
        .route("/v1/tenant/{tenant}/config", get(tenant_config).put(set_tenant_config))
}

async fn list(State(pageserver): Server) -> Result<Json<Value>, ApiError> {
    let tenants = pageserver.stored_tenants().await.map_err(super::not_listed)?;
    let tenants: Vec<Value> =
        tenants.iter().map(|(tenant, open)| json!({"tenant": tenant, "open_timelines": open})).collect();
    Ok(Json(json!({"tenants": tenants})))
}

/// A tenant that has timelines here, open or not. Its settings apply from now on.
async fn known(pageserver: &Pageserver, tenant: &str) -> Result<(TenantId, Vec<TimelineId>), ApiError> {
    let tenant = super::tenant_id(tenant)?;
    let timelines = pageserver.stored_timelines(tenant).await.map_err(super::not_listed)?;
    if timelines.is_empty() {
        let error = format!("there is no tenant {tenant} on this pageserver");
        return Err(ApiError::not_found(error, "create a timeline of it first"));
    }
    if timelines.values().all(Option::is_none) {
        pageserver.apply_tenant_config(tenant);
    }
    Ok((tenant, timelines.into_keys().collect()))
}

async fn show(State(pageserver): Server, Path(tenant): Path<String>) -> Result<Json<Value>, ApiError> {
    let (tenant, timelines) = known(&pageserver, &tenant).await?;
    Ok(Json(json!({"tenant": tenant, "timelines": timelines, "page_cache": page_cache(&pageserver, tenant)})))
}

fn page_cache(pageserver: &Pageserver, tenant: TenantId) -> Value {
    let (budget_bytes, used_bytes) = pageserver.page_cache().tenant_bytes(tenant);
    json!({"budget_mb": budget_bytes.map(|bytes| bytes >> 20), "used_bytes": used_bytes})
}

async fn tenant_config(State(pageserver): Server, Path(tenant): Path<String>) -> Result<Json<Value>, ApiError> {
    let (tenant, _) = known(&pageserver, &tenant).await?;
    let (budget_bytes, _) = pageserver.page_cache().tenant_bytes(tenant);
    Ok(Json(json!({"page_cache_mb": budget_bytes.map(|bytes| bytes >> 20)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantConfig {
    /// `null`: together with the other tenants that have none.
    page_cache_mb: Option<u32>,
}

async fn set_tenant_config(
    State(pageserver): Server,
    Path(tenant): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let (tenant, _) = known(&pageserver, &tenant).await?;
    let next = r#"send {"page_cache_mb": 64}, or null to share with the other tenants"#;
    let asked: TenantConfig = super::body(&body, next)?;
    if asked.page_cache_mb == Some(0) {
        return Err(ApiError::bad_request("a budget is 1 MiB or more", next));
    }
    pageserver
        .set_tenant_page_cache(tenant, asked.page_cache_mb)
        .await
        .map_err(|error| ApiError::conflict(format!("{error:#}"), "take less, or raise page_cache_mb of /v1/config"))?;
    Ok(Json(json!({"page_cache_mb": asked.page_cache_mb})))
}

async fn config(State(pageserver): Server) -> Json<Value> {
    let (pages, blocks) = (pageserver.page_cache(), pageserver.block_cache());
    Json(json!({
        "page_cache_mb": pages.total_bytes() >> 20,
        "page_cache_used_bytes": pages.used_bytes(),
        "block_cache_mb": blocks.capacity_bytes() >> 20,
        "block_cache_used_bytes": blocks.used_bytes(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessConfig {
    page_cache_mb: Option<u32>,
    block_cache_mb: Option<u32>,
}

/// Until the next start, which takes the settings again.
async fn set_config(state: Server, body: Bytes) -> Result<Json<Value>, ApiError> {
    let next = r#"send {"page_cache_mb": 256} or {"block_cache_mb": 256}, or both; 1 or more"#;
    let asked: ProcessConfig = super::body(&body, next)?;
    if [asked.page_cache_mb, asked.block_cache_mb].contains(&Some(0)) {
        return Err(ApiError::bad_request("a cache of 0 MiB cannot be had", next));
    }
    let bytes = |mb: u32| u64::from(mb) << 20;
    if let Some(mb) = asked.page_cache_mb {
        let refused = |error| ApiError::conflict(error, "take more, or lower the tenants' budgets first");
        state.page_cache().set_total(bytes(mb)).map_err(refused)?;
    }
    if let Some(mb) = asked.block_cache_mb {
        state.block_cache().set_capacity(bytes(mb));
    }
    Ok(config(state).await)
}
