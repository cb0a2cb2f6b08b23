//! Reading a delta without copying it.

use super::{DELTA_VERSION, kind};
use crate::{
    byte_reader::{ByteReader, ShortInput},
    key::Fork,
    record::{FLAG_HAS_DATA, FLAG_HAS_IMAGE, FLAG_WILL_INIT, FORK_MASK, MAX_BLOCKS},
};

/// Bytes that are not a delta of this version: the stored version is damaged, or a newer program wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// Ends before its fields do.
    #[error("page delta ends early: {0}")]
    Short(#[from] ShortInput),
    /// Unknown version byte.
    #[error("page delta has version {0}, this program reads version {DELTA_VERSION}")]
    Version(u8),
    /// Unknown kind byte.
    #[error("page delta is of unknown kind {0}")]
    Kind(u8),
    /// A field's value is impossible.
    #[error("page delta: {0}")]
    Field(&'static str),
}

/// A delta taken apart.
#[derive(Debug, Clone, Copy)]
pub enum DeltaView<'a> {
    /// A WAL record, as seen by one of its pages.
    Record(RecordDelta<'a>),
    /// Bits of a visibility map page go.
    VmClear(VmClear<'a>),
    /// All visibility map bits of this page behind the first `keep_heap_blocks` heap blocks go.
    VmCut {
        /// 0..32,672.
        keep_heap_blocks: u16,
    },
    /// All leaf slots of this free space map page behind the first `keep_slots` go to 0, and the tree above them is recomputed.
    FsmCut {
        /// 0..4,069.
        keep_slots: u16,
    },
    /// Transactions ended.
    ClogStatus(ClogStatus<'a>),
    /// Multixacts got their member offsets.
    MultixactOffsets(MultixactOffsets<'a>),
    /// A multixact's members.
    MultixactMembers(MultixactMembers<'a>),
    /// Transactions got a commit time.
    CommitTs(CommitTs<'a>),
    /// The page becomes all zeros, whatever it was.
    Zero,
}

/// A block reference of a record, without the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockTag {
    /// The id under which the resource manager registered it.
    pub id: u8,
    /// Fork and flags, see the module's documentation.
    pub flags: u8,
    /// Block number in the fork.
    pub block: u32,
}

impl BlockTag {
    /// Bytes of its encoding.
    pub(crate) const SIZE: usize = 6;

    /// The fork; `None` cannot occur in a delta that was parsed.
    pub const fn fork(self) -> Option<Fork> {
        Fork::from_number(self.flags & FORK_MASK)
    }

    /// Redo starts from an initialised page.
    pub const fn will_init(self) -> bool {
        self.flags & FLAG_WILL_INIT != 0
    }

    /// The record has data for this block.
    pub const fn has_data(self) -> bool {
        self.flags & FLAG_HAS_DATA != 0
    }

    /// The record has an image of this block, which may be there for comparison only.
    pub const fn has_image(self) -> bool {
        self.flags & FLAG_HAS_IMAGE != 0
    }
}

/// A WAL record as seen by one of its pages.
#[derive(Debug, Clone, Copy)]
pub struct RecordDelta<'a> {
    /// Resource manager, see [`crate::v17::rmgr`].
    pub rmid: u8,
    /// The resource manager's four high bits of `xl_info`.
    pub info: u8,
    /// `xl_xid`.
    pub xid: u32,
    /// Which of the blocks this page is.
    pub page_block_id: u8,
    tags: &'a [u8],
    /// The record's main data, as far as redo reads it: of heap delete and update records the logged old tuple is left out, while the
    /// command ids that our compute appends stay last.
    pub main_data: &'a [u8],
    /// Data of this page's block.
    pub block_data: &'a [u8],
}

/// Iterates over a record's block references in the order of the record.
#[derive(Debug, Clone)]
pub struct BlockTags<'a>(std::slice::ChunksExact<'a, u8>);

impl Iterator for BlockTags<'_> {
    type Item = BlockTag;

    #[inline]
    fn next(&mut self) -> Option<BlockTag> {
        match *self.0.next()? {
            [id, flags, a, b, c, d] => Some(BlockTag { id, flags, block: u32::from_le_bytes([a, b, c, d]) }),
            _ => None,
        }
    }
}

impl<'a> RecordDelta<'a> {
    /// All block references, this page's included.
    pub fn blocks(&self) -> BlockTags<'a> {
        BlockTags(self.tags.chunks_exact(BlockTag::SIZE))
    }

    /// The block reference with this id, if the record has one.
    #[inline]
    pub fn block(&self, id: u8) -> Option<BlockTag> {
        self.blocks().find(|tag| tag.id == id)
    }

    /// This page's own reference; `parse` has checked that it is there.
    pub fn page(&self) -> BlockTag {
        self.block(self.page_block_id).unwrap_or(BlockTag { id: self.page_block_id, flags: 0, block: 0 })
    }

    fn parse(mut reader: ByteReader<'a>) -> Result<Self, DeltaError> {
        let (rmid, info, xid) = (reader.u8()?, reader.u8()?, reader.u32()?);
        let (page_block_id, count) = (reader.u8()?, usize::from(reader.u8()?));
        if count == 0 || count > MAX_BLOCKS {
            return Err(DeltaError::Field("number of block references is not within 1 to 33"));
        }
        let tags = reader.bytes(count * BlockTag::SIZE)?;
        let main_length = varint(&mut reader)?;
        let main_data = reader.bytes(main_length)?;
        let delta = Self { rmid, info, xid, page_block_id, tags, main_data, block_data: reader.rest() };
        if delta.blocks().any(|tag| tag.fork().is_none()) {
            return Err(DeltaError::Field("unknown fork number"));
        }
        if delta.block(page_block_id).is_none() {
            return Err(DeltaError::Field("the page's own block reference is missing"));
        }
        Ok(delta)
    }
}

fn varint(reader: &mut ByteReader<'_>) -> Result<usize, DeltaError> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = reader.u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).map_err(|_| DeltaError::Field("length is out of range"));
        }
    }
    Err(DeltaError::Field("length is out of range"))
}

macro_rules! entries {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ftype:ty),* } entry $size:literal below $limit:expr,
     $(#[$edoc:meta])* |$bytes:pat_param| -> $item:ty { $entry:expr }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name<'a> {
            $($(#[$fdoc])* pub $field: $ftype,)*
            entries: &'a [u8],
        }

        impl<'a> $name<'a> {
            /// Number of entries; at least 1.
            pub const fn len(&self) -> usize {
                self.entries.len() / $size
            }

            /// Never true of a delta that was parsed.
            pub const fn is_empty(&self) -> bool {
                self.entries.is_empty()
            }

            $(#[$edoc])*
            pub fn entries(&self) -> impl Iterator<Item = $item> + 'a {
                self.entries.as_chunks::<$size>().0.iter().map(|$bytes| $entry)
            }

            fn checked(self) -> Result<Self, DeltaError> {
                if self.entries.is_empty() || !self.entries.len().is_multiple_of($size) {
                    return Err(DeltaError::Field(concat!(stringify!($name), ": no whole number of entries")));
                }
                if !self.within($limit) {
                    return Err(DeltaError::Field(concat!(stringify!($name), ": entry beyond the end of the page")));
                }
                Ok(self)
            }
        }
    };
}

entries!(
    /// Clears bits of a visibility map page.
    VmClear {} entry 3 below 32_672,
    /// (heap block's index on this page, bits that go).
    |[a, b, bits]| -> (u16, u8) { (u16::from_le_bytes([*a, *b]), *bits) }
);

impl VmClear<'_> {
    fn within(&self, limit: u16) -> bool {
        self.entries().all(|(index, bits)| index < limit && bits & !3 == 0)
    }
}

entries!(
    /// Sets the status of transactions on a clog page.
    ClogStatus {
        /// 1 committed, 2 aborted, 3 sub-committed.
        status: u8
    } entry 2 below 32_768,
    /// Index of each transaction on this page.
    |[a, b]| -> u16 { u16::from_le_bytes([*a, *b]) }
);

impl ClogStatus<'_> {
    fn within(&self, limit: u16) -> bool {
        self.status <= 3 && self.entries().all(|index| index < limit)
    }
}

entries!(
    /// Sets entries of a multixact offsets page.
    MultixactOffsets {} entry 6 below 2048,
    /// (index on this page, offset).
    |[a, b, c, d, e, f]| -> (u16, u32) { (u16::from_le_bytes([*a, *b]), u32::from_le_bytes([*c, *d, *e, *f])) }
);

impl MultixactOffsets<'_> {
    fn within(&self, limit: u16) -> bool {
        self.entries().all(|(index, _)| index < limit)
    }
}

entries!(
    /// Sets consecutive members on a multixact members page.
    MultixactMembers {
        /// Index of the first one on this page.
        first_index: u16
    } entry 5 below 1636,
    /// (transaction, status) of each member.
    |[a, b, c, d, status]| -> (u32, u8) { (u32::from_le_bytes([*a, *b, *c, *d]), *status) }
);

impl MultixactMembers<'_> {
    fn within(&self, limit: u16) -> bool {
        usize::from(self.first_index) + self.len() <= usize::from(limit)
    }
}

entries!(
    /// Sets the commit time and origin of transactions on a commit timestamp page.
    CommitTs {
        /// Microseconds since 2000-01-01 UTC.
        at_us: i64,
        /// Replication origin, 0 for none.
        origin: u16
    } entry 2 below 819,
    /// Index of each transaction on this page.
    |[a, b]| -> u16 { u16::from_le_bytes([*a, *b]) }
);

impl CommitTs<'_> {
    fn within(&self, limit: u16) -> bool {
        self.entries().all(|index| index < limit)
    }
}

impl<'a> DeltaView<'a> {
    /// Takes a delta apart; every length and index in it has been checked against its page afterwards.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DeltaError> {
        let mut reader = ByteReader::new(bytes);
        match reader.u8()? {
            DELTA_VERSION => {}
            other => return Err(DeltaError::Version(other)),
        }
        let kind = reader.u8()?;
        if kind == kind::RECORD {
            return RecordDelta::parse(reader).map(DeltaView::Record);
        }
        let view = match kind {
            kind::VM_CLEAR => DeltaView::VmClear(VmClear { entries: reader.rest() }.checked()?),
            kind::VM_CUT => DeltaView::VmCut { keep_heap_blocks: only(&mut reader, 32_672)? },
            kind::FSM_CUT => DeltaView::FsmCut { keep_slots: only(&mut reader, 4069)? },
            kind::CLOG_STATUS => {
                let status = reader.u8()?;
                DeltaView::ClogStatus(ClogStatus { status, entries: reader.rest() }.checked()?)
            }
            kind::MULTIXACT_OFFSETS => {
                DeltaView::MultixactOffsets(MultixactOffsets { entries: reader.rest() }.checked()?)
            }
            kind::MULTIXACT_MEMBERS => {
                let first_index = reader.u16()?;
                DeltaView::MultixactMembers(MultixactMembers { first_index, entries: reader.rest() }.checked()?)
            }
            kind::COMMIT_TS => {
                let (at_us, origin) = (reader.i64()?, reader.u16()?);
                DeltaView::CommitTs(CommitTs { at_us, origin, entries: reader.rest() }.checked()?)
            }
            kind::ZERO if reader.rest().is_empty() => DeltaView::Zero,
            kind::ZERO => return Err(DeltaError::Field("bytes behind a zero delta")),
            other => return Err(DeltaError::Kind(other)),
        };
        Ok(view)
    }
}

fn only(reader: &mut ByteReader<'_>, limit: u16) -> Result<u16, DeltaError> {
    let value = reader.u16()?;
    if value >= limit || !reader.rest().is_empty() {
        return Err(DeltaError::Field("cut beyond the end of the page"));
    }
    Ok(value)
}
