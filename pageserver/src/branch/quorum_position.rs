//! How far a timeline's acknowledged WAL can reach, by what its safekeepers have on disk (H25).
//!
//! A commit is acknowledged when a majority has flushed it. This pageserver may not have heard of it yet, and each safekeeper may not
//! know either that the others have it: only the flush positions together tell.

use std::time::Duration;

use ogel_ids::{Lsn, TenantId, TimelineId};
use ogel_pgwire::{Client, ConnectOptions, Endpoint};
use tokio::{task::JoinSet, time::timeout};

/// For a majority to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// For the others, once a majority has: their answers can only lower the bound.
const GRACE: Duration = Duration::from_millis(50);

/// Fewer safekeepers than a majority have answered; asking again may help.
#[derive(Debug, thiserror::Error)]
#[error(
    "{answered} of {asked} safekeepers tell how far timeline {timeline} is, a majority is needed to know what was acknowledged ({reasons})"
)]
pub struct NoMajority {
    timeline: TimelineId,
    answered: usize,
    asked: usize,
    reasons: String,
}

/// A position that nothing acknowledged before the call lies behind. It becomes committed, unless it is above what a majority has
/// and was never acknowledged.
pub async fn acknowledged_bound(
    safekeepers: &[Endpoint],
    tenant: TenantId,
    timeline: TimelineId,
) -> Result<Lsn, NoMajority> {
    let mut asks = JoinSet::new();
    for address in safekeepers {
        let options = ConnectOptions::new(address.clone())
            .parameter("replication", "true")
            .parameter("application_name", "pageserver")
            .setting("ogel.tenant", tenant)
            .setting("ogel.timeline", timeline);
        asks.spawn(
            async move { flush_lsn(&options).await.map_err(|error| format!("{}: {error:#}", options.endpoint)) },
        );
    }
    let (mut positions, mut reasons) = (Vec::new(), Vec::new());
    loop {
        let has_majority = bound(&positions, safekeepers.len()).is_some();
        let patience = if has_majority { GRACE } else { ANSWER_TIMEOUT };
        match timeout(patience, asks.join_next()).await {
            Ok(Some(Ok(Ok(position)))) => positions.push(position),
            Ok(Some(Ok(Err(reason)))) => reasons.push(reason),
            Ok(Some(Err(failed))) => reasons.push(failed.to_string()),
            Ok(None) => break,
            Err(_elapsed) => {
                reasons.push("the others are silent".to_owned());
                break;
            }
        }
    }
    bound(&positions, safekeepers.len()).ok_or_else(|| NoMajority {
        timeline,
        answered: positions.len(),
        asked: safekeepers.len(),
        reasons: reasons.join("; "),
    })
}

async fn flush_lsn(options: &ConnectOptions) -> anyhow::Result<Lsn> {
    let mut client = Client::connect(options).await?;
    let answer = client.simple_query("SHOW ogel.flush_lsn").await?;
    let text = answer.value(0, "setting").ok_or_else(|| anyhow::anyhow!("it does not tell its position"))?;
    Ok(text.parse()?)
}

/// The highest position that a majority of `members` may have, when these have answered and the others may have anything.
fn bound(answers: &[Lsn], members: usize) -> Option<Lsn> {
    let majority = members / 2 + 1;
    let silent = members.checked_sub(answers.len())?;
    let mut falling = answers.to_vec();
    falling.sort_unstable_by(|a, b| b.cmp(a));
    majority.checked_sub(silent + 1).and_then(|rank| falling.get(rank).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_safekeepers_may_have_anything() {
        let bound = |answers: &[u64], members| {
            let answers: Vec<Lsn> = answers.iter().copied().map(Lsn).collect();
            super::bound(&answers, members).map(|lsn| lsn.0)
        };
        assert_eq!(bound(&[10, 30, 20], 3), Some(20));
        assert_eq!(bound(&[10, 30], 3), Some(30), "the third may have 30, too");
        assert_eq!(bound(&[30], 3), None);
        assert_eq!(bound(&[], 0), None);
        assert_eq!(bound(&[7], 1), Some(7));
        assert_eq!(bound(&[5, 4, 3, 2, 1], 5), Some(3));
        assert_eq!(bound(&[5, 4, 3], 5), Some(5));
    }
}
