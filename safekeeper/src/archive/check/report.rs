//! What was found.

use std::fmt;

use ogel_ids::{Lsn, TenantId, TimelineId};
use serde::Serialize;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The object store.
    pub url: String,
    /// Nothing was found.
    pub good: bool,
    /// By timeline.
    pub timelines: Vec<TimelineReport>,
}

/// One timeline.
#[derive(Debug, Serialize)]
pub struct TimelineReport {
    /// Customer.
    pub tenant: TenantId,
    /// Branch.
    pub timeline: TimelineId,
    /// Whole segments.
    pub segments: u64,
    /// Tails of idle times.
    pub tails: u64,
    /// First byte.
    pub from: Lsn,
    /// End of the last whole record.
    pub to: Lsn,
    /// Whole records.
    pub records: u64,
    /// WAL in all objects that could be read.
    pub wal_bytes: u64,
    /// Bytes of objects.
    pub size_bytes: u64,
    /// What is not good.
    pub findings: Vec<Finding>,
}

/// Something that is not good.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The object that it is about.
    pub object: String,
    /// What is wrong, and what follows from it.
    pub problem: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for timeline in &self.timelines {
            let verdict = match timeline.findings.len() {
                0 => "good".into(),
                1 => "1 PROBLEM".into(),
                count => format!("{count} PROBLEMS"),
            };
            writeln!(
                f,
                "{}/{}: {} to {}, {} segments, {} tails, {} records, {} MiB of WAL in {} MiB: {verdict}",
                timeline.tenant,
                timeline.timeline,
                timeline.from,
                timeline.to,
                timeline.segments,
                timeline.tails,
                timeline.records,
                timeline.wal_bytes >> 20,
                timeline.size_bytes.div_ceil(1 << 20),
            )?;
            for finding in &timeline.findings {
                writeln!(f, "  {}: {}", finding.object, finding.problem)?;
            }
        }
        writeln!(f, "{}: {}", self.url, if self.good { "all WAL is there and good" } else { "NOT good" })
    }
}
