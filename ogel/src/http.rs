//! Requests to the nodes' HTTP ports.

use std::time::Duration;

use anyhow::{Context, bail};
use ogel_service::auth::TokenSource;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;

/// A client whose every request has a limit.
pub struct Http(reqwest::Client);

impl Http {
    /// A client that shows this token.
    pub fn new(token: &TokenSource) -> anyhow::Result<Http> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token.current()? {
            let mut value =
                HeaderValue::try_from(format!("Bearer {token}")).context("the token is not one line of text")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).default_headers(headers).build()?;
        Ok(Http(client))
    }

    /// Whether the node says that it serves.
    pub async fn ready(&self, address: &str) -> bool {
        let request = self.0.get(url(address, "/readyz")).timeout(Duration::from_secs(2));
        matches!(request.send().await, Ok(response) if response.status().is_success())
    }

    /// GET of a JSON value; `limit` bounds the wait.
    pub async fn get(&self, address: &str, path: &str, limit: Duration) -> anyhow::Result<Value> {
        json(self.0.get(url(address, path)).timeout(limit), path).await
    }

    /// GET of a JSON value that may not be there (404).
    pub async fn get_if_found(&self, address: &str, path: &str, limit: Duration) -> anyhow::Result<Option<Value>> {
        let response =
            self.0.get(url(address, path)).timeout(limit).send().await.with_context(|| format!("GET {path}"))?;
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            Ok(None)
        } else {
            answer(response, path).await.map(Some)
        }
    }

    /// GET of bytes.
    pub async fn get_bytes(&self, address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
        let response = self.0.get(url(address, path)).send().await.with_context(|| format!("GET {path}"))?;
        let status = response.status();
        let body = response.bytes().await.with_context(|| format!("GET {path}"))?;
        if !status.is_success() {
            bail!("GET {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body.to_vec())
    }

    /// PUT of a JSON value.
    pub async fn put(&self, address: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        json(self.0.put(url(address, path)).json(body), path).await
    }

    /// POST without a body.
    pub async fn post(&self, address: &str, path: &str) -> anyhow::Result<Value> {
        json(self.0.post(url(address, path)), path).await
    }

    /// DELETE; `None` when it is not there (404).
    pub async fn delete(&self, address: &str, path: &str) -> anyhow::Result<Option<Value>> {
        let response = self.0.delete(url(address, path)).send().await.with_context(|| format!("DELETE {path}"))?;
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            Ok(None)
        } else {
            answer(response, path).await.map(Some)
        }
    }

    /// PUT of bytes.
    pub async fn put_bytes(&self, address: &str, path: &str, body: Vec<u8>) -> anyhow::Result<Value> {
        json(self.0.put(url(address, path)).body(body), path).await
    }
}

fn url(address: &str, path: &str) -> String {
    format!("http://{address}{path}")
}

async fn json(request: reqwest::RequestBuilder, path: &str) -> anyhow::Result<Value> {
    answer(request.send().await.with_context(|| format!("request to {path}"))?, path).await
}

async fn answer(response: reqwest::Response, path: &str) -> anyhow::Result<Value> {
    let status = response.status();
    let text = response.text().await.with_context(|| format!("answer of {path}"))?;
    if status.is_success() {
        return if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) };
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if value["error"].is_string() => {
            let next = value["next"].as_str().unwrap_or_default();
            bail!("{}{}{next}", value["error"].as_str().unwrap_or_default(), if next.is_empty() { "" } else { ": " })
        }
        _ => bail!("{path}: {status}: {text}"),
    }
}
