//! The HTTP port: `docs/protocols.md` §6.

mod deletion;
mod membership;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Path, Query, State},
    http::StatusCode,
    routing::{delete, get, post},
};
use ogel_ids::{Generation, Lsn, NodeId, StoreUuid, TenantId, TimelineId};
use ogel_service::http::ApiError;
use quorum::{AcceptorState, Member, Membership, RefusalCode, Refused, acceptor::TimelineIdentity};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    registry::{Created, Registry},
    rejoin::Rejoin,
    timeline::{Timeline, TimelineKey, creation::CreationError},
};

#[derive(Clone)]
struct Node {
    registry: Arc<Registry>,
    me: Member,
    rejoin: Arc<Rejoin>,
}

/// Everything below `/v1`.
pub fn routes(registry: Arc<Registry>, me: Member, rejoin: Arc<Rejoin>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route(
            "/v1/tenant/{tenant}/timeline/{timeline}",
            get(timeline_state).put(create_timeline).delete(deletion::delete_timeline),
        )
        .route("/v1/tenant/{tenant}/timeline/{timeline}/membership", get(membership::tell).put(membership::adopt))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/pull", post(membership::pull))
        .route("/v1/rejoin", get(membership::rejoin_status).post(membership::start_rejoin))
        .route("/v1/tenant/{tenant}", delete(deletion::delete_tenant))
        .with_state(Node { registry, me, rejoin })
}

async fn status(State(node): State<Node>) -> Result<Json<Value>, ApiError> {
    let timelines = node.registry.list().await.map_err(|error| {
        ApiError::internal(format!("the data folder cannot be listed: {error}"), "check the disk and the permissions")
    })?;
    let timelines: Vec<Value> = timelines
        .into_iter()
        .map(|(key, state)| json!({"tenant": key.tenant, "timeline": key.timeline, "state": state}))
        .collect();
    Ok(Json(json!({
        "node_id": node.me.node_id,
        "store_uuid": node.me.store_uuid,
        "version": env!("CARGO_PKG_VERSION"),
        "timelines": timelines,
    })))
}

async fn timeline_state(State(node): State<Node>, Path(path): Path<(String, String)>) -> Result<Json<Value>, ApiError> {
    let timeline = node.registry.get(parse_key(&path)?).await.map_err(|refused| refused_error(&refused))?;
    Ok(Json(describe(&timeline)))
}

fn describe(timeline: &Timeline) -> Value {
    let state = timeline.state();
    let durable = timeline.status();
    let (proposer_connected, feedback) = timeline.connected();
    let members = |members: &[Member]| -> Vec<Value> {
        members.iter().map(|m| json!({"node_id": m.node_id, "store_uuid": m.store_uuid})).collect()
    };
    let history: Vec<Value> =
        durable.history.entries().iter().map(|entry| json!({"term": entry.term, "lsn": entry.start})).collect();
    json!({
        "term": durable.term,
        "last_log_term": durable.last_log_term(),
        "term_history": history,
        "flush_lsn": durable.flush_lsn,
        "commit_lsn": durable.commit_lsn,
        "timeline_start_lsn": state.identity.start_lsn,
        "system_identifier": state.identity.system_identifier.to_string(),
        "pg_version_num": state.identity.pg_version_num,
        "wal_segment_size": state.identity.wal_segment_size_bytes,
        "membership": {
            "generation": state.membership.generation(),
            "members": members(state.membership.members()),
            "new_members": state.membership.new_members().map(members),
        },
        "proposer_connected": proposer_connected,
        "waits_for_space": timeline.space_lack(),
        "last_record_lsn": feedback.last_record_lsn,
        "disk_consistent_lsn": feedback.disk_consistent_lsn,
        "remote_consistent_lsn": feedback.remote_consistent_lsn.max(durable.remote_consistent_lsn),
        "backup_lsn": durable.backup_lsn,
        "wal_dropped": state.archived_tail.is_some(),
    })
}

/// Parameters of a creation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Creation {
    system_identifier: u64,
    pg_version_num: u32,
    wal_segment_size: u32,
    start_lsn: Lsn,
    generation: Generation,
    members: String,
}

async fn create_timeline(
    State(node): State<Node>,
    Path(path): Path<(String, String)>,
    query: Result<Query<Creation>, axum::extract::rejection::QueryRejection>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let key = parse_key(&path)?;
    let Query(creation) = query.map_err(|error| {
        let next =
            "give system_identifier, pg_version_num, wal_segment_size, start_lsn, generation and members=ID:UUID,…";
        ApiError::bad_request(error.body_text(), next)
    })?;
    let members = parse_members(&creation.members)?;
    let membership = Membership::new(creation.generation, members, None)
        .map_err(|error| ApiError::bad_request(error, "name each member once as ID:UUID"))?;
    let identity = TimelineIdentity {
        tenant: key.tenant,
        timeline: key.timeline,
        system_identifier: creation.system_identifier,
        pg_version_num: creation.pg_version_num,
        wal_segment_size_bytes: creation.wal_segment_size,
        start_lsn: creation.start_lsn,
    };
    let body = read_prefix(body, &identity).await?;
    let created = node.registry.create(key, AcceptorState::new(identity, membership), body).await;
    match created {
        Ok(created @ (Created::New | Created::Present)) => {
            let code = if created == Created::New { StatusCode::CREATED } else { StatusCode::OK };
            let timeline = node.registry.get(key).await.map_err(|refused| refused_error(&refused))?;
            Ok((code, Json(describe(&timeline))))
        }
        Ok(Created::Differs(how)) => {
            let text = format!("timeline {key} is there already and differs: {how}");
            Err(ApiError::conflict(text, "use another timeline id, or the parameters that it was made with"))
        }
        Err(CreationError::Invalid(text)) => Err(ApiError::bad_request(text, "correct the request")),
        Err(error @ CreationError::NoSpace) => Err(ApiError::unavailable(error, "free disk space, then ask again")),
        Err(error @ CreationError::Io(_)) => {
            Err(ApiError::internal(error, "check the disk and the permissions, then ask again"))
        }
    }
}

/// The body has exactly the bytes of the segment before start_lsn: a longer one is refused before it is read.
async fn read_prefix(body: Body, identity: &TimelineIdentity) -> Result<axum::body::Bytes, ApiError> {
    let segment_size = identity.wal_segment_size_bytes;
    if !wal_decoder::stream::is_valid_segment_size(segment_size) {
        let error = format!("wal_segment_size is {segment_size}");
        return Err(ApiError::bad_request(error, "give a power of two from 1 MiB to 1 GiB"));
    }
    let expected = identity.start_lsn.segment_offset(segment_size.into());
    to_bytes(body, expected as usize).await.map_err(|error| {
        let error = format!("the body cannot be read ({error}); it must have {expected} bytes");
        ApiError::bad_request(error, "send the WAL from the start of start_lsn's segment up to start_lsn")
    })
}

fn parse_members(text: &str) -> Result<Vec<Member>, ApiError> {
    let one = |text: &str| {
        let (node_id, uuid) = text.split_once(':')?;
        Some(Member { node_id: NodeId(node_id.parse().ok()?), store_uuid: uuid.parse::<StoreUuid>().ok()? })
    };
    text.split(',')
        .map(|part| {
            one(part).ok_or_else(|| {
                let next = "give members=ID:UUID,ID:UUID,…; GET /v1/status of each safekeeper tells its node_id and store_uuid";
                ApiError::bad_request(format!("{part:?} is not a member"), next)
            })
        })
        .collect()
}

fn parse_key((tenant, timeline): &(String, String)) -> Result<TimelineKey, ApiError> {
    let wrong = |error: ogel_ids::IdParseError| ApiError::bad_request(error, "give ids as 32 hexadecimal digits");
    Ok(TimelineKey {
        tenant: tenant.parse::<TenantId>().map_err(wrong)?,
        timeline: timeline.parse::<TimelineId>().map_err(wrong)?,
    })
}

fn refused_error(refused: &Refused) -> ApiError {
    match refused.code {
        RefusalCode::UnknownTimeline => ApiError::not_found(&refused.text, "check the ids, or make the timeline"),
        _ => ApiError::conflict(&refused.text, "look at this safekeeper's log; the other safekeepers have the WAL"),
    }
}
