//! Stock PostgreSQL on a fresh cluster of a timeline's, and on one that was rebuilt from the pageserver.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use ogel_ids::Lsn;
use pageserver::timeline::Timeline;
use wal_decoder::{
    key::{PAGE_SIZE, RelFork},
    stream::StreamDecoder,
};

use super::{SEGMENT, Server, TENANT, TIMELINE};

/// Folders and programs of a test.
pub struct Stage {
    folder: tempfile::TempDir,
    bin: PathBuf,
}

impl Stage {
    /// `None`, with a printed reason, where PostgreSQL is not built.
    pub fn set() -> Option<Stage> {
        let bin = ogel_test_postgres::stock()?.join("bin");
        let folder = tempfile::Builder::new().prefix("ogel-stock").tempdir_in("/tmp").unwrap();
        run(Command::new("chmod").args(["755", folder.path().to_str().unwrap()]));
        let socket = folder.path().join("s");
        std::fs::create_dir(&socket).unwrap();
        run(Command::new("chmod").args(["777", socket.to_str().unwrap()]));
        Some(Stage { folder, bin })
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// An empty data directory of that name.
    pub fn postgres(&self, name: &str) -> Postgres {
        let data = self.root().join(name);
        let _ = std::fs::remove_dir_all(&data);
        std::fs::create_dir(&data).unwrap();
        Postgres { bin: self.bin.clone(), data, socket: self.root().join("s") }
    }

    /// What is in an archive.
    pub fn unpacked(&self, name: &str, template: &str) -> Postgres {
        let postgres = self.postgres(name);
        run(Command::new("tar").args(["--zstd", "-xf", template, "-C", postgres.data.to_str().unwrap()]));
        postgres
    }

    /// The cluster from which a timeline was made, with the timeline's identifier.
    pub fn original(&self, template: &str, timeline: &Timeline) -> Postgres {
        let original = self.unpacked("original", template);
        let segment = original.data.join("pg_wal").join(timeline.start_lsn.segment_file_name(u64::from(SEGMENT)));
        let mut wal = std::fs::read(&segment).unwrap();
        let prefix = timeline.wal_prefix().unwrap();
        wal[..prefix.len()].copy_from_slice(&prefix);
        std::fs::write(&segment, wal).unwrap();
        std::fs::write(original.data.join("global/pg_control"), timeline.original_control_file().unwrap()).unwrap();
        original
    }
}

/// A data directory, and the PostgreSQL that runs there.
pub struct Postgres {
    bin: PathBuf,
    pub data: PathBuf,
    socket: PathBuf,
}

impl Postgres {
    /// Runs a program of PostgreSQL's, as the unprivileged user when this is root.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "ogel", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let output = command.args(arguments).current_dir("/").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let log = std::fs::read_to_string(self.data.join("log")).unwrap_or_default();
        assert!(
            output.status.success(),
            "{arguments:?}: {text}{}\nserver log:\n{log}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    pub fn start(&self) {
        give_away(&self.data);
        let settings = "-c fsync=off -c listen_addresses= -c max_prepared_transactions=10 -c wal_keep_size=4GB \
                        -c max_wal_size=4GB -c shared_buffers=16MB";
        let options = format!("{settings} -k {}", self.socket.display());
        let (data, log) = (self.data.to_str().unwrap(), self.data.join("log"));
        self.run("pg_ctl", &["-D", data, "-w", "-l", log.to_str().unwrap(), "-o", &options, "start"]);
    }

    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", self.data.to_str().unwrap(), "-m", "fast", "-w", "stop"]);
    }

    pub fn sql(&self, database: &str, text: &str) -> String {
        let host = self.socket.to_str().unwrap();
        self.run(
            "psql",
            &["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", host, "-U", "postgres", "-d", database, "-c", text],
        )
    }

    pub fn script(&self, text: &str) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            // One line is one connection, so that what is written stays in the order of the script.
            let statements: Vec<&str> = line.split_inclusive(';').collect();
            let host = self.socket.to_str().unwrap();
            let mut arguments =
                vec!["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", host, "-U", "postgres", "-d", "postgres"];
            for statement in &statements {
                arguments.extend(["-c", statement.trim()]);
            }
            self.run("psql", &arguments);
        }
    }

    /// What a user can see: the dump of all databases, a table by its index, prepared transactions. Sizes are left out: PostgreSQL
    /// extends by many blocks at once without WAL, so that a rebuilt cluster is smaller, as after a crash of its own.
    pub fn everything(&self) -> String {
        let host = self.socket.to_str().unwrap();
        let dump = self.run("pg_dumpall", &["-h", host, "-U", "postgres", "--no-sync", "--no-unlogged-table-data"]);
        // The dump begins and ends with a random key.
        let dump: Vec<&str> =
            dump.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")).collect();
        let by_index = self.sql(
            "postgres",
            "set enable_seqscan = off; set enable_bitmapscan = off; \
             select count(*), sum(n) from (select n from t where n > -1 order by n) s",
        );
        let prepared = self.sql("postgres", "select gid, transaction from pg_prepared_xacts order by gid");
        format!("{}\n{by_index}{prepared}", dump.join("\n"))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            let program = self.bin.join("pg_ctl");
            let mut command = Command::new(if is_root() { Path::new("runuser") } else { &program });
            if is_root() {
                command.args(["-u", "ogel", "--"]).arg(&program);
            }
            let _ = command.args(["-D", self.data.to_str().unwrap(), "-m", "immediate", "stop"]).output();
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

fn give_away(folder: &Path) {
    if is_root() {
        run(Command::new("chown").args(["-R", "ogel:", folder.to_str().unwrap()]));
    }
    run(Command::new("chmod").args(["-R", "u=rwX,go=", folder.to_str().unwrap()]));
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The WAL of a stopped cluster from `start` to the end of its last record.
pub fn wal_behind(data: &Path, start: Lsn, system_identifier: u64) -> Vec<u8> {
    let segment_size = u64::from(SEGMENT);
    let mut at = start.segment_start(segment_size);
    let mut bytes = Vec::new();
    while let Ok(segment) = std::fs::read(data.join("pg_wal").join(at.segment_file_name(segment_size))) {
        bytes.extend(segment);
        at = Lsn(at.0 + segment_size);
    }
    bytes.drain(..start.segment_offset(segment_size) as usize);
    let mut decoder = StreamDecoder::new(start, SEGMENT, Some(system_identifier)).unwrap();
    decoder.feed(Bytes::from(bytes.clone()));
    while let Ok(Some(_)) = decoder.next_record() {}
    bytes.truncate((decoder.last_good_end().0 - start.0) as usize);
    bytes
}

/// The archive that a compute gets.
pub async fn basebackup(server: &Server, at: Lsn) -> Vec<u8> {
    let mut copy = server.client().await.copy_out(&format!("basebackup 1 {TENANT} {TIMELINE} {at} 1")).await.unwrap();
    let mut tar = Vec::new();
    while let Some(piece) = copy.receive().await.unwrap() {
        tar.extend_from_slice(&piece);
    }
    tar
}

/// A stopped data directory from the basebackup and all relations, and what PostgreSQL says when it runs there.
pub async fn rebuild(server: &Server, stage: &Stage, end: Lsn, wal: &[u8]) -> (Postgres, String) {
    let postgres = stage.postgres("rebuilt");
    let data = postgres.data.clone();
    tar::Archive::new(&basebackup(server, end).await[..]).unpack(&data).unwrap();
    let mut client = server.pagestream(1).await;
    let relations = all_relations(server, end);
    assert!(relations.len() > 800, "{} relation forks", relations.len());
    for (rel, blocks) in relations {
        let count = client.block_count(rel, (Lsn::MAX, end)).await;
        assert_eq!(count.rest[..], blocks.to_be_bytes());
        let mut content = Vec::new();
        let numbers: Vec<u32> = (0..blocks).collect();
        for chunk in numbers.chunks(128) {
            let answer = client.pages(rel, chunk, (Lsn::MAX, end)).await;
            assert_eq!(answer.tag, 103, "{rel:?} {chunk:?}: {}", String::from_utf8_lossy(&answer.rest[1..]));
            assert_eq!(answer.rest.len(), 2 + chunk.len() * PAGE_SIZE);
            content.extend_from_slice(&answer.rest[2..]);
        }
        let parent = if rel.rel.db == 0 { data.join("global") } else { data.join(format!("base/{}", rel.rel.db)) };
        std::fs::write(parent.join(format!("{}{}", rel.rel.rel, rel.fork.file_suffix())), content).unwrap();
    }
    // The segments that hold the checkpoint: real WAL from the start of the timeline.
    let timeline = server.timeline();
    let mut all = timeline.wal_prefix().unwrap();
    all.extend_from_slice(wal);
    let first = timeline.start_lsn.segment_start(u64::from(SEGMENT));
    for (number, segment) in all.chunks(SEGMENT as usize).enumerate() {
        let mut segment = segment.to_vec();
        segment.resize(SEGMENT as usize, 0);
        let at = Lsn(first.0 + number as u64 * u64::from(SEGMENT));
        std::fs::write(data.join("pg_wal").join(at.segment_file_name(u64::from(SEGMENT))), segment).unwrap();
    }
    std::fs::write(data.join("postgresql.conf"), "").unwrap();
    std::fs::write(data.join("pg_hba.conf"), "local all all trust\n").unwrap();
    std::fs::write(data.join("pg_ident.conf"), "").unwrap();
    postgres.start();
    let said = postgres.everything();
    postgres.stop();
    (postgres, said)
}

fn all_relations(server: &Server, at: Lsn) -> Vec<(RelFork, u32)> {
    use pageserver::{keyspace::KeyRange, layer::Io};
    let sizes = server.timeline().scan(KeyRange::all_rel_sizes(), at, Io::MayBlock).unwrap();
    sizes
        .iter()
        .map(|(key, value)| (key.as_rel_size().unwrap(), u32::from_be_bytes(value[..].try_into().unwrap())))
        .collect()
}
