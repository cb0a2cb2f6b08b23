//! A turn at the disk: carries out what waits, tells the acceptor, until nothing is left or there is no space.

use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering, time::Duration};

use quorum::{AcceptorEvent, AcceptorMessage, RefusalCode, Refused};

use super::{
    Inner, Timeline,
    disk_queue::{Disk, DiskWork, Outcome, crash},
};

/// How often work that found no disk space is tried again.
const SPACE_RETRY: Duration = Duration::from_secs(1);

impl Inner {
    /// The disk, when there is work that can be done and nobody does it.
    pub(super) fn take_turn(&mut self) -> Option<Box<Disk>> {
        if self.queue.is_empty() || self.out_of_space || self.ended.is_some() { None } else { self.disk.take() }
    }
}

impl Timeline {
    pub(super) fn start_turn(self: &Arc<Self>, inner: &mut Inner) {
        if let Some(disk) = inner.take_turn() {
            let timeline = self.clone();
            tokio::task::spawn_blocking(move || timeline.turn(disk));
        }
    }

    /// Works until nothing is left, or there is no space.
    pub(super) fn turn(self: Arc<Self>, mut disk: Box<Disk>) {
        loop {
            let batch = {
                let mut inner = self.lock();
                let batch = take_batch(&mut inner.queue);
                if batch.is_empty() {
                    inner.disk = Some(disk);
                    drop(inner);
                    self.room.notify_waiters();
                    return;
                }
                batch
            };
            let outcome = self.carry_out_batch(&mut disk, &batch);
            if let Some(reason) = outcome.no_space {
                let rest = batch.into_iter().skip(outcome.done);
                return self.wait_for_space(disk, rest.collect(), reason);
            }
        }
    }

    fn carry_out_batch(self: &Arc<Self>, disk: &mut Disk, batch: &[DiskWork]) -> BatchOutcome {
        let mut outcome = self.execute(disk, batch);
        let mut inner = self.lock();
        self.finish(&mut inner, disk, &batch[..outcome.done], outcome.event.take());
        if let Some(reason) = &outcome.undecodable {
            self.drop_senders(&mut inner, reason);
        }
        outcome
    }

    /// The writes of one batch are reported as one, by the last of them.
    fn execute(&self, disk: &mut Disk, batch: &[DiskWork]) -> BatchOutcome {
        let mut total = BatchOutcome::default();
        for work in batch {
            let started = std::time::Instant::now();
            let outcome = disk.execute(work).unwrap_or_else(|error| crash(&error));
            self.shared.metrics.disk_work(work, started.elapsed());
            match outcome {
                Outcome::Done(event) => total.event = event,
                Outcome::Undecodable { event, reason } => {
                    total.event = Some(event);
                    total.undecodable.get_or_insert(reason);
                }
                Outcome::NoSpace { reason } => {
                    total.no_space = Some(format!("{reason}; free disk space there"));
                    break;
                }
                Outcome::NotArchived { reason } => {
                    total.no_space = Some(reason);
                    break;
                }
            }
            if let DiskWork::Write { at, wal, .. } = work {
                self.lock_tail().push(*at, wal.clone());
            }
            total.done += 1;
        }
        total
    }

    fn finish(self: &Arc<Self>, inner: &mut Inner, disk: &mut Disk, batch: &[DiskWork], event: Option<AcceptorEvent>) {
        let done = batch.iter().map(DiskWork::size_bytes).sum::<usize>();
        inner.queued_bytes -= done;
        if done > 0 {
            if inner.space_lack.take().is_some() {
                self.shared.metrics.timelines_out_of_space.dec();
                tracing::info!(timeline = %self.key, "there is disk space again");
            }
            self.room.notify_waiters();
        }
        match batch.last() {
            Some(DiskWork::Cut { at, .. }) => self.lock_tail().cut(*at),
            Some(DiskWork::Rest) if inner.connections.is_empty() => self.lock_tail().clear(),
            _ => {}
        }
        if let Some(event) = event {
            self.apply(inner, event);
        }
        match batch.last() {
            Some(DiskWork::Cut { .. }) => {
                self.cuts.fetch_add(1, Ordering::SeqCst);
            }
            Some(DiskWork::Flush { .. }) => {
                let acked = inner.acceptor.flush_lsn();
                disk.note_acked(acked).unwrap_or_else(|error| crash(&error));
                self.checkpoint_per_segment(inner);
            }
            _ => {}
        }
    }

    /// Keeps the persisted commit_lsn, from which a restart reads the WAL, within a segment of the real one.
    fn checkpoint_per_segment(self: &Arc<Self>, inner: &mut Inner) {
        let commit_lsn = inner.acceptor.commit_lsn();
        let size = self.folder.segment_size_bytes();
        if commit_lsn.segment_number(size) > inner.checkpointed.segment_number(size) {
            inner.checkpointed = commit_lsn;
            self.apply(inner, AcceptorEvent::Checkpoint);
        }
    }

    /// Whoever sent WAL that does not decode must start over.
    fn drop_senders(self: &Arc<Self>, inner: &mut Inner, reason: &str) {
        tracing::error!(timeline = %self.key, reason, "received WAL does not decode: closing the connections it may have come from");
        let text =
            format!("the WAL sent is damaged ({reason}); it is not acknowledged; reconnect, and check the sender");
        for outbox in std::mem::take(&mut inner.connections).into_values() {
            outbox.push(AcceptorMessage::Refused(Refused { code: RefusalCode::ProtocolError, text: text.clone() }));
            outbox.close("damaged WAL".into());
            inner.answering.push(outbox);
        }
        for (fetch, task) in std::mem::take(&mut inner.fetches) {
            task.abort();
            self.apply(inner, AcceptorEvent::FetchEnded { fetch });
        }
    }

    /// Puts back what found no space. What was written before it is flushed and acknowledged all the same, and progress is persisted: only
    /// then WAL that is archived and ingested may be removed, which is what this may wait for.
    fn wait_for_space(self: &Arc<Self>, mut disk: Box<Disk>, rest: Vec<DiskWork>, reason: String) {
        loop {
            let mut inner = self.lock();
            let flush = inner.queue.iter().position(|work| matches!(work, DiskWork::Flush { .. }));
            let Some(flush) = flush.and_then(|index| inner.queue.remove(index)) else { break };
            drop(inner);
            self.carry_out_batch(&mut disk, &[flush]);
        }
        let progress = take_progress(&mut self.lock().queue, &disk);
        if let Some(progress) = progress
            && self.carry_out_batch(&mut disk, std::slice::from_ref(&progress)).no_space.is_some()
        {
            self.lock().queue.push_front(progress);
        }
        let mut inner = self.lock();
        rest.into_iter().rev().for_each(|work| inner.queue.push_front(work));
        inner.disk = Some(disk);
        inner.out_of_space = true;
        if inner.space_lack.replace(reason.clone()).is_none() {
            self.shared.metrics.timelines_out_of_space.inc();
            tracing::error!(timeline = %self.key, reason, "nothing more is acknowledged until that ends; it is tried again each second; readers go on");
        }
        let text = format!("safekeeper {}: {reason}; commits wait for it", self.shared.me.node_id);
        let outboxes: Vec<_> = inner.connections.values().cloned().collect();
        for outbox in &outboxes {
            outbox.push(AcceptorMessage::Refused(Refused { code: RefusalCode::OutOfSpace, text: text.clone() }));
        }
        inner.answering.extend(outboxes);
        self.room.notify_waiters();
        let timeline = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SPACE_RETRY).await;
            let mut inner = timeline.lock();
            inner.out_of_space = false;
            // A vote must not wait behind WAL that nobody wants any more.
            let present = inner.acceptor.token();
            let stale = |work: &DiskWork| matches!(work, DiskWork::Write { token, .. } if *token != present);
            let dropped: usize = inner.queue.iter().filter(|work| stale(work)).map(DiskWork::size_bytes).sum();
            inner.queue.retain(|work| !stale(work));
            inner.queued_bytes -= dropped;
            timeline.start_turn(&mut inner);
        });
    }
}

/// What a batch came to.
#[derive(Default)]
struct BatchOutcome {
    /// How much of it was carried out.
    done: usize,
    event: Option<AcceptorEvent>,
    undecodable: Option<String>,
    no_space: Option<String>,
}

/// The next work, or all writes that wait in a row for the same log: they share one report, and so one flush.
fn take_batch(queue: &mut VecDeque<DiskWork>) -> Vec<DiskWork> {
    let Some(first) = queue.pop_front() else { return Vec::new() };
    let mut batch = vec![first];
    if let DiskWork::Write { token, .. } = batch[0] {
        while queue.front().is_some_and(|work| matches!(work, DiskWork::Write { token: next, .. } if *next == token)) {
            batch.extend(queue.pop_front());
        }
    }
    batch
}

/// The first state that waits, if only WAL waits before it and it is mere progress.
fn take_progress(queue: &mut VecDeque<DiskWork>, disk: &Disk) -> Option<DiskWork> {
    let is_wal = |work: &DiskWork| matches!(work, DiskWork::Write { .. } | DiskWork::Flush { .. });
    let first = queue.iter().position(|work| !is_wal(work))?;
    match &queue[first] {
        DiskWork::Persist { state, .. } if disk.is_mere_progress(state) => queue.remove(first),
        _ => None,
    }
}
