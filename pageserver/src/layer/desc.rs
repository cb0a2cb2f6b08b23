//! What is known about a layer file without opening it.

use std::{fmt, str::FromStr};

use ogel_ids::{Generation, Lsn, TenantId, TimelineId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    LsnRange,
    file::{LayerHeader, LayerKind},
};
use crate::keyspace::KeyRange;

/// Name of a layer file, unique for ever: a writer counts its files, and no two writers share a generation of a tenant.
/// As text `EEEEEEEEEEEEEEEE-GGGGGGGG-SSSSSSSS.layer`: end of the LSN range, generation, sequence number, hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerName {
    /// End of the layer's LSN range.
    pub end_lsn: Lsn,
    /// Of the writer.
    pub generation: Generation,
    /// Counts the files of this generation.
    pub sequence: u32,
}

/// A text that does not name a layer file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a layer file")]
pub struct LayerNameError(String);

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}-{:08x}-{:08x}.layer", self.end_lsn.0, self.generation.0, self.sequence)
    }
}

impl fmt::Debug for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LayerName {
    type Err = LayerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.strip_suffix(".layer")?.split('-');
            let (end, generation, sequence) = (parts.next()?, parts.next()?, parts.next()?);
            let name = LayerName {
                end_lsn: Lsn(u64::from_str_radix(end, 16).ok()?),
                generation: Generation(u32::from_str_radix(generation, 16).ok()?),
                sequence: u32::from_str_radix(sequence, 16).ok()?,
            };
            // One text per name: anything else could be two objects for one layer.
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or_else(|| LayerNameError(text.chars().take(64).collect()))
    }
}

impl Serialize for LayerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LayerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A layer file as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDesc {
    /// Of the file and of its object.
    pub name: LayerName,
    /// Delta or image.
    pub kind: LayerKind,
    /// WAL that it covers. For an image layer: the LSNs at which it answers as everything that happened; below, only at LSNs that
    /// were retained when it was written.
    pub lsns: LsnRange,
    /// Keys that it may hold. Which keys it serves is said by the partitions that name it.
    pub keys: KeyRange,
    /// Of the whole file.
    pub size_bytes: u64,
    /// From here to the end is the separable index.
    pub index_offset: u64,
    /// Estimate: bytes of versions that nobody needs once the cutoff has passed the layer's end.
    #[serde(default)]
    pub history_bytes: u64,
    /// Number of tombstones in it.
    #[serde(default)]
    pub tombstones: u32,
}

impl LayerDesc {
    /// The header that the file must have.
    pub fn header(&self, tenant: TenantId, timeline: TimelineId) -> LayerHeader {
        LayerHeader { kind: self.kind, tenant, timeline, lsns: self.lsns, keys: self.keys }
    }

    /// Whether readers need nothing below it.
    pub fn is_complete(&self) -> bool {
        self.kind == LayerKind::Image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_text() {
        let name = LayerName { end_lsn: Lsn(0x1_16b3_7400), generation: Generation(3), sequence: 0x2a };
        assert_eq!(name.to_string(), "0000000116B37400-00000003-0000002a.layer");
        assert_eq!(name.to_string().parse(), Ok(name));
        for text in ["", "x.layer", "116B37400-3-2a.layer", "0000000116b37400-00000003-0000002a.layer", "../../x.layer"]
        {
            assert!(text.parse::<LayerName>().is_err(), "{text:?}");
        }
    }
}
