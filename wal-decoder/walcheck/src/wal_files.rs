//! WAL segment files of a folder.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ogel_ids::Lsn;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The segment files of a folder in order of their positions; they may begin anywhere but must follow each other.
#[derive(Debug)]
pub struct WalFiles {
    files: Vec<PathBuf>,
    first_number: u64,
    segment_size: u32,
}

impl WalFiles {
    /// `dir`: a data directory, or a folder of segment files such as an archive.
    pub fn open(dir: &Path) -> Result<WalFiles> {
        let inner = dir.join("pg_wal");
        let dir = if inner.is_dir() { &inner } else { dir };
        let mut names: Vec<String> = fs::read_dir(dir)
            .with_context(|| format!("cannot read {}", dir.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .collect();
        names.sort();
        let Some(first) = names.first() else { bail!("{} has no WAL segment files", dir.display()) };
        let segment_size = fs::metadata(dir.join(first))?.len();
        if !segment_size.is_power_of_two() || segment_size > 1 << 30 {
            bail!("{first} in {} has {segment_size} bytes, which no WAL segment has", dir.display());
        }
        let number = |name: &str| -> Result<u64> {
            let high = u64::from_str_radix(&name[8..16], 16)?;
            Ok(high * ((1 << 32) / segment_size) + u64::from_str_radix(&name[16..24], 16)?)
        };
        let first_number = number(first)?;
        for (name, expected) in names.iter().zip(first_number..) {
            if number(name)? != expected || name[..8] != first[..8] {
                bail!("segment {name} in {} does not follow the one before it", dir.display());
            }
        }
        let files = names.iter().map(|name| dir.join(name)).collect();
        Ok(WalFiles { files, first_number, segment_size: segment_size as u32 })
    }

    /// `wal_segment_size`.
    pub fn segment_size(&self) -> u32 {
        self.segment_size
    }

    /// Start of the first segment.
    pub fn start(&self) -> Lsn {
        Lsn(self.first_number * u64::from(self.segment_size))
    }

    /// The content of the segments, one after the other, from the one that holds `from` on.
    pub fn segments(&self, from: Lsn) -> impl Iterator<Item = Result<(Lsn, Bytes)>> {
        let size = u64::from(self.segment_size);
        let skip = from.segment_number(size).saturating_sub(self.first_number);
        (self.first_number..).zip(&self.files).skip(skip as usize).map(move |(number, path)| {
            let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((Lsn(number * size), Bytes::from(content)))
        })
    }
}
