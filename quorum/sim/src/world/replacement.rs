//! An operator replaces a node that has lost its store: offers the next membership to the others, again and again, and lets the
//! new store join once it may (H4).

use std::collections::BTreeMap;

use ogel_ids::Generation;
use quorum::{AcceptorState, Join, Member, Membership, PeerStatus};

use super::{Due, World};
use crate::{
    bug::Bug,
    node::{NODES, TIMELINE_IDENTITY},
    toy_wal::offset,
};

/// A replacement that is not complete.
#[derive(Debug)]
pub(super) struct Replacement {
    node: usize,
    membership: Membership,
    /// Latest answers, which may be old.
    heard: BTreeMap<usize, (PeerStatus, Membership)>,
}

impl World {
    pub(super) fn begin_replacement(&mut self, node: usize) {
        let generation = Generation(self.membership.generation().0 + 1);
        let mut members = self.membership.members().to_vec();
        members[node] = self.nodes[node].member;
        let membership = Membership::new(generation, members, None).expect("three different nodes");
        self.say(|| format!("an operator replaces node {} by {membership:?}", node + 1));
        self.replacement = Some(Replacement { node, membership, heard: BTreeMap::new() });
        self.after(0, Due::Replace);
    }

    /// Asks one of the survivors, then tries.
    pub(super) fn go_on_replacing(&mut self) {
        let Some(mut replacement) = self.replacement.take() else { return };
        let pause_us = self.rng.range(10_000, 400_000);
        self.after(pause_us, Due::Replace);
        let asked = self.rng.index(NODES);
        if asked != replacement.node {
            self.offer(asked, &mut replacement);
        }
        let joins = self.plan(&replacement).is_some_and(|join| self.join(&replacement, join));
        if joins {
            self.membership = replacement.membership;
        } else {
            self.replacement = Some(replacement);
        }
    }

    fn offer(&mut self, node: usize, replacement: &mut Replacement) {
        let Some(acceptor) = &mut self.nodes[node].acceptor else { return };
        match acceptor.adopt(replacement.membership.clone()) {
            Ok(actions) => self.carry_out(node, actions),
            Err(error) => return self.verify(Err(format!("node {}: {error}", node + 1))),
        }
        let Some(acceptor) = &self.nodes[node].acceptor else { return };
        replacement.heard.insert(node, (acceptor.status(), acceptor.state().membership.clone()));
    }

    fn plan(&self, replacement: &Replacement) -> Option<Join> {
        let me = self.nodes[replacement.node].member;
        let mut others: Vec<_> = replacement.heard.values().cloned().collect();
        if self.bug == Some(Bug::JoinEarly) {
            // Whoever has adopted speaks for everybody.
            let adopted = others.iter().find(|(status, _)| status.generation == replacement.membership.generation());
            let (status, membership) = adopted?.clone();
            let speak = |member: Member| (PeerStatus { member, ..status.clone() }, membership.clone());
            others = replacement.membership.all().map(speak).collect();
        }
        Join::plan(me, &replacement.membership, TIMELINE_IDENTITY, &others).ok()
    }

    /// Copies the source's WAL, unless it has changed since the plan was made, and starts the new member.
    fn join(&mut self, replacement: &Replacement, mut join: Join) -> bool {
        if self.bug == Some(Bug::VoteBeforePull) {
            // Its name is enough: it begins with an empty log.
            join.state = AcceptorState::new(TIMELINE_IDENTITY, replacement.membership.clone());
            join.flush_lsn = TIMELINE_IDENTITY.start_lsn;
        }
        let source = &self.nodes[if self.bug == Some(Bug::JoinEarly) {
            *replacement.heard.keys().next().unwrap_or(&0)
        } else {
            join.source.0 as usize - 1
        }];
        let valid = |a: &quorum::Acceptor| a.last_log_term() == join.source_term && a.flush_lsn() >= join.flush_lsn;
        if !source.acceptor.as_ref().is_some_and(valid) {
            return false;
        }
        let wal = source.disk.durable[..offset(join.flush_lsn)].to_vec();
        self.say(|| format!("node {} joins with {join:?}", replacement.node + 1));
        self.nodes[replacement.node].join(join, wal);
        self.break_connections_of(replacement.node);
        self.observed.lost_stores = 0;
        self.happened.replacements += 1;
        self.start_node(replacement.node);
        true
    }
}
