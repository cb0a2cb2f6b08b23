//! The archive check says "good" only of WAL that is all there, and finds a flipped byte wherever it is.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{fs, path::PathBuf};

use clap::Parser;
use node::{Node, Ports, archiving::make_raw, proposer::TestProposer, tenant, timeline, wal, wal::Wal};
use ogel_ids::Lsn;
use safekeeper::archive::{
    check::{ArchiveCommand, CheckArgs, Report, check},
    packed,
};

const SIZE: u64 = wal::SEGMENT_SIZE as u64;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    check: CheckArgs,
}

struct Archived {
    folder: PathBuf,
    remote: PathBuf,
    wal: Wal,
}

impl Archived {
    /// A few segments, and a tail of an idle time in the last of them.
    async fn make(name: &str, idle: bool) -> Self {
        let (folder, remote) = (node::folder(name), node::folder(&format!("{name}-remote")));
        let flags = [&format!("--remote=file://{}", remote.display()), "--idle-after-s=1"];
        let node = Node::start_flags(&folder, 1, Ports::take().await, &[], &flags).await;
        let mut wal = Wal::new();
        assert_eq!(node.create(timeline(1), &wal, &node::with_strangers(node.member)).await.0, 201);
        let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
        for length in (0..400).map(|n| n * 37) {
            let begin = wal.end();
            let bytes = wal.append(length);
            proposer.append(begin, &bytes, wal.end()).await;
        }
        proposer.flushed(wal.end()).await;
        node.wait_state(timeline(1), "backup_lsn", wal.end().segment_start(SIZE)).await;
        if idle {
            proposer_says_ingested(&node, wal.end()).await;
            drop(proposer);
            node.wait_state(timeline(1), "wal_dropped", true).await;
        }
        node.stop().await;
        Self { folder, remote, wal }
    }

    async fn check(&self, more: &[&str]) -> Report {
        let remote = format!("--remote=file://{}", self.remote.display());
        let args = ["check", &remote].into_iter().chain(more.iter().copied());
        check(&Args::parse_from(args).check).await.unwrap()
    }

    async fn problems(&self, more: &[&str]) -> String {
        let report = self.check(more).await;
        let text = report.to_string();
        assert_eq!(report.good, text.contains("all WAL is there and good"));
        if report.good { String::new() } else { text }
    }

    fn object(&self, kind: &str, name: &str) -> PathBuf {
        self.remote.join(format!("tenants/{}/timelines/{}/{kind}/{name}", tenant(), timeline(1)))
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.object("wal", &format!("{}.zst", Lsn(Wal::first().0 + number * SIZE).segment_file_name(SIZE)))
    }

    fn data_dir(&self) -> String {
        format!("--data-dir={}", self.folder.display())
    }
}

async fn proposer_says_ingested(node: &Node, lsn: Lsn) {
    use bytes::BufMut;
    let options = node.options(timeline(1)).setting("ogel.reader", "pageserver");
    let mut reader = node::reader::TestReader::start(&options, lsn).await.unwrap();
    reader.writer.write(|body| {
        body.put_u8(b'p');
        (0..3).for_each(|_| body.put_u64(lsn.0));
    });
    reader.writer.flush().await.unwrap();
    node.wait_state(timeline(1), "remote_consistent_lsn", lsn).await;
}

#[tokio::test]
async fn good_wal_is_good_and_losses_are_found() {
    let it = Archived::make("losses", true).await;
    let report = it.check(&[&it.data_dir()]).await;
    assert!(report.good, "{report}");
    let timeline = &report.timelines[0];
    assert_eq!((timeline.from, timeline.to, timeline.tails), (Wal::first(), it.wal.end(), 1));
    assert_eq!(timeline.records, 403);
    let tail_bytes = it.wal.end().segment_offset(SIZE);
    assert_eq!(timeline.wal_bytes, timeline.segments * SIZE + tail_bytes);

    let middle = fs::read(it.segment(1)).unwrap();
    fs::remove_file(it.segment(1)).unwrap();
    assert!(it.problems(&[]).await.contains("MISSING"));
    for (wrong, problem) in [
        (middle[1..].to_vec(), "its index is damaged"),
        (middle[..middle.len() - 1].to_vec(), "bytes are there, by its index"),
        ([&middle[..], &[0]].concat(), "bytes are there, by its index"),
        (vec![1; 4 << 20], "at most"),
        (Vec::new(), "its index is damaged"),
    ] {
        fs::write(it.segment(1), wrong).unwrap();
        let found = it.problems(&[]).await;
        assert!(found.contains(problem), "{found}");
    }
    fs::write(it.segment(1), &middle).unwrap();

    let first = fs::read(it.segment(0)).unwrap();
    fs::remove_file(it.segment(0)).unwrap();
    assert_eq!(it.problems(&[]).await, "", "nobody knows where it began");
    assert!(it.problems(&[&it.data_dir()]).await.contains("MISSING"), "but the safekeeper does");
    fs::write(it.segment(0), first).unwrap();

    let tail = fs::read_dir(it.object("tails", "")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&tail).unwrap();
    fs::write(&tail, [&bytes[..bytes.len() - 8], &[7; 8]].concat()).unwrap();
    assert_ne!(it.problems(&[]).await, "");
    fs::remove_file(&tail).unwrap();
    assert!(it.problems(&[&it.data_dir()]).await.contains("has dropped its WAL"));
    fs::write(&tail, bytes).unwrap();
    assert_eq!(it.problems(&[&it.data_dir()]).await, "");
    let wrong = ArchiveCommand::try_parse_from(["archive", "check", "--remote=file:///nowhere/at/all"]).unwrap();
    assert!(wrong.run().await.is_err());
}

/// What earlier versions wrote is checked as before, alone and beside the other form.
#[tokio::test]
async fn raw_objects_are_checked_too() {
    let it = Archived::make("raw", true).await;
    let tail = fs::read_dir(it.object("tails", "")).unwrap().next().unwrap().unwrap().path();
    for object in [it.segment(0), it.segment(1), tail.clone()] {
        make_raw(&object);
    }
    assert_eq!(it.problems(&[&it.data_dir()]).await, "");
    let raw = it.segment(1).with_extension("");
    let wal = fs::read(&raw).unwrap();
    fs::write(&raw, &wal[1..]).unwrap();
    assert!(it.problems(&[]).await.contains("a segment has"));
    fs::write(it.segment(1), packed::pack(&wal).unwrap()).unwrap();
    fs::write(&raw, &wal).unwrap();
    assert_eq!(it.problems(&[&it.data_dir()]).await, "", "both are there and good");
    let mut other = wal.clone();
    other[700_000] ^= 1;
    fs::write(&raw, &other).unwrap();
    assert!(it.problems(&[]).await.contains("differs from the beginning of"));
    fs::write(&raw, &wal).unwrap();
    let bytes = fs::read(tail.with_extension("")).unwrap();
    fs::write(tail.with_extension(""), [&bytes[..bytes.len() - 8], &[7; 8]].concat()).unwrap();
    assert_ne!(it.problems(&[]).await, "");
}

#[tokio::test]
async fn a_flipped_byte_is_found() {
    let it = Archived::make("flipped", false).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    println!("seed {seed:x}");
    for raw in [false, true] {
        if raw {
            (0..2).for_each(|number| make_raw(&it.segment(number)));
        }
        let paths = [0, 1].map(|number| if raw { it.segment(number).with_extension("") } else { it.segment(number) });
        let whole = paths.each_ref().map(|path| fs::read(path).unwrap());
        for _ in 0..40 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (seed >> 60) as usize % 2;
            let at = (seed >> 20) as usize % whole[number].len();
            let mut bytes = whole[number].clone();
            bytes[at] ^= 1 << (seed >> 50 & 7);
            fs::write(&paths[number], &bytes).unwrap();
            let found = it.problems(&[]).await;
            assert!(found.contains(paths[number].file_name().unwrap().to_str().unwrap()), "{number} {at}: {found}");
            let problem = if raw { "differs" } else { "damaged" };
            assert!(it.problems(&[&it.data_dir()]).await.contains(problem), "{number} {at}");
            fs::write(&paths[number], &whole[number]).unwrap();
        }
    }
}
