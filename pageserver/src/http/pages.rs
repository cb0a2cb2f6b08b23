//! What a timeline says: relations and pages, for people who must look inside and for comparisons of whole clusters.

use std::fmt::Write;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderName, header},
    response::{IntoResponse, Response},
    routing::get,
};
use ogel_ids::Lsn;
use ogel_service::http::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};
use wal_decoder::{
    key::{Fork, PAGE_SIZE, Rel, RelFork},
    redo::PageRef,
};

use super::{Routes, Server, find, position, query, read};
use crate::{
    keyspace::KeyRange,
    layer::Io,
    timeline::{PageId, Timeline},
};

/// Pages of one answer at most: 8 MiB.
const MAX_PAGES: u32 = 1024;
/// Where the answer was read.
const LSN_HEADER: HeaderName = HeaderName::from_static("ogel-lsn");

pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/v1/tenant/{tenant}/timeline/{timeline}/relations", get(relations))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/page", get(page))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/pages", get(pages))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RelationsQuery {
    lsn: Option<Lsn>,
}

/// All relation forks and their sizes.
async fn relations(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
    asked: Result<Query<RelationsQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let asked = query(asked, "ask for ?lsn=0/16B3740, or leave it out for the newest")?;
    let timeline = find(&pageserver, &tenant, &timeline).await?;
    let lsn = position(&timeline, asked.lsn)?;
    let sizes = read(move || timeline.relation_sizes(KeyRange::all_rel_sizes(), lsn, Io::MayBlock)).await?;
    let relations: Vec<Value> =
        sizes.iter().map(|(rel, blocks)| json!({"rel": relation_name(*rel), "blocks": blocks})).collect();
    Ok(Json(json!({"lsn": lsn, "relations": relations})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    rel: String,
    block: u32,
    lsn: Option<Lsn>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Raw,
    Hex,
}

/// One page.
async fn page(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
    asked: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let next =
        "ask for ?rel=1663/5/16384&block=0, also &lsn=0/16B3740 and &format=hex; forks are 16384_vm and the like";
    let asked = query(asked, next)?;
    let rel = relation(&asked.rel, next)?;
    let timeline = find(&pageserver, &tenant, &timeline).await?;
    let lsn = position(&timeline, asked.lsn)?;
    let bytes = read(move || read_run(&timeline, rel, asked.block..=asked.block, lsn)).await?;
    let text = [(LSN_HEADER, lsn.to_string())];
    Ok(match asked.format {
        Format::Raw => (text, [(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Format::Hex => (text, hex_dump(&bytes)).into_response(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PagesQuery {
    rel: String,
    first: u32,
    count: u32,
    lsn: Option<Lsn>,
}

/// Pages one behind the other.
async fn pages(
    State(pageserver): Server,
    Path((tenant, timeline)): Path<(String, String)>,
    asked: Result<Query<PagesQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let next = "ask for ?rel=1663/5/16384&first=0&count=1024, also &lsn=0/16B3740";
    let asked = query(asked, next)?;
    let rel = relation(&asked.rel, next)?;
    let last = asked.count.checked_sub(1).and_then(|more| asked.first.checked_add(more));
    let Some(last) = last.filter(|_| asked.count <= MAX_PAGES) else {
        return Err(ApiError::bad_request(format!("{} pages cannot be had at once", asked.count), "ask for 1 to 1024"));
    };
    let timeline = find(&pageserver, &tenant, &timeline).await?;
    let lsn = position(&timeline, asked.lsn)?;
    let bytes = read(move || read_run(&timeline, rel, asked.first..=last, lsn)).await?;
    let headers = [(LSN_HEADER, lsn.to_string()), (header::CONTENT_TYPE, "application/octet-stream".to_owned())];
    Ok((headers, bytes).into_response())
}

fn read_run(
    timeline: &Timeline,
    rel: RelFork,
    blocks: std::ops::RangeInclusive<u32>,
    lsn: Lsn,
) -> Result<Vec<u8>, crate::timeline::ReadError> {
    let pages: Vec<PageId> = blocks.map(|block| PageId::Relation(PageRef { rel, block })).collect();
    let mut bytes = vec![0; pages.len() * PAGE_SIZE];
    let mut made = timeline.make_pages(timeline.gather_pages(&pages, lsn, Io::MayBlock)?);
    bytes.as_chunks_mut().0.iter_mut().try_for_each(|page| made.next_into(page))?;
    Ok(bytes)
}

/// `1663/5/16384`, with the fork's suffix as in the name of a file.
fn relation_name(rel: RelFork) -> String {
    format!("{}/{}/{}{}", rel.rel.spc, rel.rel.db, rel.rel.rel, rel.fork.file_suffix())
}

fn relation(text: &str, next: &str) -> Result<RelFork, ApiError> {
    let parse = || {
        let fork = Fork::ALL.into_iter().rev().find(|fork| text.ends_with(fork.file_suffix()))?;
        let mut numbers = text.strip_suffix(fork.file_suffix())?.split('/').map(|number| number.parse().ok());
        let (spc, db, rel) = (numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then(|| Rel { spc, db, rel }.fork(fork))
    };
    parse().ok_or_else(|| ApiError::bad_request(format!("{text:?} does not name a relation fork"), next))
}

fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (number, line) in bytes.chunks(32).enumerate() {
        let _ = write!(text, "{:04x} ", number * 32); // a String takes everything
        line.iter().for_each(|byte| _ = write!(text, " {byte:02x}"));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_named_as_their_files() {
        for fork in Fork::ALL {
            let rel = Rel { spc: 1663, db: 5, rel: 16384 }.fork(fork);
            assert_eq!(relation(&relation_name(rel), "").ok(), Some(rel));
        }
        for text in ["", "1663/5", "1663/5/x", "1663/5/16384_", "1663/5/16384/1", "1663/5/-1", "1663/5/16384_vm_vm"] {
            assert!(relation(text, "").is_err(), "{text}");
        }
    }
}
