"""A pageserver that falls behind slows writers down, within a bound, and everybody can see who waits for whom."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster import Cluster, wait_until

LIMIT_MB = 24
LAG = "SELECT pageserver_lag_bytes, writers_slowed, waits_for FROM ogel.lsn"


@pytest.fixture
def small_limit(make_cluster) -> Cluster:
    # Catalog pages stay in memory: who looks must not need the pageserver.
    cluster = make_cluster(shared_buffers="64MB", **{"ogel.max_apply_lag": f"{LIMIT_MB}MB", "ogel.file_cache_size": "0"}).up()
    cluster.sql("CREATE EXTENSION ogel")
    return cluster


def test_a_stopped_pageserver_stops_writers_within_the_bound(small_limit: Cluster):
    """First by extending a table, then by WAL that no page is written for."""
    cluster = small_limit
    cluster.sql("CREATE TABLE big (i int, filler text)")
    watcher = cluster.connect()
    watcher.execute("SET statement_timeout = '20s'")
    watcher.execute(LAG)

    def extend() -> None:
        with cluster.connect() as connection:
            connection.execute("INSERT INTO big SELECT i, repeat('x', 1000) FROM generate_series(1, 120000) i")

    def emit() -> None:
        with cluster.connect() as connection:
            for _ in range(1200):
                connection.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 100000))")

    def written() -> int:
        return watcher.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()[0]

    for work in (extend, emit):
        wait_until(lambda: watcher.execute(LAG).fetchone()[0] < 1 << 20, "nothing is behind")
        before = written()
        lags: list[int] = []
        with ThreadPoolExecutor() as pool:
            running = pool.submit(work)
            wait_until(lambda: written() > before + (2 << 20), "it writes")
            try:
                cluster.chaos("stop", "pageserver")
                seen = wait_until(lambda: (row := watcher.execute(LAG).fetchone())[1] > 0 and row[0] > LIMIT_MB << 20 and row, "writers wait", 60)
                assert "writers are slowed down for the pageserver" in seen[2], seen
                status = cluster.node("compute-main")["detail"]
                assert "the pageserver" in status["waits_for"], status
                assert "waits_for the pageserver" in cluster.run("status").stdout
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    lags.append(watcher.execute(LAG).fetchone()[0])
                    time.sleep(0.05)
                assert not running.done()
            finally:
                cluster.chaos("resume", "pageserver")
            running.result(120)
        assert max(lags) < (LIMIT_MB + 10) << 20, f"{work.__name__}: lag {max(lags) >> 20} MB of {LIMIT_MB}"
    assert cluster.sql("SELECT count(*), sum(i) FROM big") == [(120000, 120000 * 120001 // 2)]
    wait_until(lambda: watcher.execute("SELECT waits_for FROM ogel.lsn").fetchone()[0] == "", "nobody waits", 60)


def test_a_slow_pageserver_slows_smoothly(small_limit: Cluster):
    """Half of the time the pageserver stands still: a bulk load goes on at its pace, and small commits beside it go through."""
    cluster = small_limit
    cluster.sql("CREATE TABLE big (i int, filler text); CREATE TABLE small (i int)")
    cluster.sql("INSERT INTO small VALUES (0)")
    pid = cluster.node("pageserver")["process"]["pid"]
    over = threading.Event()

    def brake() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.05)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)

    def load() -> None:
        with cluster.connect() as connection:
            for part in range(60):
                connection.execute("INSERT INTO big SELECT i, repeat('x', 1000) FROM generate_series(1, 2500) i")

    commits: list[float] = []
    lags: list[int] = []
    with ThreadPoolExecutor() as pool, cluster.connect() as writer:
        braking, loading = pool.submit(brake), pool.submit(load)
        try:
            while not loading.done():
                began = time.monotonic()
                writer.execute("INSERT INTO small VALUES (1)")
                commits.append(time.monotonic() - began)
                lags.append(writer.execute(LAG).fetchone()[0])
                time.sleep(0.02)
        finally:
            over.set()
        loading.result(1)
        braking.result(5)
    assert max(lags) < (LIMIT_MB + 10) << 20, f"lag {max(lags) >> 20} MB"
    commits.sort()
    assert commits[len(commits) // 2] < 0.5, f"half of the small commits took over {commits[len(commits) // 2]:.2f} s"
    assert cluster.sql("SELECT count(*) FROM big") == [(150000,)]
    paused = cluster.sql("SELECT waits, total_ms, max_ms FROM ogel.waits WHERE wait_event = 'OgelBackpressure'")[0]
    print("pauses", paused, "lag", max(lags) >> 20, "MB, small commit median", commits[len(commits) // 2])
