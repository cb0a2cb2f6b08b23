//! Arbitrary bytes as one record: its effects or an error, and redo of its deltas on a new page. CRCs, which no fuzzer guesses, play no part.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ogel_ids::Lsn;
use wal_decoder::{
    checkpoint_state::CheckpointState,
    effect::{Effect, Version},
    interpret::Interpreter,
    key::PAGE_SIZE,
    redo::{self, PageRef},
};

fuzz_target!(|record: &[u8]| {
    let mut interpreter = Interpreter::new(CheckpointState::default());
    let end = Lsn(0x2000);
    let mut page = [0; PAGE_SIZE];
    let mut sink = |effect: Effect<'_>| match effect {
        Effect::Page { rel, block, version: Version::Delta { bytes, .. }, .. } => {
            page.fill(0);
            let _ = redo::apply(&mut page, bytes, PageRef { rel, block }, end);
        }
        Effect::Slru { kind, version: Version::Delta { bytes, .. }, .. } => {
            let _ = redo::apply_slru(kind, &mut page, bytes);
        }
        _ => {}
    };
    let _ = interpreter.interpret_bytes(Lsn(0x1000), end, record, &mut sink);
});
