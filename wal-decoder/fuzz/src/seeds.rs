//! `seeds DIR`: writes the fuzzers' first inputs from the checked-in WAL samples: pieces of WAL, and each kind of record a few times.

use bytes::Bytes;
use ogel_ids::Lsn;
use std::{collections::HashMap, error::Error, fs, path::Path};
use wal_decoder::{
    checkpoint_state::CheckpointState,
    effect::{Effect, Version},
    interpret::Interpreter,
    key::{PAGE_SIZE, Page},
    redo::{self, PageRef},
    stream::StreamDecoder,
};

const SAMPLES: [&str; 3] = [
    "tests/data/pg17_segments_1mib_from_0-600000.wal.zst",
    "walcheck/tests/data/heap_btree.wal.zst",
    "walcheck/tests/data/index.wal.zst",
];
/// Inputs of one record kind (and block of it).
const OF_A_KIND: u32 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: seeds DIR")?;
    let mut seeds = Seeds { dir: Path::new(&dir).to_owned(), kinds: HashMap::new() };
    for name in SAMPLES {
        let compressed = fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name))?;
        let mut decoder = zstd::Decoder::new(compressed)?;
        decoder.window_log_max(27)?;
        let mut wal = Vec::new();
        std::io::copy(&mut decoder, &mut wal)?;
        seeds.of_sample(&Bytes::from(wal))?;
    }
    Ok(())
}

struct Seeds {
    dir: std::path::PathBuf,
    kinds: HashMap<(u8, u8, u8), u32>,
}

impl Seeds {
    /// Whether this kind has not been seen often enough yet.
    fn wanted(&mut self, kind: (u8, u8, u8)) -> bool {
        let count = self.kinds.entry(kind).or_default();
        *count += 1;
        *count <= OF_A_KIND
    }

    fn write(&self, target: &str, content: &[u8]) -> std::io::Result<()> {
        let dir = self.dir.join(target);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("seed-{:08x}-{}", crc(content), content.len())), content)
    }

    fn of_sample(&mut self, wal: &Bytes) -> Result<(), Box<dyn Error>> {
        for piece in wal.chunks(3 * PAGE_SIZE).step_by(20) {
            self.write("stream", &[&[40], piece].concat())?;
        }
        let start = Lsn(u64::from_le_bytes(wal[8..16].try_into()?));
        let mut decoder = StreamDecoder::find_first(start, 1 << 20, None)?;
        decoder.feed(wal.clone());
        let mut interpreter = Interpreter::new(CheckpointState::default());
        let mut pages: HashMap<PageRef, Box<Page>> = HashMap::new();
        while let Ok(Some(record)) = decoder.next_record() {
            if record.bytes.len() < 4096 && self.wanted((record.rmid(), record.info(), u8::MAX)) {
                self.write("interpret", &record.bytes)?;
            }
            let mut kept = Vec::new();
            interpreter.interpret(&record, &mut |effect: Effect<'_>| page_effect(&mut pages, &mut kept, &effect, record.end))?;
            for (number, content) in (0..).zip(kept) {
                if self.wanted((record.rmid(), record.info(), number)) {
                    self.write("redo", &content)?;
                }
            }
        }
        Ok(())
    }
}

fn page_effect(pages: &mut HashMap<PageRef, Box<Page>>, kept: &mut Vec<Vec<u8>>, effect: &Effect<'_>, end: Lsn) {
    let Effect::Page { rel, block, version, .. } = *effect else { return };
    let at = PageRef { rel, block };
    let delta = match version {
        Version::Image(image) => {
            pages.insert(at, Box::new(*image));
            return;
        }
        Version::Delta { bytes, .. } => bytes,
    };
    let page = pages.entry(at).or_insert_with(|| Box::new([0; PAGE_SIZE]));
    kept.push([&[rel.fork as u8], &block.to_le_bytes()[..], &page[..], delta].concat());
    if redo::apply(page, delta, at, end).is_err() {
        pages.remove(&at);
    }
}

/// A name for a content; nothing depends on its strength.
fn crc(content: &[u8]) -> u32 {
    content.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
