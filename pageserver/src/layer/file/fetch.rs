//! Values that were located in files, fetched together.
//!
//! Blocks that lie side by side are read by one system call each run; every block is read once, however many values it holds.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{LayerError, LayerFile, format::BlockRef};
use crate::layer::{
    Io,
    reconstruct::{Reconstruction, Value},
};

/// Blocks this near to each other are read in one go: the bytes between cost less than another call.
const MAX_GAP_BYTES: u64 = 16 << 10;
/// A run is not made longer than this.
const MAX_RUN_BYTES: u64 = 1 << 20;

/// Place of a value in a file.
#[derive(Debug, Clone, Copy)]
pub struct StoredValue {
    /// Which of the files of its [`Reconstruction`].
    pub(super) file: usize,
    pub(super) block: BlockRef,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// A file and the offset of a block in it, by number.
type BlockKey = (u64, u64);

impl StoredValue {
    fn block_key(&self, file: &LayerFile) -> BlockKey {
        (file.number(), self.block.offset)
    }

    fn slice(&self, file: &LayerFile, block: &Bytes) -> Result<Value, LayerError> {
        let start = self.offset as usize;
        match start.checked_add(self.len as usize) {
            Some(end) if end <= block.len() => Ok(Value::Ready(block.slice(start..end))),
            _ => Err(file.damaged("a value lies outside its block")),
        }
    }
}

/// Makes all values ready. With [`Io::MemoryOnly`] it fails when one of them is not in the cache.
pub fn fetch(reads: &mut [Reconstruction], io: Io) -> Result<(), LayerError> {
    let mut last: Option<(BlockKey, Bytes)> = None;
    let mut missing: Vec<(Arc<LayerFile>, BlockRef)> = Vec::new();
    for (files, value) in reads.iter_mut().flat_map(Reconstruction::stored_mut) {
        let Value::Stored(stored) = *value else { continue };
        let file = &files[stored.file];
        let key = stored.block_key(file);
        // Versions of one page mostly lie in one block, and those of neighbours too.
        if last.as_ref().is_none_or(|(held, _)| *held != key) {
            if missing.last().is_some_and(|(file, block)| (file.number(), block.offset) == key) {
                continue;
            }
            let Some(block) = file.cached(stored.block) else {
                missing.push((file.clone(), stored.block));
                continue;
            };
            last = Some((key, block));
        }
        let (_, block) = last.as_ref().expect("it was set above");
        *value = stored.slice(file, block)?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    let blocks = read_missing(missing, io)?;
    let mut last = None;
    for (files, value) in reads.iter_mut().flat_map(Reconstruction::stored_mut) {
        if let Value::Stored(stored) = *value {
            let file = &files[stored.file];
            let key = stored.block_key(file);
            let block = match last {
                Some((held, block)) if held == key => block,
                _ => blocks.get(&key).expect("every missing block was read, or an error returned"),
            };
            last = Some((key, block));
            *value = stored.slice(file, block)?;
        }
    }
    Ok(())
}

fn read_missing(mut missing: Vec<(Arc<LayerFile>, BlockRef)>, io: Io) -> Result<HashMap<BlockKey, Bytes>, LayerError> {
    missing.sort_unstable_by_key(|(file, block)| (file.number(), block.offset));
    missing.dedup_by_key(|(file, block)| (file.number(), block.offset));
    let mut blocks = HashMap::with_capacity(missing.len());
    let near = |a: &(Arc<LayerFile>, BlockRef), b: &(Arc<LayerFile>, BlockRef)| {
        a.0.number() == b.0.number() && b.1.offset.saturating_sub(a.1.end()) <= MAX_GAP_BYTES
    };
    for group in missing.chunk_by(near) {
        let mut rest = group;
        while let Some((first, _)) = rest.split_first() {
            let limit = first.1.offset.saturating_add(MAX_RUN_BYTES);
            let count = rest.partition_point(|(_, block)| block.end() <= limit).max(1);
            let (run, after) = rest.split_at(count);
            let places: Vec<BlockRef> = run.iter().map(|(_, block)| *block).collect();
            for (place, block) in places.iter().zip(first.0.read_run(&places, io)?) {
                blocks.insert((first.0.number(), place.offset), block);
            }
            rest = after;
        }
    }
    Ok(blocks)
}
