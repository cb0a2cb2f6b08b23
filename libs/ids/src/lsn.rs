//! Byte positions in the WAL.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `XLOG_BLCKSZ`: the WAL is divided into pages of this many bytes.
pub const WAL_PAGE_SIZE: u64 = 8192;
/// Bytes of the header at the start of every WAL page but the first of a segment.
pub const PAGE_HEADER_SHORT: u64 = 24;
/// Bytes of the header at the start of the first page of a segment.
pub const PAGE_HEADER_LONG: u64 = 40;

/// Byte position in a timeline's WAL. Ranges of LSNs are half-open. 0 is PostgreSQL's `InvalidXLogRecPtr`.
///
/// The end of a record is the start of the next one, aligned to 8 bytes; where a record ends with its page the end is the
/// bare page boundary (as PostgreSQL's `XLogBytePosToEndRecPtr` counts), while the next record starts behind the page header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN: two hexadecimal numbers with a slash between them are expected, such as 0/16B3740")]
pub struct LsnParseError(String);

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`.
    pub const INVALID: Lsn = Lsn(0);
    /// Beyond every position: "the newest" in a request.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Whether this is a position at all.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Rounds up to the 8 bytes on which records start.
    pub const fn align(self) -> Lsn {
        Lsn(self.0.saturating_add(7) & !7)
    }

    /// Number of the segment that holds the byte at this position.
    pub const fn segment_number(self, segment_size_bytes: u64) -> u64 {
        self.0 / segment_size_bytes
    }

    /// Offset of this position in its segment.
    pub const fn segment_offset(self, segment_size_bytes: u64) -> u64 {
        self.0 % segment_size_bytes
    }

    /// Start of the segment that holds the byte at this position.
    pub const fn segment_start(self, segment_size_bytes: u64) -> Lsn {
        Lsn(self.0 - self.0 % segment_size_bytes)
    }

    /// Offset of this position in its WAL page.
    pub const fn page_offset(self) -> u64 {
        self.0 % WAL_PAGE_SIZE
    }

    /// PostgreSQL's name of the segment file that holds the byte at this position (`XLogFileName`), on PostgreSQL timeline 1.
    pub fn segment_file_name(self, segment_size_bytes: u64) -> String {
        let per_id = 0x1_0000_0000 / segment_size_bytes;
        let number = self.segment_number(segment_size_bytes);
        format!("{:08X}{:08X}{:08X}", 1, number / per_id, number % per_id)
    }

    /// Where a record that follows a record ending here begins: behind the page header where this is a bare page boundary.
    pub const fn record_start(self, segment_size_bytes: u64) -> Lsn {
        if self.0.is_multiple_of(segment_size_bytes) {
            Lsn(self.0.saturating_add(PAGE_HEADER_LONG))
        } else if self.0.is_multiple_of(WAL_PAGE_SIZE) {
            Lsn(self.0.saturating_add(PAGE_HEADER_SHORT))
        } else {
            self
        }
    }

    /// The inverse of [`Lsn::record_start`]: a position just behind a page header is brought back to the page boundary,
    /// because a reader that waits for the end of the previous record would otherwise never see it reached.
    pub const fn record_end(self, segment_size_bytes: u64) -> Lsn {
        if self.0 % segment_size_bytes == PAGE_HEADER_LONG {
            Lsn(self.0 - PAGE_HEADER_LONG)
        } else if self.0 % segment_size_bytes > WAL_PAGE_SIZE && self.0 % WAL_PAGE_SIZE == PAGE_HEADER_SHORT {
            Lsn(self.0 - PAGE_HEADER_SHORT)
        } else {
            self
        }
    }

    /// `self + bytes`, or `None` beyond the end of the number space.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(value) => Some(Lsn(value)),
            None => None,
        }
    }

    /// Bytes from `earlier` to here; 0 when `earlier` is not earlier.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let half = |digits: &str| match digits.len() {
                1..=8 if digits.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(digits, 16).ok(),
                _ => None,
            };
            Some(Lsn(half(high)? << 32 | half(low)?))
        };
        parse().ok_or_else(|| LsnParseError(text.chars().take(64).collect()))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn text_is_postgres_text() {
        assert_eq!(Lsn(0x1_016b_3740).to_string(), "1/16B3740");
        assert_eq!("1/16B3740".parse(), Ok(Lsn(0x1_016b_3740)));
        for text in ["", "1", "/", "1/", "1/123456789", "+1/2", "1/2/3", "g/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn page_headers_are_stepped_over_and_back() {
        for end in [Lsn(SEGMENT), Lsn(SEGMENT + 8192), Lsn(SEGMENT + 8200 + 24), Lsn(3 * SEGMENT - 8)] {
            assert_eq!(end.record_start(SEGMENT).record_end(SEGMENT), end);
        }
        assert_eq!(Lsn(SEGMENT).record_start(SEGMENT), Lsn(SEGMENT + 40));
        assert_eq!(Lsn(SEGMENT + 24).record_end(SEGMENT), Lsn(SEGMENT + 24), "inside the long header");
    }

    #[test]
    fn segment_names_are_postgres_names() {
        assert_eq!(Lsn(0x1_0100_0028).segment_file_name(SEGMENT), "000000010000000100000001");
    }
}
