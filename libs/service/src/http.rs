//! The HTTP side of a service.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;
use tokio::net::TcpListener;

use crate::Shutdown;

/// An error as our HTTP interfaces answer it: `{"error": "what and why", "next": "what to do"}`.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// 400, 401, 403, 404, 409, 500 or 503.
    pub status: StatusCode,
    /// What happened and what it means.
    pub error: String,
    /// What to do next.
    pub next: String,
}

impl ApiError {
    /// The request cannot be understood (400).
    pub fn bad_request(error: impl ToString, next: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, next)
    }

    /// Nobody known asks (401).
    pub fn unauthorized(error: impl ToString, next: impl ToString) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, error, next)
    }

    /// Who asks may not (403).
    pub fn forbidden(error: impl ToString, next: impl ToString) -> Self {
        Self::new(StatusCode::FORBIDDEN, error, next)
    }

    /// The thing asked for is not there (404).
    pub fn not_found(error: impl ToString, next: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, next)
    }

    /// The state of things forbids it (409).
    pub fn conflict(error: impl ToString, next: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, error, next)
    }

    /// Not now (503).
    pub fn unavailable(error: impl ToString, next: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, next)
    }

    /// A failure of ours (500).
    pub fn internal(error: impl ToString, next: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error, next)
    }

    fn new(status: StatusCode, error: impl ToString, next: impl ToString) -> Self {
        Self { status, error: error.to_string(), next: next.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.error, "next": self.next}))).into_response()
    }
}

/// Whether the service serves, for `/readyz`. Clones share the state; a new one is not ready.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Result<(), String>>>);

impl Readiness {
    /// Not ready, because it starts.
    pub fn starting() -> Self {
        Self(Arc::new(Mutex::new(Err("starting".into()))))
    }

    /// It serves now.
    pub fn set_ready(&self) {
        self.set(Ok(()));
    }

    /// It does not serve, and why.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn get(&self) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `/healthz`, `/readyz` and `/metrics`, and a JSON answer for every path that is not there. Merge the service's own routes in.
pub fn base_routes(readiness: Readiness, metrics: Arc<Registry>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                match readiness.get() {
                    Ok(()) => "ready\n".into_response(),
                    Err(reason) => {
                        ApiError::unavailable(format!("not ready: {reason}"), "ask again later").into_response()
                    }
                }
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                let mut text = String::new();
                match encode(&mut text, &metrics) {
                    Ok(()) => {
                        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                        ([(header::CONTENT_TYPE, kind)], text).into_response()
                    }
                    Err(error) => ApiError::internal(error, "report this").into_response(),
                }
            }),
        )
        .fallback(|uri: axum::http::Uri| async move {
            ApiError::not_found(format!("there is nothing at {}", uri.path()), "see docs/protocols.md for the paths")
        })
}

/// Serves until shutdown begins and the requests under way are answered.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.wait().await }).await
}
