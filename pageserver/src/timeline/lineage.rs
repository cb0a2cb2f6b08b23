//! The layers of a timeline and of those it branched from, one behind the other.
//!
//! A branch at LSN B holds what its own WAL, from B on, did. Where its layers are used up without an image, a tombstone or a complete layer,
//! a reader goes on in the ancestor, at B or at its own LSN if that is lower. Each ancestor's snapshot is pinned when its turn comes: what
//! is at or below B is in it once the ancestor has ingested B, and no rewrite takes it out while the branch exists. An ancestor that is
//! still behind (it was restarted, and ingests again what it had not written yet) is an error that passes by itself, never a hole.

use std::sync::Arc;

use bytes::Bytes;
use ogel_ids::Lsn;

use super::{Ancestor, ReadError};
use crate::{
    keyspace::Key,
    layer::{
        Io,
        file::fetch,
        map::LayerMap,
        reconstruct::{Reconstruction, Scan},
    },
};

impl Ancestor {
    fn pin_layers(&self, at: Lsn) -> Result<Arc<LayerMap>, ReadError> {
        let reached = self.timeline.last_record_lsn(); // before the snapshot, which then holds everything up to it
        if reached < at {
            return Err(ReadError::AncestorBehind { ancestor: self.timeline.id, needed: at, reached });
        }
        Ok(self.timeline.pin_layers())
    }
}

/// A pinned snapshot of a timeline's layers, and where they go on.
#[derive(Clone, Copy)]
pub(super) struct Lineage<'a> {
    own: &'a LayerMap,
    ancestor: Option<&'a Ancestor>,
}

impl<'a> Lineage<'a> {
    pub fn new(own: &'a LayerMap, ancestor: Option<&'a Ancestor>) -> Self {
        Self { own, ancestor }
    }

    /// Locates the versions that the reads need, from the newest layer to the oldest, until each has enough.
    pub fn locate(&self, reads: &mut [Reconstruction], io: Io) -> Result<(), ReadError> {
        self.own.locate(reads, io)?;
        let mut next = self.ancestor;
        while let Some(ancestor) = next {
            let mut farthest = None;
            for read in reads.iter_mut().filter(|read| !read.is_done()) {
                read.lower_to(ancestor.lsn);
                farthest = farthest.max(Some(read.at()));
            }
            let Some(farthest) = farthest else { break };
            ancestor.pin_layers(farthest)?.locate(reads, io)?;
            next = ancestor.timeline.ancestor.as_ref();
        }
        Ok(())
    }

    /// Collects the newest versions of a range of keys.
    pub fn scan(&self, scan: &mut Scan, io: Io) -> Result<(), ReadError> {
        self.own.scan(scan, io)?;
        let mut next = self.ancestor;
        while let Some(ancestor) = next.filter(|_| !scan.is_settled()) {
            scan.at = scan.at.min(ancestor.lsn);
            ancestor.pin_layers(scan.at)?.scan(scan, io)?;
            next = ancestor.timeline.ancestor.as_ref();
        }
        Ok(())
    }

    /// The newest version of a key that holds images only, and its LSN.
    pub fn newest_image(&self, key: &Key, at: Lsn, io: Io) -> Result<Option<(Lsn, Bytes)>, ReadError> {
        let mut reads = [Reconstruction::new(*key, at)];
        self.locate(&mut reads, io)?;
        fetch(&mut reads, io)?;
        Ok(reads[0].newest().zip(reads[0].base().cloned()))
    }
}
