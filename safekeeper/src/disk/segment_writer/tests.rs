use std::{os::unix::fs::MetadataExt, path::PathBuf};

use proptest::prelude::*;

use super::*;
use crate::disk::segments::SegmentReader;

const SIZE: u64 = 1 << 20;
/// Of the model's log: these have bytes from the beginning.
const FIRST_SEGMENT: u64 = 1;
const SEGMENTS: u64 = 4;
const PREFIX_BYTES: usize = 5000;

fn folder() -> (tempfile::TempDir, Arc<SegmentFolder>) {
    let temp = tempfile::tempdir().unwrap();
    let folder = Arc::new(SegmentFolder::new(temp.path().to_owned(), SIZE, true));
    (temp, folder)
}

#[test]
fn what_is_written_across_segments_is_read_back() {
    let (_temp, folder) = folder();
    let mut writer = SegmentWriter::new(folder.clone());
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251 + 1) as u8).collect();
    let begin = Lsn(5 * SIZE - 777);
    writer.make_room(begin, Lsn(begin.0 + bytes.len() as u64)).unwrap();
    writer.write(begin, &bytes).unwrap();
    writer.sync().unwrap();
    assert_eq!(folder.numbers().unwrap(), [4, 5, 6, 7]);
    let mut back = vec![0; bytes.len()];
    let (mut reader, mut done) = (SegmentReader::default(), 0);
    while done < back.len() {
        done += reader.read(&folder, Lsn(begin.0 + done as u64), &mut back[done..]).unwrap();
    }
    assert!(back == bytes);
}

#[test]
fn nothing_is_left_behind_a_cut() {
    let (_temp, folder) = folder();
    let mut writer = SegmentWriter::new(folder.clone());
    writer.make_room(Lsn(SIZE), Lsn(4 * SIZE)).unwrap();
    writer.write(Lsn(SIZE), &vec![7; 3 * SIZE as usize]).unwrap();
    writer.cut(Lsn(2 * SIZE + 1000)).unwrap();
    assert_eq!(folder.numbers().unwrap(), [1, 2]);
    let mut back = vec![9; SIZE as usize];
    folder.read(Lsn(2 * SIZE), &mut back).unwrap();
    assert!(back[..1000].iter().all(|b| *b == 7) && back[1000..].iter().all(|b| *b == 0));
    assert_eq!(folder.read(Lsn(4 * SIZE), &mut back).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn behind_a_stream_small_appends_find_written_zeros() {
    let (_temp, folder) = folder();
    let mut writer = SegmentWriter::new(folder.clone());
    folder.make(1, &[], Filling::Reserved).unwrap();
    let blocks = || fs::metadata(folder.segment_path(1)).unwrap().blocks() * 512;
    assert!(blocks() >= SIZE, "lack of space shows now, not when it is written");
    let mut expected = vec![0; SIZE as usize];
    let mut at = 0;
    for (number, count) in [300_000, 100, 50, 200_000, 7, 1000].into_iter().enumerate() {
        let bytes = vec![number as u8 + 1; count];
        writer.write(Lsn(SIZE + at as u64), &bytes).unwrap();
        writer.sync().unwrap();
        expected[at..at + count].copy_from_slice(&bytes);
        at += count;
    }
    let mut back = vec![9; SIZE as usize];
    folder.read(Lsn(SIZE), &mut back).unwrap();
    assert!(back == expected);
    // Written ahead once, not before each append.
    assert_eq!(folder.zeros_due(1, at as u64, 10), None);
    writer.cut(Lsn(SIZE + 300_010)).unwrap();
    folder.read(Lsn(SIZE), &mut back).unwrap();
    assert!(back[..300_010] == expected[..300_010] && back[300_010..].iter().all(|byte| *byte == 0));
}

#[derive(Debug, Clone)]
enum Op {
    Append(usize),
    /// Other bytes, so far back.
    Rewrite(usize, usize),
    Sync,
    /// So far back from what is durable.
    Cut(usize),
    Close,
    /// Dies, and comes again with a cut or without.
    Restart(bool),
    /// The next segment is only reserved.
    Reserve,
    /// A reader so far back: brings pages into the cache.
    Read(usize),
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1..300usize, 3 => 300..20_000usize, 2 => Just(4096), 1 => 20_000..1_600_000usize]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => sizes().prop_map(Op::Append),
        3 => (sizes(), sizes()).prop_map(|(back, size)| Op::Rewrite(back, size)),
        5 => Just(Op::Sync),
        1 => sizes().prop_map(Op::Cut),
        1 => Just(Op::Close),
        1 => any::<bool>().prop_map(Op::Restart),
        1 => Just(Op::Reserve),
        3 => sizes().prop_map(Op::Read),
    ];
    prop::collection::vec(op, 1..60)
}

/// What the files must hold: `wanted` when all is flushed, and until then each byte as in that, in `durable`, or as written in between.
struct Model {
    folder: Arc<SegmentFolder>,
    writer: SegmentWriter,
    wanted: Vec<u8>,
    end: usize,
    durable: Vec<u8>,
    durable_end: usize,
    unflushed: Vec<(usize, Vec<u8>)>,
    /// Behind the log there may be bytes: the next one is a cut.
    must_cut: bool,
    filler: u8,
}

impl Model {
    fn new(path: PathBuf, direct: bool) -> Self {
        let folder = SegmentFolder::new(path, SIZE, true);
        let folder = Arc::new(if direct { folder } else { folder.through_page_cache() });
        let mut wanted = vec![0; (SEGMENTS * SIZE) as usize];
        wanted[..PREFIX_BYTES].fill(77);
        folder.make(FIRST_SEGMENT, &wanted[..PREFIX_BYTES], Filling::Zeros).unwrap();
        let writer = SegmentWriter::new(folder.clone());
        let (durable, end) = (wanted.clone(), PREFIX_BYTES);
        Self {
            folder,
            writer,
            wanted,
            end,
            durable,
            durable_end: end,
            unflushed: Vec::new(),
            must_cut: true,
            filler: 0,
        }
    }

    fn lsn(at: usize) -> Lsn {
        Lsn(FIRST_SEGMENT * SIZE + at as u64)
    }

    fn put(&mut self, at: usize, count: usize) {
        let count = count.min(self.wanted.len() - at);
        self.filler = self.filler % 250 + 1;
        let bytes: Vec<u8> = (0..count).map(|i| (i % 5) as u8 ^ self.filler | 1).collect();
        self.writer.make_room(Self::lsn(at), Self::lsn(at + count)).unwrap();
        self.writer.write(Self::lsn(at), &bytes).unwrap();
        self.wanted[at..at + count].copy_from_slice(&bytes);
        self.unflushed.push((at, bytes));
        self.end = self.end.max(at + count);
    }

    fn cut(&mut self, at: usize) {
        self.writer.cut(Self::lsn(at)).unwrap();
        self.wanted[at..].fill(0);
        (self.end, self.must_cut) = (at, false);
        self.flushed();
    }

    fn flushed(&mut self) {
        assert!(self.files() == self.wanted, "the files are not what was written");
        self.durable.copy_from_slice(&self.wanted);
        self.durable_end = self.end;
        self.unflushed.clear();
    }

    /// Segments that are not there count as zeros. Read in both ways.
    fn files(&self) -> Vec<u8> {
        let mut files = vec![0; self.wanted.len()];
        for (number, segment) in (FIRST_SEGMENT..).zip(files.chunks_mut(SIZE as usize)) {
            if !self.folder.segment_path(number).exists() {
                continue;
            }
            SegmentReader::default().read(&self.folder, Lsn(number * SIZE), segment).unwrap();
            let mut again = vec![9; segment.len()];
            self.folder.read(Lsn(number * SIZE), &mut again).unwrap();
            assert!(*segment == again, "the page cache and the disk differ");
        }
        files
    }

    fn assert_old_or_new(&self, begin: usize, bytes: &[u8]) {
        for (at, byte) in (begin..).zip(bytes) {
            if *byte != self.wanted[at] && *byte != self.durable[at] {
                let between = |(begin, bytes): &(usize, Vec<u8>)| at >= *begin && bytes.get(at - begin) == Some(byte);
                assert!(self.unflushed.iter().any(between), "byte {at} is neither the old nor the new one");
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Append(count) => {
                if self.must_cut {
                    self.cut(self.durable_end);
                }
                self.put(self.end, count);
            }
            Op::Rewrite(back, count) => self.put(self.end.saturating_sub(back), count.min(back)),
            Op::Sync => {
                self.writer.sync().unwrap();
                self.flushed();
            }
            Op::Cut(back) => self.cut(self.durable_end.saturating_sub(back)),
            Op::Close => {
                self.writer.close().unwrap();
                self.flushed();
            }
            Op::Restart(cut) => {
                self.writer = SegmentWriter::new(self.folder.clone());
                let files = self.files();
                self.assert_old_or_new(0, &files);
                self.wanted.copy_from_slice(&files);
                (self.end, self.must_cut) = (self.durable_end, true);
                if cut {
                    self.cut(self.durable_end);
                } else {
                    self.flushed();
                }
            }
            Op::Reserve => {
                let next = FIRST_SEGMENT + self.end as u64 / SIZE + 1;
                if next < FIRST_SEGMENT + SEGMENTS {
                    self.folder.make(next, &[], Filling::Reserved).unwrap();
                }
            }
            Op::Read(back) => {
                let at = self.end.saturating_sub(back);
                let mut piece = vec![0; back.min(self.end).min(8192)];
                if let Ok(count) = SegmentReader::default().read(&self.folder, Self::lsn(at), &mut piece) {
                    self.assert_old_or_new(at, &piece[..count]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// After each flush the files are the model; in between nothing that was flushed changes but by being written again.
    #[test]
    fn the_files_are_what_was_written(ops in ops(), direct in any::<bool>()) {
        let temp = tempfile::tempdir().unwrap();
        let mut model = Model::new(temp.path().to_owned(), direct);
        ops.iter().for_each(|op| model.step(op));
        model.step(&Op::Close);
    }
}
