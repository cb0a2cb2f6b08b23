"""State that is neither a table page nor in PostgreSQL's own WAL comes back with the next compute, as after a restart of stock PostgreSQL."""

import os
import subprocess
import threading
from typing import Callable, Iterator

import psycopg
import pytest

from cluster import Cluster, wait_until
from twin.servers import Stock

HOWS = ("stop", "kill")


def restart(cluster: Cluster, how: str) -> None:
    cluster.ogel("compute", how, "main")
    cluster.ogel("compute", "start", "main")


def wal_position(cluster: Cluster) -> str:
    return cluster.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0]


def wait_for_save(cluster: Cluster, since: str) -> None:
    """Until the statistics of a moment after `since` are in the WAL; free space is saved right behind them, so it takes two."""
    cluster.sql("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
    query = "SELECT count(*) FROM pg_get_wal_records_info(%s, pg_current_wal_flush_lsn()) WHERE resource_manager = 'LogicalMessage' AND record_length > 500"

    def saved() -> bool:
        cluster.sql("INSERT INTO tick DEFAULT VALUES")
        return cluster.sql(query, since)[0][0] >= 2

    cluster.sql("CREATE TABLE IF NOT EXISTS tick (at timestamptz DEFAULT now())")
    wait_until(saved, "statistics and free space are saved")


def test_sequences_go_on_after_a_stop(cluster: Cluster):
    """Without gaps after a stop, as stock; after a kill with a gap of at most the 32 values that its WAL claims in advance, as stock after a crash."""
    cluster.sql("CREATE SEQUENCE resident; CREATE SEQUENCE evicted INCREMENT 5; CREATE TABLE filler AS SELECT repeat('x', 700) FROM generate_series(1, 20000)")
    for _ in range(7):
        cluster.sql("SELECT nextval('evicted')")
    cluster.sql("SELECT count(*) FROM filler")  # 20 times shared_buffers
    cluster.sql("CHECKPOINT")
    for _ in range(4):
        cluster.sql("SELECT nextval('resident')")
    restart(cluster, "stop")
    assert cluster.sql("SELECT last_value, is_called FROM evicted") == [(31, True)]
    assert cluster.sql("SELECT last_value, is_called FROM resident") == [(4, True)]
    assert cluster.sql("SELECT nextval('evicted'), nextval('resident')") == [(36, 5)]
    restart(cluster, "kill")
    evicted, resident = cluster.sql("SELECT nextval('evicted'), nextval('resident')")[0]
    assert 36 < evicted <= 36 + 33 * 5 and 5 < resident <= 5 + 33, "never a value twice"
    restart(cluster, "stop")
    assert cluster.sql("SELECT nextval('evicted'), nextval('resident')") == [(evicted + 5, resident + 1)]


def test_what_a_checkpoint_logged_can_be_read_at_once(cluster: Cluster):
    cluster.sql("CREATE EXTENSION pg_walinspect")
    with cluster.connect() as connection:
        for _ in range(50):
            connection.execute("CHECKPOINT")
            at = connection.execute("SELECT redo_lsn FROM pg_control_checkpoint()").fetchone()[0]
            found = connection.execute("SELECT record_type FROM pg_get_wal_record_info(%s)", (at,)).fetchone()
            assert found == ("CHECKPOINT_REDO",)


@pytest.mark.parametrize("how", HOWS)
def test_free_space_is_known_after_a_start(make_cluster: Callable[..., Cluster], how: str):
    """A table half emptied by delete and vacuum takes new rows without growing."""
    cluster = make_cluster(shared_buffers="1MB", **{"ogel.file_cache_size": "0", "ogel.state_save_interval": "1s"}).up()
    cluster.sql("CREATE TABLE t (id int, pad text) WITH (autovacuum_enabled = off)")
    cluster.sql("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 40000) i")
    cluster.sql("DELETE FROM t WHERE id % 2 = 0")
    since = wal_position(cluster)
    cluster.sql("VACUUM t")
    size = cluster.sql("SELECT pg_relation_size('t')")
    if how == "kill":
        wait_for_save(cluster, since)
    restart(cluster, how)
    cluster.sql("INSERT INTO t SELECT i, repeat('y', 200) FROM generate_series(1, 19000) i")
    assert cluster.sql("SELECT pg_relation_size('t')") == size
    cluster.sql("DROP TABLE t")
    restart(cluster, how)


@pytest.mark.parametrize("how", HOWS)
def test_statistics_are_kept(make_cluster: Callable[..., Cluster], how: str):
    """Autovacuum goes on where it was: it goes by n_dead_tup. After a kill they are those of the last save."""
    cluster = make_cluster(autovacuum="off", shared_preload_libraries="pg_stat_statements", **{"ogel.state_save_interval": "1s"}).up()
    with cluster.connect() as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 3000) AS a")
        connection.execute("DELETE FROM t WHERE a <= 1000")
        connection.execute("SELECT count(*) AS remarkable FROM t")
        connection.execute("SELECT pg_stat_force_next_flush()")
    query = "SELECT n_dead_tup, n_tup_ins, n_tup_del, seq_scan > 0 FROM pg_stat_user_tables WHERE relname = 't'"
    before = cluster.sql(query)
    assert before[0][:3] == (1000, 3000, 1000)
    if how == "kill":
        wait_for_save(cluster, wal_position(cluster))
    restart(cluster, how)
    assert cluster.sql(query) == before
    if how == "stop":  # stock, too, writes the file of pg_stat_statements only when it is stopped
        remarkable = "SELECT calls FROM pg_stat_statements WHERE query LIKE '%remarkable%' AND query NOT LIKE '%pg_stat_statements%'"
        assert cluster.sql(remarkable) == [(1,)]
        assert cluster.sql("SELECT calls > 0 FROM pg_stat_statements WHERE query LIKE 'CREATE TABLE t AS%'") == [(True,)]
        assert cluster.sql("SELECT stats_reset < pg_postmaster_start_time() FROM pg_stat_statements_info") == [(True,)]


def test_the_supervisors_queries_are_not_among_the_users(make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch):
    """One of them contains the password of the superuser, which whoever may read statistics must not see."""
    monkeypatch.setenv("OGEL_PASSWORD", "remarkable")
    cluster = make_cluster(shared_preload_libraries="pg_stat_statements").up()
    cluster.sql("CREATE EXTENSION pg_stat_statements")
    assert cluster.sql("SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL") == [("postgres",)]
    assert cluster.sql("SELECT query FROM pg_stat_statements WHERE query ~ 'remarkable|AND rolpassword IS NULL' AND query !~ 'pg_stat_statements'") == []


def test_autovacuum_takes_up_what_an_earlier_compute_left(make_cluster: Callable[..., Cluster]):
    cluster = make_cluster(autovacuum="off").up()
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 3000) AS a")
    cluster.sql("DELETE FROM t")
    cluster.ogel("down")
    cluster.settings.update(autovacuum="on", autovacuum_naptime="1s")
    cluster.up()
    wait_until(lambda: cluster.sql("SELECT autovacuum_count > 0 FROM pg_stat_user_tables WHERE relname = 't'") == [(True,)], "autovacuum comes")


def test_slots_and_positions(make_cluster: Callable[..., Cluster]):
    """A slot is there once its maker has the answer, gone once its dropper has, and goes on where its consumer was."""
    cluster = make_cluster(wal_level="logical", shared_buffers="1MB").up()
    cluster.sql("CREATE TABLE t (a int)")
    cluster.sql("SELECT pg_create_logical_replication_slot('s', 'test_decoding'), pg_create_physical_replication_slot('p', true)")
    cluster.sql("SELECT pg_create_logical_replication_slot('gone', 'test_decoding')")
    cluster.sql("SELECT pg_drop_replication_slot('gone')")
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    names = "SELECT slot_name, slot_type, database, plugin FROM pg_replication_slots WHERE slot_name <> 'ogel' ORDER BY 1"
    assert cluster.sql(names) == [("p", "physical", None, None), ("s", "logical", "postgres", "test_decoding")]

    def changes(function: str = "get") -> list[str]:
        rows = cluster.sql(f"SELECT data FROM pg_logical_slot_{function}_changes('s', NULL, NULL, 'include-xids', '0', 'skip-empty-xacts', '1')")
        return [row[0].split("[integer]:")[1] for row in rows if "INSERT" in row[0]]

    cluster.sql("INSERT INTO t VALUES (1), (2)")
    restart(cluster, "stop")
    cluster.sql("INSERT INTO t VALUES (3)")
    assert changes() == ["1", "2", "3"], "from before and after the stop, nothing of ours among them"
    restart(cluster, "stop")
    assert changes() == [], "a stop saves how far the consumer is"
    cluster.sql("INSERT INTO t VALUES (4)")
    restart(cluster, "kill")
    cluster.sql("INSERT INTO t VALUES (5)")
    assert changes()[-2:] == ["4", "5"], "after a kill, as after a crash of stock, a consumer may get again what it had"
    cluster.sql("SELECT pg_drop_replication_slot('s'), pg_drop_replication_slot('p')")
    restart(cluster, "kill")
    assert cluster.sql(names) == []


SLOTS = "SELECT slot_name, wal_status, invalidation_reason FROM pg_replication_slots WHERE slot_name <> 'ogel' ORDER BY 1"


def leave_a_slot_behind(cluster: Cluster) -> None:
    """Nobody reads the slot `left` while 80 MB are written; `read` is where the WAL ends."""
    cluster.sql("CREATE TABLE t (a int)")
    cluster.sql("SELECT pg_create_logical_replication_slot('left', 'test_decoding')")
    cluster.sql("SELECT count(pg_logical_emit_message(false, 'filler', repeat('x', 1000000))) FROM generate_series(1, 80)")
    cluster.sql("SELECT pg_create_logical_replication_slot('read', 'test_decoding')")
    cluster.sql("INSERT INTO t VALUES (1)")


def check_that_one_is_lost(cluster: Cluster, why: str) -> None:
    """As on stock; the other goes on, and so does the server."""
    assert cluster.sql(SLOTS) == [("left", "lost", "wal_removed"), ("read", "reserved", None)]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="can no longer get changes"):
        cluster.sql("SELECT * FROM pg_logical_slot_get_changes('left', NULL, NULL)")
    line = next(line for line in cluster.log("compute-main").splitlines() if "is lost" in line)
    for part in ("left", why, "bytes (7", "pg_drop_replication_slot"):
        assert part in line, line
    pg_wal = next((cluster.dir / "compute-main").rglob("pg_wal"))
    assert sum(path.stat().st_size for path in pg_wal.glob("0*")) <= 64 << 20, "its WAL was not fetched"
    cluster.sql("INSERT INTO t VALUES (2)")
    changes = " ".join(row[0] for row in cluster.sql("SELECT data FROM pg_logical_slot_get_changes('read', NULL, NULL)"))
    assert "a[integer]:1" in changes and "a[integer]:2" in changes


def test_a_slot_too_far_behind_is_lost(make_cluster: Callable[..., Cluster]):
    cluster = make_cluster(wal_level="logical").up()
    leave_a_slot_behind(cluster)
    cluster.ogel("down")
    cluster.settings["max_slot_wal_keep_size"] = "32MB"
    cluster.up()
    check_that_one_is_lost(cluster, "max_slot_wal_keep_size allows 32 MiB")
    # The rows of catalogs that it would need may be gone: it stays lost, whatever is allowed later.
    cluster.ogel("down")
    del cluster.settings["max_slot_wal_keep_size"]
    cluster.up()
    assert cluster.sql(SLOTS)[0] == ("left", "lost", "wal_removed")
    cluster.sql("SELECT pg_drop_replication_slot('left')")


def test_a_slot_whose_wal_does_not_fit_on_the_disk_is_lost(make_cluster: Callable[..., Cluster]):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    caches = {"ogel.file_cache_size": "0", "ogel.file_cache_max_size": "0"}
    cluster = make_cluster(wal_level="logical", **caches).up()
    leave_a_slot_behind(cluster)
    cluster.ogel("down")
    folder = cluster.dir / "compute-main"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=176m,mode=755", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        cluster.up()
        check_that_one_is_lost(cluster, "does not fit on the disk")
    finally:
        cluster.run("down", "--immediate")
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_slot_starts_over_amid_running_transactions(make_cluster: Callable[..., Cluster]):
    """The serialized snapshot comes back: without it what commits before a quiet moment would be skipped. So do the maps of a catalog rewritten since."""
    cluster = make_cluster(wal_level="logical").up()
    cluster.sql("CREATE TABLE t (a int); CREATE TABLE other (a int)")
    cluster.sql("SELECT pg_create_logical_replication_slot('s', 'test_decoding')")
    take = "SELECT data FROM pg_logical_slot_get_changes('s', NULL, NULL, 'include-xids', '0', 'skip-empty-xacts', '1')"
    restart_lsn = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 's'"
    first = cluster.sql(restart_lsn)
    overlapping: list[psycopg.Connection] = []

    def moved() -> bool:
        """A running-xacts record with a transaction in it, at which a snapshot is serialized; the slot follows once that transaction is over."""
        overlapping.append(cluster.connect(autocommit=False))
        overlapping[-1].execute("INSERT INTO other VALUES (10)")
        if len(overlapping) > 2:
            overlapping.pop(0).rollback()
        cluster.sql("SELECT pg_log_standby_snapshot()")
        cluster.sql(take)
        return cluster.sql(restart_lsn) != first

    wait_until(moved, "the slot's restart_lsn moves")
    cluster.sql("BEGIN; ALTER TABLE t ADD b int DEFAULT 7; INSERT INTO t VALUES (20); COMMIT")
    cluster.sql("VACUUM FULL pg_class")
    cluster.sql("INSERT INTO t VALUES (21)")
    restart(cluster, "kill")
    cluster.sql("INSERT INTO t VALUES (22)")
    got = " ".join(row[0] for row in cluster.sql(take))
    assert "using saved snapshot" in (cluster.dir / "compute-main" / "postgres.log").read_text().split("ready to accept connections")[-1]
    for row in ("a[integer]:20 b[integer]:7", "a[integer]:21 b[integer]:7", "a[integer]:22 b[integer]:7"):
        assert row in got, got
    assert "a[integer]:10" not in got, "the compute died before it committed"


@pytest.fixture
def stock() -> Iterator[Stock]:
    server = Stock()
    try:
        with (server.data / "postgresql.conf").open("a") as conf:
            conf.write("wal_level = logical\nwal_retrieve_retry_interval = 100\nshared_buffers = 16MB\n")
        server.stop("restart")
        server.start()
        yield server
    finally:
        server.remove()


class Inserter:
    """Inserts numbers, one commit each, through whatever happens to its server."""

    def __init__(self, connect: Callable[[], psycopg.Connection]):
        self.acknowledged: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(connect,), daemon=True)
        self._thread.start()

    def _run(self, connect: Callable[[], psycopg.Connection]) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with connect() as connection:
                    while not self._stop.is_set():
                        number += 1
                        connection.execute("INSERT INTO t VALUES (%s, nextval('positions'))", (number,))
                        self.acknowledged.append(number)
            except psycopg.Error:
                self._stop.wait(0.05)

    def more(self) -> None:
        before = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) > before + 100, "inserts go on")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_a_stock_subscriber_misses_nothing_and_gets_nothing_twice(make_cluster: Callable[..., Cluster], stock: Stock):
    cluster = make_cluster(wal_level="logical", shared_buffers="1MB").up()
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY, position bigint); CREATE SEQUENCE positions; CREATE PUBLICATION pub FOR TABLE t")
    there = psycopg.connect(stock.conninfo("postgres"), autocommit=True)
    # No unique index: a change that came twice would be there twice.
    there.execute("CREATE TABLE t (id int, position bigint)")
    port = cluster.config()["branches"][0]["sql_port"]
    there.execute(f"CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port={port} user=postgres dbname=postgres' PUBLICATION pub")
    writer = Inserter(cluster.connect)
    for how in ("kill", "stop", "kill", "stop"):
        writer.more()
        restart(cluster, how)
    writer.more()
    writer.stop()
    ours = cluster.sql("SELECT id, position FROM t ORDER BY id")
    assert set(writer.acknowledged) <= {row[0] for row in ours}
    theirs = lambda: there.execute("SELECT id, position FROM t ORDER BY id").fetchall()  # noqa: E731
    wait_until(lambda: len(theirs()) >= len(ours), "the subscriber has all rows", timeout_s=90)
    assert theirs() == ours
    there.execute("DROP SUBSCRIPTION sub")
    assert cluster.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'sub'") == [(0,)]


def test_our_subscriber_misses_nothing_and_gets_nothing_twice(make_cluster: Callable[..., Cluster], stock: Stock):
    cluster = make_cluster(shared_buffers="1MB", wal_retrieve_retry_interval="100ms").up()
    with psycopg.connect(stock.conninfo("postgres"), autocommit=True) as there:
        there.execute("CREATE TABLE t (id int PRIMARY KEY, position bigint); CREATE SEQUENCE positions; CREATE PUBLICATION pub FOR TABLE t")
    cluster.sql("CREATE TABLE t (id int, position bigint)")
    with cluster.connect() as connection:
        connection.execute(f"CREATE SUBSCRIPTION sub CONNECTION 'host={stock.data} user=postgres dbname=postgres' PUBLICATION pub")
    writer = Inserter(lambda: psycopg.connect(stock.conninfo("postgres"), autocommit=True))
    # The worker of the first copy drops its slot at the publisher before it commits, without waiting, that it is done (tablesync.c): a
    # crash between the two leaves it without a slot for ever, on stock as here. So the first kill comes when that commit is durable.
    wait_until(lambda: cluster.sql("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")[0][0], "the first copy is done")
    cluster.sql("CREATE TABLE durable ()")
    for how in ("kill", "stop", "kill"):
        before = cluster.sql("SELECT count(*) FROM t")[0][0]
        wait_until(lambda: cluster.sql("SELECT count(*) FROM t")[0][0] > before + 50, "changes arrive")
        restart(cluster, how)
    writer.more()
    writer.stop()
    with psycopg.connect(stock.conninfo("postgres"), autocommit=True) as there:
        theirs = there.execute("SELECT id, position FROM t ORDER BY id").fetchall()
    ours = lambda: cluster.sql("SELECT id, position FROM t ORDER BY id, position")  # noqa: E731
    wait_until(lambda: len(ours()) >= len(theirs), "our subscriber has all rows", timeout_s=90)
    assert ours() == theirs


def test_a_branch_has_its_parents_statistics_and_not_its_slots(make_cluster: Callable[..., Cluster]):
    cluster = make_cluster(wal_level="logical").up()
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a")
    cluster.sql("SELECT pg_create_logical_replication_slot('s', 'test_decoding')")
    restart(cluster, "stop")
    cluster.ogel("branch", "create", "other")
    cluster.ogel("compute", "start", "other")
    assert cluster.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 's'", branch="other") == [(0,)]
    assert cluster.sql("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 't'", branch="other") == [(100,)]
    assert cluster.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 's'") == [(1,)]
