//! The HTTP interface: what its description says is what is there, and what a person or a program gets from it.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use ogel_ids::Lsn;
use ogel_service::{
    Shutdown,
    http::{self, Readiness},
};
use pageserver::{config::Config, http::paths, metrics::Metrics, pageserver::Pageserver};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use support::{FakeSafekeeper, TENANT, TIMELINE, template};
use tokio::net::TcpListener;

/// A pageserver's HTTP side.
struct Api {
    base: String,
    client: reqwest::Client,
    pageserver: Arc<Pageserver>,
}

impl Api {
    async fn start(data: &Path, arguments: &[&str]) -> Api {
        let arguments = [&["pageserver", "--data-dir", data.to_str().unwrap()], arguments].concat();
        let config: Config = ogel_service::config::parse_from(arguments).unwrap();
        let (metrics, registry) = Metrics::registered();
        let shutdown = Shutdown::new();
        let pageserver = Pageserver::start(&config, metrics, shutdown.clone()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let readiness = Readiness::starting();
        readiness.set_ready();
        let routes =
            http::base_routes(readiness, Arc::new(registry)).merge(pageserver::http::routes(pageserver.clone()));
        tokio::spawn(http::serve(listener, routes, shutdown));
        Api { base, client: reqwest::Client::new(), pageserver }
    }

    async fn stop(self) {
        self.pageserver.shutdown.begin();
        self.pageserver.stop().await;
        support::released(self.pageserver).await;
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Response {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
        .send()
        .await
        .unwrap()
    }

    async fn json(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let response = self.send(method, path, body).await;
        (response.status(), response.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.json(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        value
    }

    /// A refusal says what happened and what to do.
    async fn refused(&self, method: Method, path: &str, body: Option<Value>, expected: u16) -> String {
        let (status, value) = self.json(method, path, body).await;
        assert_eq!(status.as_u16(), expected, "{path}: {value}");
        assert!(!value["next"].as_str().unwrap().is_empty());
        value["error"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_names_exactly_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(folder.path(), &["--safekeepers", "127.0.0.1:1"]).await;
    let description = api.get("/v1/openapi.json").await;
    let described = description["paths"].as_object().unwrap();
    let served: BTreeSet<&str> = paths().into_iter().chain(["/healthz", "/readyz", "/metrics"]).collect();
    assert_eq!(described.keys().map(String::as_str).collect::<BTreeSet<_>>(), served);
    for (path, operations) in described {
        let mut methods: BTreeSet<String> = operations.as_object().unwrap().keys().cloned().collect();
        methods.remove("parameters");
        let ids = path.replace("{tenant}", &TENANT.to_string()).replace("{timeline}", &TIMELINE.to_string());
        // A method that nobody has is refused with the list of those that there are.
        let refused = api.send(Method::from_bytes(b"OGEL").unwrap(), &ids, None).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = refused.headers()["allow"].to_str().unwrap().to_lowercase();
        let allowed: BTreeSet<String> =
            allowed.split(',').map(|method| method.trim().to_owned()).filter(|method| method != "head").collect();
        assert_eq!(methods, allowed, "{path}");
        let named: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        let parameters = operations["parameters"].as_array().map_or(0, Vec::len);
        assert_eq!(named.len(), parameters, "{path} declares its parameters");
    }
    every_reference_leads_somewhere(&description, &description);
    api.stop().await;
}

fn every_reference_leads_somewhere(value: &Value, root: &Value) {
    if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
        assert!(root.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| every_reference_leads_somewhere(value, root)),
        Value::Array(items) => items.iter().for_each(|value| every_reference_leads_somewhere(value, root)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_can_be_looked_into() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let safekeeper = FakeSafekeeper::start(Default::default()).await;
    let api = Api::start(folder.path(), &["--template", &template, "--safekeepers", &safekeeper.address]).await;
    let tenant = format!("/v1/tenant/{TENANT}");
    let path = format!("{tenant}/timeline/{TIMELINE}");
    api.refused(Method::GET, &path, None, 404).await;
    api.refused(Method::GET, &tenant, None, 404).await;
    api.refused(Method::PUT, &path, Some(json!({"source": "template", "more": 1})), 400).await;
    let create = || api.json(Method::PUT, &path, Some(json!({"source": "template"})));
    assert_eq!((create().await.0, create().await.0), (StatusCode::CREATED, StatusCode::OK));
    assert_eq!(api.get("/v1/tenant").await, json!({"tenants": [{"tenant": TENANT, "open_timelines": 1}]}));
    assert_eq!(api.get(&format!("{tenant}/timeline")).await["timelines"][0]["timeline"], json!(TIMELINE));

    let (status, checkpoint) = api.json(Method::POST, &format!("{path}/checkpoint"), None).await;
    assert_eq!(
        (status, &checkpoint["disk_consistent_lsn"]),
        (StatusCode::OK, &api.get(&path).await["last_record_lsn"])
    );
    let layers = api.get(&format!("{path}/layers")).await;
    let places: Vec<_> = layers["layers"].as_array().unwrap().iter().map(|layer| layer["place"].clone()).collect();
    assert_eq!(places, ["memory", "local"]);

    let (status, merged) = api.json(Method::POST, &format!("{path}/compact?full=true"), None).await;
    assert!(status == StatusCode::OK && merged["merges"].is_u64(), "{merged}");
    let (status, kept) = api.json(Method::POST, &format!("{path}/gc"), None).await;
    assert!(status == StatusCode::OK && kept["cutoff"].is_string(), "{kept}");

    let relations = api.get(&format!("{path}/relations")).await;
    let largest = relations["relations"].as_array().unwrap().iter().max_by_key(|rel| rel["blocks"].as_u64()).unwrap();
    let (rel, blocks) = (largest["rel"].as_str().unwrap(), largest["blocks"].as_u64().unwrap());
    assert!(blocks > 10, "{largest}");
    let pages = api.send(Method::GET, &format!("{path}/pages?rel={rel}&first=0&count={blocks}"), None).await;
    let pages = pages.bytes().await.unwrap();
    assert_eq!(pages.len() as u64, blocks * 8192);
    for block in [0, 1, blocks - 1] {
        let page = api.send(Method::GET, &format!("{path}/page?rel={rel}&block={block}"), None).await;
        assert_eq!(page.headers()["ogel-lsn"].to_str().unwrap(), relations["lsn"].as_str().unwrap());
        assert_eq!(page.bytes().await.unwrap(), pages[block as usize * 8192..][..8192]);
    }
    let hex = api.send(Method::GET, &format!("{path}/page?rel={rel}&block=0&format=hex"), None).await;
    assert!(hex.text().await.unwrap().starts_with("0000  "));

    let start: Lsn = api.get(&path).await["start_lsn"].as_str().unwrap().parse().unwrap();
    let page = format!("{path}/page?rel={rel}&block=0");
    api.refused(Method::GET, &format!("{page}&lsn={}", Lsn(start.0 - 8)), None, 409).await;
    api.refused(Method::GET, &format!("{page}&lsn={}", Lsn(start.0 + 8)), None, 409).await;
    for (fields, what) in [("", "rel"), ("?rel=x&block=1", "does not name"), ("?rel=1/2/3&block=99999999999", "block")]
    {
        let error = api.refused(Method::GET, &format!("{path}/page{fields}"), None, 400).await;
        assert!(error.contains(what), "{error}");
    }
    api.refused(Method::GET, &format!("{path}/pages?rel=1/2/3&first=4294967295&count=2"), None, 400).await;
    api.refused(Method::GET, &format!("{path}/pages?rel=1/2/3&first=0&count=1025"), None, 400).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_budgets_change_while_it_runs_and_survive_a_restart() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let safekeeper = FakeSafekeeper::start(Default::default()).await;
    let arguments = ["--template", &template, "--safekeepers", &safekeeper.address, "--page-cache-mb", "16"];
    let api = Api::start(folder.path(), &arguments).await;
    let tenant = format!("/v1/tenant/{TENANT}");
    let config = format!("{tenant}/config");
    api.json(Method::PUT, &format!("{tenant}/timeline/{TIMELINE}"), Some(json!({"source": "template"}))).await;
    assert_eq!(api.get(&config).await, json!({"page_cache_mb": null}));
    let set = |mb: Value| api.json(Method::PUT, &config, Some(json!({"page_cache_mb": mb})));
    assert_eq!(set(json!(4)).await, (StatusCode::OK, json!({"page_cache_mb": 4})));
    for (mb, status) in [(json!(16), 409), (json!(0), 400), (json!(-1), 400), (json!("4"), 400)] {
        let error = api.refused(Method::PUT, &config, Some(json!({"page_cache_mb": mb})), status).await;
        assert!(!error.is_empty());
    }
    api.refused(Method::PUT, "/v1/config", Some(json!({"page_cache_mb": 4})), 409).await;
    let (_, process) =
        api.json(Method::PUT, "/v1/config", Some(json!({"page_cache_mb": 8, "block_cache_mb": 5}))).await;
    assert_eq!((&process["page_cache_mb"], &process["block_cache_mb"]), (&json!(8), &json!(5)));

    // Pages are kept from their second read on; the third is a hit of the tenant's own.
    let timeline = api.pageserver.timeline(TENANT, TIMELINE).unwrap();
    let relation = &api.get(&format!("{tenant}/timeline/{TIMELINE}/relations")).await["relations"][0]["rel"];
    let page = format!("{tenant}/timeline/{TIMELINE}/page?rel={}&block=0", relation.as_str().unwrap());
    for _ in 0..3 {
        api.send(Method::GET, &page, None).await;
    }
    assert!(api.get(&tenant).await["page_cache"]["used_bytes"].as_u64().unwrap() > 8192);
    let metrics = api.send(Method::GET, "/metrics", None).await.text().await.unwrap();
    let hits = format!("pageserver_cache_hits_total{{level=\"2_pages\",tenant=\"{TENANT}\"}} 1");
    assert!(metrics.contains(&hits), "{metrics}");
    drop(timeline);
    api.stop().await;

    let api = Api::start(folder.path(), &arguments).await;
    assert_eq!(api.get(&config).await, json!({"page_cache_mb": 4}));
    api.stop().await;
}
