//! Reads the headers of a record and finds its parts.

use super::{
    BlockRef, FLAG_HAS_DATA, FLAG_HAS_IMAGE, FLAG_SAME_REL, FORK_MASK, HEADER_SIZE, ImageRef, MAX_BLOCKS,
    MAX_RECORD_SIZE, ParsedRecord,
};
use crate::{
    byte_reader::{ByteReader, ShortInput},
    image::{self, ImageInfo},
    key::{Fork, PAGE_SIZE, Rel},
};
use ogel_ids::Lsn;

/// A record whose checksum may be right but whose content is not that of PostgreSQL 17. Never retryable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Ends before its parts do.
    #[error("record is shorter than its headers say: {0}")]
    Short(#[from] ShortInput),
    /// The length in the header is not that of the bytes.
    #[error("record of {got} bytes says that it has {said}")]
    Length {
        /// `xl_tot_len`.
        said: u32,
        /// Bytes that there are.
        got: usize,
    },
    /// A block reference has an id that is unknown or not ascending.
    #[error("record has block id {0} where none or a higher one is expected")]
    BlockId(u8),
    /// Unknown fork.
    #[error("block reference {id} names fork {fork}")]
    Fork {
        /// Id of the reference.
        id: u8,
        /// Fork number.
        fork: u8,
    },
    /// A block reference contradicts itself.
    #[error("block reference {id}: {what}")]
    Block {
        /// Id of the reference.
        id: u8,
        /// What is wrong.
        what: &'static str,
    },
    /// The parts do not fill the record.
    #[error("record has {left} bytes of data where its headers announce {announced}")]
    Announced {
        /// Sum of the announced lengths.
        announced: usize,
        /// Bytes behind the headers.
        left: usize,
    },
}

const ID_MAIN_SHORT: u8 = 255;
const ID_MAIN_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_XID: u8 = 252;
const COMPRESSED: u8 = image::COMPRESS_PGLZ | image::COMPRESS_LZ4 | image::COMPRESS_ZSTD;

impl<'a> ParsedRecord<'a> {
    /// Takes a whole record apart. Checks every length, not the checksum: [`crate::stream`] did that.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut record = Self::empty();
        record.fill(bytes)?;
        Ok(record)
    }

    /// Makes a new, empty record that of `bytes`, where it is: moving one costs as much as parsing it.
    #[inline]
    pub(crate) fn fill(&mut self, bytes: &'a [u8]) -> Result<(), RecordError> {
        let mut reader = ByteReader::new(bytes);
        let said = reader.u32()?;
        if said as usize != bytes.len() || bytes.len() < HEADER_SIZE || said > MAX_RECORD_SIZE {
            return Err(RecordError::Length { said, got: bytes.len() });
        }
        (self.xid, self.prev, self.info, self.rmid) = (reader.u32()?, Lsn(reader.u64()?), reader.u8()?, reader.u8()?);
        reader.skip(6)?;
        self.bytes = bytes;
        self.parse_parts(reader)
    }

    fn parse_parts(&mut self, mut reader: ByteReader<'a>) -> Result<(), RecordError> {
        let mut announced = 0;
        let mut last_rel = None;
        while reader.rest().len() > announced {
            let main_length = match reader.u8()? {
                ID_MAIN_SHORT => usize::from(reader.u8()?),
                ID_MAIN_LONG => reader.u32()? as usize,
                ID_ORIGIN => {
                    self.origin = Some(reader.u16()?);
                    continue;
                }
                ID_TOPLEVEL_XID => {
                    self.toplevel_xid = Some(reader.u32()?);
                    continue;
                }
                id if usize::from(id) < MAX_BLOCKS && self.blocks().last().is_none_or(|last| last.id < id) => {
                    let block = parse_block(&mut reader, id, &mut last_rel)?;
                    announced +=
                        usize::from(block.data_length) + block.image.map_or(0, |image| usize::from(image.length));
                    self.add_block(block);
                    continue;
                }
                id => return Err(RecordError::BlockId(id)),
            };
            announced += main_length;
            break; // The main data header is always the last one.
        }
        if reader.rest().len() != announced {
            return Err(RecordError::Announced { announced, left: reader.rest().len() });
        }
        let mut at = (self.bytes.len() - announced) as u32;
        for block in self.blocks_mut() {
            if let Some(image) = &mut block.image {
                image.at = at;
                at += u32::from(image.length);
            }
            block.data_at = at;
            at += u32::from(block.data_length);
        }
        self.main_data = self.bytes.get(at as usize..).unwrap_or_default();
        Ok(())
    }
}

#[inline]
fn parse_block(reader: &mut ByteReader<'_>, id: u8, last_rel: &mut Option<Rel>) -> Result<BlockRef, RecordError> {
    let fork_flags = reader.u8()?;
    let data_length = reader.u16()?;
    if (fork_flags & FLAG_HAS_DATA != 0) != (data_length != 0) {
        return Err(RecordError::Block { id, what: "flag and length of its data contradict each other" });
    }
    let image = if fork_flags & FLAG_HAS_IMAGE != 0 { Some(parse_image(reader, id)?) } else { None };
    let rel = if fork_flags & FLAG_SAME_REL == 0 {
        Rel { spc: reader.u32()?, db: reader.u32()?, rel: reader.u32()? }
    } else {
        last_rel.ok_or(RecordError::Block { id, what: "says 'same relation' where none was named before" })?
    };
    *last_rel = Some(rel);
    let number = fork_flags & FORK_MASK;
    let fork = Fork::from_number(number).ok_or(RecordError::Fork { id, fork: number })?;
    let block = reader.u32()?;
    if block == u32::MAX {
        return Err(RecordError::Block { id, what: "block number is the invalid one" });
    }
    Ok(BlockRef { id, fork_flags, rel: rel.fork(fork), block, image, data_at: 0, data_length })
}

fn parse_image(reader: &mut ByteReader<'_>, id: u8) -> Result<ImageRef, RecordError> {
    let (length, hole_offset, info) = (reader.u16()?, reader.u16()?, reader.u8()?);
    let page = PAGE_SIZE as u16;
    let has_hole = info & image::HAS_HOLE != 0;
    let compressed = info & COMPRESSED != 0;
    let hole_length = match (compressed, has_hole) {
        (true, true) => reader.u16()?,
        (true, false) => 0,
        (false, _) => page.checked_sub(length).ok_or(RecordError::Block { id, what: "image is longer than a page" })?,
    };
    let sound = if has_hole { hole_offset != 0 && hole_length != 0 } else { hole_offset == 0 && hole_length == 0 };
    if !sound {
        return Err(RecordError::Block { id, what: "flag and extent of the image's hole contradict each other" });
    }
    if compressed && length >= page {
        return Err(RecordError::Block { id, what: "compressed image is not shorter than a page" });
    }
    if u32::from(hole_offset) + u32::from(hole_length) > u32::from(page) {
        return Err(RecordError::Block { id, what: "image's hole ends behind the page" });
    }
    let apply = info & image::APPLY != 0;
    Ok(ImageRef { info: ImageInfo { info, hole_offset, hole_length }, apply, at: 0, length })
}
