//! A real PostgreSQL writes WAL; the pageserver rebuilds the cluster from that WAL alone; PostgreSQL starts from the rebuilt files and
//! must say the same as before. This holds keys, sizes, drops, copies, SLRUs, redo and the basebackup together.
//!
//! Skipped, with a printed reason, where PostgreSQL was not built by `pgxn/pg`.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, io::Read, process::Command};

use ogel_ids::Lsn;
use support::{
    FakeSafekeeper, SEGMENT, Server, TENANT, TIMELINE,
    stock_postgres::{Postgres, Stage, basebackup, rebuild, run, wal_behind},
    template,
};
use wal_decoder::{stream::StreamDecoder, v17::rmgr};

const WORKLOAD: &str = r"
create table t (id int primary key, v text, n int);
insert into t select i, repeat('x', i % 500), i % 97 from generate_series(1, 20000) i;
create index on t (n);
update t set v = v || 'y' where id % 7 = 0;
delete from t where id % 11 = 0;
vacuum t;
create table toasted (id int, big text);
insert into toasted select i, (select string_agg(md5((i * j)::text), '') from generate_series(1, 400) j) from generate_series(1, 50) i;
begin; insert into t values (-1, 'a', 1); savepoint s; insert into t values (-2, 'b', 2); rollback to s; insert into t values (-3, 'c', 3); commit;
begin; insert into t values (-4, 'aborted', 1); rollback;
create table dropped as select * from t; drop table dropped;
create table cut as select * from t; truncate cut; insert into cut select * from t limit 10;
create table shrunk as select * from t; delete from shrunk where ctid >= '(50,0)'; vacuum shrunk; insert into shrunk select * from t limit 3000;
create sequence seq; select nextval('seq') from generate_series(1, 100); select setval('seq', 4711);
create unlogged table unlogged (id int primary key); insert into unlogged values (1);
begin; select * from t where id < 5 for share; savepoint s; select * from t where id < 5 for update; commit;
create database copied template postgres strategy file_copy;
create database logged template template0 strategy wal_log;
create database gone; drop database gone;
alter table toasted set (fillfactor = 50); vacuum full toasted; cluster t using t_pkey;
begin; create table two_phase (id int); insert into two_phase values (42); prepare transaction 'pending';
checkpoint;
update t set n = n + 1;
create table after_checkpoint as select i from generate_series(1, 1000) i;
";

/// The last transaction id before the era changes is 0xFFFFFFFF; this is the next one of a cluster in era 6.
const LATE_XID: &str = "0xffffff00";
const LATE_OLDEST_XID: &str = "0xfffff000";
const ERA_7: u64 = 7 << 32;

/// Prepared in era 6; the second has a subtransaction.
const ERA_6: &str = r"
create table t (id int primary key, n int); create index on t (n);
begin; insert into t values (1, 1); prepare transaction 'committed later';
begin; insert into t values (2, 2); savepoint s; insert into t values (3, 3); prepare transaction 'aborted later';
begin; insert into t values (4, 4); savepoint s; insert into t values (5, 5); prepare transaction 'open';
checkpoint;
";
const AFTER: &str = r"
begin; insert into t values (6, 6); prepare transaction 'of era 7';
commit prepared 'committed later'; rollback prepared 'aborted later';
checkpoint;
";

/// `xl_rmid` in a record.
const RMID_OFFSET: usize = 17;
const SMALL: [&str; 6] = ["--freeze-size-mb", "4", "--page-cache-mb", "8", "--block-cache-mb", "8"];

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_rebuilt_from_its_wal_says_the_same() {
    let (Some(template), Some(stage)) = (template(), Stage::set()) else { return };
    let safekeeper = FakeSafekeeper::start(Default::default()).await;
    let folder = stage.root().join("pageserver");
    let server = Server::start(&folder, &template, &[&safekeeper.address], &SMALL).await;
    server.pageserver.create(TENANT, TIMELINE).await.unwrap();

    // The same fresh cluster, run by stock PostgreSQL.
    let original = stage.original(&template, &server.timeline());
    original.start();
    original.script(WORKLOAD);
    let expected = original.everything();
    original.stop();

    let (wal, end) = ingest(&server, &safekeeper, &original).await;
    assert!(server.timeline().head().state.clean_shutdown);

    // From memory and files, then from files alone.
    assert_same(&rebuild(&server, &stage, end, &wal).await.1, &expected);
    server.stop().await;
    let server = Server::start(&folder, &template, &[&safekeeper.address], &SMALL).await;
    assert!(server.timeline().layer_summary().files > 2, "several layers were written");
    assert_same(&rebuild(&server, &stage, end, &wal).await.1, &expected);
    server.stop().await;
}

/// All WAL that the original has written: its bytes and its end.
async fn ingest(server: &Server, safekeeper: &FakeSafekeeper, original: &Postgres) -> (Vec<u8>, Lsn) {
    let timeline = server.timeline();
    let wal = wal_behind(&original.data, timeline.start_lsn, timeline.system_identifier);
    let end = Lsn(timeline.start_lsn.0 + wal.len() as u64);
    safekeeper.change(|state| {
        state.start = timeline.start_lsn;
        state.terms = vec![(1, timeline.start_lsn)];
        state.bytes = wal.clone();
    });
    let started = std::time::Instant::now();
    server.wait_for(end, 1).await;
    eprintln!("{} MB of WAL ingested in {:?}", wal.len() >> 20, started.elapsed());
    (wal, end)
}

fn assert_same(found: &str, expected: &str) {
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {number} of what PostgreSQL says");
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}

/// Files of prepared transactions, by name, as PostgreSQL has them after a checkpoint.
fn two_phase_files(postgres: &Postgres) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(postgres.data.join("pg_twophase")).unwrap().map(|entry| entry.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())).collect()
}

/// The same as a compute gets them.
async fn two_phase_files_at(server: &Server, at: Lsn) -> BTreeMap<String, Vec<u8>> {
    let tar = basebackup(server, at).await;
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        if let Some(name) = path.strip_prefix("pg_twophase/").filter(|name| !name.is_empty()) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(name.to_owned(), content);
        }
    }
    files
}

/// End of the newest record of a transaction that ends at or before `limit`.
fn last_transaction(wal: &[u8], server: &Server, limit: Lsn) -> Lsn {
    let timeline = server.timeline();
    let start = timeline.start_lsn;
    let mut decoder = StreamDecoder::new(start, SEGMENT, Some(timeline.system_identifier)).unwrap();
    decoder.feed(wal.to_vec().into());
    let mut newest = start;
    while let Some(record) = decoder.next_record().unwrap().filter(|record| record.end <= limit) {
        if record.bytes[RMID_OFFSET] == rmgr::XACT {
            newest = record.end;
        }
    }
    newest
}

/// A template whose next transaction id is shortly before the end of era 6.
fn late_template(stage: &Stage, template: &str) -> String {
    let late = stage.unpacked("late", template);
    late.start();
    for database in ["postgres", "template1"] {
        late.sql(database, "vacuum (freeze)"); // no id of a row may be in the future then
    }
    late.stop();
    let data = late.data.to_str().unwrap();
    late.run("pg_resetwal", &["-D", data, "-e", "6", "-x", LATE_XID, "-u", LATE_OLDEST_XID]);
    std::fs::write(late.data.join("pg_xact/0FFF"), vec![0; 32 * 8192]).unwrap();
    let archive = stage.root().join("late.tar.zst").to_str().unwrap().to_owned();
    run(Command::new("tar").args(["--zstd", "-cf", &archive, "-C", data, "."]));
    archive
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_outlive_an_era_of_transaction_ids() {
    let (Some(template), Some(stage)) = (template(), Stage::set()) else { return };
    let template = late_template(&stage, &template);
    let safekeeper = FakeSafekeeper::start(Default::default()).await;
    let folder = stage.root().join("pageserver");
    let server = Server::start(&folder, &template, &[&safekeeper.address], &SMALL).await;
    server.pageserver.create(TENANT, TIMELINE).await.unwrap();

    let original = stage.original(&template, &server.timeline());
    original.start();
    original.script(ERA_6);
    let early: Lsn = original.sql("postgres", "select pg_current_wal_insert_lsn()").trim().parse().unwrap();
    let early_files = two_phase_files(&original);
    original.sql("postgres", "do $$ begin for i in 1..400 loop perform pg_current_xact_id(); commit; end loop; end $$");
    let next: u64 = original.sql("postgres", "select pg_current_xact_id()").trim().parse().unwrap();
    assert!(next > ERA_7, "{next:x} is in the next era");
    original.script(AFTER);
    let files = two_phase_files(&original);
    let expected = original.everything();
    original.stop();
    let eras = |files: &BTreeMap<_, _>| files.keys().map(|name: &String| name[..8].to_owned()).collect::<Vec<_>>();
    assert_eq!(eras(&early_files), ["00000006"; 3]);
    assert_eq!(eras(&files), ["00000006", "00000007"]);

    let (wal, end) = ingest(&server, &safekeeper, &original).await;
    assert_eq!(server.timeline().head().state.checkpoint.checkpoint.next_xid >> 32, 7);
    server.stop().await;
    let server = Server::start(&folder, &template, &[&safekeeper.address], &SMALL).await;
    let early = last_transaction(&wal, &server, early);
    assert_eq!(two_phase_files_at(&server, early).await, early_files);
    assert_eq!(two_phase_files_at(&server, end).await, files);
    let (rebuilt, said) = rebuild(&server, &stage, end, &wal).await;
    assert_same(&said, &expected);

    // They end as the user wants, whichever era they are of.
    rebuilt.start();
    rebuilt.script("commit prepared 'open'; rollback prepared 'of era 7';");
    let rows = rebuilt.sql("postgres", "select string_agg(id::text, ' ' order by id) from t");
    assert_eq!(rows.trim(), "1 4 5");
    rebuilt.stop();
    server.stop().await;
}
