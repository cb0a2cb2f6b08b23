//! The check of the HTTP interface: `Authorization: Bearer TOKEN` for everything below `/v1`. Health and metrics are for everybody.

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};

use super::{Access, TokenError, Verifier};
use crate::http::ApiError;

/// Puts the check in front of all routes.
pub fn protect(router: Router, verifier: Verifier) -> Router {
    if verifier.is_on() { router.layer(from_fn_with_state(verifier, check)) } else { router }
}

async fn check(State(verifier): State<Verifier>, request: Request, next: Next) -> Response {
    match allow(&verifier, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn allow(verifier: &Verifier, request: &Request) -> Result<(), ApiError> {
    if ["/healthz", "/readyz", "/metrics"].contains(&request.uri().path()) {
        return Ok(());
    }
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().trim();
    let next = "send Authorization: Bearer TOKEN; `ogel token` makes one";
    let grant = verifier.verify(token).map_err(|error: TokenError| ApiError::unauthorized(error, next))?;
    let access = access(request.method(), request.uri().path());
    grant.check(access).map_err(|error| ApiError::forbidden(error, "use a token whose scope allows it"))
}

/// What a request is. One that is not understood needs the most.
fn access(method: &Method, path: &str) -> Access {
    if ![Method::GET, Method::HEAD].contains(method) {
        return Access::Manage;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts[..] {
        ["v1", "tenant", tenant, "timeline", timeline, ..] => match (tenant.parse(), timeline.parse()) {
            (Ok(tenant), Ok(timeline)) => Access::Read(tenant, Some(timeline)),
            _ => Access::Manage,
        },
        ["v1", "tenant", tenant, ..] => tenant.parse().map_or(Access::Manage, |tenant| Access::Read(tenant, None)),
        ["v1", "status" | "openapi.json"] => Access::Status,
        _ => Access::Manage,
    }
}

#[cfg(test)]
mod tests {
    use ogel_ids::{TenantId, TimelineId};

    use super::*;

    #[test]
    fn what_is_not_understood_needs_the_most() {
        let (tenant, timeline) = (TenantId::from_bytes([1; 16]), TimelineId::from_bytes([2; 16]));
        let path = format!("/v1/tenant/{tenant}/timeline/{timeline}");
        let read = Access::Read(tenant, Some(timeline));
        assert_eq!(access(&Method::GET, &path), read);
        assert_eq!(access(&Method::GET, &format!("/{path}/wal_prefix")), read);
        assert_eq!(access(&Method::GET, &format!("/v1/tenant/{tenant}")), Access::Read(tenant, None));
        assert_eq!(access(&Method::PUT, &path), Access::Manage);
        assert_eq!(access(&Method::GET, "/v1/status"), Access::Status);
        for odd in ["/v1/tenant/x", "/v1/tenant/x/timeline/y", "/v1/other", "/", "/v2/status"] {
            assert_eq!(access(&Method::GET, odd), Access::Manage, "{odd}");
        }
    }
}
