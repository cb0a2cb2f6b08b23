//! Layer files that are cut short, rotten, foreign or from the future end in errors that say so; never in wrong pages.
#![allow(clippy::unwrap_used)]

use std::{path::PathBuf, sync::Arc};

use ogel_ids::{Lsn, TenantId, TimelineId};
use pageserver::{
    keyspace::{Key, KeyRange},
    layer::{
        Io, LsnRange, VersionKind,
        file::{BlockCache, LayerError, LayerFile, LayerHeader, LayerKind, fetch, write_file},
        reconstruct::{Reconstruction, Scan},
        tombstone::Tombstone,
    },
};
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
    write_file(&path, &header, true, |writer| {
        for block in 0..VERSIONS {
            let value: Vec<u8> = (0..300_u32).flat_map(|i| (i * block).to_le_bytes()).collect();
            writer.version(key(block), Lsn(100), VersionKind::Image, &value)?;
        }
        writer.tombstone(Tombstone { range: KeyRange::rel_pages_from(REL.fork(Fork::Main), 600), lsn: Lsn(700) });
        Ok(())
    })
    .unwrap();
    Sample { _folder: folder, path, header }
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

/// Files of every version stay readable. Written once by `OGEL_WRITE_FIXTURE=1 cargo test`, then never again.
#[test]
fn a_file_of_version_1_is_readable() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/delta-v1.layer"));
    let header = LayerHeader { lsns: LsnRange { start: Lsn(0x100_0028), end: Lsn(0x100_2000) }, ..sample().header };
    if std::env::var_os("OGEL_WRITE_FIXTURE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_file(&path, &header, true, |writer| {
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
