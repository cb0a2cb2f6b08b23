//! From what somebody asks for to the end of a record.

use std::{sync::Arc, time::Duration};

use ogel_ids::{Lsn, Term};

use super::{
    Timestamp,
    commit_index::{self, Entry, Position},
    quorum_position::{NoMajority, acknowledged_bound},
};
use crate::{
    pageserver::Pageserver,
    timeline::{Timeline, WaitError, state::RunningState},
};

/// What was acknowledged is nearly always here already; an outage is reported instead of sat out.
const INGEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A moment of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Everything that was acknowledged by now.
    Head,
    /// The newest commit that ends at or before this position.
    Lsn(Lsn),
    /// Every commit up to this time, see [`commit_index`].
    Time(Timestamp),
}

/// A moment found: the end of a record in the timeline whose WAL holds that record.
#[derive(Clone)]
pub struct Origin {
    /// The timeline asked for, or one of its ancestors.
    pub timeline: Arc<Timeline>,
    /// End of the record.
    pub lsn: Lsn,
    /// State there.
    pub state: RunningState,
}

/// Why there is no such moment.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// Not written yet.
    #[error("{asked} lies in the future: all that was acknowledged ends at {newest}")]
    FutureLsn {
        /// As asked.
        asked: Lsn,
        /// The end.
        newest: Lsn,
    },
    /// Not come yet.
    #[error("{asked} lies in the future: it is {now} now")]
    FutureTime {
        /// As asked.
        asked: Timestamp,
        /// By this machine's clock.
        now: Timestamp,
    },
    /// Older than what is kept.
    #[error("{asked} lies before the history that is kept, which begins {begins}")]
    BeforeHistory {
        /// As asked.
        asked: String,
        /// What is known of the beginning.
        begins: String,
    },
    /// The safekeepers do not tell what was acknowledged.
    #[error(transparent)]
    NoMajority(#[from] NoMajority),
    /// What was acknowledged has not arrived.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// What is stored cannot be read.
    #[error("{0:#}")]
    Storage(anyhow::Error),
}

/// Finds the moment. Waits until everything that was acknowledged before the call is ingested, where it matters.
pub async fn resolve(pageserver: &Pageserver, timeline: Arc<Timeline>, point: Point) -> Result<Origin, PointError> {
    match point {
        Point::Head => {
            catch_up(pageserver, &timeline).await?;
            let head = timeline.head();
            Ok(owned(timeline, head.lsn, head.state))
        }
        Point::Lsn(asked) => {
            let asked = asked.record_end(u64::from(timeline.wal_segment_size));
            if asked > timeline.last_record_lsn() {
                let newest = catch_up(pageserver, &timeline).await?;
                if asked > newest {
                    return Err(PointError::FutureLsn { asked, newest });
                }
            }
            blocking(move || at_or_before(timeline, asked)).await
        }
        Point::Time(asked) => {
            let now = Timestamp::now();
            if asked > now {
                return Err(PointError::FutureTime { asked, now });
            }
            catch_up(pageserver, &timeline).await?;
            blocking(move || match position(&timeline, asked)? {
                Position::Exact(entry) | Position::Newest(entry) => at_or_before(timeline, entry.lsn),
                Position::BeforeHistory(first) => {
                    Err(PointError::BeforeHistory { asked: asked.to_string(), begins: beginning(first) })
                }
            })
            .await
        }
    }
}

/// Waits until everything that was acknowledged before the call is ingested. Returns how far that is at least.
pub async fn catch_up(pageserver: &Pageserver, timeline: &Timeline) -> Result<Lsn, PointError> {
    let bound = acknowledged_bound(pageserver.safekeepers(), timeline.tenant, timeline.id).await?;
    // Nobody's term: a compute's fence does not concern who asks here.
    timeline.wait_for(bound, Term(u64::MAX), INGEST_TIMEOUT, &pageserver.shutdown).await?;
    Ok(timeline.last_record_lsn())
}

/// The position of a time in what is ingested. Blocks.
pub fn position(timeline: &Timeline, time: Timestamp) -> Result<Position, PointError> {
    let range = (timeline.history_start(), timeline.last_record_lsn());
    commit_index::position_of(time, range, |at| {
        let found = timeline.newest_state(at).map_err(PointError::Storage)?;
        Ok(found.map(|(lsn, state)| Entry { lsn, newest_commit: state.newest_commit }))
    })
}

fn at_or_before(timeline: Arc<Timeline>, asked: Lsn) -> Result<Origin, PointError> {
    let begins = timeline.history_start();
    match timeline.newest_state(asked).map_err(PointError::Storage)? {
        Some((lsn, state)) if lsn >= begins => Ok(owned(timeline, lsn, state)),
        _ => Err(PointError::BeforeHistory { asked: asked.to_string(), begins: format!("at {begins}") }),
    }
}

/// Goes up to the timeline in whose WAL the record lies. A branch that begins there owns nothing of it.
fn owned(mut timeline: Arc<Timeline>, lsn: Lsn, state: RunningState) -> Origin {
    while let Some(ancestor) = timeline.ancestor.as_ref().filter(|ancestor| lsn <= ancestor.lsn) {
        timeline = ancestor.timeline.clone();
    }
    Origin { timeline, lsn, state }
}

/// When the kept history begins, for people.
pub fn beginning(first: Option<Entry>) -> String {
    match first.and_then(|entry| entry.newest_commit.map(|time| (entry.lsn, time))) {
        Some((lsn, time)) => format!("with the commit of {time} at {lsn}"),
        None => "with its first commit, which has not been made yet".to_owned(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PointError> + Send + 'static,
) -> Result<T, PointError> {
    let failed = |error: tokio::task::JoinError| Err(PointError::Storage(error.into()));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(failed)
}
