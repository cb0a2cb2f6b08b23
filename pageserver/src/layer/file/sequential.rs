//! Reading a layer file from end to end, past the cache: what is read once does not push out what is read often.

use std::sync::Arc;

use bytes::Bytes;

use super::{LayerError, LayerFile, block::IndexEntry};
use crate::{
    keyspace::{KEY_SIZE, Key, KeyRange},
    layer::merge::Version,
};

/// The versions of some keys, in the order of (key, LSN). Holds one index block and one data block at a time.
pub struct Versions {
    file: Arc<LayerFile>,
    keys: KeyRange,
    next_index: usize,
    index: Vec<u8>,
    place: usize,
    /// Offset and content.
    block: Option<(u64, Bytes)>,
    ended: bool,
}

impl LayerFile {
    /// Reads all versions of these keys. Blocks.
    pub fn versions(self: &Arc<Self>, keys: KeyRange) -> Result<Versions, LayerError> {
        let root = self.root()?;
        let next_index =
            root.partition_point(|entry| entry.first[..KEY_SIZE] < keys.start.as_bytes()[..]).saturating_sub(1);
        let file = self.clone();
        Ok(Versions { file, keys, next_index, index: Vec::new(), place: 0, block: None, ended: false })
    }

    /// Estimate: which part of the file's bytes belongs to these keys, in 1/1000. Blocks.
    pub fn permille_of(&self, keys: KeyRange) -> Result<u64, LayerError> {
        let root = self.root()?;
        let before = |key: &Key| root.partition_point(|entry| entry.first[..KEY_SIZE] < key.as_bytes()[..]) as u64;
        Ok(before(&keys.end).saturating_sub(before(&keys.start)) * 1000 / (root.len() as u64).max(1))
    }
}

impl Versions {
    fn step(&mut self) -> Result<Option<Version>, LayerError> {
        loop {
            if self.place * IndexEntry::SIZE >= self.index.len() {
                let Some(next) = self.file.root()?.get(self.next_index) else { return Ok(None) };
                if next.first[..KEY_SIZE] >= self.keys.end.as_bytes()[..] {
                    return Ok(None);
                }
                self.index = self.file.read_block(next.block)?;
                if !self.index.len().is_multiple_of(IndexEntry::SIZE) {
                    return Err(self.file.damaged("an index block has the wrong length"));
                }
                (self.next_index, self.place) = (self.next_index + 1, 0);
                continue;
            }
            let entry = IndexEntry::decode(&self.index, self.place).map_err(|what| self.file.damaged(what))?;
            self.place += 1;
            if entry.key >= self.keys.end {
                return Ok(None);
            }
            if entry.key >= self.keys.start {
                let value = self.value(&entry)?;
                return Ok(Some(Version { key: entry.key, lsn: entry.lsn, kind: entry.kind, value }));
            }
        }
    }

    fn value(&mut self, entry: &IndexEntry) -> Result<Bytes, LayerError> {
        let block = match &self.block {
            Some((offset, block)) if *offset == entry.block.offset => block,
            _ => {
                let block = Bytes::from(self.file.read_block(entry.block)?);
                &self.block.insert((entry.block.offset, block)).1
            }
        };
        let (start, len) = (entry.offset as usize, entry.len as usize);
        match start.checked_add(len) {
            Some(end) if end <= block.len() => Ok(block.slice(start..end)),
            _ => Err(self.file.damaged("a value lies outside its block")),
        }
    }
}

impl Iterator for Versions {
    type Item = Result<Version, LayerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.step().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
