//! Makes a timeline: from the template or as a branch on the pageserver, then on each safekeeper, bound to the stores that these have now.
//!
//! Every step can be repeated. What must never happen is that a safekeeper that lost its store is handed an empty timeline again: with its vote
//! two of three could elect a log that lacks acknowledged commits. So as soon as one safekeeper has the timeline, the members that it
//! names are the only ones that may get it, and where nobody has it while the pageserver has already ingested WAL, nobody gets it.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::join_all;
use ogel_ids::{Lsn, TenantId, TimelineId};
use serde_json::{Value, json};

use crate::http::Http;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What to make, and where. Addresses are `host:port` of HTTP.
pub struct Wanted {
    /// Owner.
    pub tenant: TenantId,
    /// The timeline.
    pub timeline: TimelineId,
    /// The pageserver.
    pub pageserver: String,
    /// All safekeepers.
    pub safekeepers: Vec<String>,
    /// What it is made from, as the pageserver wants it: the text "template", or a branch's ancestor and position.
    pub source: Value,
}

/// Makes the timeline wherever it is missing. Returns the pageserver's description of it.
pub async fn create_timeline(http: &Http, wanted: &Wanted) -> anyhow::Result<Value> {
    let path = format!("/v1/tenant/{}/timeline/{}", wanted.tenant, wanted.timeline);
    let made = http.put(&wanted.pageserver, &path, &json!({ "source": wanted.source })).await.context("pageserver")?;
    let mut stores = Vec::new();
    let mut named = None;
    for address in &wanted.safekeepers {
        let status = http.get(address, "/v1/status", TIMEOUT).await.with_context(|| format!("safekeeper {address}"))?;
        let member = format!("{}:{}", status["node_id"], text(&status, "store_uuid")?);
        let existing =
            http.get_if_found(address, &path, TIMEOUT).await.with_context(|| format!("safekeeper {address}"))?;
        if let Some(existing) = &existing {
            named = Some(member_list(&existing["membership"])?);
        }
        stores.push((address, member, existing.is_some()));
    }
    check_distinct(&stores)?;
    if stores.iter().all(|(_, _, exists)| *exists) {
        return Ok(made);
    }
    let members = match named {
        Some(members) => members,
        None => {
            let state = http.get(&wanted.pageserver, &path, TIMEOUT).await.context("pageserver")?;
            if text(&state, "last_record_lsn")? != text(&made, "start_lsn")? {
                bail!(
                    "no safekeeper has timeline {}, but the pageserver has ingested its WAL: all stores were lost or replaced; \
                     bring the safekeepers' volumes back",
                    wanted.timeline
                );
            }
            stores.iter().map(|(_, member, _)| member.clone()).collect()
        }
    };
    let prefix = http.get_bytes(&wanted.pageserver, &format!("{path}/wal_prefix")).await.context("pageserver")?;
    let query = format!(
        "system_identifier={}&pg_version_num={}&wal_segment_size={}&start_lsn={}&generation=1&members={}",
        text(&made, "system_identifier")?,
        text(&made, "pg_version_num")?,
        text(&made, "wal_segment_size")?,
        text(&made, "start_lsn")?,
        members.join(",")
    );
    for (address, member, exists) in stores {
        if exists {
            continue;
        }
        if !members.contains(&member) {
            eprintln!(
                "ogel: safekeeper {address} has a new store ({member}) and stays without a vote on timeline {}",
                wanted.timeline
            );
            continue;
        }
        let target = format!("{path}?{query}");
        http.put_bytes(address, &target, prefix.clone()).await.with_context(|| format!("safekeeper {address}"))?;
    }
    Ok(made)
}

/// The pageserver's description of the timeline, if it and a majority of the safekeepers have it.
pub async fn find_timeline(http: &Http, wanted: &Wanted) -> Option<Value> {
    let path = format!("/v1/tenant/{}/timeline/{}", wanted.tenant, wanted.timeline);
    let path = path.as_str();
    let found = join_all(
        wanted
            .safekeepers
            .iter()
            .map(async |address| matches!(http.get_if_found(address, path, TIMEOUT).await, Ok(Some(_)))),
    )
    .await;
    if found.iter().filter(|is_found| **is_found).count() * 2 <= found.len() {
        return None;
    }
    http.get_if_found(&wanted.pageserver, path, TIMEOUT).await.ok().flatten()
}

/// Two processes with one number would be two votes of one node.
fn check_distinct(stores: &[(&String, String, bool)]) -> anyhow::Result<()> {
    let number = |member: &str| member.split(':').next().unwrap_or_default().to_owned();
    for (position, (address, member, _)) in stores.iter().enumerate() {
        if let Some((other, ..)) = stores[..position].iter().find(|(_, other, _)| number(other) == number(member)) {
            bail!(
                "the safekeepers at {other} and {address} both have OGEL_NODE_ID {}: give each its own number and its own volume, \
                 and name each once in OGEL_SAFEKEEPERS_HTTP",
                number(member)
            );
        }
    }
    Ok(())
}

/// The members that a safekeeper's timeline names, as `id:store`.
fn member_list(membership: &Value) -> anyhow::Result<Vec<String>> {
    let members = membership["members"].as_array().context("a safekeeper's answer lacks its members")?;
    members.iter().map(|member| Ok(format!("{}:{}", member["node_id"], text(member, "store_uuid")?))).collect()
}

/// A field as text, whether it is a string or a number.
fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    match &value[name] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => bail!("the answer lacks {name}"),
    }
}

/// The source of a branch. `at` is an LSN or a time, none is the head.
pub fn branch_source(ancestor: TimelineId, at: Option<&str>) -> Value {
    match at {
        None => json!({ "branch": { "ancestor": ancestor } }),
        Some(text) => match text.parse::<Lsn>() {
            Ok(lsn) => json!({ "branch": { "ancestor": ancestor, "lsn": lsn } }),
            Err(_) => json!({ "branch": { "ancestor": ancestor, "time": text } }),
        },
    }
}
