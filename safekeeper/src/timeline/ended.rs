//! The end of a timeline that is deleted while it is in use.

use std::time::Duration;

use quorum::{AcceptorMessage, Refused};

use super::{Timeline, disk_queue::DiskWork};

impl Timeline {
    /// Ends it: proposers and readers are told `refused`, what waits for the disk is dropped. When this returns nobody writes to
    /// the folder any more.
    pub async fn end(&self, refused: Refused) {
        {
            let mut inner = self.lock();
            inner.ended = Some(refused.clone());
            if inner.space_lack.take().is_some() {
                self.shared.metrics.timelines_out_of_space.dec();
            }
            let waiting: usize = inner.queue.iter().map(DiskWork::size_bytes).sum();
            inner.queue.clear();
            inner.queued_bytes -= waiting;
            for (_, fetch) in inner.fetches.drain() {
                fetch.abort();
            }
            for (_, outbox) in std::mem::take(&mut inner.connections) {
                outbox.push(AcceptorMessage::Refused(refused.clone()));
                outbox.close(refused.text.clone());
                inner.answering.push(outbox);
            }
        }
        // Wakes the readers, which look whether it has ended.
        self.position.send_modify(|_| {});
        self.folder.retire();
        loop {
            let room = self.room.notified();
            if self.lock().disk.is_some() {
                return;
            }
            // A turn that ends for lack of space does not notify.
            let _looked_again = tokio::time::timeout(Duration::from_millis(100), room).await;
        }
    }

    /// Why it has ended, if it has.
    pub fn ended(&self) -> Option<Refused> {
        self.lock().ended.clone()
    }
}
