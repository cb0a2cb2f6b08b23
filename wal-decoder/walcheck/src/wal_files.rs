//! WAL segment files of a folder.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ogel_ids::Lsn;
use std::{
    fs::{self, File},
    io::Read,
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
        let mut files = Vec::with_capacity(names.len());
        for (path, number) in names.iter().map(|name| dir.join(name)).zip(first_number..) {
            if is_recycled(&path, number * segment_size)? {
                break;
            }
            files.push(path);
        }
        Ok(WalFiles { files, first_number, segment_size: segment_size as u32 })
    }

    /// Bytes from the segment that holds `from` on.
    pub fn size_from(&self, from: Lsn) -> u64 {
        let size = u64::from(self.segment_size);
        (self.first_number + self.files.len() as u64).saturating_sub(from.segment_number(size)) * size
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

/// PostgreSQL renames segments that it no longer needs to names that it will need: their pages say where they were before.
fn is_recycled(path: &Path, start: u64) -> Result<bool> {
    let mut head = [0; 16];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut head))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let address = u64::from_le_bytes(*head.last_chunk().expect("sixteen bytes"));
    Ok(head != [0; 16] && address < start)
}
