//! A WAL record taken apart: header, block references, main data. Nothing is copied and nothing is allocated.
//!
//! ```text
//! header 24 bytes: total length u32, xid u32, prev u64, info u8, rmid u8, 2 bytes 0, crc u32
//! n × block reference header, [origin], [top-level xid], [main data header]
//! n × (image, data), main data
//! ```

mod parse;

use crate::{
    image::{self, ImageInfo},
    key::{Fork, Rel, RelFork},
};
use ogel_ids::Lsn;

pub use parse::RecordError;

/// `SizeOfXLogRecord`: bytes of the header.
pub const HEADER_SIZE: usize = 24;
/// `XLogRecordMaxSize`: no record is longer.
pub const MAX_RECORD_SIZE: u32 = 1020 * 1024 * 1024;
/// Most block references of a record (ids 0 to 32).
pub const MAX_BLOCKS: usize = 33;
/// Block references of all records but page splits and bulk images (`XLR_NORMAL_MAX_BLOCK_ID` + 1). A parsed record is moved about:
/// with room for all 33, decoding took half as long again.
const USUAL_BLOCKS: usize = 5;

/// Low bits of a block reference's flags: the fork.
pub const FORK_MASK: u8 = 0x0f;
/// `BKPBLOCK_HAS_IMAGE`.
pub const FLAG_HAS_IMAGE: u8 = 0x10;
/// `BKPBLOCK_HAS_DATA`.
pub const FLAG_HAS_DATA: u8 = 0x20;
/// `BKPBLOCK_WILL_INIT`: redo does not look at the previous version.
pub const FLAG_WILL_INIT: u8 = 0x40;
/// `BKPBLOCK_SAME_REL`: the relation is that of the previous reference.
pub const FLAG_SAME_REL: u8 = 0x80;

/// A full-page image in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRef {
    /// How it is stored; see [`image::restore`].
    pub info: ImageInfo,
    /// It is the page's new content. Otherwise it is there for comparison only (`wal_consistency_checking`).
    pub apply: bool,
    at: u32,
    length: u16,
}

/// One block reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    /// The id under which the resource manager registered it; ascending within a record.
    pub id: u8,
    /// Fork and `FLAG_*` bits.
    pub fork_flags: u8,
    /// The relation fork.
    pub rel: RelFork,
    /// Block number in the fork.
    pub block: u32,
    image: Option<ImageRef>,
    data_at: u32,
    data_length: u16,
}

impl BlockRef {
    const EMPTY: BlockRef = BlockRef {
        id: 0,
        fork_flags: 0,
        rel: Rel { spc: 0, db: 0, rel: 0 }.fork(Fork::Main),
        block: 0,
        image: None,
        data_at: 0,
        data_length: 0,
    };

    /// Redo starts from an initialised page.
    pub const fn will_init(&self) -> bool {
        self.fork_flags & FLAG_WILL_INIT != 0
    }

    /// The image, whether it is to be applied or not.
    pub const fn image(&self) -> Option<ImageRef> {
        self.image
    }

    /// The image, when it is the page's new content.
    pub fn applied_image(&self) -> Option<ImageRef> {
        self.image.filter(|image| image.apply)
    }
}

/// A record taken apart. The bytes must be a whole record without page headers, as [`crate::stream::Record`] holds it.
#[derive(Debug, Clone)]
pub struct ParsedRecord<'a> {
    /// `xl_xid`, 0 when the record belongs to no transaction.
    pub xid: u32,
    /// Start of the previous record.
    pub prev: Lsn,
    /// `xl_info`.
    pub info: u8,
    /// Resource manager, see [`crate::v17::rmgr`].
    pub rmid: u8,
    /// Replication origin that the record carries in its header.
    pub origin: Option<u16>,
    /// Top-level transaction of `xid`, when the record names it.
    pub toplevel_xid: Option<u32>,
    /// Data that belongs to no block.
    pub main_data: &'a [u8],
    bytes: &'a [u8],
    /// The first references; all of them are in `many_blocks` when they are more than this has room for.
    blocks: [BlockRef; USUAL_BLOCKS],
    block_count: u8,
    many_blocks: Vec<BlockRef>,
}

impl<'a> ParsedRecord<'a> {
    /// To be filled.
    #[inline]
    pub(crate) const fn empty() -> Self {
        ParsedRecord {
            xid: 0,
            prev: Lsn::INVALID,
            info: 0,
            rmid: 0,
            origin: None,
            toplevel_xid: None,
            main_data: &[],
            bytes: &[],
            blocks: [BlockRef::EMPTY; USUAL_BLOCKS],
            block_count: 0,
            many_blocks: Vec::new(),
        }
    }

    /// The four bits of `xl_info` that belong to the resource manager.
    pub const fn rmgr_info(&self) -> u8 {
        self.info & 0xf0
    }

    /// The block references, by ascending id.
    pub fn blocks(&self) -> &[BlockRef] {
        if self.many_blocks.is_empty() { &self.blocks[..usize::from(self.block_count)] } else { &self.many_blocks }
    }

    fn blocks_mut(&mut self) -> &mut [BlockRef] {
        if self.many_blocks.is_empty() {
            &mut self.blocks[..usize::from(self.block_count)]
        } else {
            &mut self.many_blocks
        }
    }

    fn add_block(&mut self, block: BlockRef) {
        let count = usize::from(self.block_count);
        if count < USUAL_BLOCKS {
            self.blocks[count] = block;
        } else {
            if count == USUAL_BLOCKS {
                self.many_blocks.extend_from_slice(&self.blocks);
            }
            self.many_blocks.push(block);
        }
        self.block_count += 1;
    }

    /// The block reference with this id.
    pub fn block(&self, id: u8) -> Option<&BlockRef> {
        self.blocks().iter().find(|block| block.id == id)
    }

    /// Data of one of this record's blocks; empty when there is none.
    pub fn block_data(&self, block: &BlockRef) -> &'a [u8] {
        slice(self.bytes, block.data_at, usize::from(block.data_length))
    }

    /// The stored bytes of one of this record's images, to be handed to [`image::restore`].
    pub fn image_bytes(&self, image: &ImageRef) -> &'a [u8] {
        slice(self.bytes, image.at, usize::from(image.length))
    }

    /// Makes `out` the page whose image this is. `pd_lsn` is left as the image has it.
    pub fn restore_image(&self, image: &ImageRef, out: &mut crate::key::Page) -> Result<(), image::ImageError> {
        image::restore(self.image_bytes(image), image.info, out)
    }
}

/// References of another record may point anywhere, hence no indexing.
fn slice(bytes: &[u8], at: u32, length: usize) -> &[u8] {
    bytes.get(at as usize..).and_then(|rest| rest.get(..length)).unwrap_or_default()
}
