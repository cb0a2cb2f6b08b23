//! The segments in `pg_wal` that a start needs: real WAL from the start of the segment in which the checkpoint record begins
//! (hazard H14: headers, and whoever reads from the segment's start, must find what the quorum has), zeros behind it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes};
use ogel_ids::{Lsn, TenantId, TimelineId};
use ogel_pgwire::{Client, ConnectOptions, Endpoint};

use crate::postgres::run_user::RunUser;

/// Writes segments of one life. They are gathered in a folder beside the data directory, because they are fetched while the
/// basebackup makes that one.
#[derive(Debug)]
pub struct LocalWal {
    folder: PathBuf,
    segment_size_bytes: u64,
    owner: RunUser,
}

impl LocalWal {
    /// Makes `folder`.
    pub fn new(folder: PathBuf, segment_size_bytes: u64, owner: RunUser) -> io::Result<Self> {
        owner.create_dir(&folder)?;
        Ok(Self { folder, segment_size_bytes, owner })
    }

    /// Moves the segments to `pg_wal`, which is made when the basebackup has none.
    pub fn install(self, pg_wal: &Path) -> io::Result<()> {
        if !pg_wal.is_dir() {
            return fs::rename(&self.folder, pg_wal);
        }
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            fs::rename(entry.path(), pg_wal.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Writes `wal` at `begin`; what is not written of a segment reads as zeros.
    pub fn write(&self, begin: Lsn, wal: &[u8]) -> io::Result<()> {
        let (mut at, mut rest) = (begin, wal);
        while !rest.is_empty() {
            let offset = at.segment_offset(self.segment_size_bytes);
            let room = usize::try_from(self.segment_size_bytes - offset).unwrap_or(usize::MAX);
            let (here, behind) = rest.split_at(rest.len().min(room));
            self.segment(at)?.write_all_at(here, offset)?;
            at = Lsn(at.0 + here.len() as u64);
            rest = behind;
        }
        Ok(())
    }

    fn segment(&self, lsn: Lsn) -> io::Result<File> {
        let path = self.folder.join(lsn.segment_file_name(self.segment_size_bytes));
        match fs::OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.owner.create_file(&path)?;
                file.set_len(self.segment_size_bytes)?;
                Ok(file)
            }
            other => other,
        }
    }
}

/// Copies committed WAL of `begin..end` from a safekeeper to `local`.
pub async fn copy_from_safekeeper(
    safekeeper: Endpoint,
    (tenant, timeline): (TenantId, TimelineId),
    (begin, end): (Lsn, Lsn),
    local: &LocalWal,
) -> anyhow::Result<()> {
    if begin >= end {
        return Ok(());
    }
    let options = ConnectOptions::new(safekeeper)
        .parameter("replication", "true")
        .setting("ogel.tenant", tenant)
        .setting("ogel.timeline", timeline);
    let client = Client::connect(&options).await?;
    let (mut reader, _writer) = client.copy_both(&format!("START_REPLICATION PHYSICAL {begin}")).await?;
    let mut at = begin;
    while at < end {
        let message = tokio::time::timeout(options.timeout, reader.receive());
        let message = message
            .await
            .with_context(|| format!("WAL at {at} did not come within {} s", options.timeout.as_secs()))??;
        let message = message.with_context(|| format!("the stream ends at {at}, before {end}"))?;
        let Some((position, wal)) = wal_of(message) else { continue };
        ensure!(position == at, "WAL at {at} was due, {position} came");
        let useful = wal.len().min(usize::try_from(end.bytes_since(at)).unwrap_or(usize::MAX));
        local.write(at, &wal[..useful]).context("writing pg_wal")?;
        at = Lsn(at.0 + useful as u64);
    }
    Ok(())
}

/// Position and bytes of an XLogData; keepalives and the like are nothing.
fn wal_of(mut message: Bytes) -> Option<(Lsn, Bytes)> {
    if message.first() != Some(&b'w') || message.len() < 25 {
        return None;
    }
    message.advance(1);
    let position = Lsn(message.get_u64());
    message.advance(16);
    Some((position, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_across_segments_lands_in_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let size = 1 << 20;
        let local = LocalWal::new(folder.path().join("wal"), size, RunUser::Same).expect("made");
        local.write(Lsn(3 * size - 3), b"abcdef").expect("written");
        local.install(&folder.path().join("pg_wal")).expect("moved");
        let read = |name: &str| fs::read(folder.path().join("pg_wal").join(name)).expect("there");
        let (first, second) = (read("000000010000000000000002"), read("000000010000000000000003"));
        assert_eq!((first.len() as u64, second.len() as u64), (size, size));
        assert_eq!((&first[first.len() - 3..], &second[..4]), (&b"abc"[..], &b"def\0"[..]));
        assert!(first[..first.len() - 3].iter().all(|&byte| byte == 0));
    }
}
