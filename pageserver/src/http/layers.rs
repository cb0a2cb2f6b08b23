//! What a timeline is stored in.

use axum::{
    Json,
    extract::{Path, State},
    routing::get,
};
use ogel_service::http::ApiError;
use serde_json::{Value, json};

use super::{Routes, Server, find};

pub(super) fn routes() -> Routes {
    Routes::default().route("/v1/tenant/{tenant}/timeline/{timeline}/layers", get(layers))
}

async fn layers(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let timeline = find(&pageserver, &tenant, &timeline)?;
    Ok(Json(json!({
        "summary": timeline.layer_summary(),
        "layers": timeline.layer_list(),
        "images_wanted": timeline.image_requests.len(),
    })))
}
