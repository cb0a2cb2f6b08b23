//! Page arithmetic of the SLRUs: which page and entry a transaction, multixact or member has, and which pages precede which.
//!
//! Numbers wrap at 2³², so "earlier" means "less than half the number space behind". A page counts as earlier only when both its
//! first and its last entry are (`CLOGPagePrecedes` and its siblings), because the last page before the wrap may be a partial one.

use crate::key::SlruKind;

impl SlruKind {
    /// Entries of one page.
    pub const fn entries_per_page(self) -> u32 {
        match self {
            SlruKind::Clog => 32_768,
            SlruKind::MultixactOffsets => 2048,
            SlruKind::MultixactMembers => 1636,
            SlruKind::CommitTs => 819,
        }
    }

    /// Highest page number.
    pub const fn max_page(self) -> u32 {
        u32::MAX / self.entries_per_page()
    }

    /// Highest segment number.
    pub const fn max_segment(self) -> u32 {
        self.max_page() / SlruKind::PAGES_PER_SEGMENT
    }
}

/// Page of an entry, and its index on the page.
pub const fn locate(kind: SlruKind, entry: u32) -> (u32, u16) {
    let per_page = kind.entries_per_page();
    (entry / per_page, (entry % per_page) as u16)
}

/// Whether transaction id `a` precedes `b` (`TransactionIdPrecedes`).
pub const fn xid_precedes(a: u32, b: u32) -> bool {
    if a < crate::v17::FIRST_NORMAL_XID || b < crate::v17::FIRST_NORMAL_XID {
        return a < b;
    }
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether number `a` of a space that wraps at 2³² precedes `b` (multixacts and their member offsets).
pub const fn wrapping_precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether all entries of page `a` precede all entries of page `b`, in the kind's own order (`PagePrecedes`).
pub const fn page_precedes(kind: SlruKind, a: u32, b: u32) -> bool {
    let per_page = kind.entries_per_page();
    // As in PostgreSQL the permanent ids are stepped over, so that the first page counts as its first normal entry.
    let first_entry = match kind {
        SlruKind::Clog | SlruKind::CommitTs => crate::v17::FIRST_NORMAL_XID + 1,
        SlruKind::MultixactOffsets => crate::v17::FIRST_MULTIXACT + 1,
        SlruKind::MultixactMembers => 0,
    };
    let first_of_a = a.wrapping_mul(per_page).wrapping_add(first_entry);
    let first_of_b = b.wrapping_mul(per_page).wrapping_add(first_entry);
    let last_of_b = first_of_b.wrapping_add(per_page - 1);
    match kind {
        SlruKind::Clog | SlruKind::CommitTs => {
            xid_precedes(first_of_a, first_of_b) && xid_precedes(first_of_a, last_of_b)
        }
        SlruKind::MultixactOffsets | SlruKind::MultixactMembers => {
            wrapping_precedes(first_of_a, first_of_b) && wrapping_precedes(first_of_a, last_of_b)
        }
    }
}

/// Whether a truncation to `cutoff_page` removes `segment`: its first and its last page both precede the cutoff (`SlruMayDeleteSegment`).
pub const fn segment_precedes(kind: SlruKind, segment: u32, cutoff_page: u32) -> bool {
    let first_page = segment.wrapping_mul(SlruKind::PAGES_PER_SEGMENT);
    let last_page = first_page.wrapping_add(SlruKind::PAGES_PER_SEGMENT - 1);
    page_precedes(kind, first_page, cutoff_page) && page_precedes(kind, last_page, cutoff_page)
}

/// The segments that [`crate::effect::Effect::SlruDropSegments`] removes: from `first` to before `end`, wrapping.
pub fn segments_between(kind: SlruKind, first: u32, end: u32) -> impl Iterator<Item = u32> {
    let max = kind.max_segment();
    let valid = first <= max && end <= max;
    let mut next = first;
    std::iter::from_fn(move || {
        if !valid || next == end {
            return None;
        }
        let segment = next;
        next = if segment == max { 0 } else { segment + 1 };
        Some(segment)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_keeps_the_segment_of_the_cutoff_and_everything_behind_it() {
        for kind in SlruKind::ALL {
            let cutoff = 32 * 5 + 3;
            for (segment, gone) in [(0, true), (4, true), (5, false), (6, false), (100, false)] {
                assert_eq!(segment_precedes(kind, segment, cutoff), gone, "{kind:?} {segment}");
            }
        }
    }

    /// Page 0 holds the permanent transaction ids, which precede everything when compared naively.
    #[test]
    fn pages_wrap() {
        let last = SlruKind::Clog.max_page();
        assert!(page_precedes(SlruKind::Clog, last, 0) && !page_precedes(SlruKind::Clog, 0, last));
        assert!(page_precedes(SlruKind::Clog, 0, 1) && !page_precedes(SlruKind::Clog, 1, 1));
        // Half the number space apart: neither both ways.
        let half = last / 2 + 1;
        assert!(!(page_precedes(SlruKind::Clog, 0, half) && page_precedes(SlruKind::Clog, half, 0)));
    }

    #[test]
    fn dropped_segments_wrap_at_the_highest() {
        let kind = SlruKind::MultixactMembers;
        let max = kind.max_segment();
        assert_eq!(segments_between(kind, 3, 6).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(segments_between(kind, max - 1, 1).collect::<Vec<_>>(), [max - 1, max, 0]);
        assert_eq!(segments_between(kind, 3, 3).count(), 0);
        assert_eq!(segments_between(kind, 3, max + 1).count(), 0, "an impossible end ends at once");
    }

    #[test]
    fn transaction_ids_compare_modulo_but_special_ones_come_first() {
        assert!(xid_precedes(1, 3) && xid_precedes(2, u32::MAX) && !xid_precedes(u32::MAX, 2));
        assert!(xid_precedes(u32::MAX, 3) && xid_precedes(0x8000_0004, 3) && !xid_precedes(3, u32::MAX));
    }
}
