"""Which of PostgreSQL's TAP test files run on our compute.

All files of the source are accounted for: those that are not named here run. `LEFT_OUT` has a reason for each of the others, and
`DIFFERS` the single checks that differ in files that run; docs/compatibility.md has the same list in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

# Files whose subject a compute does not have, by pattern. The first that fits counts.
LEFT_OUT: list[tuple[str, str]] = [
    # (pattern, reason)
    *((f"recovery/{number}_*", "physical standbys made with pg_basebackup") for number in (
        "001", "003", "004", "005", "007", "008", "009", "010", "012", "015", "016", "019", "021", "025", "027", "028", "030", "031", "032",
        "035", "040", "041", "043", "048", "053", "054", "055")),
    ("contrib/amcheck/005_pitr", "physical standbys made with pg_basebackup"),
    ("contrib/bloom/001_wal", "physical standbys made with pg_basebackup"),
    ("modules/brin/02_wal_consistency", "physical standbys made with pg_basebackup"),
    ("modules/commit_ts/00[23]_*", "physical standbys made with pg_basebackup"),
    *((f"recovery/{number}_*", "archiving, and recovery from an archive or a backup") for number in ("002", "020", "023", "024", "026", "042", "045")),
    ("bin/pg_basebackup/0[124]0_*", "copies of the data folder"),
    ("bin/pg_basebackup/011_*", "copies of the data folder"),
    ("bin/pg_verifybackup/*", "copies of the data folder"),
    ("bin/pg_combinebackup/*", "copies of the data folder"),
    ("bin/pg_walsummary/*", "copies of the data folder"),
    ("contrib/basebackup_to_shell/*", "copies of the data folder"),
    ("bin/initdb/*", "offline tools for a data folder"),
    ("bin/pg_archivecleanup/*", "offline tools for a data folder"),
    ("bin/pg_checksums/*", "offline tools for a data folder"),
    ("bin/pg_controldata/*", "offline tools for a data folder"),
    ("bin/pg_ctl/*", "offline tools for a data folder"),
    ("bin/pg_resetwal/*", "offline tools for a data folder"),
    ("bin/pg_rewind/*", "offline tools for a data folder"),
    ("bin/pg_upgrade/*", "offline tools for a data folder"),
    ("modules/test_misc/008_replslot_single_user", "offline tools for a data folder"),
    ("recovery/017_shm", "offline tools for a data folder"),
    ("contrib/amcheck/001_verify_heapam", "files of relations, damaged or looked at by the test"),
    ("bin/pg_amcheck/00[34]_*", "files of relations, damaged or looked at by the test"),
    ("recovery/014_unlogged_reinit", "files of relations, damaged or looked at by the test"),
    ("recovery/018_wal_optimize", "files of relations, damaged or looked at by the test"),
    ("recovery/039_end_of_wal", "files of pg_wal, written by the test"),
    ("bin/pg_waldump/002_save_fullpage", "files of pg_wal, written by the test"),
    ("modules/test_misc/002_tablespace", "tablespaces"),
    ("recovery/033_replay_tsp_drops", "tablespaces"),
    ("modules/test_custom_rmgrs/*", "custom WAL resource managers"),
    ("modules/test_misc/00[57]_*", "injection points, which are not built"),
    ("recovery/046_*", "injection points, which are not built"),
    ("recovery/047_*", "injection points, which are not built"),
    ("kerberos/*", "GSSAPI, LDAP and SSPI, which are not built"),
    ("ldap/*", "GSSAPI, LDAP and SSPI, which are not built"),
    ("modules/ldap_password_func/*", "GSSAPI, LDAP and SSPI, which are not built"),
    ("ssl/*", "files of the data folder that say who may connect, and certificates"),
    ("modules/ssl_passphrase_callback/*", "files of the data folder that say who may connect, and certificates"),
    ("authentication/004_*", "files of the data folder that say who may connect, and certificates"),
    ("authentication/005_*", "GSSAPI, LDAP and SSPI, which are not built"),
    ("libpq/005_negotiate_encryption", "files of the data folder that say who may connect, and certificates"),
    ("libpq/00[124]_*", "no server"),
    ("bin/pg_config/*", "no server"),
    ("bin/pg_test_fsync/*", "no server"),
    ("bin/pg_test_timing/*", "no server"),
    ("tools/pg_bsd_indent/*", "no server"),
    ("modules/test_cloexec/*", "no server"),
    ("modules/test_json_parser/*", "no server"),
]

# The supervisor's slot, a physical one, is not one of the test's.
EVERYWHERE = [(r"(?i)(select\s+count\(\*\)(?: = \d+)?\s+from\s+pg_replication_slots)(?=\s*[;'\")])", r"\1 WHERE plugin IS NOT NULL")]

# What is cut out of a file, because all that follows would end there: file → (pattern, what stands there instead).
CUT: dict[str, list[tuple[str, str]]] = {
    # autoprewarm.blocks, which goes with the data folder.
    "contrib/pg_prewarm/001_basic": [(r"# restart, to verify that auto prewarm.*?(?=done_testing)", "")],
    # pg_replslot/regression_slot3, which the test removes while the server is down.
    "contrib/test_decoding/001_repl_stats": [
        (r"my \$slot3_replslotdir.*?;", ""), (r"rmtree\(\$slot3_replslotdir\);", ""), (r"\$node->append_conf\('postgresql.conf', 'max_replication_slots = 2'\);", ""),
        (r"(?<=regression_slot2\|t\|t)(?=\),\n\t'check replication statistics after)", "\nregression_slot3|t|t"),
        (r"# Make sure that the node is correctly shut down.*?(?=\$bpgsql->quit)", ""),
    ],
    # New clusters have the locale C.UTF-8, which goes with one encoding only.
    "modules/test_escape/001_test_escape": [(r"TEMPLATE template0;", "TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C';")],
    # Tablespaces; the WAL of a server that is down (with archiving, a stop ends the segment).
    "bin/pg_waldump/001_basic": [
        (r"my \$tblspc_path.*?(?=my \(\$end_lsn)", ""), (r"\$node->stop;(?=\s*# various ways)", "$node->safe_psql('postgres', 'SELECT pg_switch_wal(); CREATE TABLE t3 ()');"),
    ],
    "bin/pg_dump/002_pg_dump": [(r"\t'CREATE TABLESPACE regress_dump_tablespace' => \{.*?\n\t\},\n", "")],
    "bin/pgbench/001_pgbench_with_server": [
        (r"\$node->safe_psql\('postgres',\s*\"CREATE TABLESPACE[^;]*;\"\);", ""),
        (r" --tablespace=\w+ --index-tablespace=\w+", ""),
        (r"\$node->safe_psql\('postgres', 'DROP TABLESPACE[^;]*;", ""),
    ],
    "bin/scripts/090_reindexdb": [(r"\$node->safe_psql\('postgres',\s*\"CREATE TABLESPACE[^;]*;\"\);", "")],
    # The folder of temporary files is a new one after a crash.
    "recovery/022_crash_temp_files": [(r"pg_ls_dir\(\$\$base/pgsql_tmp\$\$\)", "pg_ls_dir($$base/pgsql_tmp$$, true, false)")],
    # pgstat.stat, which the test copies, overwrites and damages.
    "recovery/029_stats_restart": [(r"# backup stats files\n.*?(?=## checks related to stats persistency)", "$node->start;\n")],
}

SAVED = "a stop logs statistics and slots before its checkpoint, which they therefore do not count"
LOCALE = "new clusters have the built-in locale C.UTF-8"
TABLESPACES = "tablespaces are refused"
# File → checks → why they differ.
DIFFERS: dict[str, dict[str, str]] = {
    "bin/pg_dump/010_dump_connstr": {"no dump errors": "the role postgres is there already"},
    "bin/scripts/020_createdb": {
        "create database with ICU fails without ICU locale specified": LOCALE,
        'create database with provider "builtin" fails without --locale': LOCALE,
    },
    "bin/scripts/090_reindexdb": {
        "reindexdb -t test1 --tablespace reindex_tbspace postgres exit code 0": TABLESPACES,
        "reindexdb -v -t test1 --tablespace reindex_tbspace postgres exit code 0": TABLESPACES,
        "reindexdb --concurrently -v -t test1 --tablespace reindex_tbspace postgres exit code 0": TABLESPACES,
        "reindex toast table with tablespace stderr /(?^:cannot move system relation)/": TABLESPACES,
        "reindex toast table concurrently with tablespace stderr /(?^:cannot move system relation)/": TABLESPACES,
        "reindex toast index with tablespace stderr /(?^:cannot move system relation)/": TABLESPACES,
        "reindex toast index concurrently with tablespace stderr /(?^:cannot move system relation)/": TABLESPACES,
    },
    "recovery/022_crash_temp_files": {"one temporary file": "a crash leaves nothing of the data folder"},
    "recovery/029_stats_restart": {
        "post restart: increased checkpoint count": SAVED,
        "post restart: increased wal record count": SAVED,
        "post restart: increased wal bytes": SAVED,
        "post ckpt reset & restart: increased wal record count": SAVED,
        "post ckpt reset & restart: increased wal bytes": SAVED,
        "post immediate restart: reset timestamp is new": "pgstat.stat is not thrown away by a crash: statistics are those of the last save",
    },
    "recovery/038_save_logical_slots_shutdown": {"Check that the slot's confirmed_flush LSN is the same as the latest_checkpoint location": SAVED},
}

# Where a clean stop is the subject (stock, too, has older statistics and positions of slots after a crash), and what takes long: not with --kill.
STOPPED = ("contrib/pg_stat_statements/010", "contrib/test_decoding/001", "recovery/006", "recovery/029", "modules/xid_wraparound/")
# Whose clients come over unix sockets.
SOCKETS = ("authentication/", "subscription/027_nosuperuser")
# Seconds that a file may take.
LIMIT_S = 300
LONGER = {"bin/pg_dump/002_pg_dump": 900, **{f"modules/xid_wraparound/{name}": 900 for name in ("001_emergency_vacuum", "002_limits", "003_wraparounds")}}


@dataclass(frozen=True)
class TestFile:
    """`path` is below the source, as `folder` is."""

    name: str
    folder: Path
    path: Path
    left_out: str | None
    differs: tuple[str, ...]
    limit_s: int


def test_files(source: Path) -> list[TestFile]:
    """All of them, in order of their names."""
    files = []
    for path in sorted(source.glob("**/t/*.pl")):
        folder = path.parent.parent.relative_to(source)
        short = str(folder).removeprefix("src/").removeprefix("test/").removeprefix("interfaces/")
        name = f"{short}/{path.stem}"
        reason = next((reason for pattern, reason in LEFT_OUT if fnmatch(name, pattern)), None)
        files.append(TestFile(name, folder, path, reason, tuple(DIFFERS.get(name, ())), LONGER.get(name, LIMIT_S)))
    unknown = {name for name in [*CUT, *DIFFERS, *LONGER]} - {file.name for file in files}
    assert not unknown, f"no such test files: {unknown}"
    return files


def chosen(names: list[str], files: list[TestFile], all_of_them: bool) -> list[TestFile]:
    """Those whose names begin with one of `names`; what is left out only when it is asked for by its full number."""
    fits = [file for file in files if not names or any(file.name.startswith(name) for name in names)]
    return [file for file in fits if all_of_them or not file.left_out]
