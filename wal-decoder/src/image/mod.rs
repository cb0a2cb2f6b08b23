//! Full-page images: from the bytes in a record to the page.
//!
//! A record carries a page image raw or compressed, with or without its "hole" (the unused bytes between `pd_lower` and `pd_upper`,
//! which are zero and left out). The bits of `bimg_info` say how (`xlogrecord.h`).

pub mod pglz;

use crate::key::{PAGE_SIZE, Page};

/// `BKPIMAGE_HAS_HOLE`: bytes were left out.
pub const HAS_HOLE: u8 = 0x01;
/// `BKPIMAGE_APPLY`: the image is the page's new content; without this bit it is there for comparison only.
pub const APPLY: u8 = 0x02;
/// `BKPIMAGE_COMPRESS_PGLZ`.
pub const COMPRESS_PGLZ: u8 = 0x04;
/// `BKPIMAGE_COMPRESS_LZ4`.
pub const COMPRESS_LZ4: u8 = 0x08;
/// `BKPIMAGE_COMPRESS_ZSTD`.
pub const COMPRESS_ZSTD: u8 = 0x10;

const COMPRESS_ANY: u8 = COMPRESS_PGLZ | COMPRESS_LZ4 | COMPRESS_ZSTD;

/// A full-page image that is not one. Not retryable: the record is damaged or was written by an unknown PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The hole does not lie within the page.
    #[error("full-page image with a hole of {length} bytes at {offset}, which does not fit a page of 8192 bytes")]
    Hole {
        /// `hole_offset`.
        offset: u16,
        /// Length in bytes.
        length: u16,
    },
    /// The bytes do not make a page of the announced size.
    #[error("full-page image makes {got} bytes where {expected} are expected")]
    Length {
        /// What the page without its hole takes.
        expected: usize,
        /// What came out.
        got: usize,
    },
    /// The compressed bytes are not valid.
    #[error("full-page image cannot be decompressed with {0}")]
    Compression(&'static str),
    /// More than one compression bit.
    #[error("full-page image with unknown info bits {0:#04x}")]
    Info(u8),
}

/// How an image is stored (`XLogRecordBlockImageHeader`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// `bimg_info`.
    pub info: u8,
    /// First byte that was left out.
    pub hole_offset: u16,
    /// Number of bytes left out; 0 without a hole.
    pub hole_length: u16,
}

/// Makes `out` the page whose image is `data`. `pd_lsn` is left as the image has it: the caller stamps it.
/// After an error the content of `out` is unspecified.
pub fn restore(data: &[u8], how: ImageInfo, out: &mut Page) -> Result<(), ImageError> {
    let (offset, length) = (usize::from(how.hole_offset), usize::from(how.hole_length));
    if offset + length > PAGE_SIZE {
        return Err(ImageError::Hole { offset: how.hole_offset, length: how.hole_length });
    }
    let expected = PAGE_SIZE - length;
    // The content goes to the front of the page; the part behind the hole is moved to its place afterwards.
    let content = &mut out[..expected];
    let got = match how.info & COMPRESS_ANY {
        0 if data.len() == expected => {
            content.copy_from_slice(data);
            expected
        }
        0 => data.len(),
        COMPRESS_PGLZ => pglz::decompress(data, content).ok_or(ImageError::Compression("pglz"))?,
        COMPRESS_LZ4 => lz4_flex::block::decompress_into(data, content).map_err(|_| ImageError::Compression("lz4"))?,
        COMPRESS_ZSTD => {
            zstd::bulk::decompress_to_buffer(data, content).map_err(|_| ImageError::Compression("zstd"))?
        }
        _ => return Err(ImageError::Info(how.info)),
    };
    if got != expected {
        return Err(ImageError::Length { expected, got });
    }
    if length > 0 {
        out.copy_within(offset..expected, offset + length);
        out[offset..offset + length].fill(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
