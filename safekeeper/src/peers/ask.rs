//! Questions to another safekeeper: what it has, which membership it holds.

use std::{str::FromStr, time::Duration};

use ogel_pgwire::{Client, ConnectOptions, Endpoint, WireError};
use quorum::Membership;
use tokio::time::timeout;

use super::report::{MembershipJson, Report};
use crate::timeline::TimelineKey;

/// A peer that serves answers well within this.
const LIMIT: Duration = Duration::from_secs(15);

/// Why a peer's answer did not come.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection, or what the peer has against the question.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Silence.
    #[error("no answer for {LIMIT:?}")]
    Silence,
    /// Not understood.
    #[error("its answer is not understood: {0}")]
    Answer(String),
}

/// All timelines that a peer has.
pub async fn timelines(address: &Endpoint) -> Result<Vec<TimelineKey>, AskError> {
    let mut client = connect(address, None).await?;
    let mut found: Vec<TimelineKey> = Vec::new();
    loop {
        let from = found.last().map_or_else(String::new, |key| format!(" {key}"));
        let page = query(&mut client, &format!("LIST_TIMELINES{from}")).await?;
        if page.is_empty() {
            return Ok(found);
        }
        for row in page {
            let key = TimelineKey::from_str(&row).map_err(AskError::Answer)?;
            if found.last().is_some_and(|last| *last >= key) {
                return Err(AskError::Answer("its timelines are not in order".into()));
            }
            found.push(key);
        }
    }
}

/// What a peer holds of a timeline.
pub async fn report(address: &Endpoint, key: TimelineKey) -> Result<Report, AskError> {
    let mut client = connect(address, Some(key)).await?;
    let rows = query(&mut client, "MEMBERSHIP").await?;
    let row = rows.first().ok_or_else(|| AskError::Answer("it is empty".into()))?;
    serde_json::from_str(row).map_err(|error| AskError::Answer(error.to_string()))
}

/// Has a peer adopt a membership; when this returns it is durable there.
pub async fn adopt(address: &Endpoint, key: TimelineKey, membership: &Membership) -> Result<(), AskError> {
    let mut client = connect(address, Some(key)).await?;
    let json = serde_json::to_string(&MembershipJson::from(membership));
    let json = json.map_err(|error| AskError::Answer(error.to_string()))?;
    query(&mut client, &format!("ADOPT_MEMBERSHIP {json}")).await.map(drop)
}

async fn connect(address: &Endpoint, key: Option<TimelineKey>) -> Result<Client, AskError> {
    let mut options = ConnectOptions::new(address.clone()).parameter("replication", "true");
    if let Some(key) = key {
        options = options.setting("ogel.tenant", key.tenant).setting("ogel.timeline", key.timeline);
    }
    Ok(Client::connect(&options).await?)
}

/// The first column of each row.
async fn query(client: &mut Client, sql: &str) -> Result<Vec<String>, AskError> {
    let result = timeout(LIMIT, client.simple_query(sql)).await.map_err(|_| AskError::Silence)??;
    Ok(result.rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}
