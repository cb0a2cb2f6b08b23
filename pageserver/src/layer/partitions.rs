//! The key space in pieces, and the stack of layers that serves each.

use std::sync::Arc;

use super::desc::LayerName;
use crate::keyspace::{Key, KeyRange};

/// What can lie on a stack.
pub trait Stacked: Clone {
    /// Which layer it is.
    fn name(&self) -> LayerName;
}

impl Stacked for LayerName {
    fn name(&self) -> LayerName {
        *self
    }
}

/// Contiguous partitions of the key space, each with a stack of layers, newest first.
///
/// Invariants: the first partition starts at [`Key::MIN`]; starts rise strictly; no stack names a layer twice. A layer serves the keys
/// of the partitions that name it and no others, whatever its own key range says: it can be replaced in one and stay in another.
/// Clones share the stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions<L>(Vec<Partition<L>>);

/// One partition; it ends where the next one starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition<L> {
    /// Its first key.
    pub start: Key,
    /// Newest first.
    pub stack: Arc<[L]>,
}

/// A part of the partition in which layers are replaced.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Piece<L> {
    /// Its first key; the partition is split here unless it is the first piece.
    pub start: Key,
    /// What stands here instead of the replaced layers; nothing when nothing was left of them.
    pub layer: Option<L>,
}

/// Why partitions cannot be as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The list of partitions is empty or does not begin at the first key.
    #[error("the first partition does not start at the first key")]
    NoFirst,
    /// Starts do not rise.
    #[error("partition {0} is out of order")]
    OutOfOrder(Key),
    /// A layer would lie twice on one stack.
    #[error("layer {layer} is named twice in partition {partition}")]
    Twice {
        /// The partition.
        partition: Key,
        /// The layer.
        layer: LayerName,
    },
    /// No partition starts there.
    #[error("no partition starts at {0}")]
    Unknown(Key),
    /// The layers to replace do not lie next to each other in this order.
    #[error("the layers to replace in partition {0} are not neighbours in its stack")]
    NotNeighbours(Key),
    /// Pieces do not begin with the partition, or do not rise, or leave it.
    #[error("the pieces of partition {0} are not a division of it")]
    BadPieces(Key),
}

impl<L: Stacked> Partitions<L> {
    /// One partition with this stack.
    pub fn single(stack: Vec<L>) -> Self {
        Self(vec![Partition { start: Key::MIN, stack: stack.into() }])
    }

    /// Checks and takes a list.
    pub fn new(list: Vec<Partition<L>>) -> Result<Self, PartitionError> {
        if list.first().is_none_or(|first| first.start != Key::MIN) {
            return Err(PartitionError::NoFirst);
        }
        if let Some(pair) = list.windows(2).find(|pair| pair[0].start >= pair[1].start) {
            return Err(PartitionError::OutOfOrder(pair[1].start));
        }
        if let Some(last) = list.last().filter(|last| last.start == Key::MAX) {
            return Err(PartitionError::OutOfOrder(last.start));
        }
        list.iter().try_for_each(named_once)?;
        Ok(Self(list))
    }

    /// Number of partitions, at least 1.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Place of the partition that holds the key.
    pub fn place(&self, key: &Key) -> usize {
        self.0.partition_point(|partition| partition.start <= *key).saturating_sub(1)
    }

    /// The stack that serves a key, newest first.
    pub fn find(&self, key: &Key) -> &Arc<[L]> {
        &self.0[self.place(key)].stack
    }

    /// The partition at a place.
    pub fn at(&self, place: usize) -> &Partition<L> {
        &self.0[place]
    }

    /// The keys of the partition at a place.
    pub fn range(&self, place: usize) -> KeyRange {
        KeyRange { start: self.0[place].start, end: self.0.get(place + 1).map_or(Key::MAX, |next| next.start) }
    }

    /// All partitions, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (KeyRange, &Arc<[L]>)> {
        self.0.iter().enumerate().map(|(place, partition)| (self.range(place), &partition.stack))
    }

    /// The partitions that have keys of `range`, in order.
    pub fn overlapping(&self, range: KeyRange) -> impl Iterator<Item = (KeyRange, &Arc<[L]>)> {
        (self.place(&range.start)..self.0.len())
            .map(|place| (self.range(place), &self.0[place].stack))
            .take_while(move |(keys, _)| keys.start < range.end)
    }

    /// The longest stack.
    pub fn depth(&self) -> usize {
        self.0.iter().map(|partition| partition.stack.len()).max().unwrap_or(0)
    }

    /// Puts a layer on top of every stack that it has keys for.
    pub fn push_flush(&mut self, layer: &L, keys: KeyRange) -> Result<(), PartitionError> {
        let (first, name) = (self.place(&keys.start), layer.name());
        let concerned = self.0[first..].iter_mut().take_while(|partition| partition.start < keys.end);
        for partition in concerned {
            if partition.stack.iter().any(|other| other.name() == name) {
                return Err(PartitionError::Twice { partition: partition.start, layer: name });
            }
            partition.stack = std::iter::once(layer.clone()).chain(partition.stack.iter().cloned()).collect();
        }
        Ok(())
    }

    /// Replaces neighbouring layers (newest first) of one partition. Every piece keeps what lies above and below them. On an error nothing
    /// has changed.
    pub fn replace(&mut self, start: Key, removed: &[LayerName], pieces: &[Piece<L>]) -> Result<(), PartitionError> {
        let place = self.0.binary_search_by_key(&start, |partition| partition.start);
        let place = place.map_err(|_| PartitionError::Unknown(start))?;
        let (range, stack) = (self.range(place), &self.0[place].stack);
        let top = removed.first().and_then(|first| stack.iter().position(|layer| layer.name() == *first));
        let run = top.and_then(|top| Some((top, stack.get(top..top.checked_add(removed.len())?)?)));
        let Some((top, _)) = run.filter(|(_, run)| run.iter().map(L::name).eq(removed.iter().copied())) else {
            return Err(PartitionError::NotNeighbours(start));
        };
        let divided = pieces.first().is_some_and(|first| first.start == start)
            && pieces.windows(2).all(|pair| pair[0].start < pair[1].start)
            && pieces.last().is_some_and(|last| last.start < range.end);
        if !divided {
            return Err(PartitionError::BadPieces(start));
        }
        let (above, below) = (&stack[..top], &stack[top + removed.len()..]);
        let split: Vec<Partition<L>> = pieces
            .iter()
            .map(|piece| Partition {
                start: piece.start,
                stack: above.iter().chain(&piece.layer).chain(below).cloned().collect(),
            })
            .collect();
        split.iter().try_for_each(named_once)?;
        self.0.splice(place..=place, split);
        Ok(())
    }

    /// Splits the partition that holds `key` so that one begins there; both have the layers of the one.
    pub fn split(&mut self, key: Key) {
        let place = self.place(&key);
        if self.0[place].start != key && key != Key::MAX {
            let stack = self.0[place].stack.clone();
            self.0.insert(place + 1, Partition { start: key, stack });
        }
    }
}

fn named_once<L: Stacked>(partition: &Partition<L>) -> Result<(), PartitionError> {
    let mut names: Vec<LayerName> = partition.stack.iter().map(L::name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(PartitionError::Twice { partition: partition.start, layer: pair[0] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ogel_ids::{Generation, Lsn};

    use super::*;

    fn name(sequence: u32) -> LayerName {
        LayerName { end_lsn: Lsn(8), generation: Generation(1), sequence }
    }

    fn names(sequences: &[u32]) -> Vec<LayerName> {
        sequences.iter().copied().map(name).collect()
    }

    fn key(number: u64) -> Key {
        Key::two_phase(number)
    }

    /// `start: stack` of every partition, keys as their numbers.
    fn text(partitions: &Partitions<LayerName>) -> String {
        let one = |(keys, stack): (KeyRange, &Arc<[LayerName]>)| {
            let stack: Vec<String> = stack.iter().map(|layer| layer.sequence.to_string()).collect();
            format!("{}:{}", keys.start.as_two_phase().unwrap_or(0), stack.join(","))
        };
        partitions.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_layer_serves_the_partitions_that_name_it() {
        let mut partitions = Partitions::single(names(&[1]));
        partitions.split(key(10));
        partitions.split(key(20));
        partitions.split(key(20));
        partitions.push_flush(&name(2), KeyRange { start: key(12), end: key(20) }).unwrap();
        partitions.push_flush(&name(3), KeyRange { start: key(12), end: key(21) }).unwrap();
        assert_eq!(text(&partitions), "0:1 10:3,2,1 20:3,1");
        assert_eq!(partitions.find(&key(9)).len(), 1);
        assert_eq!(partitions.find(&key(19)).len(), 3);
        assert_eq!(partitions.find(&Key::MAX).len(), 2);
        assert_eq!(partitions.overlapping(KeyRange { start: key(9), end: key(20) }).count(), 2);
        let pieces = [Piece { start: key(10), layer: Some(name(4)) }, Piece { start: key(15), layer: None }];
        partitions.replace(key(10), &names(&[3, 2]), &pieces).unwrap();
        assert_eq!(text(&partitions), "0:1 10:4,1 15:1 20:3,1", "layer 3 still serves 20");
    }

    #[test]
    fn nonsense_is_refused_and_changes_nothing() {
        let mut partitions = Partitions::single(names(&[3, 2, 1]));
        let whole = [Piece { start: Key::MIN, layer: None }];
        let replace = |partitions: &mut Partitions<_>, start, removed: &[u32], pieces: &[Piece<LayerName>]| {
            partitions.replace(start, &names(removed), pieces).unwrap_err()
        };
        for removed in [&[][..], &[2, 3], &[3, 1], &[1, 1], &[9]] {
            let error = replace(&mut partitions, Key::MIN, removed, &whole);
            assert_eq!(error, PartitionError::NotNeighbours(Key::MIN), "{removed:?}");
        }
        assert_eq!(replace(&mut partitions, key(1), &[3], &whole), PartitionError::Unknown(key(1)));
        assert_eq!(replace(&mut partitions, Key::MIN, &[3], &[]), PartitionError::BadPieces(Key::MIN));
        let kept = [Piece { start: Key::MIN, layer: Some(name(1)) }];
        assert!(matches!(replace(&mut partitions, Key::MIN, &[3], &kept), PartitionError::Twice { .. }));
        assert!(partitions.push_flush(&name(3), KeyRange::ALL).is_err());
        assert_eq!(text(&partitions), "0:3,2,1");
        let list =
            |starts: &[Key]| starts.iter().map(|start| Partition { start: *start, stack: Arc::new([]) }).collect();
        assert_eq!(Partitions::<LayerName>::new(Vec::new()), Err(PartitionError::NoFirst));
        assert_eq!(Partitions::<LayerName>::new(list(&[key(1)])), Err(PartitionError::NoFirst));
        let twice = Partitions::<LayerName>::new(list(&[Key::MIN, key(1), key(1)]));
        assert_eq!(twice, Err(PartitionError::OutOfOrder(key(1))));
    }
}
