"""pgxn/: the cached builds of PostgreSQL and what the patch series changes.

PostgreSQL's own suites run by `pgxn/pg selfcheck`; here is what they do not
see. The first test that needs a build makes it, which takes minutes once.
"""

import os
import pwd
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PG = REPO / "pgxn" / "pg"
DEADLINE_S = 60


def pg(*args, check=True, **env):
    done = subprocess.run(
        [str(PG), *map(str, args)],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def wait_until(condition, what):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def built():
    pg("build", "all")
    return {variant: Path(pg("prefix", variant).stdout.strip()) for variant in ("patched", "stock")}


# --- the cache -------------------------------------------------------------


def test_series_applies_without_fuzz():
    pg("check-patches")


def test_repeated_build_is_instant(built, tmp_path):
    # Processor time, which does not depend on what else the machine does.
    def children_s():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    start = children_s()
    pg("build", "all")
    pg("manifest", tmp_path / "pg.json")
    assert children_s() - start < 1.0
    assert built["patched"].name in (tmp_path / "pg.json").read_text()


@pytest.fixture
def other_cache(built, tmp_path):
    """Environment of an empty cache that needs no network."""
    source = next((built["patched"].parents[1] / "src").glob("postgresql-17.*.tar.*"))
    return {"OGEL_CACHE_DIR": str(tmp_path / "cache"), "OGEL_PG_TARBALL": str(source)}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_build_leaves_no_installation(other_cache, how):
    cache = Path(other_cache["OGEL_CACHE_DIR"])
    log = cache / "log" / "build-stock.log"
    building = subprocess.Popen(
        [str(PG), "build", "stock"],
        env={**os.environ, **other_cache},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell ignores SIGINT in background jobs; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        start_new_session=True,
    )
    wait_until(lambda: log.exists() and "checking for" in log.read_text(), "configure runs")
    building.send_signal(how)
    assert building.wait(DEADLINE_S) != 0
    assert list((cache / "pg").iterdir()) == []
    assert "not built" in pg("prefix", "stock", check=False, **other_cache).stderr
    wait_until(lambda: processes_below(cache) == [], "the compile jobs are gone too")
    if how != signal.SIGKILL:
        assert list((cache / "build").iterdir()) == []


def processes_below(folder):
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(proc / "cwd")).is_relative_to(folder):
                found.append(proc.name)
        except OSError:
            pass
    return found


def test_wrong_tarball_is_refused(other_cache, tmp_path):
    damaged = tmp_path / "postgresql-17.tar.bz2"
    content = bytearray(Path(other_cache["OGEL_PG_TARBALL"]).read_bytes())
    content[-1000] ^= 1
    damaged.write_bytes(content)
    refused = pg("fetch", check=False, **{**other_cache, "OGEL_PG_TARBALL": str(damaged)})
    assert refused.returncode != 0
    assert "SHA-256" in refused.stderr or "not a PostgreSQL 17" in refused.stderr
    assert not (Path(other_cache["OGEL_CACHE_DIR"]) / "src" / "current").exists()


def test_template_is_a_cleanly_stopped_cluster(built, tmp_path):
    template = pg("template").stdout.strip()
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", template, "-C", str(data)], check=True)
    control = subprocess.run(
        [str(built["stock"] / "bin" / "pg_controldata"), str(data)], check=True, capture_output=True, text=True
    ).stdout
    values = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in control.splitlines())}
    assert values["Database cluster state"] == "shut down"
    assert values["Data page checksum version"] == "0"
    segments = [p.name for p in (data / "pg_wal").iterdir() if p.is_file()]
    assert segments == [values["Latest checkpoint's REDO WAL file"]]
    # Right behind the segment's 40-byte header.
    assert int(values["Latest checkpoint location"].split("/")[1], 16) % (16 << 20) == 40


# --- the patches -----------------------------------------------------------


class Server:
    """A local cluster, run as the unprivileged user when the tests run as root."""

    def __init__(self, prefix, settings):
        self.bin = prefix / "bin"
        self.home = Path(tempfile.mkdtemp(prefix="pgxn-"))
        self.data = self.home / "data"
        self.user = os.environ.get("OGEL_RUN_USER", "ogel") if os.geteuid() == 0 else None
        self.others = []
        if self.user:
            shutil.chown(self.home, self.user)
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale")
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"listen_addresses = ''\nunix_socket_directories = '{self.home}'\n{settings}\n")
        self.start()

    def command(self, program, *args):
        return [str(self.bin / program), *map(str, args)]

    def popen(self, *command, **kwargs):
        if self.user:
            entry = pwd.getpwnam(self.user)
            kwargs.update(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
        env = {"PGHOST": str(self.home), "PGUSER": "postgres", "PGDATABASE": "postgres", "PATH": os.environ["PATH"]}
        env.update(kwargs.pop("env", {}))
        process = subprocess.Popen(
            command, env=env, cwd=self.home, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, text=True, **kwargs
        )
        self.others.append(process)
        return process

    def run(self, program, *args):
        process = self.popen(*self.command(program, *args), stdout=subprocess.PIPE)
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output
        return output.strip()

    def start(self):
        # pg_ctl's output goes to a file: the postmaster inherits it.
        starting = self.popen(
            *self.command("pg_ctl", "-D", self.data, "-w", "-l", self.home / "log", "start"), stdout=subprocess.DEVNULL
        )
        assert starting.wait(DEADLINE_S) == 0, (self.home / "log").read_text()

    def stop(self, mode):
        self.run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def sql(self, *statements):
        return self.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *(a for s in statements for a in ("-c", s)))

    def session(self, *statements):
        """A client whose statements may block."""
        arguments = [a for s in statements for a in ("-c", s)]
        return self.popen(*self.command("psql", "-XAtq", *arguments), stdout=subprocess.PIPE)

    def destroy(self):
        for process in self.others:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.home)


@pytest.fixture
def plain(built):
    server = Server(built["patched"], "full_page_writes = off\nautovacuum = off\nfsync = off")
    yield server
    server.destroy()


def test_replay_restores_command_ids(plain):
    plain.sql(
        "CREATE EXTENSION pageinspect",
        "CREATE TABLE t (a int)",
        "CHECKPOINT",
        "BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2), (3); UPDATE t SET a = 4 WHERE a = 1; COMMIT",
    )
    ids = "SELECT string_agg(t_field3::text, ' ' ORDER BY lp) FROM heap_page_items(get_raw_page('t', 0))"
    before = plain.sql(ids)
    plain.stop("immediate")
    plain.start()
    assert plain.sql(ids) == before
    # Tuple 1 was inserted and updated by one transaction: a combo command id.
    assert before.split() == ["0", "1", "1", "2"]


def test_page_that_becomes_all_visible_gets_a_new_lsn(plain):
    plain.sql("CREATE EXTENSION pageinspect", "CREATE TABLE t AS SELECT 1 AS a")
    page = "SELECT lsn, flags & 4 FROM page_header(get_raw_page('t', 0))"
    lsn, all_visible = plain.sql(page).split("|")
    assert all_visible == "0"
    plain.sql("VACUUM (DISABLE_PAGE_SKIPPING, FREEZE FALSE) t")
    new_lsn, all_visible = plain.sql(page).split("|")
    assert all_visible == "4"
    assert new_lsn != lsn


QUORUM_SETTINGS = """
shared_preload_libraries = '{module}'
synchronous_standby_names = 'quorum'
synchronous_commit = local
wal_level = logical
wal_sender_timeout = 0
autovacuum = off
fsync = off
"""


class QuorumServer(Server):
    """A server with quorum_commit; pg_receivewal plays the quorum."""

    def receive(self, slot, name):
        folder = self.home / name
        folder.mkdir()
        if self.user:
            shutil.chown(folder, self.user)
        return self.popen(
            *self.command("pg_receivewal", "-D", folder, "--synchronous", "--no-loop", "-S", slot),
            env={"PGAPPNAME": "quorum"},
            stdout=subprocess.DEVNULL,
        )

    def count(self, condition):
        return int(self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {condition}"))

    def wait_for_waiters(self, number):
        wait_until(lambda: self.count("wait_event = 'SyncRep'") == number, f"{number} commits wait")


@pytest.fixture
def quorum(built, tmp_path_factory):
    work = tmp_path_factory.mktemp("quorum_switch")
    shutil.copytree(REPO / "pgxn" / "modules" / "quorum_switch", work, dirs_exist_ok=True)
    config = built["patched"] / "bin" / "pg_config"
    subprocess.run(["make", "-s", "-C", str(work), f"PG_CONFIG={config}"], check=True, capture_output=True)
    library = Path(tempfile.mkdtemp(prefix="pgxn-lib-"))
    library.chmod(0o755)
    shutil.copy(work / "quorum_switch.so", library)
    server = QuorumServer(built["patched"], QUORUM_SETTINGS.format(module=library / "quorum_switch"))
    server.sql("SELECT pg_create_physical_replication_slot('quorum', true)")
    server.sql("SELECT pg_create_physical_replication_slot('other', true)")
    yield server
    server.destroy()
    shutil.rmtree(library)


def test_only_the_quorum_ends_a_commit_wait(quorum):
    # From the first moment on, at synchronous_commit = local, with nobody attached.
    commit = quorum.session("CREATE TABLE t (a int)")
    dropped = quorum.session("CREATE TABLE dropped (a int)")
    quorum.wait_for_waiters(2)
    quorum.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE t %'")
    quorum.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE dropped%'")
    assert quorum.count("wait_event = 'SyncRep'") == 2
    assert quorum.sql("SELECT count(*) FROM pg_class WHERE relname IN ('t', 'dropped')") == "0"
    quorum.receive("quorum", "true")
    output, _ = commit.communicate(timeout=DEADLINE_S)
    assert (commit.returncode, output) == (0, "")
    dropped.communicate(timeout=DEADLINE_S)
    assert quorum.sql("SELECT count(*) FROM pg_class WHERE relname IN ('t', 'dropped')") == "2"


def test_a_standby_cannot_pose_as_the_quorum(quorum):
    receiver = quorum.receive("quorum", "true")
    quorum.sql("CREATE TABLE t (a int)")
    receiver.send_signal(signal.SIGSTOP)
    commit = quorum.session("INSERT INTO t VALUES (1)")
    quorum.wait_for_waiters(1)
    # The right name, and it confirms all that it gets; but another slot.
    quorum.receive("other", "impostor")
    others = "SELECT sync_state FROM pg_stat_replication r JOIN pg_replication_slots ON active_pid = pid WHERE slot_name = 'other'"
    wait_until(lambda: quorum.sql(others) != "", "the impostor is attached")
    assert quorum.sql(others) == "async"
    assert quorum.count("wait_event = 'SyncRep'") == 1
    # It got nothing that the quorum does not have.
    ahead = "SELECT count(*) FROM pg_stat_replication WHERE sent_lsn > pg_current_wal_flush_lsn() AND sync_state = 'async'"
    assert quorum.sql(ahead) == "0"
    receiver.send_signal(signal.SIGCONT)
    output, _ = commit.communicate(timeout=DEADLINE_S)
    assert (commit.returncode, output) == (0, "")


def test_two_phase_waits_although_commits_are_asynchronous(quorum):
    receiver = quorum.receive("quorum", "true")
    quorum.sql("CREATE TABLE t (a int)", "ALTER SYSTEM SET synchronous_commit = off")
    quorum.sql("ALTER SYSTEM SET max_prepared_transactions = 2")
    quorum.stop("fast")
    receiver.wait(DEADLINE_S)
    quorum.start()
    quorum.sql("INSERT INTO t VALUES (1)")
    prepare = quorum.session("BEGIN", "INSERT INTO t VALUES (2)", "PREPARE TRANSACTION 'x'")
    quorum.wait_for_waiters(1)
    quorum.receive("quorum", "again")
    output, _ = prepare.communicate(timeout=DEADLINE_S)
    assert output == ""


def test_wal_readers_see_only_what_the_quorum_has(quorum):
    receiver = quorum.receive("quorum", "true")
    quorum.sql("CREATE TABLE t (a int)", "SELECT pg_create_logical_replication_slot('logical', 'test_decoding')")
    receiver.send_signal(signal.SIGSTOP)
    commit = quorum.session("INSERT INTO t VALUES (7)")
    quorum.wait_for_waiters(1)
    changes = "SELECT count(*) FROM pg_logical_slot_peek_changes('logical', NULL, NULL) WHERE data LIKE '%INSERT%'"
    assert quorum.sql(changes) == "0"
    flushed = "SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()"
    assert quorum.sql(flushed) == "t"
    # A streaming subscriber is woken when the quorum answers, not by a timer.
    subscriber = quorum.popen(
        *quorum.command("pg_recvlogical", "-S", "logical", "--start", "--no-loop", "-f", "-", "-d", "postgres"),
        stdout=subprocess.PIPE,
    )
    wait_until(lambda: quorum.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'logical'") == "t", "it streams")
    receiver.send_signal(signal.SIGCONT)
    commit.communicate(timeout=DEADLINE_S)
    lines = iter(subscriber.stdout.readline, "")
    assert any("INSERT: a[integer]:7" in line for line in lines)


def test_immediate_stop_ends_the_wait(quorum):
    commit = quorum.session("CREATE TABLE t (a int)")
    quorum.wait_for_waiters(1)
    quorum.stop("immediate")
    output, _ = commit.communicate(timeout=DEADLINE_S)
    assert commit.returncode != 0, output
