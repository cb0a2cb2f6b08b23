"""What a compute says of its storage, in SQL."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cluster import Cluster, lsn, wait_until

VIEWS = ("page_requests", "page_request_latency", "file_cache", "prefetch", "waiting", "waits", "processes", "safekeepers", "lsn")


def row(cluster: Cluster, view: str, where: str = "true") -> dict:
    return cluster.sql(f"SELECT to_jsonb(v) FROM ogel.{view} v WHERE {where}")[0][0]


@pytest.fixture
def watched(cluster: Cluster) -> Cluster:
    cluster.sql("CREATE EXTENSION ogel")
    return cluster


def test_views_are_there_for_everybody(watched: Cluster):
    """CREATE EXTENSION is all it takes, also for the owner of a database who is no superuser."""
    watched.sql("CREATE ROLE owner LOGIN")
    watched.sql("CREATE DATABASE d OWNER owner")
    url = watched.url().replace("/postgres", "/d") + "?user=owner"
    with psycopg.connect(url, user="owner", dbname="d", autocommit=True) as connection:
        connection.execute("CREATE EXTENSION ogel")
        for view in VIEWS:
            connection.execute(f"SELECT * FROM ogel.{view}").fetchall()
        assert connection.execute("SELECT count(*) FROM ogel.page_requests WHERE kind = 'page read' AND requests > 0").fetchone() == (1,)


def test_page_requests_add_up(watched: Cluster):
    watched.sql("CREATE TABLE t AS SELECT i, repeat('x', 500) AS filler FROM generate_series(1, 30000) i")
    before = {kind: row(watched, "page_requests", f"kind = '{kind}'") for kind in ("page read", "prefetch", "relation size")}
    ahead = row(watched, "prefetch")
    with watched.connect() as connection:
        pid = connection.info.backend_pid
        connection.execute("SET max_parallel_workers_per_gather = 0")
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (30000,)
        own = connection.execute("SELECT to_jsonb(p) FROM ogel.processes p WHERE pid = %s", (pid,)).fetchone()[0]
    blocks = watched.sql("SELECT pg_relation_size('t') / 8192")[0][0]
    assert own["pages"] >= blocks * 0.9 and own["prefetched"] > blocks * 0.8, (own, blocks)
    after = {kind: row(watched, "page_requests", f"kind = '{kind}'") for kind in before}
    assert after["prefetch"]["pages"] - before["prefetch"]["pages"] >= own["prefetched"]
    reads = after["page read"]
    assert 0 < reads["p50_ms"] <= reads["p99_ms"] and reads["max_ms"] * 2 >= reads["p99_ms"], reads
    assert reads["unanswered"] == 0, reads
    then = row(watched, "prefetch")
    assert then["used"] - ahead["used"] > blocks * 0.8
    assert then["issued"] == then["used"] + then["stale"] + then["unused"] + then["failed"] + then["held"]
    assert then["held"] == 0, "the sessions are gone, nothing is held"
    answers = watched.sql("SELECT sum(answers) FROM ogel.page_request_latency WHERE kind = 'page read'")[0][0]
    assert answers >= reads["requests"]


def test_explain_shows_remote_reads(watched: Cluster):
    watched.sql("CREATE TABLE t AS SELECT i, repeat('x', 500) AS filler FROM generate_series(1, 30000) i")
    watched.sql("ANALYZE t")
    blocks = watched.sql("SELECT pg_relation_size('t') / 8192")[0][0]
    for workers in (0, 2):
        with watched.connect() as connection:
            connection.execute("SET track_io_timing = on")
            connection.execute(f"SET max_parallel_workers_per_gather = {workers}")
            connection.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
            plan = [line for (line,) in connection.execute("EXPLAIN (ANALYZE, BUFFERS) SELECT count(*) FROM t")]
        text = "\n".join(plan)
        assert ("Workers Launched" in text) == (workers > 0), text
        assert "Buffers: shared" in text and "I/O Timings: shared read=" in text, text
        line = next(line for line in plan if line.startswith("Storage Buffers:"))
        fields = dict(part.split("=") for part in line.replace("file cache", "file_cache").split()[2:-1])
        assert int(fields["remote"]) >= blocks * 0.9 and int(fields["prefetched"]) > blocks * 0.5, text
        # Processes of a parallel scan of a small table take single blocks in turn: how many go together depends on who runs when.
        assert 0 < int(fields["requests"]) < blocks / (2 if workers else 4), text
    with watched.connect() as connection:
        plan = connection.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT count(*) FROM t").fetchone()[0]
    assert plan[0]["Plan"]["Shared Read Blocks"] > 0 and set(plan[0]) == {"Plan", "Planning", "Planning Time", "Triggers", "Execution Time"}


def test_the_wal_step_by_step(watched: Cluster):
    watched.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")

    def settled():
        seen = row(watched, "lsn")
        return seen if seen["quorum_lag_bytes"] == seen["pageserver_lag_bytes"] == 0 else None
    seen = wait_until(settled, "everything is ingested")
    assert lsn(seen["insert_lsn"]) >= lsn(seen["write_lsn"]) >= lsn(seen["quorum_lsn"]) >= lsn(seen["pageserver_last_record_lsn"])
    assert seen["waits_for"] == "" and seen["commits_waiting"] == 0

    def reported():
        seen = row(watched, "lsn")
        positions = [seen[f"pageserver_{name}_lsn"] for name in ("last_record", "disk_consistent", "remote_consistent")]
        return positions if all(positions) else None
    last, disk, remote = map(lsn, wait_until(reported, "the supervisor has reported"))
    assert last >= disk >= remote > 0
    nodes = wait_until(lambda: watched.sql("SELECT node_id, lag_bytes FROM ogel.safekeepers WHERE lag_bytes = 0 ORDER BY 1"), "the safekeepers are known")
    assert [node for node, _ in nodes] == [1, 2, 3]


def test_who_waits_for_whom(make_cluster):
    # The catalog stays in memory, so that somebody can look while storage is away; the table does not fit.
    cluster = make_cluster(shared_buffers="16MB", **{"ogel.file_cache_size": "0"}).up()
    cluster.sql("CREATE EXTENSION ogel")
    cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 900) AS filler FROM generate_series(1, 30000) i")
    watcher, reader, writer = cluster.connect(), cluster.connect(), cluster.connect()

    def watch(query: str):
        return watcher.execute(query).fetchall()

    look = "SELECT wait_event, waits_for FROM ogel.waiting WHERE pid = {}"
    said = "SELECT waits_for FROM ogel.lsn"
    watch(look.format(0)), watch(said)
    watcher.execute("SET statement_timeout = '20s'")
    reader.execute("SELECT count(*) FROM t")
    writer.execute("INSERT INTO t VALUES (-1)")
    with ThreadPoolExecutor() as pool:
        try:
            for name in ("safekeeper-2", "safekeeper-3"):
                cluster.chaos("stop", name)
            commit = pool.submit(writer.execute, "INSERT INTO t VALUES (0)")
            wait_until(lambda: watch(look.format(writer.info.backend_pid)) == [("SyncRep", "safekeepers")], "the commit waits", 20)
            assert "1 commits wait for a quorum of safekeepers" in watch(said)[0][0]
        finally:
            for name in ("safekeeper-2", "safekeeper-3"):
                cluster.chaos("resume", name)
        commit.result(60)
        try:
            cluster.chaos("stop", "pageserver")
            read = pool.submit(lambda: reader.execute("SELECT count(*) FROM t").fetchall())
            wait_until(lambda: [("pageserver")] == [row[1] for row in watch(look.format(reader.info.backend_pid))], "the read waits", 20)
            assert "wait for the pageserver" in watch(said)[0][0]
        finally:
            cluster.chaos("resume", "pageserver")
        assert read.result(60) == [(30002,)]
    waits = "SELECT sum(waits) > 0, max(waiting_now) FROM ogel.waits WHERE waits_for = 'pageserver'"
    wait_until(lambda: watch(waits) == [(True, 0)], "nobody waits any more", 20)
