//! How much of the disk a timeline may take, and how much must stay free on it.
//!
//! Both limits are looked at when a segment is about to be made, before a byte of it is promised. A timeline that meets one waits
//! as on a full disk: nothing is acknowledged, readers go on, and it resumes by itself when WAL was removed or space was freed.
//! The floor keeps room for what must always be possible: votes, control files, tombstones.

use std::{io, path::Path};

use ogel_service::disk_space;

/// Limits in bytes; 0 = none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceLimits {
    /// WAL segments of one timeline.
    pub quota_bytes: u64,
    /// What stays free on the file system.
    pub floor_bytes: u64,
}

impl SpaceLimits {
    /// Why `wanted_bytes` more must not be taken, if they must not; the timeline has `used_bytes` in `folder`.
    /// The same lack gives the same text, however much is used or free at the moment: whoever hears it each second says it once.
    pub fn refuse(self, folder: &Path, used_bytes: u64, wanted_bytes: u64) -> io::Result<Option<String>> {
        let Self { quota_bytes, floor_bytes } = self;
        if quota_bytes > 0 && used_bytes.saturating_add(wanted_bytes) > quota_bytes {
            return Ok(Some(format!(
                "the timeline's WAL fills its quota of {quota_bytes} bytes: it must be uploaded and ingested before more fits, \
                 or --timeline-quota-bytes raised"
            )));
        }
        if floor_bytes > 0 {
            let needed_bytes = floor_bytes.saturating_add(wanted_bytes);
            if disk_space::free_bytes(folder)? < needed_bytes {
                return Ok(Some(format!(
                    "fewer than {needed_bytes} bytes are free on the disk, of which {floor_bytes} must stay free (--free-space-floor-bytes)"
                )));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_name_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let refuse = |limits: SpaceLimits| limits.refuse(folder.path(), 90, 16).unwrap();
        assert_eq!(refuse(SpaceLimits::default()), None);
        assert_eq!(refuse(SpaceLimits { quota_bytes: 106, floor_bytes: 1 }), None);
        let full = SpaceLimits { quota_bytes: 105, floor_bytes: 0 };
        let quota = refuse(full).unwrap();
        assert!(quota.contains("quota of 105"), "{quota}");
        assert_eq!(full.refuse(folder.path(), 95, 16).unwrap(), Some(quota), "said once, though more is used");
        let floor = refuse(SpaceLimits { quota_bytes: 0, floor_bytes: u64::MAX }).unwrap();
        assert!(floor.contains("must stay free"), "{floor}");
    }
}
