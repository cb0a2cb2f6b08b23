//! Writes layer files.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use ogel_ids::Lsn;
use ogel_service::durable_file;

use super::{
    LayerHeader, Packing,
    block::{self, IndexEntry, RootEntry},
    format::{BlockRef, Footer, HEADER_SIZE},
};
use crate::{
    failpoints,
    keyspace::{KEY_SIZE, Key},
    layer::{VersionKind, tombstone::Tombstone},
};

/// A data block is closed when it has grown to this: a page read unpacks at most a few pages beside its own.
const DATA_BLOCK_BYTES: usize = 32 << 10;
const INDEX_BLOCK_ENTRIES: usize = 256;

/// Everything behind the header, written to `out` as it comes. Versions must come in the order of (key, LSN).
pub struct LayerWriter<W: Write> {
    out: W,
    offset: u64,
    packing: Packing,
    data: Vec<u8>,
    /// Entries whose data block is still open.
    open_entries: Vec<IndexEntry>,
    index: Vec<IndexEntry>,
    tombstones: Vec<Tombstone>,
    last: Option<(Key, Lsn)>,
}

impl<W: Write> LayerWriter<W> {
    /// `out` stands behind the place of the header.
    pub fn new(out: W, packing: Packing) -> Self {
        Self {
            out,
            offset: HEADER_SIZE as u64,
            packing,
            data: Vec::with_capacity(2 * DATA_BLOCK_BYTES),
            open_entries: Vec::new(),
            index: Vec::new(),
            tombstones: Vec::new(),
            last: None,
        }
    }

    /// Adds a version.
    pub fn version(&mut self, key: Key, lsn: Lsn, kind: VersionKind, value: &[u8]) -> io::Result<()> {
        assert!(self.last <= Some((key, lsn)), "versions of a layer file are written in order");
        self.last = Some((key, lsn));
        let entry = IndexEntry {
            key,
            lsn,
            kind,
            block: BlockRef { offset: self.offset, len: 0 },
            offset: self.data.len() as u32,
            len: value.len() as u32,
        };
        self.open_entries.push(entry);
        self.data.extend_from_slice(value);
        if self.data.len() >= DATA_BLOCK_BYTES { self.close_data_block() } else { Ok(()) }
    }

    /// Adds a tombstone.
    pub fn tombstone(&mut self, tombstone: Tombstone) {
        self.tombstones.push(tombstone);
    }

    fn close_data_block(&mut self) -> io::Result<()> {
        if self.open_entries.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.data);
        let block = self.block(&data)?;
        self.index.extend(self.open_entries.drain(..).map(|entry| IndexEntry { block, ..entry }));
        self.data = data;
        self.data.clear();
        Ok(())
    }

    fn block(&mut self, raw: &[u8]) -> io::Result<BlockRef> {
        let bytes = block::encode(raw, self.packing);
        self.out.write_all(&bytes)?;
        let place = BlockRef { offset: self.offset, len: bytes.len() as u32 };
        self.offset += u64::from(place.len);
        Ok(place)
    }

    /// Bytes of the file so far, but for the block that is still open and the index.
    pub fn written_bytes(&self) -> u64 {
        self.offset
    }

    /// Number of tombstones added.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// Writes index and footer; returns the output and the measures of the whole file.
    pub fn finish(mut self) -> io::Result<(W, Written)> {
        self.close_data_block()?;
        let index_offset = self.offset;
        let index = std::mem::take(&mut self.index);
        let mut root = Vec::new();
        for entries in index.chunks(INDEX_BLOCK_ENTRIES) {
            let mut raw = Vec::with_capacity(entries.len() * IndexEntry::SIZE);
            entries.iter().for_each(|entry| entry.encode(&mut raw));
            let block = self.block(&raw)?;
            let mut first = [0; KEY_SIZE + 8];
            first.copy_from_slice(IndexEntry::position(&raw, 0));
            RootEntry { first, block }.encode(&mut root);
        }
        let mut tombstones = std::mem::take(&mut self.tombstones);
        tombstones.sort_unstable();
        let mut raw = Vec::new();
        tombstones.iter().for_each(|tombstone| block::encode_tombstone(tombstone, &mut raw));
        let tombstones = self.block(&raw)?;
        let root = self.block(&root)?;
        let footer = Footer { index_offset, tombstones, root, entries: index.len() as u64 }.encode();
        self.out.write_all(&footer)?;
        Ok((self.out, Written { size_bytes: self.offset + footer.len() as u64, index_offset }))
    }
}

/// Measures of a layer file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Of the whole file.
    pub size_bytes: u64,
    /// From here to the end is the separable index.
    pub index_offset: u64,
}

/// A layer without its header, in memory: the same content under any tenant's and timeline's name.
pub struct EncodedBody {
    body: Vec<u8>,
    written: Written,
}

impl EncodedBody {
    /// Encodes with what `fill` adds.
    pub fn encode(
        packing: Packing,
        fill: impl FnOnce(&mut LayerWriter<Vec<u8>>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut writer = LayerWriter::new(Vec::new(), packing);
        fill(&mut writer)?;
        let (body, written) = writer.finish()?;
        Ok(Self { body, written })
    }

    /// Writes a file of this content. It is on disk under its name when this returns.
    pub fn write_file(&self, path: &Path, header: &LayerHeader) -> io::Result<Written> {
        let mut file = File::create(path)?;
        file.write_all(&header.encode())?;
        file.write_all(&self.body)?;
        file.sync_all()?;
        durable_file::sync_parent(path)?;
        Ok(self.written)
    }
}

/// Writes a file of which the key range is known only at the end.
pub struct LayerFileWriter {
    path: PathBuf,
    /// Takes versions and tombstones.
    pub content: LayerWriter<BufWriter<File>>,
}

impl LayerFileWriter {
    /// Begins a file. It has no header yet: nobody takes it for a layer.
    pub fn create(path: &Path, packing: Packing) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(256 << 10, File::create(path)?);
        out.write_all(&[0; HEADER_SIZE])?;
        Ok(Self { path: path.to_owned(), content: LayerWriter::new(out, packing) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Completes the file. It is on disk under its name when this returns; a crash before leaves at most a file that no manifest names.
    pub fn finish(self, header: &LayerHeader) -> io::Result<Written> {
        let (out, written) = self.content.finish()?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        failpoints::reach(failpoints::LAYER_HALF_WRITTEN);
        file.write_all_at(&header.encode(), 0)?;
        failpoints::reach(failpoints::LAYER_NOT_SYNCED);
        file.sync_all()?;
        durable_file::sync_parent(&self.path)?;
        Ok(written)
    }
}

/// Writes a file with what `fill` adds. It is on disk under its name when this returns.
pub fn write_file(
    path: &Path,
    header: &LayerHeader,
    packing: Packing,
    fill: impl FnOnce(&mut LayerWriter<BufWriter<File>>) -> io::Result<()>,
) -> io::Result<Written> {
    let mut writer = LayerFileWriter::create(path, packing)?;
    fill(&mut writer.content)?;
    writer.finish(header)
}
