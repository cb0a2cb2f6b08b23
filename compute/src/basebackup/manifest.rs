//! `ogel_basebackup.json`, the first entry of a basebackup: what it is.

use anyhow::ensure;
use ogel_ids::{Lsn, TenantId, TimelineId};
use serde::Deserialize;

use super::BasebackupRequest;

/// See `docs/protocols.md` §5.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// Of the format.
    pub version: u32,
    /// Whose.
    pub tenant: TenantId,
    /// Whose.
    pub timeline: TimelineId,
    /// The directory is that of this moment.
    pub lsn: Lsn,
    /// Start of the last record that ends at `lsn`.
    pub prev_record_lsn: Lsn,
    /// That record is a shutdown checkpoint, and `pg_control` names it.
    pub clean_shutdown: bool,
    /// Of the database; a text, because JSON numbers lose bits.
    #[serde(deserialize_with = "number_in_text")]
    pub system_identifier: u64,
    /// Bytes; a power of two from 1 MiB to 1 GiB.
    pub wal_segment_size: u64,
    /// Such as 170011.
    pub pg_version_num: u32,
}

/// The only version known.
const VERSION: u32 = 1;

impl Manifest {
    /// Reads the file's content.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let versioned: Versioned = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if versioned.version != VERSION {
            return Err(format!(
                "it has version {} and this compute knows version {VERSION}: upgrade the older of pageserver and compute",
                versioned.version
            ));
        }
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }

    /// Whether this is what was asked for.
    pub(super) fn check(&self, request: &BasebackupRequest) -> anyhow::Result<()> {
        ensure!(
            (self.tenant, self.timeline, self.lsn) == (request.tenant, request.timeline, request.lsn),
            "the pageserver sent timeline {} of tenant {} at {}, asked for was {} of {} at {}: it is not used",
            self.timeline,
            self.tenant,
            self.lsn,
            request.timeline,
            request.tenant,
            request.lsn
        );
        ensure!(
            self.pg_version_num / 10_000 == 17,
            "the branch is of PostgreSQL {}, this compute runs 17",
            self.pg_version_num / 10_000
        );
        let size = self.wal_segment_size;
        ensure!(
            size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size),
            "WAL segments of {size} bytes do not exist"
        );
        ensure!(
            self.prev_record_lsn < self.lsn && self.lsn.is_valid(),
            "the record before {} cannot start at {}",
            self.lsn,
            self.prev_record_lsn
        );
        Ok(())
    }
}

fn number_in_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_is_read() {
        let id = "ab".repeat(16);
        let json = format!(
            r#"{{"version":1, "tenant":"{id}", "timeline":"{id}", "lsn":"0/2000100", "prev_record_lsn":"0/2000028",
            "clean_shutdown":true, "system_identifier":"18300000000000000000", "wal_segment_size":16777216, "pg_version_num":170011}}"#
        );
        let manifest = Manifest::parse(json.as_bytes()).expect("the documented form");
        assert_eq!((manifest.lsn, manifest.system_identifier), (Lsn(0x0200_0100), 18_300_000_000_000_000_000));
        assert!(Manifest::parse(br#"{"version":2}"#).expect_err("unknown").contains("version 2"));
    }
}
