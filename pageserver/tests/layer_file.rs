//! Layer files that are cut short, rotten, foreign or from the future end in errors that say so; never in wrong pages.
#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ogel_ids::{Lsn, TenantId, TimelineId};
use pageserver::{
    keyspace::{Key, KeyRange},
    layer::{
        Io, LsnRange, VersionKind,
        file::{BlockCache, LayerError, LayerFile, LayerHeader, LayerKind, Packing, examine, fetch, write_file},
        reconstruct::{Reconstruction, Scan},
        tombstone::Tombstone,
    },
};
use proptest::prelude::*;
use wal_decoder::key::{Fork, Rel};

const REL: Rel = Rel { spc: 1663, db: 5, rel: 16384 };
const VERSIONS: u32 = 700; // more than one index block, many data blocks

struct Sample {
    _folder: tempfile::TempDir,
    path: PathBuf,
    header: LayerHeader,
}

fn sample() -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("delta.layer");
    let header = LayerHeader {
        kind: LayerKind::Delta,
        tenant: TenantId::from_bytes([1; 16]),
        timeline: TimelineId::from_bytes([2; 16]),
        lsns: LsnRange { start: Lsn(0), end: Lsn(800) },
        keys: KeyRange::ALL,
    };
    write_sample(&path, &header, Packing::Fast);
    Sample { _folder: folder, path, header }
}

fn write_sample(path: &Path, header: &LayerHeader, packing: Packing) {
    write_file(path, header, packing, |writer| {
        for block in 0..VERSIONS {
            writer.version(key(block), Lsn(100), VersionKind::Image, &contents(block))?;
        }
        writer.tombstone(Tombstone { range: KeyRange::rel_pages_from(REL.fork(Fork::Main), 600), lsn: Lsn(700) });
        Ok(())
    })
    .unwrap();
}

fn contents(block: u32) -> Vec<u8> {
    (0..300_u32).flat_map(|i| (i * block).to_le_bytes()).collect()
}

fn key(block: u32) -> Key {
    Key::rel_page(REL.fork(Fork::Main), block)
}

/// Values, and how many there are later.
type Found = (Vec<(Key, Vec<u8>)>, usize);

/// Opens the file and reads everything: the values found at 600 and those hidden at 800.
fn read_all(sample: &Sample) -> Result<Found, LayerError> {
    let file = LayerFile::open(&sample.path, &sample.header, Arc::new(BlockCache::new(1 << 20)))?;
    let mut scan = Scan::new(KeyRange::ALL, Lsn(600));
    file.scan(&mut scan, KeyRange::ALL, Io::MayBlock)?;
    let mut later = Scan::new(KeyRange::ALL, Lsn(800));
    file.scan(&mut later, KeyRange::ALL, Io::MayBlock)?;
    let found = scan.finish().into_iter().map(|(key, value)| (key, value.to_vec())).collect();
    Ok((found, later.finish().len()))
}

#[test]
fn reads_what_was_written() {
    let (found, later) = read_all(&sample()).unwrap();
    assert_eq!((found.len(), later), (VERSIONS as usize, 600));
}

#[test]
fn memory_only_reads_say_that_they_would_block_then_find_the_cached_block() {
    let sample = sample();
    let file = LayerFile::open(&sample.path, &sample.header, Arc::new(BlockCache::new(1 << 20))).unwrap();
    let file = Arc::new(file);
    // Out of the system's page cache, in which what was just written lies.
    let on_disk = std::fs::File::open(&sample.path).unwrap();
    on_disk.sync_all().unwrap();
    rustix::fs::fadvise(&on_disk, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(matches!(read_one(&file, 5, 600, Io::MemoryOnly), Err(LayerError::WouldBlock)));
    for io in [Io::MayBlock, Io::MemoryOnly] {
        assert!(read_one(&file, 5, 600, io).unwrap().base().is_some());
    }
}

fn read_one(file: &Arc<LayerFile>, block: u32, at: u64, io: Io) -> Result<Reconstruction, LayerError> {
    let mut reads = [Reconstruction::new(key(block), Lsn(at))];
    file.locate(&mut reads, KeyRange::ALL, io)?;
    fetch(&mut reads, io)?;
    let [read] = reads;
    Ok(read)
}

#[test]
fn cut_files_are_damaged() {
    let sample = sample();
    let whole = std::fs::read(&sample.path).unwrap();
    for length in (0..whole.len()).step_by(9973).chain([1, 127, 128, 191, 192, whole.len() - 1]) {
        std::fs::write(&sample.path, &whole[..length]).unwrap();
        let error = read_all(&sample).unwrap_err();
        assert!(matches!(error, LayerError::Damaged { .. }), "cut at {length}: {error}");
    }
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let sample = sample();
    let whole = std::fs::read(&sample.path).unwrap();
    let right = read_all(&sample).unwrap();
    for at in (0..whole.len()).step_by(1999).chain(0..192).chain(whole.len() - 64..whole.len()) {
        let mut rotten = whole.clone();
        rotten[at] ^= 0x10;
        std::fs::write(&sample.path, &rotten).unwrap();
        match read_all(&sample) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(read) => assert!(read == right, "flipped byte {at} went unnoticed and changed what is read"),
        }
    }
}

#[test]
fn foreign_and_future_files_are_named() {
    let mut sample = sample();
    let whole = std::fs::read(&sample.path).unwrap();
    let header = sample.header;
    sample.header.timeline = TimelineId::from_bytes([9; 16]);
    assert!(matches!(read_all(&sample), Err(LayerError::Foreign { .. })));
    sample.header = LayerHeader { lsns: LsnRange { start: Lsn(8), ..header.lsns }, ..header };
    assert!(matches!(read_all(&sample), Err(LayerError::Foreign { .. })));
    sample.header = header;
    let mut future = whole;
    future[9] = 2;
    std::fs::write(&sample.path, &future).unwrap();
    assert!(matches!(read_all(&sample), Err(LayerError::FutureVersion { found: 2, known: 1, .. })));
    std::fs::write(&sample.path, b"not a layer").unwrap();
    assert!(matches!(read_all(&sample), Err(LayerError::Damaged { .. })));
}

/// Offsets and lengths of the blocks of an uncompressed file.
fn blocks(file: &[u8]) -> Vec<(usize, usize)> {
    let mut blocks = Vec::new();
    let mut at = 128;
    while at < file.len() - 64 {
        let len = 5 + u32::from_be_bytes(file[at + 1..at + 5].try_into().unwrap()) as usize + 4;
        blocks.push((at, len));
        at += len;
    }
    blocks
}

fn seal(bytes: &mut [u8]) {
    let (content, checksum) = bytes.split_at_mut(bytes.len() - 4);
    checksum.copy_from_slice(&crc32c::crc32c(content).to_be_bytes());
}

fn reads_at(sample: &Sample, block: u32) -> Result<Option<Vec<u8>>, LayerError> {
    let file = Arc::new(LayerFile::open(&sample.path, &sample.header, Arc::new(BlockCache::new(1 << 20)))?);
    let read = read_one(&file, block, 600, Io::MayBlock)?;
    Ok(read.base().map(|base| base.to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Rot: every flip is found by the tool; a reader gets the right value or an error, never another value.
    #[test]
    fn rot_is_found_by_the_tool_and_never_served(at in any::<prop::sample::Index>(), bit in 0..8_u8, block in 0..VERSIONS) {
        let (sample, whole) = uncompressed();
        let mut rotten = whole.clone();
        let at = at.index(rotten.len());
        rotten[at] ^= 1 << bit;
        let found = examine(&rotten, |_| {});
        prop_assert!(found.is_err() || !found.unwrap().problems.is_empty(), "byte {} of {}", at, rotten.len());
        std::fs::write(&sample.path, &rotten).unwrap();
        if let Ok(value) = reads_at(sample, block) {
            prop_assert_eq!(value, Some(contents(block)));
        }
    }

    /// Malice: whoever can write a file can also write its checksums. Anything may come out of that, but no panic and no endless loop.
    #[test]
    fn forged_files_end_in_errors(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        block in 0..VERSIONS,
    ) {
        let (sample, whole) = uncompressed();
        let mut forged = whole.clone();
        let mut parts = blocks(&forged);
        // Index, tombstones and root come last; header and footer as often.
        parts.drain(..parts.len() - 5);
        parts.extend([(0, 128), (whole.len() - 64, 64)]);
        let (start, len) = parts[which.index(parts.len())];
        let part = &mut forged[start..start + len];
        for (at, byte) in flips {
            let at = at.index(part.len());
            part[at] = byte;
        }
        seal(part);
        let _ = examine(&forged, |_| {});
        std::fs::write(&sample.path, &forged).unwrap();
        let _ = reads_at(sample, block);
        let _ = read_all(sample);
    }

    #[test]
    fn any_bytes_are_examined(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(examine(&bytes, |_| {}).is_err(), "not a layer file");
    }
}

/// A file whose blocks can be told apart without unpacking them.
fn uncompressed() -> (&'static Sample, &'static Vec<u8>) {
    thread_local! {
        static SAMPLE: &'static (Sample, Vec<u8>) = Box::leak(Box::new({
            let sample = sample();
            write_sample(&sample.path, &sample.header, Packing::None);
            let whole = std::fs::read(&sample.path).unwrap();
            assert_eq!(examine(&whole, |_| {}).unwrap().problems, Vec::<String>::new());
            (sample, whole)
        }));
    }
    SAMPLE.with(|sample| (&sample.0, &sample.1))
}

/// Files of every version stay readable. Written once by `OGEL_WRITE_FIXTURE=1 cargo test`, then never again.
#[test]
fn a_file_of_version_1_is_readable() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/delta-v1.layer"));
    let header = LayerHeader { lsns: LsnRange { start: Lsn(0x100_0028), end: Lsn(0x100_2000) }, ..sample().header };
    if std::env::var_os("OGEL_WRITE_FIXTURE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_file(&path, &header, Packing::Dense, |writer| {
            writer.version(key(1), Lsn(0x100_0100), VersionKind::Image, &[7; 8192])?;
            writer.version(key(1), Lsn(0x100_0200), VersionKind::Delta, b"a delta")?;
            writer.version(key(2), Lsn(0x100_0300), VersionKind::InitDelta, b"an init delta")?;
            writer.tombstone(Tombstone { range: KeyRange::single(key(2)), lsn: Lsn(0x100_0400) });
            Ok(())
        })
        .unwrap();
    }
    let file = LayerFile::open(&path, &header, Arc::new(BlockCache::new(1 << 20))).unwrap();
    let file = Arc::new(file);
    let read = |block, at| {
        let read = read_one(&file, block, at, Io::MayBlock).unwrap();
        let deltas: Vec<_> = read.deltas().map(|(lsn, delta)| (lsn, delta.to_vec())).collect();
        (read.base().map(|base| base.to_vec()), deltas)
    };
    assert_eq!(read(1, 0x100_0150), (Some(vec![7; 8192]), vec![]));
    assert_eq!(read(1, 0x100_0200), (Some(vec![7; 8192]), vec![(Lsn(0x100_0200), b"a delta".to_vec())]));
    assert_eq!(read(2, 0x100_0300), (None, vec![(Lsn(0x100_0300), b"an init delta".to_vec())]));
    assert_eq!(read(2, 0x100_0400), (None, vec![]));
}
