//! How much WAL a start fetches for a slot that is behind. Whoever is further behind loses the slot, as on stock PostgreSQL a checkpoint
//! takes it from them; the start goes on.

use std::fmt;

use ogel_ids::Lsn;

/// Of the folder's free space, what is left for the server itself: its first segments of WAL, and the files of its sessions.
const FOR_POSTGRES_BYTES: u64 = 128 << 20;

/// What decides.
#[derive(Debug, Clone, Copy)]
pub struct SlotLimit {
    /// The end of the WAL.
    pub end: Lsn,
    /// Of the timeline.
    pub segment_size_bytes: u64,
    /// `max_slot_wal_keep_size`; `None` is unlimited.
    pub keep_bytes: Option<u64>,
    /// Free on the disk of the compute's folder.
    pub free_bytes: u64,
}

/// Why a slot is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TooFarBehind {
    /// More than the setting allows.
    Keep { behind_bytes: u64, keep_bytes: u64 },
    /// More than there is room for.
    Disk { behind_bytes: u64, free_bytes: u64 },
}

impl SlotLimit {
    /// `None` for a slot that can go on. Counts whole segments, as stock does.
    pub fn excess(&self, restart_lsn: Lsn) -> Option<TooFarBehind> {
        let segments = self
            .end
            .segment_number(self.segment_size_bytes)
            .saturating_sub(restart_lsn.segment_number(self.segment_size_bytes));
        let needed_bytes = segments.saturating_mul(self.segment_size_bytes);
        let behind_bytes = self.end.0.saturating_sub(restart_lsn.0);
        if let Some(keep_bytes) = self.keep_bytes
            && segments > keep_bytes / self.segment_size_bytes
        {
            return Some(TooFarBehind::Keep { behind_bytes, keep_bytes });
        }
        // The segment in which the WAL ends is there in any case.
        let disk = needed_bytes > 0 && needed_bytes > self.free_bytes.saturating_sub(FOR_POSTGRES_BYTES);
        disk.then_some(TooFarBehind::Disk { behind_bytes, free_bytes: self.free_bytes })
    }
}

impl fmt::Display for TooFarBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        match *self {
            Self::Keep { behind_bytes, keep_bytes } => write!(
                f,
                "it is {behind_bytes} bytes ({} MiB) behind, and max_slot_wal_keep_size allows {} MiB; raise that, or read the slot more often",
                mib(behind_bytes),
                mib(keep_bytes)
            ),
            Self::Disk { behind_bytes, free_bytes } => write!(
                f,
                "it is {behind_bytes} bytes ({} MiB) behind, and that does not fit on the disk of OGEL_DATA_DIR (--data-dir), which has {} MiB free, {} MiB of them \
                 for Postgres itself; give it more space, or read the slot more often (max_slot_wal_keep_size sets a limit of your own)",
                mib(behind_bytes),
                mib(free_bytes),
                mib(FOR_POSTGRES_BYTES)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn a_slot_is_lost_where_stock_takes_it() {
        let limit = SlotLimit {
            end: Lsn(10 * SEGMENT + 5),
            segment_size_bytes: SEGMENT,
            keep_bytes: None,
            free_bytes: u64::MAX,
        };
        assert_eq!(limit.excess(Lsn(5)), None, "unlimited");
        let limit = SlotLimit { keep_bytes: Some(3 * SEGMENT + 1), ..limit };
        assert_eq!(limit.excess(Lsn(7 * SEGMENT)), None, "three whole segments before the one that is written");
        let lost = limit.excess(Lsn(7 * SEGMENT - 1));
        assert_eq!(lost, Some(TooFarBehind::Keep { behind_bytes: 3 * SEGMENT + 6, keep_bytes: 3 * SEGMENT + 1 }));
        let limit = SlotLimit { keep_bytes: Some(0), ..limit };
        assert_eq!(limit.excess(Lsn(10 * SEGMENT)), None, "what is there in any case");
        assert!(limit.excess(Lsn(10 * SEGMENT - 1)).is_some());
    }

    #[test]
    fn the_disk_is_not_filled() {
        let free_bytes = FOR_POSTGRES_BYTES + 2 * SEGMENT;
        let limit = SlotLimit { end: Lsn(10 * SEGMENT), segment_size_bytes: SEGMENT, keep_bytes: None, free_bytes };
        assert_eq!(limit.excess(Lsn(8 * SEGMENT)), None);
        assert_eq!(limit.excess(Lsn(7 * SEGMENT)), Some(TooFarBehind::Disk { behind_bytes: 3 * SEGMENT, free_bytes }));
        let full = SlotLimit { free_bytes: 0, ..limit };
        assert_eq!(full.excess(Lsn(10 * SEGMENT)), None, "a slot that needs nothing costs nothing");
    }
}
