//! PostgreSQL's settings: those that safety rests on, those of this life, and the user's.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use anyhow::{Context, bail, ensure};
use ogel_ids::{Lsn, TenantId, Term, TimelineId};

use super::slot_file::SLOT_NAME;
use crate::config::{Auth, SqlListen};

/// Given on the command line, where neither a file nor `ALTER SYSTEM` overrides them (hazard H9). Each with what would be
/// lost without it.
const SAFETY: &[(&str, &str)] = &[
    // The folder is disposable: nothing in it needs to survive, durability is the quorum's.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("wal_init_zero", "off"),
    ("wal_recycle", "off"),
    ("wal_log_hints", "off"),
    // A commit is acknowledged only when the quorum has it.
    ("synchronous_commit", "on"),
    // WAL that the quorum lacks must not be removed, nor the connection that carries it be cut by a timer (H17).
    (SLOT_WAL_KEEP, "-1"),
    ("wal_sender_timeout", "0"),
    // After a crash of one backend, caches of what storage knows would vanish and stale pages be served (H9).
    ("restart_after_crash", "off"),
    // A second copy of the WAL is the safekeepers' affair.
    ("archive_mode", "off"),
    // The supervisor owns standard error.
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
];

/// For the users' slots, at each start: Postgres itself would apply it to the supervisor's slot as well.
const SLOT_WAL_KEEP: &str = "max_slot_wal_keep_size";

/// Set from the supervisor's own settings.
const OWN: &[&str] = &[
    "synchronous_standby_names",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "unix_socket_permissions",
    "dynamic_library_path",
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "external_pid_file",
    "primary_conninfo",
    "restore_command",
    "recovery_target_timeline",
    "ogel.page_server",
    "ogel.tenant",
    "ogel.timeline",
    "ogel.term",
    "ogel.start_lsn",
];

/// Defaults of the file; the user's settings override them.
const DEFAULTS: &[(&str, &str)] = &[
    ("wal_level", "replica"),
    ("max_connections", "100"),
    ("shared_buffers", "128MB"),
    ("wal_buffers", "16MB"),
    // A checkpoint is only needed to let local WAL go: storage has the pages already.
    ("checkpoint_timeout", "1d"),
    ("max_wal_size", "2GB"),
    ("min_wal_size", "80MB"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    // Without a local disk below, more requests in flight are what makes scans fast.
    ("effective_io_concurrency", "64"),
    ("maintenance_io_concurrency", "64"),
    // The file that ALTER SYSTEM writes would be gone at the next start: an error is better than a setting that forgets itself.
    ("allow_alter_system", "off"),
    ("autovacuum", "on"),
    ("datestyle", "iso, mdy"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("default_text_search_config", "pg_catalog.english"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
];

/// What defaults depend on.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Containers often have 64 MB of `/dev/shm`, which one parallel query can exhaust.
    pub shared_memory_is_small: bool,
    /// Of the disk that the data folder is on.
    pub free_disk_bytes: u64,
}

impl Machine {
    /// Of the local file cache: it is what the whole memory's page cache is to a stock server, so a fixed small one would be a surprise.
    /// A tenth of what is free leaves room for other branches' computes and their temporary files.
    fn file_cache_mb(self) -> u64 {
        ((self.free_disk_bytes / 10) >> 20).clamp(64, 4096)
    }
}

/// What differs from life to life.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct LifeSettings<'a> {
    pub tenant: TenantId,
    pub timeline: TimelineId,
    pub term: Term,
    /// Start of the term: where this compute's own WAL begins.
    pub start_lsn: Lsn,
    pub sql_listen: &'a SqlListen,
    pub socket_dir: &'a Path,
    /// Searched for the extension before PostgreSQL's own library folder.
    pub ext_dir: Option<&'a Path>,
    pub user: &'a BTreeMap<String, String>,
}

/// Reads `NAME=VALUE` texts and refuses what may not be changed.
pub fn parse_user_settings(texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    for text in texts.iter().filter(|text| !text.trim().is_empty()) {
        let (name, value) = text
            .split_once('=')
            .with_context(|| format!("OGEL_PG_SETTING (--pg-setting) {text:?} is not NAME=VALUE"))?;
        let name = name.trim().to_ascii_lowercase();
        let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
        ensure!(
            !name.is_empty() && name.chars().all(usable),
            "OGEL_PG_SETTING (--pg-setting) {name:?} is not the name of a PostgreSQL setting"
        );
        ensure!(
            !value.contains(['\n', '\r', '\0']),
            "OGEL_PG_SETTING (--pg-setting) {name} has a line break in its value"
        );
        if name == SLOT_WAL_KEEP {
            parse_slot_wal_keep(value)?;
            settings.insert(name, value.trim().to_owned());
            continue;
        }
        let reserved = SAFETY.iter().any(|(safety, _)| *safety == name) || OWN.contains(&name.as_str());
        if reserved {
            bail!(
                "OGEL_PG_SETTING (--pg-setting) {name} is refused: the safety of the data or the way clients find this compute rests on it; leave it out"
            );
        }
        if name == "wal_level" {
            ensure!(
                ["replica", "logical"].contains(&value.trim()),
                "OGEL_PG_SETTING (--pg-setting) wal_level={value}: the quorum needs replica or logical"
            );
        }
        settings.insert(name, value.trim().to_owned());
    }
    Ok(settings)
}

/// `max_slot_wal_keep_size` as the user wants it; `None` is unlimited.
pub fn slot_wal_keep_bytes(user: &BTreeMap<String, String>) -> anyhow::Result<Option<u64>> {
    user.get(SLOT_WAL_KEEP).map_or(Ok(None), |value| parse_slot_wal_keep(value))
}

/// As PostgreSQL reads it: whole numbers of MB, or of the unit behind them; -1 is unlimited.
fn parse_slot_wal_keep(value: &str) -> anyhow::Result<Option<u64>> {
    let value = value.trim();
    let (number, unit) = value.split_at(value.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(value.len()));
    let shift = match unit {
        "kB" => Some(10),
        "" | "MB" => Some(20),
        "GB" => Some(30),
        "TB" => Some(40),
        _ => None,
    };
    if value == "-1" {
        return Ok(None);
    }
    let bytes = shift.and_then(|shift| number.trim().parse::<u64>().ok()?.checked_mul(1 << shift));
    bytes.map(Some).with_context(|| {
        format!("OGEL_PG_SETTING (--pg-setting) {SLOT_WAL_KEEP}={value}: give a whole number with kB, MB, GB or TB, or -1 for no limit")
    })
}

/// The arguments of `postgres` behind `-D`.
pub fn command_line(life: &LifeSettings<'_>) -> anyhow::Result<Vec<String>> {
    let mut settings: Vec<(String, String)> =
        SAFETY.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let mut set = |name: &str, value: String| settings.push((name.to_owned(), value));
    set("synchronous_standby_names", format!("FIRST 1 ({SLOT_NAME})"));
    set("listen_addresses", listen_addresses(life.sql_listen));
    set("port", life.sql_listen.port.to_string());
    set("unix_socket_directories", life.socket_dir.to_str().context("the data folder's name is not UTF-8")?.to_owned());
    set("unix_socket_permissions", "0700".into());
    let preloaded = life.user.get("shared_preload_libraries").map(String::as_str).unwrap_or_default();
    set("shared_preload_libraries", if preloaded.is_empty() { "ogel".into() } else { format!("ogel,{preloaded}") });
    if let Some(folder) = life.ext_dir {
        set(
            "dynamic_library_path",
            format!("{}:$libdir", folder.to_str().context("OGEL_EXT_DIR (--ext-dir) is not UTF-8")?),
        );
    }
    set("ogel.tenant", life.tenant.to_string());
    set("ogel.timeline", life.timeline.to_string());
    set("ogel.term", life.term.to_string());
    set("ogel.start_lsn", life.start_lsn.to_string());
    Ok(settings.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect())
}

/// Postgres binds each family by itself, and takes a host without a port.
fn listen_addresses(listen: &SqlListen) -> String {
    let everywhere = listen.addresses.iter().any(|a| a.ip().is_unspecified() && a.is_ipv6());
    if everywhere {
        return "*".into();
    }
    listen.addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(",")
}

/// `postgresql.conf`. `pageserver` (`host:port`) stands here and not on the command line so that a tenant can move.
pub fn postgresql_conf(user: &BTreeMap<String, String>, pageserver: &str, machine: Machine) -> String {
    let file_cache = format!("{}MB", machine.file_cache_mb());
    let mut settings: BTreeMap<&str, &str> = DEFAULTS.iter().copied().collect();
    settings.insert("ogel.page_server", pageserver);
    settings.insert("ogel.file_cache_size", &file_cache);
    settings.insert("dynamic_shared_memory_type", if machine.shared_memory_is_small { "mmap" } else { "posix" });
    for (name, value) in
        user.iter().filter(|(name, _)| !["shared_preload_libraries", SLOT_WAL_KEEP].contains(&name.as_str()))
    {
        settings.insert(name, value);
    }
    let mut text =
        String::from("# Written anew at each start by the compute supervisor: change settings with --pg-setting.\n");
    for (name, value) in settings {
        let quoted = value.replace('\\', "\\\\").replace('\'', "''");
        writeln!(text, "{name} = '{quoted}'").expect("writing to a string cannot fail");
    }
    text
}

/// `pg_hba.conf`: the unix socket lies in a folder that only the supervisor and Postgres can enter.
pub fn pg_hba_conf(auth: Auth) -> String {
    let method = auth.hba_method();
    format!(
        "# Written anew at each start by the compute supervisor.\n\
         local all         all     trust\n\
         local replication all     trust\n\
         host  all         all all {method}\n\
         host  replication all all {method}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { shared_memory_is_small: true, free_disk_bytes: 100 << 30 };

    #[test]
    fn safety_cannot_be_set() {
        for text in [
            "fsync=on",
            "FSYNC = on",
            "synchronous_standby_names=",
            "ogel.term=9",
            "wal_level=minimal",
            "x",
            "a b=1",
            "work_mem=1\nfsync=on",
        ] {
            assert!(parse_user_settings(&[text.into()]).is_err(), "{text:?}");
        }
        let good = parse_user_settings(&["work_mem=64MB".into(), "wal_level=logical".into()]).expect("harmless");
        assert_eq!(good["work_mem"], "64MB");
    }

    #[test]
    fn the_limit_of_slots_is_not_for_the_supervisors() {
        let keep = |value: &str| {
            let user = parse_user_settings(&[format!("max_slot_wal_keep_size={value}")])?;
            assert!(!postgresql_conf(&user, "ps:6400", MACHINE).contains("max_slot_wal_keep_size"));
            slot_wal_keep_bytes(&user)
        };
        for (value, bytes) in
            [("-1", None), ("0", Some(0)), ("10", Some(10 << 20)), ("3GB", Some(3 << 30)), ("64 kB", Some(64 << 10))]
        {
            assert_eq!(keep(value).expect(value), bytes);
        }
        for bad in ["", "x", "-2", "1.5GB", "10mb", "99999999999999999999", "99999999999TB"] {
            assert!(keep(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_quoted() {
        let user = parse_user_settings(&[r"application_name=it's \ here".into()]).expect("harmless");
        assert!(postgresql_conf(&user, "ps:6400", MACHINE).contains("application_name = 'it''s \\\\ here'\n"));
    }

    #[test]
    fn the_file_cache_is_a_tenth_of_the_free_disk_within_bounds() {
        let conf = |user: &[String], gb: u64| {
            let user = parse_user_settings(user).expect("harmless");
            postgresql_conf(&user, "ps:6400", Machine { free_disk_bytes: gb << 30, ..MACHINE })
        };
        for (gb, size) in [(0, 64), (10, 1024), (5000, 4096)] {
            let conf = conf(&[], gb);
            assert!(conf.contains(&format!("ogel.file_cache_size = '{size}MB'\n")), "{conf}");
        }
        assert!(conf(&["ogel.file_cache_size=7MB".into()], 10).contains("ogel.file_cache_size = '7MB'\n"));
    }

    #[test]
    fn preloaded_libraries_start_with_ours() {
        let listen = SqlListen { addresses: vec!["[::]:5432".parse().expect("an address")], port: 5432 };
        let user = parse_user_settings(&["shared_preload_libraries=pg_stat_statements".into()]).expect("harmless");
        let life = LifeSettings {
            tenant: TenantId::from_bytes([1; 16]),
            timeline: TimelineId::from_bytes([2; 16]),
            term: Term(7),
            start_lsn: Lsn(0x28),
            sql_listen: &listen,
            socket_dir: Path::new("/s"),
            ext_dir: Some(Path::new("/ext")),
            user: &user,
        };
        let line = command_line(&life).expect("good settings").join(" ");
        for part in [
            "shared_preload_libraries=ogel,pg_stat_statements",
            "listen_addresses=*",
            "dynamic_library_path=/ext:$libdir",
            "fsync=off",
            "ogel.term=7",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
