//! What of a page lies at an offset, in words.

use wal_decoder::{
    key::{Fork, PAGE_SIZE, Page},
    redo::PageRef,
};

const HEADER_SIZE: usize = 24;
/// Names of the header's fields, with their ends.
const HEADER_FIELDS: [(usize, &str); 8] = [
    (8, "pd_lsn"),
    (10, "pd_checksum"),
    (12, "pd_flags"),
    (14, "pd_lower"),
    (16, "pd_upper"),
    (18, "pd_special"),
    (20, "pd_pagesize_version"),
    (24, "pd_prune_xid"),
];

/// A used line pointer's item.
struct Item {
    number: usize,
    start: usize,
    end: usize,
}

/// By the page's own header and line pointers.
pub(crate) fn section(page: &Page, at: PageRef, offset: usize) -> String {
    let field = |at: usize| usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
    let (lower, upper, special) = (field(12), field(14), field(16));
    if let Some((_, name)) = HEADER_FIELDS.iter().find(|(end, _)| offset < *end) {
        return format!("header, {name}");
    }
    if at.rel.fork == Fork::VisibilityMap {
        let first = (u64::from(at.block) * (PAGE_SIZE - HEADER_SIZE) as u64 + (offset - HEADER_SIZE) as u64) * 4;
        return format!("bits of heap blocks {first} to {}", first + 3);
    }
    if offset >= special {
        return "special space".to_owned();
    }
    // Metapages, bitmaps and posting lists have other content where most pages have line pointers.
    match items(page, lower.min(upper), upper, special) {
        Some(_) if offset < lower => format!("line pointer {}", (offset - HEADER_SIZE) / 4 + 1),
        Some(items) if offset >= upper => match items.iter().find(|item| (item.start..item.end).contains(&offset)) {
            Some(item) => format!("tuple {}, its byte {}", item.number, offset - item.start),
            None => "between tuples".to_owned(),
        },
        None if offset < lower => "content before pd_lower".to_owned(),
        None if offset >= upper => "content behind pd_upper".to_owned(),
        _ => "unused space".to_owned(),
    }
}

/// The items of the line pointers up to `lower`; `None` when these cannot be line pointers.
fn items(page: &Page, lower: usize, upper: usize, special: usize) -> Option<Vec<Item>> {
    let lines = page.get(HEADER_SIZE..lower)?.chunks_exact(4).zip(1..);
    let mut items = Vec::new();
    for (line, number) in lines {
        let bits = u32::from_le_bytes([line[0], line[1], line[2], line[3]]);
        let (start, len) = ((bits & 0x7fff) as usize, (bits >> 17) as usize);
        if len > 0 {
            if start < upper || start + len > special {
                return None;
            }
            items.push(Item { number, start, end: start + len });
        }
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_decoder::key::Rel;

    /// A page with items at 8000..8100 and, as line pointer 2, at 7900..7950.
    fn page() -> Page {
        let mut page = [0; PAGE_SIZE];
        for (at, value) in [(12, 32u16), (14, 7900), (16, 8176)] {
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        for (at, offset, len) in [(24, 8000u32, 100u32), (28, 7900, 50)] {
            page[at..at + 4].copy_from_slice(&(offset | 1 << 15 | len << 17).to_le_bytes());
        }
        page
    }

    fn at(fork: Fork, block: u32) -> PageRef {
        PageRef { rel: Rel { spc: 1663, db: 1, rel: 1 }.fork(fork), block }
    }

    #[test]
    fn a_difference_is_located() {
        let page = page();
        let expected = [
            (11, "header, pd_flags"),
            (31, "line pointer 2"),
            (32, "unused space"),
            (7920, "tuple 2, its byte 20"),
            (7960, "between tuples"),
            (8099, "tuple 1, its byte 99"),
            (8176, "special space"),
        ];
        for (offset, words) in expected {
            assert_eq!(section(&page, at(Fork::Main, 0), offset), words);
        }
        assert_eq!(section(&page, at(Fork::VisibilityMap, 1), 25), "bits of heap blocks 32676 to 32679");
    }

    #[test]
    fn what_is_no_line_pointer_is_not_called_one() {
        let mut page = page();
        page[28..32].fill(0xff);
        assert_eq!(section(&page, at(Fork::Main, 0), 28), "content before pd_lower");
        page[12..14].fill(0xff);
        assert_eq!(section(&page, at(Fork::Main, 0), 8100), "content before pd_lower");
    }
}
