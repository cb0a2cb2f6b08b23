//! Stock `pg_receivewal` attaches to a safekeeper and writes the same bytes; stock `pg_waldump` reads its files.
//!
//! Needs a stock PostgreSQL 17.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use bytes::Bytes;
use node::{Node, proposer::TestProposer, tenant, timeline};
use ogel_ids::Lsn;
use wal_decoder::stream::StreamDecoder;

const SEGMENT: u32 = 16 << 20;
const FIRST: Lsn = Lsn(SEGMENT as u64);

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// WAL that a real server has written, with switches of segments in it.
struct RealWal {
    bytes: Vec<u8>,
    system_id: u64,
    /// End of an early record: the timeline's start.
    start: Lsn,
    end: Lsn,
}

impl RealWal {
    fn range(&self, from: Lsn, to: Lsn) -> &[u8] {
        &self.bytes[from.bytes_since(FIRST) as usize..to.bytes_since(FIRST) as usize]
    }

    /// Runs a server in `folder`, as an unprivileged user when this is root (PostgreSQL refuses to run as that).
    fn make(pg: &Path, folder: &Path) -> Self {
        let data = folder.join("data");
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        let as_user = |line: String| {
            let shell: &[&str] = if is_root { &["runuser", "-u", "ogel", "--", "sh"] } else { &["sh"] };
            run(Command::new(shell[0]).args(&shell[1..]).args(["-c", &line]).current_dir("/"));
        };
        if is_root {
            run(Command::new("chown").arg("ogel").arg(folder));
        }
        let (bin, data_text, socket) = (pg.join("bin").display().to_string(), data.display(), folder.display());
        as_user(format!("{bin}/initdb -N -A trust -U postgres -D {data_text}"));
        as_user(format!(
            "{bin}/pg_ctl -w -D {data_text} -l {socket}/log -o \"-k {socket} -c listen_addresses='' -c wal_keep_size=2GB\" start"
        ));
        let sql =
            "create table t as select i, repeat('x', 300) y from generate_series(1, 60000) i; select pg_switch_wal();
                   update t set y = y || i where i % 3 = 0; checkpoint; create index on t (i); select pg_switch_wal();
                   delete from t where i % 2 = 0; vacuum t";
        for statement in sql.split(';') {
            as_user(format!("{bin}/psql -qX -v ON_ERROR_STOP=1 -h {socket} -U postgres -c \"{statement}\""));
        }
        as_user(format!("{bin}/pg_ctl -w -D {data_text} -m fast stop"));
        Self::read(&data.join("pg_wal"))
    }

    fn read(folder: &Path) -> Self {
        let mut bytes = Vec::new();
        while let Ok(segment) =
            std::fs::read(folder.join(Lsn(FIRST.0 + bytes.len() as u64).segment_file_name(SEGMENT.into())))
        {
            bytes.extend(segment);
        }
        let mut decoder = StreamDecoder::find_first(FIRST, SEGMENT, None).unwrap();
        decoder.feed(Bytes::from(bytes.clone()));
        let mut ends = Vec::new();
        while let Ok(Some(record)) = decoder.next_record() {
            ends.push(record.end);
        }
        Self { bytes, system_id: decoder.system_id().unwrap(), start: ends[500], end: decoder.last_good_end() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_tools_read_what_a_safekeeper_keeps() {
    let Some(pg) = ogel_test_postgres::stock() else { return };
    let server = tempfile::tempdir().unwrap();
    let wal = RealWal::make(&pg, server.path());
    assert!(wal.end > Lsn(3 * u64::from(SEGMENT)), "several segments");

    let folder = node::folder("stock_tools");
    let node = Node::start(&folder, 1).await;
    let parameters = (wal.system_id, SEGMENT, wal.start);
    let (status, answer) = node.create_from(timeline(1), parameters, wal.range(FIRST, wal.start), &[node.member]).await;
    assert_eq!(status, 201, "{answer}");

    // Attached before the WAL comes, by a slot's name: gets everything from the beginning, live.
    let (host, port) = node.pg.rsplit_once(':').unwrap();
    let received = folder.join("received");
    std::fs::create_dir(&received).unwrap();
    let receiver = Command::new("timeout")
        .arg("60")
        .arg(pg.join("bin/pg_receivewal"))
        .args(["-h", host, "-p", port, "-U", "anyone", "--no-loop", "--slot", "any", "-D"])
        .arg(&received)
        // It stops when it is beyond this position.
        .arg(format!("--endpos={}", Lsn(wal.end.0 - 1)))
        .env("PGOPTIONS", format!("-c ogel.tenant={} -c ogel.timeline={}", tenant(), timeline(1)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let mut proposer = TestProposer::elect(&node, timeline(1), 1).await;
    let pieces = wal.range(wal.start, wal.end).chunks(200_000);
    for (index, piece) in pieces.enumerate() {
        proposer.append(Lsn(wal.start.0 + index as u64 * 200_000), piece, Lsn(0)).await;
    }
    proposer.flushed(wal.end).await;

    let output = tokio::task::spawn_blocking(move || receiver.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    compare_segments(&wal, &received);

    let dump = |path: &Path| {
        let output = run(Command::new(pg.join("bin/pg_waldump")).arg("-p").arg(path).args([
            "-s",
            &wal.start.to_string(),
            "-e",
            &wal.end.to_string(),
        ]));
        String::from_utf8(output.stdout).unwrap()
    };
    let kept = folder.join(format!("tenants/{}/timelines/{}", tenant(), timeline(1)));
    assert!(dump(&kept) == dump(&server.path().join("data/pg_wal")), "pg_waldump sees the same records");
    node.stop().await;
}

/// Whole segments under their names, the last one as `.partial`.
fn compare_segments(wal: &RealWal, received: &Path) {
    let mut at = FIRST;
    while at < wal.end {
        let next = Lsn(at.0 + u64::from(SEGMENT)).min(wal.end);
        let name = at.segment_file_name(SEGMENT.into());
        let whole = received.join(&name);
        let path = if whole.exists() { whole } else { received.join(format!("{name}.partial")) };
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expected = wal.range(at, next);
        assert!(bytes[..expected.len()] == *expected, "{name} differs");
        at = next;
    }
}
