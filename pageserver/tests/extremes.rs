//! Large numbers: of tables, and of transactions.
#![allow(clippy::unwrap_used)]

mod support;

use std::{path::Path, sync::Arc, time::Instant};

use ogel_ids::TimelineId;
use pageserver::{branch::point::Point, layer::Io};
use support::{
    FakeSafekeeper, Server, TENANT, TIMELINE, template,
    wal_writer::{WalWriter, rel},
};

const TABLES: u32 = 100_000;
const FIRST: u32 = 100_000;

async fn cluster(data: &Path, template: &str) -> (Server, FakeSafekeeper, WalWriter) {
    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    let server = Server::start(data, template, &[&safekeeper.address], &[]).await;
    let timeline = server.pageserver.create(TENANT, TIMELINE).await.unwrap().0;
    safekeeper.change(|wal| {
        wal.start = timeline.start_lsn;
        wal.terms = vec![(1, timeline.start_lsn)];
    });
    let writer = WalWriter::behind(&server);
    (server, safekeeper, writer)
}

fn resident_mib() -> i64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<i64>().unwrap() / 256
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_tables_cost_each_as_much_as_the_first() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, mut writer) = cluster(folder.path(), &template).await;
    let timeline = server.timeline();
    let before = timeline.relations(1663, 5, timeline.last_record_lsn(), Io::MayBlock).unwrap().len();
    let memory = resident_mib();
    let mut took = Vec::new();
    for part in 0..10 {
        let mut bytes = Vec::new();
        for number in 0..TABLES / 10 {
            bytes.extend(writer.create(rel(FIRST + part * TABLES / 10 + number)));
        }
        bytes.extend(writer.commit(1000 + part));
        let began = Instant::now();
        safekeeper.change(|wal| wal.bytes.extend(bytes));
        server.wait_for(writer.at.end, 1).await;
        took.push(began.elapsed());
    }
    // Less than before, when the allocator has given back what the other test left.
    let grown = resident_mib() - memory;
    println!("10,000 tables each: {took:?}; {grown} MiB more");
    // Quadratic would be 19 times as much; the machine may be busy with other things.
    assert!(took[9] < took[..3].iter().max().unwrap().saturating_mul(12), "later tables cost more: {took:?}");
    assert!(grown < 512, "{grown} MiB for 100,000 tables");
    drop(timeline);
    server.stop().await;

    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    let timeline = server.timeline();
    let began = Instant::now();
    let found = timeline.relations(1663, 5, timeline.last_record_lsn(), Io::MayBlock).unwrap();
    assert_eq!(found.len(), before + TABLES as usize);
    println!("listed in {:?} after a restart", began.elapsed());
    let mut pages = server.pagestream(1).await;
    for number in [0, TABLES / 2, TABLES - 1] {
        let answer = pages.block_count(rel(FIRST + number), (writer.at.end, writer.at.end)).await;
        assert_eq!((answer.tag, &answer.rest[..]), (102, &[0; 4][..]));
    }
    drop(timeline);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_ids_go_on_into_the_next_era() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, safekeeper, mut writer) = cluster(folder.path(), &template).await;
    let next_xid = |server: &Server, id| {
        server.pageserver.timeline(TENANT, id).unwrap().head().state.checkpoint.checkpoint.next_xid
    };
    let mut state = server.timeline().head().state.checkpoint;
    state.checkpoint.next_xid = 0x6_ffff_ff00;
    let mut bytes = writer.checkpoint(&state);
    for xid in [0xffff_ff00, 0xffff_ffff, 3, 77] {
        bytes.extend(writer.create(rel(60_000 + xid % 1000)));
        bytes.extend(writer.commit(xid));
    }
    safekeeper.change(|wal| wal.bytes.extend(bytes));
    server.wait_for(writer.at.end, 1).await;
    assert_eq!(next_xid(&server, TIMELINE), 0x7_0000_004e);
    let branch = TimelineId::from_bytes([0xc1; 16]);
    server.pageserver.create_branch(TENANT, branch, TIMELINE, Point::Head).await.unwrap();
    assert_eq!(next_xid(&server, branch), 0x7_0000_004e);
    server.stop().await;
    std::fs::remove_dir_all(folder.path().join("tenants")).unwrap();

    let server = Server::start(folder.path(), &template, &[&safekeeper.address], &[]).await;
    server.pageserver.attached(TENANT, branch).await.unwrap();
    assert_eq!((next_xid(&server, TIMELINE), next_xid(&server, branch)), (0x7_0000_004e, 0x7_0000_004e));
    // An id of the old era that commits late does not turn the clock back.
    let late = writer.commit(0xffff_ff80);
    safekeeper.change(|wal| wal.bytes.extend(late));
    server.wait_for(writer.at.end, 1).await;
    assert_eq!(next_xid(&server, TIMELINE), 0x7_0000_004e);
    server.stop().await;
}
