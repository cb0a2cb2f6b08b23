//! Nodes that nobody talks to put the end of their log into the object store and drop their WAL (H5).

use quorum::{AcceptorEvent, ArchivedTail};

use super::{COMPUTES, Due, World};
use crate::{bug::Bug, toy_wal::offset};

impl World {
    /// Nothing runs for a while.
    pub(super) fn rest(&mut self) {
        self.say(|| "all computes are killed".into());
        for compute in 0..COMPUTES {
            self.stop_compute(compute);
            let delay_us = self.rng.range(100_000, 3_000_000);
            self.after(delay_us, Due::StartCompute { compute });
        }
    }

    /// An idle node uploads its tail up to commit_lsn; later it reads the object back.
    pub(super) fn archive_idle_tail(&mut self, node: usize) {
        let safekeeper = &self.nodes[node];
        let idle = safekeeper.acceptor.as_ref().filter(|acceptor| acceptor.is_idle());
        let Some(acceptor) = idle.filter(|acceptor| acceptor.state().archived_tail.is_none()) else { return };
        if self.rng.per_mille(300) {
            return;
        }
        let tail = ArchivedTail { term: acceptor.last_log_term(), end: acceptor.commit_lsn(), crc32c: 0 };
        let life = safekeeper.life;
        self.archive.put(tail, &safekeeper.disk.view[..offset(tail.end)], &mut self.rng);
        let delay_us = self.rng.range(1_000, 200_000);
        self.after(delay_us, Due::TailRead { node, life, tail });
    }

    pub(super) fn tail_read(&mut self, node: usize, life: u64, tail: ArchivedTail) {
        let safekeeper = &self.nodes[node];
        let same = safekeeper.disk.view.get(..offset(tail.end)) == Some(self.archive.get(tail));
        if safekeeper.life == life && (same || self.bug == Some(Bug::DropUncompared)) {
            self.node_event(node, AcceptorEvent::TailArchived(tail));
            self.run_disk(node);
        }
    }

    pub(super) fn dropped(&mut self, node: usize) {
        self.happened.drops += 1;
        let copies = self.observed.copies(&self.nodes);
        self.verify(copies);
        self.run_disk(node);
    }
}
