//! WAL with records that behave like PostgreSQL's where it matters: a record names its predecessor and is valid only at its
//! own position, so a stale record behind a cut fits again when what is written over the cut is as long as what was there (H2).
//!
//! ```text
//! 0  length u32, a multiple of 8, ≥ 16    4  checksum u32 of position and everything else    8  start of the record before, u64
//! 16 payload
//! ```

use ogel_ids::Lsn;

/// Where the timeline of every run begins.
pub const TIMELINE_START: Lsn = Lsn(4096);
/// Shortest record.
pub const HEADER_BYTES: usize = 16;
const MAX_RECORD_BYTES: usize = 1 << 16;

/// Index of a position in a disk image.
pub fn offset(lsn: Lsn) -> usize {
    lsn.bytes_since(TIMELINE_START) as usize
}

/// A record at `lsn` of `HEADER_BYTES` + 8 per word.
pub fn record(lsn: Lsn, prev: Lsn, payload: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 8 * payload.len());
    bytes.extend(((HEADER_BYTES + 8 * payload.len()) as u32).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(prev.0.to_be_bytes());
    for word in payload {
        bytes.extend(word.to_be_bytes());
    }
    let sum = checksum(lsn, &bytes);
    bytes[4..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A place in a log: the end of a record, and where that record starts if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// End of the record.
    pub end: Lsn,
    /// Start of the record.
    pub last_record: Option<Lsn>,
}

impl Place {
    /// The end of a record whose start is not known.
    pub fn at(end: Lsn) -> Self {
        Self { end, last_record: None }
    }
}

/// Goes over whole valid records from `place` on, none of which may end behind `limit`.
pub fn scan(image: &[u8], mut place: Place, limit: Lsn) -> Place {
    while let Some(length) = valid_record(image, place) {
        let end = Lsn(place.end.0 + length as u64);
        if end > limit {
            break;
        }
        place = Place { end, last_record: Some(place.end) };
    }
    place
}

fn valid_record(image: &[u8], place: Place) -> Option<usize> {
    let bytes = image.get(offset(place.end)..)?;
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if !(HEADER_BYTES..=MAX_RECORD_BYTES).contains(&length) || !length.is_multiple_of(8) {
        return None;
    }
    let record = bytes.get(..length)?;
    let prev = Lsn(u64::from_be_bytes(record[8..16].try_into().ok()?));
    let fits = place.last_record.is_none_or(|last| last == prev);
    let sum = u32::from_be_bytes(record[4..8].try_into().ok()?);
    (fits && sum == checksum(place.end, record)).then_some(length)
}

/// FNV-1a over the position and the record without its checksum field.
fn checksum(lsn: Lsn, record: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in lsn.0.to_be_bytes().iter().chain(&record[..4]).chain(&record[8..]) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_record_fits_behind_one_of_the_same_length() {
        let first = record(TIMELINE_START, Lsn(0), &[1, 2]);
        let second_start = Lsn(TIMELINE_START.0 + first.len() as u64);
        let mut image = first;
        image.extend(record(second_start, TIMELINE_START, &[3]));
        let whole = scan(&image, Place::at(TIMELINE_START), Lsn::MAX);
        assert_eq!(whole.end, Lsn(second_start.0 + 24));
        image[..32].copy_from_slice(&record(TIMELINE_START, Lsn(0), &[8, 9]));
        assert_eq!(scan(&image, Place::at(TIMELINE_START), Lsn::MAX), whole, "that is what H2 is about");
        image[20] ^= 1;
        assert_eq!(scan(&image, Place::at(TIMELINE_START), Lsn::MAX).end, TIMELINE_START);
    }
}
