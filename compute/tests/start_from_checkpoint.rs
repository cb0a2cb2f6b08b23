//! A start checkpoint, the slot file, the settings and the process against a real PostgreSQL 17.

use std::{fs, os::unix::fs::FileExt, path::Path, process::Command, time::Duration};

use anyhow::{Context, ensure};
use compute::{
    basebackup::Manifest,
    config::{Auth, SqlListen},
    local_wal::LocalWal,
    postgres::{
        postmaster::{Postmaster, PostmasterSpec},
        run_user::RunUser,
        settings::{self, LifeSettings, Machine},
        slot_file,
    },
    start_checkpoint,
};
use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use ogel_pgwire::{Address, Client, ConnectOptions};
use wal_decoder::control_file::ControlFile;

/// Length of a shutdown checkpoint record.
const CHECKPOINT_RECORD_BYTES: u64 = 120;

fn run_as(owner: RunUser, program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/");
    if let RunUser::Other { uid, gid } = owner {
        command.uid(uid).gid(gid);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn postgres_starts_without_redo_and_keeps_wal_for_the_slot() -> anyhow::Result<()> {
    let Some(prefix) = ogel_test_postgres::stock() else { return Ok(()) };
    let owner = RunUser::find("ogel")?;
    let folder = tempfile::tempdir_in("/tmp")?;
    owner.own(folder.path())?;
    let pgdata = folder.path().canonicalize()?.join("pgdata");
    let data_argument = format!("--pgdata={}", pgdata.display());
    run_as(owner, &prefix.join("bin/initdb"), &[&data_argument, "--username=postgres", "--no-sync", "--no-locale"])?;

    // What a basebackup brings: a control file, no WAL but what the quorum has, no configuration.
    let control_path = pgdata.join("global/pg_control");
    let old = ControlFile::parse(&fs::read(&control_path)?)?;
    let segment_size = u64::from(old.wal_segment_size);
    let end = Lsn(old.checkpoint.0 + CHECKPOINT_RECORD_BYTES);
    let name = end.segment_file_name(segment_size);
    let mut prefix_wal = vec![0; usize::try_from(end.segment_offset(segment_size))?];
    fs::File::open(pgdata.join("pg_wal").join(&name))?.read_exact_at(&mut prefix_wal, 0)?;
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::remove_file(pgdata.join(file))?;
    }
    fs::remove_file(pgdata.join("pg_wal").join(&name))?;

    let id = [7; 16];
    let manifest = Manifest {
        version: 1,
        tenant: TenantId::from_bytes(id),
        timeline: TimelineId::from_bytes(id),
        lsn: end,
        prev_record_lsn: old.checkpoint,
        clean_shutdown: false,
        system_identifier: old.system_identifier,
        wal_segment_size: segment_size,
        pg_version_num: 170_011,
    };
    let plan = start_checkpoint::plan(&manifest, &fs::read(&control_path)?, 1_800_000_000)?;
    assert_eq!((plan.checkpoint_lsn, plan.end_lsn), (end, Lsn(end.0 + CHECKPOINT_RECORD_BYTES)));
    let local = LocalWal::new(folder.path().join("wal"), segment_size, owner)?;
    local.write(end.segment_start(segment_size), &prefix_wal)?;
    local.write(end, &plan.append)?;
    local.install(&pgdata.join("pg_wal"))?;
    fs::write(&control_path, &plan.control_file)?;
    owner.write_file(&pgdata.join("pg_hba.conf"), settings::pg_hba_conf(Auth::Trust).as_bytes())?;
    owner.write_file(&pgdata.join("pg_ident.conf"), b"")?;
    let user = settings::parse_user_settings(&["shared_buffers=1MB".into()])?;
    let machine = Machine { shared_memory_is_small: true, free_disk_bytes: 1 << 30 };
    let conf = settings::postgresql_conf(&user, "nowhere:1", machine);
    owner.write_file(&pgdata.join("postgresql.conf"), conf.as_bytes())?;
    owner.create_dir(&pgdata.join("pg_replslot/ogel"))?;
    owner.write_file(&pgdata.join("pg_replslot/ogel/state"), &slot_file::encode(plan.checkpoint_lsn))?;

    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let sql_listen = SqlListen { addresses: vec![format!("127.0.0.1:{port}").parse()?], port };
    let mut arguments = settings::command_line(&LifeSettings {
        tenant: manifest.tenant,
        timeline: manifest.timeline,
        term: Term(3),
        start_lsn: end,
        sql_listen: &sql_listen,
        socket_dir: &folder.path().canonicalize()?,
        ext_dir: None,
        user: &user,
    })?;
    // Stock Postgres does not have the extension; nobody confirms commits here.
    arguments.extend(["-c", "shared_preload_libraries=", "-c", "synchronous_standby_names="].map(String::from));
    let log_path = folder.path().join("log");
    let mut postmaster = Postmaster::spawn(PostmasterSpec {
        pg_prefix: &prefix,
        pgdata: &pgdata,
        arguments: &arguments,
        token: None,
        run_user: owner,
        log: fs::File::create(&log_path)?,
    })?;
    let ready = postmaster.wait_ready(Duration::from_secs(60)).await;
    ready.with_context(|| fs::read_to_string(&log_path).unwrap_or_default())?;

    let socket = folder.path().join(format!(".s.PGSQL.{port}"));
    let options =
        ConnectOptions::new(Address::Unix(socket)).parameter("user", "postgres").parameter("database", "postgres");
    let mut client = Client::connect(&options).await?;
    client.simple_query("CREATE TABLE kept AS SELECT 1 AS x").await?;
    let slots =
        client.simple_query("SELECT slot_name, slot_type, restart_lsn, wal_status FROM pg_replication_slots").await?;
    let row: Vec<_> = slots.rows[0].iter().flatten().map(String::as_str).collect();
    assert_eq!(row, ["ogel", "physical", &plan.checkpoint_lsn.to_string(), "reserved"]);
    let safety = client.simple_query("SHOW restart_after_crash").await?;
    assert_eq!(safety.value(0, "restart_after_crash"), Some("off"));
    let log = fs::read_to_string(&log_path)?;
    assert!(!log.contains("redo starts"), "{log}");

    postmaster.stop_immediately().await?;
    assert!(compute::postgres::processes::in_folder(&pgdata).is_empty(), "nothing of it runs on");
    Ok(())
}
