//! A node with an object store in a folder.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::BufMut;
use ogel_ids::Lsn;

use super::{
    LIMIT, Node, Ports,
    proposer::TestProposer,
    reader::TestReader,
    tenant, timeline,
    wal::{self, Wal},
};

pub const SIZE: u64 = wal::SEGMENT_SIZE as u64;

/// The timeline is archived, and dropped after a second of idleness.
pub struct Archiving {
    pub node: Node,
    pub folder: PathBuf,
    pub remote: PathBuf,
    pub wal: Wal,
}

pub fn remote_flag(remote: &Path) -> String {
    format!("--remote=file://{}", remote.display())
}

impl Archiving {
    pub async fn start(name: &str) -> Self {
        let (folder, remote) = (super::folder(name), super::folder(&format!("{name}-remote")));
        let node =
            Node::start_flags(&folder, 1, Ports::take().await, &[], &[&remote_flag(&remote), "--idle-after-s=1"]).await;
        let wal = Wal::new();
        assert_eq!(node.create(timeline(1), &wal, &super::with_strangers(node.member)).await.0, 201);
        Self { node, folder, remote, wal }
    }

    pub async fn restart(self) -> Self {
        self.node.stop().await;
        let node = Node::start_flags(
            &self.folder,
            1,
            Ports::take().await,
            &[],
            &[&remote_flag(&self.remote), "--idle-after-s=1"],
        )
        .await;
        Self { node, ..self }
    }

    /// Appends records and has them committed.
    pub async fn push(&mut self, proposer: &mut TestProposer, records: usize) {
        for _ in 0..records {
            let begin = self.wal.end();
            let bytes = self.wal.append(300_000);
            proposer.append(begin, &bytes, self.wal.end()).await;
        }
        proposer.flushed(self.wal.end()).await;
    }

    /// End of the last finished segment.
    pub fn finished(&self) -> Lsn {
        self.wal.end().segment_start(SIZE)
    }

    pub fn objects(&self, kind: &str) -> PathBuf {
        self.remote.join(format!("tenants/{}/timelines/{}/{kind}", tenant(), timeline(1)))
    }

    /// The object of a segment.
    pub fn object(&self, segment_start: Lsn) -> PathBuf {
        self.objects("wal").join(format!("{}.zst", segment_start.segment_file_name(SIZE)))
    }

    /// The same as earlier versions wrote it.
    pub fn raw_object(&self, segment_start: Lsn) -> PathBuf {
        self.object(segment_start).with_extension("")
    }

    pub fn local(&self) -> Vec<String> {
        let path = self.folder.join(format!("tenants/{}/timelines/{}", tenant(), timeline(1)));
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.retain(|name| !name.starts_with('.')); // spare segments
        names.sort();
        names
    }

    /// The pageserver has everything up to here in the object store.
    pub async fn ingested(&self, lsn: Lsn) {
        let options = self.node.options(timeline(1)).setting("ogel.reader", "pageserver");
        let mut reader = TestReader::start(&options, self.wal.end()).await.unwrap();
        reader.writer.write(|body| {
            body.put_u8(b'p');
            (0..3).for_each(|_| body.put_u64(lsn.0));
        });
        reader.writer.flush().await.unwrap();
        self.node.wait_state(timeline(1), "remote_consistent_lsn", lsn).await;
    }

    /// Everything is there, byte for byte, wherever it comes from.
    pub async fn check_reader(&self) {
        let mut reader = TestReader::start(&self.node.options(timeline(1)), Wal::first()).await.unwrap();
        reader.read_to(self.wal.end()).await;
        assert!(reader.wal == self.wal.range(Wal::first(), self.wal.end()));
    }

    pub async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.node.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
    }
}

pub async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What `zstd -d` makes of an object.
pub fn unpacked(object: &Path) -> Vec<u8> {
    zstd::stream::decode_all(fs::File::open(object).unwrap()).unwrap()
}

/// Makes of an object what earlier versions wrote.
pub fn make_raw(object: &Path) {
    fs::write(object.with_extension(""), unpacked(object)).unwrap();
    fs::remove_file(object).unwrap();
}
