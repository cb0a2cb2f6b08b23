//! What a safekeeper's folder says. Only reads, so that the safekeeper may run meanwhile.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use quorum::AcceptorState;

use crate::{
    disk::{control_file, segments::SegmentFolder},
    timeline::TimelineKey,
};

/// The folder.
pub struct LocalStore {
    timelines: BTreeMap<TimelineKey, LocalTimeline>,
}

/// One timeline in it.
pub struct LocalTimeline {
    /// What it knows.
    pub state: AcceptorState,
    folder: SegmentFolder,
}

impl LocalStore {
    /// Reads the control files.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let mut timelines = BTreeMap::new();
        for (tenant, folder) in entries(&path.join("tenants"))? {
            let Ok(tenant) = tenant.parse() else { continue };
            for (timeline, folder) in entries(&folder.join("timelines"))? {
                let Ok(timeline) = timeline.parse() else { continue };
                let state = control_file::read(&folder).with_context(|| format!("{}", folder.display()))?;
                let folder = SegmentFolder::new(folder, state.identity.wal_segment_size_bytes.into(), true);
                timelines.insert(TimelineKey { tenant, timeline }, LocalTimeline { state, folder });
            }
        }
        Ok(Self { timelines })
    }

    /// Timelines that are there.
    pub fn keys(&self) -> impl Iterator<Item = TimelineKey> + '_ {
        self.timelines.keys().copied()
    }

    /// One of them.
    pub fn timeline(&self, key: TimelineKey) -> Option<&LocalTimeline> {
        self.timelines.get(&key)
    }
}

impl LocalTimeline {
    /// The bytes of a segment, if it is here.
    pub fn segment(&self, number: u64) -> io::Result<Option<Bytes>> {
        match std::fs::read(self.folder.segment_path(number)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn entries(path: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let read = || -> io::Result<Vec<(String, PathBuf)>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            entries.extend(entry.file_name().to_str().map(|name| (name.to_owned(), entry.path())));
        }
        Ok(entries)
    };
    read().with_context(|| format!("--data-dir: {} cannot be read", path.display()))
}
