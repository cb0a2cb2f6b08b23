//! Those who wait for an LSN, woken when it is reached.

use std::collections::BTreeMap;

use ogel_ids::Lsn;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// An ordered queue: an advance wakes exactly those whose LSN has come, without looking at the others.
///
/// Invariant: every LSN in the queue is above `reached`.
#[derive(Debug)]
pub struct Waiters {
    queue: Mutex<Queue>,
    joined: Notify,
}

#[derive(Debug)]
struct Queue {
    reached: Lsn,
    next_ticket: u64,
    waiting: BTreeMap<(Lsn, u64), oneshot::Sender<()>>,
}

/// A place in the queue; dropping it leaves the queue.
pub struct Ticket<'a> {
    waiters: &'a Waiters,
    place: (Lsn, u64),
    signal: oneshot::Receiver<()>,
}

impl Waiters {
    /// Nobody waits; `reached` has been reached.
    pub fn new(reached: Lsn) -> Self {
        let queue = Queue { reached, next_ticket: 0, waiting: BTreeMap::new() };
        Self { queue: Mutex::new(queue), joined: Notify::new() }
    }

    /// Queues for `lsn`; `None` when it has been reached.
    pub fn queue(&self, lsn: Lsn) -> Option<Ticket<'_>> {
        let mut queue = self.queue.lock();
        if lsn <= queue.reached {
            return None;
        }
        let place = (lsn, queue.next_ticket);
        queue.next_ticket += 1;
        let (sender, signal) = oneshot::channel();
        queue.waiting.insert(place, sender);
        self.joined.notify_one();
        Some(Ticket { waiters: self, place, signal })
    }

    /// Wakes those who wait for positions up to `lsn`.
    pub fn advance(&self, lsn: Lsn) {
        let mut queue = self.queue.lock();
        queue.reached = queue.reached.max(lsn);
        let still_waiting = queue.waiting.split_off(&(Lsn(lsn.0.saturating_add(1)), 0));
        for (_, sender) in std::mem::replace(&mut queue.waiting, still_waiting) {
            let _ = sender.send(()); // whoever has left does not care
        }
    }

    /// Waits until somebody waits.
    pub async fn somebody(&self) {
        while self.farthest().is_none() {
            self.joined.notified().await;
        }
    }

    /// Waits until somebody waits for a position beyond `told`, and says for which.
    pub async fn beyond(&self, told: Lsn) -> Lsn {
        loop {
            let joined = self.joined.notified();
            match self.farthest() {
                Some(lsn) if lsn > told => return lsn,
                _ => joined.await,
            }
        }
    }

    /// The farthest position that somebody waits for.
    pub fn farthest(&self) -> Option<Lsn> {
        self.queue.lock().waiting.last_key_value().map(|((lsn, _), _)| *lsn)
    }
}

impl Ticket<'_> {
    /// Waits for the turn.
    pub async fn reached(&mut self) {
        let _ = (&mut self.signal).await; // the queue never drops a sender unsent while its timeline lives
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.waiters.queue.lock().waiting.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_those_whose_position_has_come() {
        let waiters = Waiters::new(Lsn(10));
        assert!(waiters.queue(Lsn(10)).is_none());
        let mut near = waiters.queue(Lsn(11)).unwrap();
        let far = waiters.queue(Lsn(20)).unwrap();
        waiters.somebody().await;
        waiters.advance(Lsn(15));
        near.reached().await;
        assert_eq!(waiters.farthest(), Some(Lsn(20)));
        drop(far);
        assert_eq!(waiters.farthest(), None);
        assert!(waiters.queue(Lsn(15)).is_none());
    }
}
