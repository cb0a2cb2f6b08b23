//! The template's archive, taken apart into keys and values.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::{Component, Path},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use wal_decoder::{
    key::{PAGE_SIZE, RelFork, SlruKind},
    v17::RELMAP_SIZE,
};

use super::path::FileKind;
use crate::keyspace::Key;

/// A fresh cluster has some 40 MB; what is much larger is not one.
const MAX_TOTAL_BYTES: u64 = 1 << 30;
/// `RELSEG_SIZE`: blocks of a relation's segment file.
const BLOCKS_PER_FILE: u32 = 131_072;

/// Content of a data directory.
#[derive(Default)]
pub struct Archive {
    /// `global/pg_control`.
    pub control_file: Vec<u8>,
    /// WAL segments by name.
    pub wal: HashMap<String, Bytes>,
    /// Everything that becomes a value; pages of zeros are left out, since that is how absence reads.
    pub values: BTreeMap<Key, Bytes>,
    /// Sum of all relation sizes.
    pub logical_size_bytes: u64,
    relation_blocks: BTreeMap<RelFork, u32>,
    version: Option<String>,
}

impl Archive {
    /// Reads a `tar.zst`. Blocks.
    pub fn read(path: &Path) -> anyhow::Result<Archive> {
        let file = File::open(path).with_context(|| format!("the template {} cannot be opened", path.display()))?;
        Self::read_from(file).with_context(|| format!("the template {} cannot be read", path.display()))
    }

    fn read_from(file: impl Read) -> anyhow::Result<Archive> {
        let limited = zstd::Decoder::new(file)?.take(MAX_TOTAL_BYTES);
        let mut tar = tar::Archive::new(limited);
        let mut archive = Archive::default();
        for entry in tar.entries()? {
            let mut entry = entry?;
            if entry.header().entry_type() != tar::EntryType::Regular {
                continue;
            }
            let path = normalized(&entry.path()?)?;
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            archive.add(&path, content).with_context(|| format!("file {path}"))?;
        }
        archive.finish()
    }

    fn add(&mut self, path: &str, content: Vec<u8>) -> anyhow::Result<()> {
        match FileKind::of(path) {
            FileKind::Relation(rel, segment) => self.add_relation(rel, segment, content.into())?,
            FileKind::RelMap { spc, db } => {
                ensure!(content.len() == RELMAP_SIZE, "it has {} bytes, {RELMAP_SIZE} are expected", content.len());
                self.values.insert(Key::relmap(spc, db), content.into());
                if db != 0 {
                    self.values.insert(Key::database(spc, db), Bytes::new());
                }
            }
            FileKind::Slru(kind, segment) => self.add_slru(kind, segment, content.into())?,
            FileKind::Control => self.control_file = content,
            FileKind::Version => self.version = Some(String::from_utf8_lossy(&content).trim().to_owned()),
            FileKind::Wal(name) => {
                self.wal.insert(name.to_owned(), content.into());
            }
            FileKind::Unexpected => bail!("a template has neither tablespaces nor prepared transactions"),
            FileKind::Ignored => {}
        }
        Ok(())
    }

    fn add_relation(&mut self, rel: RelFork, segment: u32, content: Bytes) -> anyhow::Result<()> {
        let blocks = whole_pages(&content)?;
        let first = segment.checked_mul(BLOCKS_PER_FILE).context("its segment number is too high")?;
        for (block, page) in pages(&content, first) {
            self.values.insert(Key::rel_page(rel, block), page);
        }
        let size = self.relation_blocks.entry(rel).or_default();
        *size = (*size).max(first + blocks);
        self.logical_size_bytes += content.len() as u64;
        Ok(())
    }

    fn add_slru(&mut self, kind: SlruKind, segment: u32, content: Bytes) -> anyhow::Result<()> {
        let count = whole_pages(&content)?;
        ensure!(count <= SlruKind::PAGES_PER_SEGMENT, "it has {count} pages");
        for (number, page) in pages(&content, segment * SlruKind::PAGES_PER_SEGMENT) {
            self.values.insert(Key::slru_page(kind, number), page);
        }
        self.values.insert(Key::slru_size(kind, segment), Bytes::copy_from_slice(&count.to_be_bytes()));
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Archive> {
        match self.version.as_deref() {
            Some("17") => {}
            Some(other) => bail!("it holds a cluster of PostgreSQL {other}, 17 is expected"),
            None => {
                bail!("it holds no PG_VERSION: it is not an archive of a data directory, with paths relative to it")
            }
        }
        ensure!(!self.control_file.is_empty(), "it holds no global/pg_control");
        for (rel, blocks) in std::mem::take(&mut self.relation_blocks) {
            self.values.insert(Key::rel_size(rel), Bytes::copy_from_slice(&blocks.to_be_bytes()));
        }
        Ok(self)
    }
}

fn whole_pages(content: &[u8]) -> anyhow::Result<u32> {
    ensure!(content.len().is_multiple_of(PAGE_SIZE), "its {} bytes are not whole pages", content.len());
    Ok(u32::try_from(content.len() / PAGE_SIZE)?)
}

/// The pages that are not all zeros, numbered from `first`.
fn pages(content: &Bytes, first: u32) -> impl Iterator<Item = (u32, Bytes)> {
    let numbered = (first..).zip((0..content.len()).step_by(PAGE_SIZE));
    numbered
        .map(|(number, offset)| (number, content.slice(offset..offset + PAGE_SIZE)))
        .filter(|(_, page)| page.iter().any(|byte| *byte != 0))
}

fn normalized(path: &Path) -> anyhow::Result<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            _ => bail!("path {} leads out of the archive", path.display()),
        }
    }
    Ok(parts.join("/"))
}
