//! What goes wrong, and the calm in which progress is demanded.

use super::{COMPUTES, Due, World};
use crate::{
    network::Place,
    node::{NODES, Safekeeper},
};

/// How far the calm is.
#[derive(Debug, Clone, Copy)]
pub(super) enum CalmStage {
    /// Everybody has had time to catch up: the compute is replaced, and the new one's start must be quick.
    Restart,
    /// Clients stop.
    Quiet,
    /// Everybody must have everything.
    Judge,
}

impl World {
    pub(super) fn plan_run(&mut self) {
        for node in 0..NODES {
            self.start_node(node);
            let at_us = self.rng.range(0, 500_000);
            self.after(at_us, Due::Gossip { node });
        }
        for compute in 0..COMPUTES {
            let at_us = if self.rng.per_mille(700) { self.rng.range(0, 20_000) } else { self.rng.range(0, 4_000_000) };
            self.after(at_us, Due::StartCompute { compute });
        }
        self.after(100_000, Due::Fault);
        let faults_us = self.rng.range(6_000_000, 14_000_000);
        self.after(faults_us, Due::Calm);
    }

    /// One fault; the next follows soon.
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let pause_us = self.rng.range(20_000, 1_500_000);
        self.after(pause_us, Due::Fault);
        let (node, compute) = (self.rng.index(NODES), self.rng.index(COMPUTES));
        match self.rng.range(0, 1_000) {
            0..300 => self.crash_node(node),
            300..340 => (0..NODES).for_each(|node| self.crash_node(node)),
            340..520 => self.partition(node, compute),
            520..680 => {
                self.say(|| format!("compute {compute} is killed"));
                self.stop_compute(compute);
                let delay_us = self.rng.range(1_000, 2_000_000);
                self.after(delay_us, Due::StartCompute { compute });
            }
            680..740 => self.rest(),
            740..780 => self.after(0, Due::StartCompute { compute }),
            780..900 => self.nodes[node].slow_until_us = self.now_us + self.rng.range(100_000, 5_000_000),
            900..960 => self.network.heal(),
            960..975 => self.rot(node),
            _ => self.wipe(node),
        }
    }

    fn partition(&mut self, node: usize, compute: usize) {
        let places: Vec<Place> = (0..NODES).map(Place::Node).chain((0..COMPUTES).map(Place::Compute)).collect();
        let victim = if self.rng.per_mille(600) { Place::Node(node) } else { Place::Compute(compute) };
        let (to, from) = match self.rng.range(0, 4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let everybody = self.rng.per_mille(600);
        self.say(|| format!("partition of {victim:?}, to it {to}, from it {from}, everybody {everybody}"));
        for other in places.into_iter().filter(|&other| other != victim) {
            if everybody || self.rng.per_mille(400) {
                if to {
                    self.network.block(other, victim);
                }
                if from {
                    self.network.block(victim, other);
                }
            }
        }
        let heal_us = self.rng.range(50_000, 4_000_000);
        self.after(heal_us, Due::Heal);
    }

    /// A byte of acknowledged WAL goes bad while the process is down. At most one store is damaged or lost at a time: two would
    /// be all copies of what the third node has not got.
    fn rot(&mut self, node: usize) {
        if self.observed.lost_stores > 0 {
            return;
        }
        self.crash_node(node);
        let safekeeper = &mut self.nodes[node];
        if safekeeper.disk.rot(&mut self.rng) {
            safekeeper.rotten = true;
            self.observed.lost_stores = 1;
            self.happened.rots += 1;
            self.say(|| format!("node {}'s acknowledged WAL ROTS", node + 1));
        }
    }

    /// At most one store is lost at a time.
    fn wipe(&mut self, node: usize) {
        if self.observed.lost_stores > 0 {
            return;
        }
        self.say(|| format!("node {} LOSES ITS STORE", node + 1));
        self.observed.lost_stores = 1;
        self.nodes[node].wipe();
        self.break_connections_of(node);
        self.after(500_000, Due::StartNode { node });
        if self.rng.per_mille(700) {
            self.begin_replacement(node);
        }
    }

    pub(super) fn begin_calm(&mut self) {
        self.say(|| "CALM".into());
        self.calm = true;
        self.network.heal();
        self.network.faulty = false;
        for node in 0..NODES {
            self.nodes[node].slow_until_us = 0;
            self.after(0, Due::StartNode { node });
        }
        for compute in 1..COMPUTES {
            self.stop_compute(compute);
        }
        self.after(0, Due::StartCompute { compute: 0 });
        // Longer than the silence after which a stuck connection is given up, twice: once for the end of an old compute.
        self.after(25_000_000, Due::Stage(CalmStage::Restart));
    }

    pub(super) fn calm_stage(&mut self, stage: CalmStage) {
        match stage {
            CalmStage::Restart => {
                self.judge("25 s after the faults have stopped", false);
                self.settled = true;
                self.stop_compute(0);
                self.after(0, Due::StartCompute { compute: 0 });
                self.after(3_000_000, Due::Stage(CalmStage::Quiet));
            }
            CalmStage::Quiet => {
                self.writing = false;
                self.after(1_500_000, Due::Stage(CalmStage::Judge));
            }
            CalmStage::Judge => {
                self.judge("at the end", true);
                self.over = true;
            }
        }
    }

    fn judge(&mut self, when: &str, complete: bool) {
        let leader = self.computes[0].proposer.as_ref().filter(|proposer| proposer.is_leading());
        let progress = leader.map(|proposer| (proposer.commit_lsn(), proposer.end_lsn()));
        let start = self.computes[0].reign.as_ref().map(|writer| writer.victory.start_lsn);
        let (Some((commit, end)), Some(start)) = (progress, start) else {
            return self.verify(Err(format!("liveness: nobody is elected {when}")));
        };
        if commit <= start || (complete && commit != end) {
            return self.verify(Err(format!("liveness: {when} only {commit} of {start}..{end} is committed")));
        }
        let member = |node: &&Safekeeper| self.membership.contains(node.member);
        for node in self.nodes.iter().filter(member) {
            let Some(acceptor) = &node.acceptor else { continue };
            let (flush, known) = (acceptor.flush_lsn(), acceptor.commit_lsn());
            let verdict = if complete && (flush, known) != (end, end) {
                Err(format!("liveness: {when} node {} has {flush} and commit {known} of {end}", node.id()))
            } else if !complete && flush < start {
                Err(format!("liveness: {when} node {} has {flush}, the term's start is {start}", node.id()))
            } else {
                Ok(())
            };
            if verdict.is_err() {
                return self.verify(verdict);
            }
        }
    }
}
