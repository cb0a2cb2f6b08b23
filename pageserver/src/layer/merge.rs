//! The one merge: rewrites, materialises and trims neighbouring layers of a partition, key by key. Pure: redo, older layers and the
//! output are the caller's.
//!
//! What must hold afterwards: at every LSN ≥ the cutoff, and at every retained LSN below it, a reader finds what it found before. So
//!
//! - versions above the cutoff are all kept; where a chain of deltas grows too long, the image at the same LSN takes a delta's place;
//! - at or below it, of the versions between two retained LSNs only the last is needed, as an image at its own LSN. A chain of
//!   deltas whose base is not at hand is kept as it is: that is always right, only longer;
//! - tombstones above the cutoff are kept; one at or below it goes when nothing older is left that it could hide: nothing lies below the
//!   merged layers, and no retained LSN below it has kept older versions.
//!
//! A tombstone at T hides versions below T only: what its record put at T lies on top of it.

use std::collections::BTreeSet;

use bytes::Bytes;
use ogel_ids::Lsn;

use super::{
    VersionKind,
    tombstone::{Tombstone, TombstoneSet},
};
use crate::keyspace::Key;

/// A version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Whose.
    pub key: Key,
    /// End of its record.
    pub lsn: Lsn,
    /// How it is stored.
    pub kind: VersionKind,
    /// What is stored.
    pub value: Bytes,
}

/// What is to be kept.
#[derive(Debug, Clone)]
pub struct MergeRule {
    /// History below is needed at the retained LSNs only.
    pub cutoff: Lsn,
    /// Retained LSNs.
    pub retained: BTreeSet<Lsn>,
    /// Nothing lies below the merged layers: neither layers nor an ancestor.
    pub complete: bool,
    /// So many deltas without an image between them get one.
    pub max_chain: usize,
    /// Keys whose newest version is to be an image.
    pub wanted: BTreeSet<Key>,
}

/// What lies below the merged layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Older {
    /// It cannot be told now.
    Unknown,
    /// Nothing.
    Absent,
    /// This value.
    Value(Bytes),
}

/// What a merge needs from outside.
pub trait MergeContext {
    /// Why it fails.
    type Error;
    /// Applies deltas (oldest first) to a base, or to nothing. `None` when they cannot be applied: then the versions stay as they are, and
    /// readers are told.
    fn redo(&mut self, key: &Key, base: Option<&Bytes>, deltas: &[Version]) -> Option<Bytes>;
    /// The key's value below the merged layers.
    fn older(&mut self, key: &Key) -> Result<Older, Self::Error>;
    /// Takes the next version, in the order of (key, LSN).
    fn put(&mut self, version: Version) -> Result<(), Self::Error>;
}

impl MergeRule {
    /// The retained LSN (or the cutoff) for which a version at `lsn` may be needed; `None` above the cutoff, where each is.
    fn point(&self, lsn: Lsn) -> Option<Lsn> {
        (lsn <= self.cutoff)
            .then(|| self.retained.range(lsn..).next().map_or(self.cutoff, |point| (*point).min(self.cutoff)))
    }

    /// The tombstones that are needed.
    pub fn tombstones(&self, all: impl IntoIterator<Item = Tombstone>) -> Vec<Tombstone> {
        let hides_nothing = |tombstone: &Tombstone| {
            self.complete && tombstone.lsn <= self.cutoff && self.retained.range(..tombstone.lsn).next().is_none()
        };
        let mut kept: Vec<Tombstone> = all.into_iter().filter(|tombstone| !hides_nothing(tombstone)).collect();
        // Of several on the same keys for the same point, the newest hides all that the others hide.
        kept.sort_unstable_by_key(|tombstone| (tombstone.range, std::cmp::Reverse(tombstone.lsn)));
        kept.dedup_by(|next, kept| {
            let point = self.point(kept.lsn);
            next.range == kept.range && (next.lsn == kept.lsn || (point.is_some() && point == self.point(next.lsn)))
        });
        kept
    }
}

/// Merges the versions of layers, given from the oldest layer to the newest, each in the order of (key, LSN). `tombstones` are all of these
/// layers. `next_key` is asked before each key; `false` ends the merge early.
pub fn merge<C, E, I>(
    layers: Vec<I>,
    tombstones: &TombstoneSet,
    rule: &MergeRule,
    context: &mut C,
    mut next_key: impl FnMut(&mut C, &Key) -> Result<bool, E>,
) -> Result<(), E>
where
    C: MergeContext<Error = E>,
    I: Iterator<Item = Result<Version, E>>,
{
    let mut layers: Vec<_> = layers.into_iter().map(|layer| Peeked { next: None, rest: layer }).collect();
    loop {
        let mut lowest: Option<Key> = None;
        for layer in &mut layers {
            lowest = [lowest, layer.key()?].into_iter().flatten().min();
        }
        let Some(key) = lowest else { return Ok(()) };
        if !next_key(context, &key)? {
            return Ok(());
        }
        let mut erased = tombstones.all_on(&key).into_iter().peekable();
        let mut merged = KeyMerge::new(key, rule, context);
        for layer in &mut layers {
            while layer.key()? == Some(key) {
                let Some(version) = layer.next.take() else { break };
                while let Some(lsn) = erased.next_if(|lsn| *lsn <= version.lsn) {
                    merged.erase(lsn)?;
                }
                merged.version(version)?;
            }
        }
        erased.try_for_each(|lsn| merged.erase(lsn))?;
        merged.finish()?;
    }
}

struct Peeked<I> {
    next: Option<Version>,
    rest: I,
}

impl<E, I: Iterator<Item = Result<Version, E>>> Peeked<I> {
    fn key(&mut self) -> Result<Option<Key>, E> {
        if self.next.is_none() {
            self.next = self.rest.next().transpose()?;
        }
        Ok(self.next.as_ref().map(|version| version.key))
    }
}

/// What deltas are applied to.
enum Base {
    /// The context has not been asked.
    Below,
    /// It has been asked and does not know, or redo has failed: versions stay as they are.
    Unknown,
    Absent,
    Image {
        lsn: Lsn,
        value: Bytes,
        is_put: bool,
    },
}

/// The merge of one key, oldest version first.
///
/// Invariant: the versions taken so far leave the value `base` with all of `chain` applied; everything that readers may need of it is put,
/// but for the state at `pending`.
struct KeyMerge<'a, C> {
    key: Key,
    rule: &'a MergeRule,
    context: &'a mut C,
    /// The point for which the current state will be needed.
    pending: Option<Lsn>,
    base: Base,
    chain: Vec<Version>,
    /// How many of the chain are put.
    chain_put: usize,
}

impl<'a, C: MergeContext> KeyMerge<'a, C> {
    fn new(key: Key, rule: &'a MergeRule, context: &'a mut C) -> Self {
        let base = if rule.complete { Base::Absent } else { Base::Below };
        Self { key, rule, context, pending: None, base, chain: Vec::new(), chain_put: 0 }
    }

    /// The next event is at `lsn`: what readers below need of the state so far is put.
    fn enter(&mut self, lsn: Lsn) -> Result<(), C::Error> {
        let point = self.rule.point(lsn);
        if self.pending.is_some() && self.pending != point {
            self.settle()?;
        }
        self.pending = point;
        Ok(())
    }

    fn start_from(&mut self, base: Base) {
        self.base = base;
        self.chain.clear();
        self.chain_put = 0;
    }

    fn erase(&mut self, lsn: Lsn) -> Result<(), C::Error> {
        self.enter(lsn)?;
        self.start_from(Base::Absent);
        Ok(())
    }

    fn version(&mut self, version: Version) -> Result<(), C::Error> {
        self.enter(version.lsn)?;
        let is_history = self.pending.is_none();
        match version.kind {
            VersionKind::Image => {
                self.start_from(Base::Image { lsn: version.lsn, value: version.value, is_put: false });
                return if is_history { self.put_base() } else { Ok(()) };
            }
            VersionKind::InitDelta => self.start_from(Base::Absent),
            VersionKind::Delta => {}
        }
        self.chain.push(version);
        if self.chain.len() >= self.rule.max_chain {
            // Above the cutoff the image takes the last delta's place, below it is only kept at hand.
            if self.shorten()? {
                return if is_history { self.put_base() } else { Ok(()) };
            }
            self.put_chain()?;
            self.start_from(Base::Unknown);
            return Ok(());
        }
        if is_history { self.put_chain() } else { Ok(()) }
    }

    /// Puts what readers at the pending point need.
    fn settle(&mut self) -> Result<(), C::Error> {
        let can_shorten = matches!(self.base, Base::Absent | Base::Image { .. });
        if self.chain.len() > self.chain_put && can_shorten && !self.shorten()? {
            self.put_chain()?;
            self.start_from(Base::Unknown);
            return Ok(());
        }
        if self.chain.is_empty() { self.put_base() } else { self.put_chain() }
    }

    fn finish(mut self) -> Result<(), C::Error> {
        if self.pending.is_some() {
            self.settle()?;
        }
        if !self.chain.is_empty() && self.rule.wanted.contains(&self.key) && self.shorten()? {
            self.put_base()?;
        }
        Ok(())
    }

    /// Makes the base of the base and the chain, if that can be done.
    fn shorten(&mut self) -> Result<bool, C::Error> {
        if matches!(self.base, Base::Below) {
            self.base = match self.context.older(&self.key)? {
                Older::Unknown => Base::Unknown,
                Older::Absent => Base::Absent,
                // It is at hand, and stays where it is.
                Older::Value(value) => Base::Image { lsn: Lsn::INVALID, value, is_put: true },
            };
        }
        let base = match &self.base {
            Base::Below | Base::Unknown => return Ok(false),
            Base::Absent => None,
            Base::Image { value, .. } => Some(value),
        };
        let Some(last) = self.chain.last() else { return Ok(false) };
        let Some(value) = self.context.redo(&self.key, base, &self.chain) else { return Ok(false) };
        self.start_from(Base::Image { lsn: last.lsn, value, is_put: false });
        Ok(true)
    }

    fn put_base(&mut self) -> Result<(), C::Error> {
        if let Base::Image { lsn, value, is_put } = &mut self.base
            && !std::mem::replace(is_put, true)
        {
            let (key, kind) = (self.key, VersionKind::Image);
            self.context.put(Version { key, lsn: *lsn, kind, value: value.clone() })?;
        }
        Ok(())
    }

    /// Puts base and chain as they are.
    fn put_chain(&mut self) -> Result<(), C::Error> {
        self.put_base()?;
        for version in &self.chain[self.chain_put..] {
            self.context.put(version.clone())?;
        }
        self.chain_put = self.chain.len();
        Ok(())
    }
}
