//! Real deltas and pages with random damage must end in an error or in some page, never in a panic.

mod sample;

use ogel_ids::Lsn;
use std::collections::HashMap;
use wal_decoder::{
    checkpoint_state::CheckpointState,
    effect::{Effect, Version},
    interpret::Interpreter,
    key::Page,
    redo::{self, PageRef},
};

/// xorshift64*: the test must be repeatable from the seed that it prints.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    /// Damages up to four bytes; small values are as likely as others, because they are what counts and offsets look like.
    fn damage(&mut self, bytes: &mut [u8], limit: usize) {
        for _ in 0..=self.below(4) {
            let at = self.below(limit.min(bytes.len()));
            bytes[at] = if self.below(2) == 0 { self.below(10) as u8 } else { self.below(256) as u8 };
        }
    }
}

fn damaged_copies(random: &mut Random, page: &Page, delta: &[u8], at: PageRef, end: Lsn) {
    for turn in 0..4 {
        let (mut page, mut delta) = (*page, delta.to_vec());
        if turn % 2 == 0 {
            // Behind version, kind and manager, so that the manager's redo sees the damage.
            random.damage(&mut delta[3..], 200);
        }
        if turn > 0 {
            let limit = if turn == 1 { 8192 } else { 400 };
            random.damage(&mut page, limit);
        }
        let _ = redo::apply(&mut page, &delta, at, end);
    }
}

fn run(name: &str) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    println!("SEED={seed}");
    let mut random = Random(seed);
    let wal = sample::read(name);
    let mut decoder = sample::decoder(&wal);

    let mut interpreter = Interpreter::new(CheckpointState::default());
    let mut pages: HashMap<PageRef, Box<Page>> = HashMap::new();
    while let Ok(Some(record)) = decoder.next_record() {
        let mut sink = |effect: Effect<'_>| {
            let Effect::Page { rel, block, version, .. } = effect else { return };
            let at = PageRef { rel, block };
            match version {
                Version::Image(image) => {
                    pages.insert(at, Box::new(*image));
                }
                Version::Delta { bytes, will_init } => {
                    if will_init {
                        pages.entry(at).or_insert_with(|| Box::new([0; 8192]));
                    }
                    let Some(page) = pages.get_mut(&at) else { return };
                    damaged_copies(&mut random, page, bytes, at, record.end);
                    if redo::apply(page, bytes, at, record.end).is_err() {
                        pages.remove(&at);
                    }
                }
            }
        };
        interpreter.interpret(&record, &mut sink).expect("the sample is good");
    }
    assert!(pages.len() > 50, "the sample has hardly any page: {}", pages.len());
}

#[test]
fn damaged_heap_and_btree_deltas_and_pages() {
    run("heap_btree");
}

#[test]
fn damaged_index_deltas_and_pages() {
    run("index");
}
