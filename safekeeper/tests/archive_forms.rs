//! WAL in the object store is read in both forms, compared as WAL and not as bytes, and never taken for good when it is not.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use node::{
    LIMIT,
    archiving::{Archiving, SIZE, make_raw, unpacked, wait_until},
    proposer::TestProposer,
    reader::TestReader,
    tenant, timeline,
    wal::Wal,
};
use ogel_ids::Lsn;
use ogel_pgwire::WireError;
use safekeeper::archive::packed::{self, PIECE_BYTES};

fn segment(number: u64) -> Lsn {
    Lsn(Wal::first().0 + number * SIZE)
}

fn names(folder: PathBuf) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// While the object store is away nothing is archived.
struct Outage;

impl Outage {
    fn begin(it: &Archiving) -> Self {
        fs::remove_dir_all(&it.remote).unwrap();
        fs::write(&it.remote, b"not a folder").unwrap();
        Self
    }

    /// With these objects in the store, from another safekeeper or an earlier version.
    fn end(self, it: &Archiving, objects: &[(PathBuf, &[u8])]) {
        fs::remove_file(&it.remote).unwrap();
        for (path, bytes) in objects {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

/// The object for this WAL as another version of zstd might make it.
fn packed_otherwise(wal: &[u8]) -> Vec<u8> {
    let mut object = packed::pack(wal).unwrap();
    let index = packed::index_bytes(wal.len() as u64) as usize;
    let mut entry = packed::HEAD_BYTES as usize;
    object.truncate(index);
    for piece in wal.chunks(PIECE_BYTES as usize) {
        let stored = zstd::stream::encode_all(piece, 19).unwrap();
        object[entry..entry + 4].copy_from_slice(&(stored.len() as u32).to_be_bytes());
        object[entry + 4..entry + 8].copy_from_slice(&crc32c::crc32c(&stored).to_be_bytes());
        entry += 8;
        object.extend(stored);
    }
    let checksum = crc32c::crc32c(&object[..entry]);
    object[entry..index].copy_from_slice(&checksum.to_be_bytes());
    object
}

async fn wait_difference(it: &Archiving) {
    let began = Instant::now();
    while it.metric("safekeeper_archive_differences_total").await == 0 {
        assert!(began.elapsed() < LIMIT, "other WAL in the object store was not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_archive_of_both_forms_reads_as_one() {
    let mut it = Archiving::start("both_forms").await;
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 14).await;
    it.ingested(it.wal.end()).await;
    drop(proposer);
    it.node.wait_state(timeline(1), "wal_dropped", true).await;
    // What an earlier version has left: every other segment, one of them in both forms, and the tail.
    assert!(it.finished() >= segment(4));
    let packed = fs::read(it.object(segment(2))).unwrap();
    for number in [0, 2] {
        make_raw(&it.object(segment(number)));
    }
    fs::write(it.object(segment(2)), packed).unwrap();
    let tail = it.objects("tails").join(&names(it.objects("tails"))[0]);
    make_raw(&tail);
    it.check_reader().await;
    let mut it = it.restart().await;
    it.check_reader().await;
    assert_eq!(it.local(), ["control"]);

    let mut proposer = TestProposer::elect(&it.node, timeline(1), 2).await;
    it.push(&mut proposer, 5).await;
    it.node.wait_state(timeline(1), "backup_lsn", it.finished()).await;
    it.check_reader().await;
    wait_until("the tail stays, though its segment is there", || names(it.objects("tails")).is_empty()).await;
    let last = Lsn(it.finished().0 - SIZE);
    assert!(it.object(last).exists() && !it.raw_object(last).exists());

    let url = format!("http://{}/v1/tenant/{}/timeline/{}", it.node.http, tenant(), timeline(1));
    assert_eq!(reqwest::Client::new().delete(url).send().await.unwrap().status(), 200);
    assert_eq!(names(it.objects("wal")), [""; 0], "both forms are deleted");
}

#[tokio::test]
async fn what_an_earlier_version_has_archived_counts() {
    let mut it = Archiving::start("earlier_version").await;
    let outage = Outage::begin(&it);
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 13).await;
    let (end, second) = (it.wal.end(), it.raw_object(segment(1)));
    let tail = format!("{}-{:016X}-{:016X}", end.segment_file_name(SIZE), 1, end.0);
    let tail = it.objects("tails").join(tail);
    let objects = [
        (second.clone(), it.wal.range(segment(1), segment(2))),
        (tail.clone(), it.wal.range(end.segment_start(SIZE), end)),
    ];
    outage.end(&it, &objects);
    it.ingested(end).await;
    drop(proposer);
    it.node.wait_state(timeline(1), "wal_dropped", true).await;
    assert!(second.exists() && !it.object(segment(1)).exists(), "it is not archived twice");
    assert!(it.object(segment(0)).exists() && it.object(segment(2)).exists());
    assert_eq!(names(it.objects("tails")), [tail.file_name().unwrap().to_str().unwrap()]);
    it.check_reader().await;
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 2).await;
    it.push(&mut proposer, 1).await;
    it.check_reader().await;
}

#[tokio::test]
async fn objects_are_compared_as_wal() {
    let mut it = Archiving::start("compared_as_wal").await;
    let outage = Outage::begin(&it);
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 13).await;
    let end = it.wal.end();
    let same = packed_otherwise(it.wal.range(segment(1), segment(2)));
    assert!(same != packed::pack(it.wal.range(segment(1), segment(2))).unwrap());
    let flipped = |from: Lsn, to: Lsn| {
        let mut wal = it.wal.range(from, to).to_vec();
        *wal.last_mut().unwrap() ^= 1;
        packed::pack(&wal).unwrap()
    };
    let tail = format!("{}-{:016X}-{:016X}.zst", end.segment_file_name(SIZE), 1, end.0);
    let tail = it.objects("tails").join(tail);
    let other_tail = flipped(end.segment_start(SIZE), end);
    let objects = [
        (it.object(segment(1)), same.as_slice()),
        (it.object(segment(2)), &flipped(segment(2), segment(3))),
        (tail.clone(), &other_tail),
    ];
    outage.end(&it, &objects);
    wait_difference(&it).await;
    assert_eq!(
        it.node.state(timeline(1)).await["backup_lsn"],
        segment(2).to_string(),
        "the same WAL, but not the other"
    );
    assert!(fs::read(it.object(segment(1))).unwrap() == same, "objects are never changed");
    fs::remove_file(it.object(segment(2))).unwrap();
    drop(proposer);
    let it = it.restart().await; // or in 30 s
    it.node.wait_state(timeline(1), "backup_lsn", it.finished()).await;

    wait_difference(&it).await;
    assert_eq!(it.node.state(timeline(1)).await["wal_dropped"], false, "the tail that is there is not ours (H5)");
    assert!(fs::read(&tail).unwrap() == other_tail);
    fs::remove_file(&tail).unwrap();
    let it = it.restart().await;
    it.node.wait_state(timeline(1), "wal_dropped", true).await;
    assert!(unpacked(&tail) == it.wal.range(end.segment_start(SIZE), end));
    it.check_reader().await;
}

#[tokio::test]
async fn a_damaged_piece_is_named_and_the_others_are_read() {
    let mut it = Archiving::start("damaged_piece").await;
    let mut proposer = TestProposer::elect(&it.node, timeline(1), 1).await;
    it.push(&mut proposer, 9).await; // its tail has 3 pieces
    it.ingested(it.wal.end()).await;
    drop(proposer);
    it.node.wait_state(timeline(1), "wal_dropped", true).await;
    let damage = |path: &PathBuf| {
        let good = fs::read(path).unwrap();
        let mut bytes = good.clone();
        let middle = bytes.len() / 2 + 1000;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
        good
    };
    let object = it.object(segment(1));
    let good = damage(&object);
    let options = it.node.options(timeline(1));
    let mut reader = TestReader::start(&options, segment(1)).await.unwrap();
    let refused = loop {
        match reader.receive().await {
            Ok(_) => assert!(reader.end() < Lsn(segment(1).0 + 3 * PIECE_BYTES), "damaged WAL is not sent"),
            Err(error) => break error,
        }
    };
    let WireError::Server(message) = &refused else { panic!("{refused}") };
    let message = message.to_string();
    let name = object.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(name) && message.contains("piece 3 of 4 in it"), "{message}");
    let behind = Lsn(segment(1).0 + 3 * PIECE_BYTES);
    let mut reader = TestReader::start(&options, behind).await.unwrap();
    reader.read_to(it.wal.end()).await;
    assert!(reader.wal == it.wal.range(behind, it.wal.end()));
    fs::write(object, good).unwrap();
    it.check_reader().await;

    // A tail that is damaged brings nothing back; the next term waits until it is there again.
    let tail = it.objects("tails").join(&names(it.objects("tails"))[0]);
    let good = damage(&tail);
    let mut proposer = TestProposer::connect(&it.node, timeline(1)).await;
    proposer.greet().await;
    let vote = proposer.vote(2).await;
    let history = vote.history.continued(proposer.term, vote.flush_lsn).unwrap();
    let repaired = async {
        loop {
            let state = it.node.state(timeline(1)).await;
            if let Some(reason) = state["waits_for_space"].as_str() {
                assert!(reason.contains("piece 2 of 3 in it"), "{reason}");
                break fs::write(&tail, good).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(proposer.install(history, vote.flush_lsn), repaired);
    it.push(&mut proposer, 2).await;
    it.check_reader().await;
}
