//! S3 as bad servers speak it: each answer must become the right kind of error, and none a hang or a wrong success.
#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Method, Response, StatusCode},
};
use ogel_object_store::{ObjectStore, RemoteArgs, StoreError, StoreMetrics};

/// A store whose server answers by this closure, given the method and how many requests came before.
async fn store(answer: impl Fn(&Method, usize) -> Response<Body> + Send + Sync + 'static) -> ObjectStore {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    let router = Router::new().fallback(move |request: Request| {
        let (answer, count) = (answer.clone(), count.clone());
        async move {
            let method = request.method().clone();
            let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            answer(&method, count.fetch_add(1, Ordering::Relaxed))
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "not a real one\n").unwrap();
    let args = RemoteArgs {
        remote: Some("s3://bucket/some/prefix".into()),
        s3_endpoint: Some(format!("http://{address}")),
        s3_access_key_id: Some("id".into()),
        s3_secret_access_key_file: Some(secret),
        remote_timeout_s: 1,
        ..RemoteArgs::default()
    };
    ObjectStore::open(&args, folder.path(), StoreMetrics::default()).unwrap()
}

fn status(code: u16, body: &'static str) -> Response<Body> {
    let etag = ("etag", "\"1\"");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert(etag.0, etag.1.parse().unwrap());
    response.headers_mut().insert("last-modified", "Sat, 21 Nov 2026 10:00:00 GMT".parse().unwrap());
    response
}

#[tokio::test]
async fn a_store_that_lets_both_creations_win_is_refused() {
    let store = store(|method, _| match *method {
        Method::GET => status(200, "second"),
        _ => status(200, ""),
    })
    .await;
    let error = store.put_new("a", "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("s3://bucket/some/prefix") && text.contains("conditional writes"), "{text}");
}

#[tokio::test]
async fn refusals_say_what_to_change_and_are_not_retried() {
    for (code, body, expected) in [
        (403, "<Error><Code>SignatureDoesNotMatch</Code></Error>", "check the access key"),
        (401, "", "check the access key"),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", "create the bucket"),
        (400, "<Error><Code>InvalidRequest</Code></Error>", "S3 settings"),
        (501, "", "cannot get"),
    ] {
        let store = store(move |_, _| status(code, body)).await;
        let error = store.get("a", 100).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{code}: {error}");
        if code < 500 {
            assert_eq!(store.metrics().requests("get"), 1, "{code}: {error}");
        }
    }
    let store = store(|_, _| status(404, "<Error><Code>NoSuchKey</Code></Error>")).await;
    assert!(store.get("a", 100).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn too_many_requests_and_server_errors_are_tried_again() {
    for code in [429, 500, 503] {
        let store = store(move |_, before| if before < 2 { status(code, "later") } else { status(200, "here") }).await;
        assert_eq!(store.get("a", 100).await.unwrap(), "here");
        assert_eq!(store.metrics().requests("get"), 3, "{code}");
    }
}

#[tokio::test]
async fn a_cut_body_is_not_taken_for_the_whole() {
    let store = store(|_, before| {
        let mut response = status(200, "four");
        if before < 2 {
            // Says more than it sends; the connection then ends.
            let cut = futures::stream::iter([Ok("fo"), Err(std::io::Error::other("cut"))]);
            *response.body_mut() = Body::from_stream(cut);
            response.headers_mut().insert("content-length", "4".parse().unwrap());
        }
        response
    })
    .await;
    assert_eq!(store.get("a", 100).await.unwrap(), "four");
}

#[tokio::test]
async fn a_lost_reply_to_a_creation_is_not_a_conflict() {
    // Probe: taken, taken, "first", deleted. Then the creation itself: 500 although it was done, then 412, then read back.
    let store = store(|method, before| match (method, before) {
        (&Method::PUT, 0 | 1) => status(412, ""),
        (&Method::GET, 2) => status(200, "first"),
        (&Method::PUT, 4) => status(500, ""),
        (&Method::PUT, _) => status(412, ""),
        (&Method::GET, _) => status(200, "mine"),
        _ => status(200, ""),
    })
    .await;
    store.put_new("a", "mine").await.unwrap();
    let error = store.put_new("b", "other").await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
}
