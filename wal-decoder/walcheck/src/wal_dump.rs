//! Records in the words of PostgreSQL's `pg_waldump`.

use anyhow::{Context, Result, bail};
use ogel_ids::{Lsn, WAL_PAGE_SIZE};
use std::{
    env,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use wal_decoder::{
    stream::{FLAG_CONTINUATION, PageHeader},
    writer::{AppendAt, append_encoded},
};

const TIMELINE_ID: u32 = 1;
/// Any will do.
const SYSTEM_ID: u64 = 1;

/// An installed `pg_waldump`. The WAL that a record came from may be gone: it gets a folder with this one record, where it was.
#[derive(Debug)]
pub struct WalDump {
    program: PathBuf,
    segment_size: u32,
}

impl WalDump {
    /// The program at `given`, or the first one in `PATH`.
    pub fn find(given: Option<&Path>, segment_size: u32) -> Option<WalDump> {
        let in_path = || {
            let folders = env::var_os("PATH")?;
            env::split_paths(&folders).map(|folder| folder.join("pg_waldump")).find(|program| program.is_file())
        };
        let program = given.map(Path::to_owned).or_else(in_path)?;
        Some(WalDump { program, segment_size })
    }

    /// The line that it prints of the record.
    pub fn describe(&self, start: Lsn, record: &[u8]) -> Result<String> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        self.write(folder.path(), start, record)?;
        let done = Command::new(&self.program)
            .args(["--limit=1", &format!("--start={start}"), &format!("--timeline={TIMELINE_ID}"), "--path"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !done.status.success() {
            bail!("{}: {}", self.program.display(), String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    /// A segment's first page, the start of the record's page as if it were the end of an earlier record, and the record.
    fn write(&self, folder: &Path, start: Lsn, record: &[u8]) -> Result<()> {
        let size = u64::from(self.segment_size);
        let segment = Lsn(start.0 - start.segment_offset(size));
        let page = Lsn(start.0 - start.page_offset());
        for address in [segment, page] {
            let header_size = PageHeader::size_at(address, self.segment_size) as u64;
            let before = start.0.saturating_sub(address.0 + header_size);
            let header = PageHeader {
                flags: if before > 0 { FLAG_CONTINUATION } else { 0 },
                timeline_id: TIMELINE_ID,
                address,
                remaining: before.min(WAL_PAGE_SIZE) as u32,
                system_id: (address == segment).then_some(SYSTEM_ID),
            };
            let mut bytes = Vec::new();
            header.write(self.segment_size, &mut bytes);
            bytes.resize(WAL_PAGE_SIZE as usize, 0);
            self.put(folder, address, &bytes)?;
        }
        let at = AppendAt {
            end: start,
            prev: start,
            system_id: SYSTEM_ID,
            segment_size: self.segment_size,
            timeline_id: TIMELINE_ID,
        };
        let appended = append_encoded(&at, record).context("the record cannot be where it was read")?;
        // `pg_waldump` reads whole pages.
        let mut bytes = appended.bytes;
        let rest = (WAL_PAGE_SIZE - appended.end.page_offset()) % WAL_PAGE_SIZE;
        bytes.resize(bytes.len() + rest as usize, 0);
        self.put(folder, start, &bytes)
    }

    /// Writes bytes at their places in segment files.
    fn put(&self, folder: &Path, mut at: Lsn, mut bytes: &[u8]) -> Result<()> {
        let size = u64::from(self.segment_size);
        while !bytes.is_empty() {
            let number = at.segment_number(size);
            let per_id = (1 << 32) / size;
            let name = format!("{TIMELINE_ID:08X}{:08X}{:08X}", number / per_id, number % per_id);
            let path = folder.join(name);
            let (now, later) = bytes.split_at(bytes.len().min((size - at.segment_offset(size)) as usize));
            let file: File = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            file.write_all_at(now, at.segment_offset(size))
                .with_context(|| format!("cannot write {}", path.display()))?;
            at.0 += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}
