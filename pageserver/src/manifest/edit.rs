//! What can happen to a manifest.
//!
//! An edit comes from a file as well as from this process: everything in it is checked against the manifest before anything changes.

use std::collections::BTreeSet;

use ogel_ids::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use super::{Inconsistency, Lease, Manifest, TermStart, TimelineState};
use crate::{
    keyspace::Key,
    layer::{
        desc::{LayerDesc, LayerName},
        partitions::{PartitionError, Piece},
    },
};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// A memory layer was written out. Each layer goes on top of the stacks of its keys; none if there was nothing to write.
    Flushed {
        /// Delta layers of disjoint key ranges.
        layers: Vec<LayerDesc>,
        /// The new one.
        disk_consistent_lsn: Lsn,
        /// There.
        logical_size_bytes: u64,
    },
    /// Neighbouring layers of one partition were merged.
    Replaced {
        /// Its first key.
        partition: Key,
        /// Newest first.
        removed: Vec<LayerName>,
        /// What stands in their place, by key; more than one piece splits the partition.
        added: Vec<Piece<LayerDesc>>,
    },
    /// A newer term history.
    Terms {
        /// All of it.
        history: Vec<TermStart>,
    },
    /// History below is given up, but for the retained LSNs.
    Cutoff {
        /// The new cutoff.
        lsn: Lsn,
    },
    /// A timeline branches off.
    BranchAdded {
        /// The child.
        timeline: TimelineId,
        /// Branch point.
        lsn: Lsn,
    },
    /// A child is gone.
    BranchRemoved {
        /// The child.
        timeline: TimelineId,
    },
    /// A lease begins, or is renewed at the same LSN.
    LeaseAdded {
        /// Chosen by the caller.
        id: String,
        /// What it holds, and for how long.
        lease: Lease,
    },
    /// A lease is given back or has expired.
    LeaseRemoved {
        /// Which.
        id: String,
    },
    /// The timeline is used otherwise from now on.
    State {
        /// The new state.
        state: TimelineState,
    },
}

/// Longest id of a lease.
const MAX_LEASE_ID_BYTES: usize = 128;

/// Why an edit does not fit the manifest. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The result would contradict itself.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistency),
    /// The name was used before.
    #[error("layer {0} is there already")]
    NameTaken(LayerName),
    /// A position would go back.
    #[error("{what} would go back from {from} to {to}")]
    Backwards {
        /// Which position.
        what: &'static str,
        /// As it is.
        from: Lsn,
        /// As asked.
        to: Lsn,
    },
    /// Layers do not fit in where they should go.
    #[error("layer {name} does not fit in: {what}")]
    Misfit {
        /// Which.
        name: LayerName,
        /// Why.
        what: &'static str,
    },
    /// The LSN is below the cutoff and nothing retains it.
    #[error("{lsn} is below {cutoff}, where the history kept begins: take an LSN at or above it")]
    BelowCutoff {
        /// As asked.
        lsn: Lsn,
        /// Where history begins.
        cutoff: Lsn,
    },
    /// The child is known already.
    #[error("{0} is a branch of this timeline already")]
    BranchExists(TimelineId),
    /// No such child.
    #[error("{0} is not a branch of this timeline")]
    NoBranch(TimelineId),
    /// The lease's id cannot be used.
    #[error("lease {id:?}: {what}")]
    BadLease {
        /// As asked.
        id: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Terms do not rise.
    #[error("the term history is not in order, or forgets terms")]
    BadTerms,
    /// The timeline cannot change to this state.
    #[error("{0}")]
    BadState(&'static str),
}

impl From<PartitionError> for EditError {
    fn from(error: PartitionError) -> Self {
        Self::Inconsistent(error.into())
    }
}

impl Manifest {
    /// Changes the manifest, or says why that cannot be. Returns the layers that no stack names any more.
    pub fn apply(&mut self, edit: &Edit) -> Result<Vec<LayerDesc>, EditError> {
        if self.state == TimelineState::Deleting && !matches!(edit, Edit::BranchRemoved { .. } | Edit::State { .. }) {
            return Err(EditError::BadState("the timeline is being deleted"));
        }
        match edit {
            Edit::Flushed { layers, disk_consistent_lsn, logical_size_bytes } => {
                self.apply_flushed(layers, *disk_consistent_lsn)?;
                self.logical_size_bytes = *logical_size_bytes;
            }
            Edit::Replaced { partition, removed, added } => return self.apply_replaced(*partition, removed, added),
            Edit::Terms { history } => {
                let rising = history.windows(2).all(|pair| pair[0].term < pair[1].term && pair[0].lsn <= pair[1].lsn);
                if !rising || history.last().map(|last| last.term) < self.term_history.last().map(|last| last.term) {
                    return Err(EditError::BadTerms);
                }
                self.term_history.clone_from(history);
            }
            Edit::Cutoff { lsn } => {
                not_backwards("gc_cutoff", self.gc_cutoff, *lsn)?;
                if *lsn > self.disk_consistent_lsn {
                    return Err(Inconsistency::Positions("gc_cutoff lies behind disk_consistent_lsn").into());
                }
                self.gc_cutoff = *lsn;
            }
            Edit::BranchAdded { timeline, lsn } => {
                if *timeline == self.timeline || self.branches.contains_key(timeline) {
                    return Err(EditError::BranchExists(*timeline));
                }
                self.must_be_readable(*lsn)?;
                self.branches.insert(*timeline, *lsn);
            }
            Edit::BranchRemoved { timeline } => {
                self.branches.remove(timeline).ok_or(EditError::NoBranch(*timeline))?;
            }
            Edit::LeaseAdded { id, lease } => self.apply_lease(id, *lease)?,
            Edit::LeaseRemoved { id } => {
                let known = self.leases.remove(id).is_some();
                known.then_some(()).ok_or_else(|| bad_lease(id, "there is no such lease"))?;
            }
            Edit::State { state } => self.apply_state(*state)?,
        }
        Ok(Vec::new())
    }

    fn must_be_readable(&self, lsn: Lsn) -> Result<(), EditError> {
        if self.is_readable(lsn) { Ok(()) } else { Err(EditError::BelowCutoff { lsn, cutoff: self.gc_cutoff }) }
    }

    fn apply_flushed(&mut self, layers: &[LayerDesc], end: Lsn) -> Result<(), EditError> {
        let start = self.disk_consistent_lsn;
        not_backwards("disk_consistent_lsn", start, end)?;
        let mut partitions = self.partitions.clone();
        let mut behind: Option<Key> = None;
        for desc in layers {
            let misfit = |what| EditError::Misfit { name: desc.name, what };
            super::check_layer(desc, end, self.ancestor.is_some())?;
            if self.layers.contains_key(&desc.name) {
                return Err(EditError::NameTaken(desc.name));
            }
            if desc.is_complete() || desc.lsns.start != start || desc.lsns.end != end {
                return Err(misfit("it does not hold the changes up to the new disk_consistent_lsn"));
            }
            if behind.is_some_and(|behind| desc.keys.start < behind) {
                return Err(misfit("it overlaps another layer of the same flush"));
            }
            behind = Some(desc.keys.end);
            partitions.push_flush(&desc.name, desc.keys)?;
        }
        self.partitions = partitions;
        self.layers.extend(layers.iter().map(|desc| (desc.name, desc.clone())));
        self.disk_consistent_lsn = end;
        Ok(())
    }

    fn apply_replaced(
        &mut self,
        partition: Key,
        removed: &[LayerName],
        added: &[Piece<LayerDesc>],
    ) -> Result<Vec<LayerDesc>, EditError> {
        let mut partitions = self.partitions.clone();
        let names: Vec<Piece<LayerName>> = added
            .iter()
            .map(|piece| Piece { start: piece.start, layer: piece.layer.as_ref().map(|desc| desc.name) })
            .collect();
        partitions.replace(partition, removed, &names)?;
        let place = self.partitions.place(&partition);
        let reaches_bottom = self.partitions.at(place).stack.last() == removed.last();
        let described = |name: Option<&LayerName>| name.and_then(|name| self.layers.get(name));
        let (Some(newest), Some(oldest)) = (described(removed.first()), described(removed.last())) else {
            return Err(PartitionError::NotNeighbours(partition).into());
        };
        let mut names = BTreeSet::new();
        for desc in added.iter().filter_map(|piece| piece.layer.as_ref()) {
            let misfit = |what| EditError::Misfit { name: desc.name, what };
            super::check_layer(desc, self.disk_consistent_lsn, self.ancestor.is_some())?;
            if self.layers.contains_key(&desc.name) || !names.insert(desc.name) {
                return Err(EditError::NameTaken(desc.name));
            }
            if desc.is_complete() && !reaches_bottom {
                return Err(misfit("layers below it would be hidden"));
            }
            if desc.lsns.end != newest.lsns.end || desc.lsns.start < oldest.lsns.start {
                return Err(misfit("it does not cover the WAL of the layers that it replaces"));
            }
        }
        self.partitions = partitions;
        self.layers.extend(added.iter().filter_map(|piece| piece.layer.clone()).map(|desc| (desc.name, desc)));
        let dead: Vec<LayerName> = removed
            .iter()
            .filter(|name| !self.partitions.iter().any(|(_, stack)| stack.contains(name)))
            .copied()
            .collect();
        Ok(dead.iter().filter_map(|name| self.layers.remove(name)).collect())
    }

    fn apply_lease(&mut self, id: &str, lease: Lease) -> Result<(), EditError> {
        if id.is_empty() || id.len() > MAX_LEASE_ID_BYTES {
            return Err(bad_lease(id, "an id has 1 to 128 bytes"));
        }
        match self.leases.get(id) {
            Some(before) if before.lsn != lease.lsn => {
                return Err(bad_lease(id, "the id is in use for another LSN"));
            }
            Some(_) => {}
            None => self.must_be_readable(lease.lsn)?,
        }
        self.leases.insert(id.to_owned(), lease);
        Ok(())
    }

    fn apply_state(&mut self, state: TimelineState) -> Result<(), EditError> {
        if self.state == TimelineState::Deleting && state != TimelineState::Deleting {
            return Err(EditError::BadState("the timeline is being deleted: that cannot be taken back"));
        }
        if state == TimelineState::Deleting && !self.branches.is_empty() {
            return Err(EditError::BadState("the timeline has branches: delete those first"));
        }
        self.state = state;
        Ok(())
    }
}

fn not_backwards(what: &'static str, from: Lsn, to: Lsn) -> Result<(), EditError> {
    if to < from { Err(EditError::Backwards { what, from, to }) } else { Ok(()) }
}

fn bad_lease(id: &str, what: &'static str) -> EditError {
    EditError::BadLease { id: id.chars().take(MAX_LEASE_ID_BYTES).collect(), what }
}

#[cfg(test)]
mod tests {
    use ogel_ids::{Generation, Term};

    use super::*;
    use crate::{
        keyspace::KeyRange,
        layer::{LsnRange, file::LayerKind},
        manifest::codec::tests::sample,
    };

    fn delta(sequence: u32, lsns: (u64, u64), keys: KeyRange) -> LayerDesc {
        let lsns = LsnRange { start: Lsn(lsns.0), end: Lsn(lsns.1) };
        let name = LayerName { end_lsn: lsns.end, generation: Generation(1), sequence };
        let (kind, size_bytes, index_offset) = (LayerKind::Delta, 1000, 900);
        LayerDesc { name, kind, lsns, keys, size_bytes, index_offset, history_bytes: 0, tombstones: 0 }
    }

    fn flushed(layers: Vec<LayerDesc>, end: u64) -> Edit {
        Edit::Flushed { layers, disk_consistent_lsn: Lsn(end), logical_size_bytes: 7 }
    }

    #[test]
    fn layers_come_by_flushes_and_go_by_merges() {
        let mut manifest = sample();
        let at = manifest.disk_consistent_lsn.0;
        let one = delta(10, (at, at + 8), KeyRange::ALL);
        assert_eq!(manifest.apply(&flushed(vec![one.clone()], at + 8)), Ok(vec![]));
        manifest.check().unwrap();
        let range = manifest.partitions.range(1);
        let stack = manifest.partitions.at(1).stack.clone();
        assert_eq!(stack[0], one.name);
        let split = range.start.next();
        let complete = |sequence, start, end| LayerDesc {
            kind: LayerKind::Image,
            ..delta(sequence, (at, at + 8), KeyRange { start, end })
        };
        let merged = |added| Edit::Replaced { partition: range.start, removed: stack.to_vec(), added };
        let pieces = vec![
            Piece { start: range.start, layer: Some(complete(11, range.start, split)) },
            Piece { start: split, layer: Some(complete(12, split, range.end)) },
        ];
        let before = manifest.partitions.count();
        let dead = manifest.apply(&merged(pieces)).unwrap();
        manifest.check().unwrap();
        assert_eq!(manifest.partitions.count(), before + 1);
        assert!(manifest.layers.contains_key(&one.name), "the flushed layer still serves the other partition");
        assert!(dead.iter().all(|desc| !manifest.layers.contains_key(&desc.name)));
        assert_eq!(dead.len(), 1, "the complete layer of this partition only");
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let manifest = sample();
        let at = manifest.disk_consistent_lsn.0;
        let (all, some) = (KeyRange::ALL, KeyRange::all_rel_sizes());
        let complete = LayerDesc { kind: LayerKind::Image, ..delta(9, (at, at + 8), all) };
        let outside = LayerDesc { index_offset: 1001, ..delta(9, (at, at + 8), all) };
        let known = *manifest.layers.keys().next_back().unwrap();
        let stack = manifest.partitions.at(0).stack.to_vec();
        let child = *manifest.branches.keys().next().unwrap();
        let fresh = TimelineId::from_bytes([0x77; 16]);
        let merge = |removed: &[LayerName], layer: LayerDesc| Edit::Replaced {
            partition: Key::MIN,
            removed: removed.to_vec(),
            added: vec![Piece { start: Key::MIN, layer: Some(layer) }],
        };
        let hidden = LayerDesc { kind: LayerKind::Image, ..delta(9, (at - 8, at), all) };
        let lease = |lsn| Lease { lsn: Lsn(lsn), expires_s: 1 };
        let held = manifest.leases.values().next().unwrap().lsn.0;
        for edit in [
            flushed(vec![], at - 8),
            flushed(vec![delta(9, (at, at), all)], at),
            flushed(vec![delta(9, (at - 8, at + 8), all)], at + 8),
            flushed(vec![delta(9, (at, at + 16), all)], at + 8),
            flushed(vec![complete], at + 8),
            flushed(vec![outside], at + 8),
            flushed(vec![delta(9, (at, at + 8), some), delta(10, (at, at + 8), all)], at + 8),
            flushed(vec![LayerDesc { name: known, ..delta(9, (at, at + 8), all) }], at + 8),
            merge(&[], delta(9, (at - 8, at), all)),
            merge(&stack[..1], hidden),
            merge(&stack, delta(9, (0, at), all)),
            merge(&stack, delta(9, (at, at + 8), all)),
            Edit::Cutoff { lsn: Lsn(at + 8) },
            Edit::Cutoff { lsn: Lsn(manifest.gc_cutoff.0 - 8) },
            Edit::BranchAdded { timeline: child, lsn: Lsn(at) },
            Edit::BranchAdded { timeline: manifest.timeline, lsn: Lsn(at) },
            Edit::BranchAdded { timeline: fresh, lsn: Lsn(manifest.gc_cutoff.0 - 8) },
            Edit::BranchRemoved { timeline: fresh },
            Edit::LeaseAdded { id: "backup".into(), lease: lease(at) },
            Edit::LeaseAdded { id: String::new(), lease: lease(at) },
            Edit::LeaseAdded { id: "other".into(), lease: lease(held - 8) },
            Edit::LeaseRemoved { id: "other".into() },
            Edit::State { state: TimelineState::Deleting },
            Edit::Terms { history: Vec::new() },
            Edit::Terms { history: [5, 5].map(|term| TermStart { term: Term(term), lsn: Lsn(at) }).to_vec() },
        ] {
            let mut changed = manifest.clone();
            assert!(changed.apply(&edit).is_err(), "{edit:?}");
            assert_eq!(changed, manifest, "{edit:?}");
        }
    }

    #[test]
    fn a_branch_and_a_lease_hold_what_is_below_the_cutoff() {
        let mut manifest = sample();
        let (cutoff, at) = (manifest.gc_cutoff, manifest.disk_consistent_lsn);
        let (child, id) = (TimelineId::from_bytes([0x77; 16]), "look".to_owned());
        manifest.apply(&Edit::BranchAdded { timeline: child, lsn: cutoff }).unwrap();
        manifest.apply(&Edit::Cutoff { lsn: at }).unwrap();
        manifest.apply(&Edit::LeaseAdded { id: id.clone(), lease: Lease { lsn: cutoff, expires_s: 5 } }).unwrap();
        manifest.apply(&Edit::BranchRemoved { timeline: child }).unwrap();
        assert!(manifest.is_readable(cutoff) && manifest.retained().contains(&cutoff));
        manifest.apply(&Edit::LeaseRemoved { id }).unwrap();
        assert!(!manifest.is_readable(cutoff) && manifest.is_readable(at));
    }
}
