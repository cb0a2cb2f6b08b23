//! Names of WAL objects.
//!
//! ```text
//! tenants/T/timelines/TL/wal/SEGMENT.zst               a whole segment, by PostgreSQL's name of its file
//! tenants/T/timelines/TL/tails/SEGMENT-TERM-END.zst    the beginning of a segment up to END: the end of an idle log (H5)
//! ```
//! TERM and END are 16 hexadecimal digits each. Objects are made once and never changed; a tail goes when a longer tail or the
//! whole segment is there. Earlier versions wrote the same names without `.zst`, for the same WAL as it is.

use ogel_ids::{Lsn, Term};

use crate::timeline::TimelineKey;

/// End of the name of a packed object.
const PACKED: &str = ".zst";

/// How an object holds its WAL. Where both are there the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Compressed ([`super::packed`]).
    Packed,
    /// As it is: written by earlier versions, only read.
    Raw,
}

impl Form {
    /// In the order in which they are looked for.
    pub const ALL: [Form; 2] = [Form::Packed, Form::Raw];

    /// Name of the object whose raw form has this name.
    pub fn of(self, raw: &str) -> String {
        match self {
            Form::Packed => format!("{raw}{PACKED}"),
            Form::Raw => raw.to_owned(),
        }
    }

    /// Form, and the name without what says it.
    fn split(name: &str) -> (Form, &str) {
        name.strip_suffix(PACKED).map_or((Form::Raw, name), |raw| (Form::Packed, raw))
    }
}

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

/// Object of segment `number`, in its raw form.
pub fn segment(key: TimelineKey, number: u64, segment_size_bytes: u64) -> String {
    format!("{}/{}", segments_folder(key), Lsn(number * segment_size_bytes).segment_file_name(segment_size_bytes))
}

/// Object of the tail that ends at `end`, which is not the end of a segment, in its raw form.
pub fn tail(key: TimelineKey, term: Term, end: Lsn, segment_size_bytes: u64) -> String {
    format!("{}/{}-{:016X}-{:016X}", tails_folder(key), end.segment_file_name(segment_size_bytes), term.0, end.0)
}

/// Form of an object, by its name.
pub fn form(name: &str) -> Form {
    Form::split(name).0
}

/// Segment and form of an object of this name (without folders); `None` for other names.
pub fn parse_segment(name: &str, segment_size_bytes: u64) -> Option<(u64, Form)> {
    let (form, name) = Form::split(name);
    Some((segment_number(name, segment_size_bytes)?, form))
}

/// Term, end and form of the tail in an object of this name (without folders); `None` for other names.
pub fn parse_tail(name: &str, segment_size_bytes: u64) -> Option<(Term, Lsn, Form)> {
    let (form, name) = Form::split(name);
    let mut parts = name.split('-');
    let (segment, term, end) = (parts.next()?, parts.next()?, parts.next()?);
    let number = |text: &str| u64::from_str_radix(Some(text).filter(|text| text.len() == 16 && is_hex(text))?, 16).ok();
    let (term, end) = (number(term)?, Lsn(number(end)?));
    let fits = segment_number(segment, segment_size_bytes)? == end.segment_number(segment_size_bytes);
    (parts.next().is_none() && fits).then_some((Term(term), end, form))
}

fn segment_number(name: &str, segment_size_bytes: u64) -> Option<u64> {
    let per_id = 0x1_0000_0000 / segment_size_bytes;
    let digits = name.strip_prefix("00000001").filter(|digits| digits.len() == 16 && is_hex(digits))?;
    let (id, low) = (u64::from_str_radix(&digits[..8], 16).ok()?, u64::from_str_radix(&digits[8..], 16).ok()?);
    (low < per_id).then_some(id * per_id + low)
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
                for form in Form::ALL {
                    let name = last(&form.of(&segment(key, number, size)));
                    assert_eq!(parse_segment(&name, size), Some((number, form)));
                    let end = Lsn(number * size + 80);
                    let name = last(&form.of(&tail(key, Term(9), end, size)));
                    assert_eq!(parse_tail(&name, size), Some((Term(9), end, form)));
                }
            }
        }
        let size = 16 << 20;
        for wrong in
            ["", "000000010000000000000100", "00000002000000000000000A", "00000001+0000000000000A", "x", ".zst"]
        {
            assert_eq!(parse_segment(wrong, size), None, "{wrong}");
        }
        let good = last(&tail(key, Term(9), Lsn(80), size));
        let other = format!("00000001000000000000000B{}", &good[24..]);
        for wrong in [format!("{good}-1"), good.replace("50", "+5"), other, format!("{good}.zst.zst")] {
            assert_eq!(parse_tail(&wrong, size), None, "{wrong}");
        }
    }
}
