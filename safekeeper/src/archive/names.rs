//! Names of WAL objects.
//!
//! ```text
//! tenants/T/timelines/TL/wal/SEGMENT               a whole segment, by PostgreSQL's name of its file
//! tenants/T/timelines/TL/tails/SEGMENT-TERM-END    the beginning of a segment up to END: the end of an idle log (H5)
//! ```
//! TERM and END are 16 hexadecimal digits each. Objects are made once and never changed; a tail goes when a longer tail or the
//! whole segment is there.

use ogel_ids::{Lsn, Term};

use crate::timeline::TimelineKey;

/// Folder of a timeline's objects.
pub fn timeline_folder(key: TimelineKey) -> String {
    format!("tenants/{}/timelines/{}", key.tenant, key.timeline)
}

/// Folder of a timeline's segments.
pub fn segments_folder(key: TimelineKey) -> String {
    format!("{}/wal", timeline_folder(key))
}

/// Folder of a timeline's tails.
pub fn tails_folder(key: TimelineKey) -> String {
    format!("{}/tails", timeline_folder(key))
}

/// Object of segment `number`.
pub fn segment(key: TimelineKey, number: u64, segment_size_bytes: u64) -> String {
    format!("{}/{}", segments_folder(key), Lsn(number * segment_size_bytes).segment_file_name(segment_size_bytes))
}

/// Object of the tail that ends at `end`, which is not the end of a segment.
pub fn tail(key: TimelineKey, term: Term, end: Lsn, segment_size_bytes: u64) -> String {
    format!("{}/{}-{:016X}-{:016X}", tails_folder(key), end.segment_file_name(segment_size_bytes), term.0, end.0)
}

/// Number of the segment that a file or object of this name holds; `None` for other names.
pub fn parse_segment(name: &str, segment_size_bytes: u64) -> Option<u64> {
    let per_id = 0x1_0000_0000 / segment_size_bytes;
    let digits = name.strip_prefix("00000001").filter(|digits| digits.len() == 16 && is_hex(digits))?;
    let (id, low) = (u64::from_str_radix(&digits[..8], 16).ok()?, u64::from_str_radix(&digits[8..], 16).ok()?);
    (low < per_id).then_some(id * per_id + low)
}

/// Term and end of the tail that an object of this name (without folders) holds; `None` for other names.
pub fn parse_tail(name: &str, segment_size_bytes: u64) -> Option<(Term, Lsn)> {
    let mut parts = name.split('-');
    let (segment, term, end) = (parts.next()?, parts.next()?, parts.next()?);
    let number = |text: &str| u64::from_str_radix(Some(text).filter(|text| text.len() == 16 && is_hex(text))?, 16).ok();
    let (term, end) = (number(term)?, Lsn(number(end)?));
    let fits = parse_segment(segment, segment_size_bytes)? == end.segment_number(segment_size_bytes);
    (parts.next().is_none() && fits).then_some((Term(term), end))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

#[cfg(test)]
mod tests {
    use ogel_ids::{TenantId, TimelineId};

    use super::*;

    #[test]
    fn names_are_read_back() {
        let key = TimelineKey { tenant: TenantId::from_bytes([1; 16]), timeline: TimelineId::from_bytes([2; 16]) };
        let last = |name: &str| name.rsplit('/').next().unwrap().to_owned();
        for size in [1 << 20, 16 << 20, 1 << 30] {
            for number in [0, 3, 255, 4096, 70_000] {
                assert_eq!(parse_segment(&last(&segment(key, number, size)), size), Some(number));
                let end = Lsn(number * size + 80);
                assert_eq!(parse_tail(&last(&tail(key, Term(9), end, size)), size), Some((Term(9), end)));
            }
        }
        let size = 16 << 20;
        for wrong in ["", "000000010000000000000100", "00000002000000000000000A", "00000001+0000000000000A", "x"] {
            assert_eq!(parse_segment(wrong, size), None, "{wrong}");
        }
        let good = last(&tail(key, Term(9), Lsn(80), size));
        for wrong in [format!("{good}-1"), good.replace("50", "+5"), format!("00000001000000000000000B{}", &good[24..])]
        {
            assert_eq!(parse_tail(&wrong, size), None, "{wrong}");
        }
    }
}
