//! Names of objects.
//!
//! ```text
//! tenants/TENANT/generations/GGGGGGGG                                   claims, counted from 1 without gaps, never removed
//! tenants/TENANT/timelines/TIMELINE/manifest/GGGGGGGG-SSSSSSSS.base     sequence numbers divisible by 64
//! tenants/TENANT/timelines/TIMELINE/manifest/GGGGGGGG-SSSSSSSS.edit     all others
//! tenants/TENANT/timelines/TIMELINE/layers/NAME
//! tenants/TENANT/timelines/TIMELINE/pg_control, wal_prefix              what the timeline was created with
//! ```

use ogel_ids::{Generation, TenantId, TimelineId};

use crate::layer::desc::LayerName;

/// A base stands at every sequence number that this divides, an edit at every other: so a reader knows what to ask for next.
pub const EDITS_PER_BASE: u32 = 64;

/// Folder of the tenants.
pub const TENANTS: &str = "tenants";

/// Place of an object in a manifest's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    /// Of the writer.
    pub generation: Generation,
    /// Counts the objects of this generation, from 0.
    pub sequence: u32,
}

impl LogPlace {
    /// Whether the object there is a base.
    pub const fn is_base(&self) -> bool {
        self.sequence.is_multiple_of(EDITS_PER_BASE)
    }

    /// The place behind it.
    pub const fn next(self) -> LogPlace {
        LogPlace { sequence: self.sequence + 1, ..self }
    }

    /// Reads an object's file name.
    pub fn parse(name: &str) -> Option<LogPlace> {
        let (place, kind) = name.split_once('.')?;
        let (generation, sequence) = place.split_once('-')?;
        let number = |text: &str| (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten();
        let place = LogPlace { generation: Generation(number(generation)?), sequence: number(sequence)? };
        (place.kind() == kind).then_some(place)
    }

    fn kind(&self) -> &'static str {
        if self.is_base() { "base" } else { "edit" }
    }
}

/// Folder of a tenant's timelines.
pub fn timelines(tenant: TenantId) -> String {
    format!("{TENANTS}/{tenant}/timelines")
}

/// Folder of a tenant's claims.
pub fn claims(tenant: TenantId) -> String {
    format!("{TENANTS}/{tenant}/generations")
}

/// A claim.
pub fn claim(tenant: TenantId, generation: Generation) -> String {
    format!("{TENANTS}/{tenant}/generations/{:08x}", generation.0)
}

/// Folder of everything that a timeline has.
pub fn timeline(tenant: TenantId, timeline: TimelineId) -> String {
    format!("{TENANTS}/{tenant}/timelines/{timeline}")
}

/// Folder of a timeline's manifest.
pub fn manifests(tenant: TenantId, timeline_id: TimelineId) -> String {
    format!("{}/manifest", timeline(tenant, timeline_id))
}

/// A base or an edit.
pub fn manifest(tenant: TenantId, timeline: TimelineId, place: LogPlace) -> String {
    let LogPlace { generation, sequence } = place;
    format!("{}/{:08x}-{sequence:08x}.{}", manifests(tenant, timeline), generation.0, place.kind())
}

/// A layer file.
pub fn layer(tenant: TenantId, timeline_id: TimelineId, name: LayerName) -> String {
    format!("{}/layers/{name}", timeline(tenant, timeline_id))
}

/// A file that a timeline was created with.
pub fn creation_file(tenant: TenantId, timeline_id: TimelineId, name: &str) -> String {
    format!("{}/{name}", timeline(tenant, timeline_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_one_name() {
        let place = |sequence| LogPlace { generation: Generation(0x1f), sequence };
        let (tenant, timeline) = (TenantId::from_bytes([1; 16]), TimelineId::from_bytes([2; 16]));
        for (sequence, expected) in [(0, "00000000.base"), (63, "0000003f.edit"), (64, "00000040.base")] {
            let key = manifest(tenant, timeline, place(sequence));
            let name = key.rsplit('/').next().unwrap();
            assert_eq!(name, format!("0000001f-{expected}"));
            assert_eq!(LogPlace::parse(name), Some(place(sequence)));
        }
        for name in ["", "1-2.base", "0000001f-00000001.base", "0000001f-00000000.edit", "0000001f-00000000.base2"] {
            assert_eq!(LogPlace::parse(name), None, "{name}");
        }
    }
}
