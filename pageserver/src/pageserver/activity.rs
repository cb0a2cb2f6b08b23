//! Which timelines are worth having open: those that safekeepers report WAL for are attached, those that nobody uses are closed.
//!
//! A timeline at rest has no task, no connection and no memory here; what it has is in the object store. One connection per safekeeper tells
//! of all timelines that are written to (`TIMELINE_STATUS`, `docs/protocols.md` §3).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use ogel_ids::{Lsn, TenantId, TimelineId};
use ogel_pgwire::{Client, ConnectOptions, Endpoint, WireError};

use super::{Pageserver, TimelineSlot, TimelineUnavailable};
use crate::timeline::Timeline;

const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A safekeeper that says nothing for this long is connected to anew.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Timelines that are attached at once because of news.
const PARALLEL_ATTACHES: usize = 8;
/// One that cannot be attached is not tried again for this long.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// How often timelines are looked at for rest.
const REST_INTERVAL: Duration = Duration::from_secs(2);
/// Who holds a timeline that nobody uses: the table, its ingest, the decoder, and whoever looks.
const HOLDERS_AT_REST: usize = 5;

type Id = (TenantId, TimelineId);

/// One timeline as a safekeeper reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Report {
    id: Id,
    commit_lsn: Lsn,
    remote_consistent_lsn: Lsn,
}

impl Pageserver {
    /// Attaches what safekeepers report WAL for, until shutdown begins.
    pub async fn run_activity(self: Arc<Self>) {
        let mut listeners = tokio::task::JoinSet::new();
        for address in self.safekeepers.iter() {
            listeners.spawn(self.clone().listen_to(address.clone()));
        }
        listeners.spawn(self.clone().close_idle());
        self.shutdown.wait().await;
        listeners.abort_all();
    }

    async fn listen_to(self: Arc<Self>, address: Endpoint) {
        let mut refused = HashMap::new();
        loop {
            if let Err(error) = self.take_reports(&address, &mut refused).await {
                tracing::debug!(safekeeper = %address, %error, "no reports from a safekeeper; trying again");
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    async fn take_reports(
        self: &Arc<Self>,
        address: &Endpoint,
        refused: &mut HashMap<Id, Instant>,
    ) -> Result<(), WireError> {
        let options = ConnectOptions::new(address.clone()).parameter("replication", "true");
        let (mut reader, _writer) = Client::connect(&options).await?.copy_both("TIMELINE_STATUS 1").await?;
        let mut attaching = tokio::task::JoinSet::new();
        while let Ok(frame) = tokio::time::timeout(SILENCE_LIMIT, reader.receive()).await {
            let Some(frame) = frame? else { break };
            refused.retain(|_, since| since.elapsed() < REFUSED_FOR);
            let news = reports(frame).into_iter().filter(|report| report.commit_lsn > report.remote_consistent_lsn);
            for report in news.filter(|report| !refused.contains_key(&report.id)).collect::<Vec<_>>() {
                if !matches!(self.timeline(report.id.0, report.id.1), Err(TimelineUnavailable::Unknown(..))) {
                    continue;
                }
                if attaching.len() >= PARALLEL_ATTACHES {
                    note(attaching.join_next().await, refused);
                }
                let this = self.clone();
                attaching.spawn(async move {
                    let (tenant, timeline) = report.id;
                    (report.id, this.attached(tenant, timeline).await.is_ok())
                });
            }
            while let Some(ended) = attaching.try_join_next() {
                note(Some(ended), refused);
            }
        }
        Ok(())
    }

    /// Closes timelines that have been at rest for long enough.
    async fn close_idle(self: Arc<Self>) {
        let mut resting: BTreeMap<Id, (Lsn, Instant)> = BTreeMap::new();
        loop {
            tokio::time::sleep(REST_INTERVAL.min(self.idle_timeout)).await;
            let open = self.timelines();
            resting.retain(|id, _| open.contains_key(id));
            for (id, slot) in open {
                let TimelineSlot::Active(timeline) = slot else { continue };
                let at = timeline.last_record_lsn();
                let since = resting.entry(id).or_insert((at, Instant::now()));
                if since.0 != at || Arc::strong_count(&timeline) > HOLDERS_AT_REST {
                    *since = (at, Instant::now());
                } else if since.1.elapsed() >= self.idle_timeout {
                    // What is in memory goes to the store first, while the safekeeper still hears of it.
                    match timeline.is_at_rest() {
                        true => self.close_one(timeline).await,
                        false => timeline.ask_for_checkpoint(),
                    }
                }
            }
        }
    }

    /// Closes a timeline that has everything in the object store, unless somebody turns out to use it.
    async fn close_one(self: &Arc<Self>, timeline: Arc<Timeline>) {
        let (tenant, id) = (timeline.tenant, timeline.id);
        let claim = self.tenants.get(tenant);
        let _nobody_attaches = claim.lock().await;
        {
            let mut timelines = self.timelines.write();
            // While the table is locked nobody comes by a timeline, and no other holder can make one of these its own.
            let unused = Arc::strong_count(&timeline) <= HOLDERS_AT_REST && timeline.is_at_rest();
            if !unused || timelines.remove(&(tenant, id)).is_none() {
                return;
            }
        }
        timeline.closing.begin();
        drop(timeline.ingest_running.lock().await);
        self.note_closed(tenant, id);
        tracing::info!(%tenant, timeline = %id, lsn = %timeline.last_record_lsn(), "timeline at rest closed");
    }
}

fn note(ended: Option<Result<(Id, bool), tokio::task::JoinError>>, refused: &mut HashMap<Id, Instant>) {
    if let Some(Ok((id, false))) = ended {
        refused.insert(id, Instant::now());
    }
}

/// Reads a frame; a cut entry at its end is left out.
fn reports(mut frame: Bytes) -> Vec<Report> {
    const ENTRY_BYTES: usize = 16 + 16 + 8 + 8;
    if frame.try_get_u8() != Ok(b's') {
        return Vec::new();
    }
    let id = |frame: &mut Bytes| {
        let mut bytes = [0; 16];
        frame.copy_to_slice(&mut bytes);
        bytes
    };
    let mut reports = Vec::with_capacity(frame.len() / ENTRY_BYTES);
    while frame.remaining() >= ENTRY_BYTES {
        let tenant = TenantId::from_bytes(id(&mut frame));
        let timeline = TimelineId::from_bytes(id(&mut frame));
        let (commit_lsn, remote_consistent_lsn) = (Lsn(frame.get_u64()), Lsn(frame.get_u64()));
        reports.push(Report { id: (tenant, timeline), commit_lsn, remote_consistent_lsn });
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_and_rubbish_is_not() {
        let mut frame = vec![b's'];
        frame.extend([1; 16]);
        frame.extend([2; 16]);
        frame.extend(9_u64.to_be_bytes());
        frame.extend(7_u64.to_be_bytes());
        let id = (TenantId::from_bytes([1; 16]), TimelineId::from_bytes([2; 16]));
        let expected = Report { id, commit_lsn: Lsn(9), remote_consistent_lsn: Lsn(7) };
        assert_eq!(reports(frame.clone().into()), [expected]);
        assert_eq!(reports(frame[..frame.len() - 1].to_vec().into()), []);
        assert_eq!(reports(Bytes::from_static(b"x")), []);
        assert_eq!(reports(Bytes::new()), []);
    }
}
