"""The compute's local file cache: it saves requests, follows every change, and trusts the disk with nothing."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

from cluster import Cluster, pgbench, pgbench_invariants, wait_until

STATS = """CREATE FUNCTION ogel_file_cache(OUT size_bytes int8, OUT used_bytes int8, OUT hits int8, OUT misses int8,
    OUT writes int8, OUT evictions int8, OUT bad_checksums int8, OUT io_errors int8)
    AS 'ogel', 'ogel_file_cache' LANGUAGE C STRICT"""


def start(make_cluster: Callable[..., Cluster], max_mb: int = 64, **settings: str) -> Cluster:
    sizes = {"ogel.file_cache_max_size": f"{max_mb}MB", "ogel.file_cache_size": f"{max_mb}MB"}
    cluster = make_cluster(shared_buffers="1MB", autovacuum="off", **sizes, **settings).up()
    cluster.sql(STATS)
    return cluster


def stats(cluster: Cluster) -> dict[str, int]:
    return cluster.sql("SELECT to_jsonb(s) FROM ogel_file_cache() s")[0][0]


def cache_file(cluster: Cluster) -> Path:
    return next((cluster.dir / "compute-main").rglob("ogel_file_cache"))


def pages_served(cluster: Cluster) -> int:
    text = cluster.http("pageserver", "/metrics").decode()
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("pageserver_pages_served_total"))


def test_pages_come_from_the_local_file(make_cluster):
    cluster = start(make_cluster)
    cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 500) AS filler FROM generate_series(1, 40000) i")
    cluster.sql("SELECT sum(i) FROM t")
    before, served = stats(cluster), pages_served(cluster)
    assert cluster.sql("SELECT sum(i), count(*) FROM t") == [(800020000, 40000)]
    after = stats(cluster)
    assert after["hits"] - before["hits"] > 2000, (before, after)
    assert pages_served(cluster) - served < 200
    assert after["bad_checksums"] == after["io_errors"] == 0


def test_a_table_that_fits_just_so_is_kept_whole(make_cluster):
    cluster = start(make_cluster, max_mb=64, max_parallel_workers_per_gather="0")
    cluster.http("compute-main", "/v1/file_cache", "PUT", json.dumps({"size_mb": 16}).encode(), "application/json")
    wait_until(lambda: stats(cluster)["size_bytes"] == 16 << 20, "the cache has 16 MB")
    cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 900) AS filler FROM generate_series(1, 14500) i")
    assert 14 << 20 < cluster.sql("SELECT pg_relation_size('t')")[0][0] < 15 << 20
    for _ in range(2):
        cluster.sql("SELECT count(*) FROM t")
    served = pages_served(cluster)
    assert cluster.sql("SELECT count(*) FROM t") == [(14500,)]
    assert pages_served(cluster) - served < 100


def test_a_large_scan_takes_only_free_places(make_cluster):
    """A sequential scan of more than the cache holds pushes nothing out, and what fits of it is of use to the next one."""
    cluster = start(make_cluster, max_mb=16, max_parallel_workers_per_gather="0")
    cluster.sql("CREATE TABLE large AS SELECT i, repeat('l', 900) AS filler FROM generate_series(1, 40000) i")
    cluster.sql("CREATE TABLE small AS SELECT i, repeat('s', 900) AS filler FROM generate_series(1, 8000) i")
    cluster.sql("VACUUM (FREEZE) large, small")
    for table in ("small", "large"):
        cluster.sql(f"SELECT count(*) FROM {table}")
    before = stats(cluster)
    for _ in range(3):
        assert cluster.sql("SELECT count(*) FROM large") == [(40000,)]
    after = stats(cluster)
    assert after["evictions"] - before["evictions"] < 500, (before, after)
    served = pages_served(cluster)
    assert cluster.sql("SELECT count(*) FROM small") == [(8000,)]
    assert pages_served(cluster) - served < 200, "it is still there"


def test_every_change_is_followed(make_cluster):
    """Pages are changed, truncated, dropped and named anew, with next to no buffers and a cache that evicts."""
    cluster = start(make_cluster, max_mb=16)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    failures: list[str] = []
    cluster.sql("CREATE TABLE ballast AS SELECT i, repeat('b', 900) FROM generate_series(1, 24000) i")

    def one_table(number: int) -> None:
        choose = random.Random(seed + number)
        name, rows = f"t{number}", {}
        with cluster.connect() as connection:
            connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v int, filler text)")
            for step in range(60):
                action = choose.choice(["insert", "update", "delete", "vacuum", "truncate", "rewrite", "scan", "check"])
                if action == "insert":
                    first = max(rows, default=0) + 1
                    connection.execute(f"INSERT INTO {name} SELECT i, {step}, repeat('f', 700) FROM generate_series({first}, {first + 800}) i")
                    rows.update({i: step for i in range(first, first + 801)})
                elif action == "update":
                    connection.execute(f"UPDATE {name} SET v = {step} WHERE id % 7 = 3")
                    rows.update({i: step for i in rows if i % 7 == 3})
                elif action == "delete":
                    cut = choose.randrange(max(rows, default=0) + 1)
                    connection.execute(f"DELETE FROM {name} WHERE id > {cut}")
                    rows = {i: v for i, v in rows.items() if i <= cut}
                elif action == "truncate" and choose.random() < 0.3:
                    connection.execute(f"TRUNCATE {name}")
                    rows = {}
                elif action == "vacuum":
                    connection.execute(f"VACUUM {name}")
                elif action == "rewrite":
                    connection.execute(f"VACUUM FULL {name}")
                elif action == "scan":
                    connection.execute("SELECT count(*) FROM ballast")
                found = dict(connection.execute(f"SELECT id, v FROM {name}").fetchall())
                if found != rows:
                    failures.append(f"{name}, step {step} after {action}: {len(found)} rows instead of {len(rows)}, or other values")
                    return

    with ThreadPoolExecutor() as pool:
        list(pool.map(one_table, range(4)))
    assert not failures, failures
    seen = stats(cluster)
    assert seen["hits"] > 1000 and seen["evictions"] > 100, seen
    assert seen["bad_checksums"] == seen["io_errors"] == 0, seen
    cluster.sql("CREATE EXTENSION amcheck")
    for (index,) in cluster.sql("SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname LIKE 't_\\_pkey'"):
        cluster.sql("SELECT bt_index_check(%s::regclass, true)", index)


def test_a_dropped_database_leaves_nothing(make_cluster):
    cluster = start(make_cluster)
    cluster.sql("CREATE DATABASE d")
    used = stats(cluster)["used_bytes"]
    cluster.sql("DROP DATABASE d")
    assert stats(cluster)["used_bytes"] < used - (4 << 20)


def test_a_disk_that_lies(make_cluster):
    cluster = start(make_cluster)
    pgbench(cluster, "-i", "-s", "2", "-q")
    pgbench(cluster, "-c", "4", "-T", "3")
    cluster.sql("SELECT sum(abalance) FROM pgbench_accounts")
    path = cache_file(cluster)
    with path.open("r+b") as file:
        for offset in range(0, path.stat().st_size, 8192):
            file.seek(offset + 4000)
            file.write(b"\xde\xad")
    rows = pgbench_invariants(cluster)
    seen = stats(cluster)
    assert seen["bad_checksums"] > 100, seen
    pgbench(cluster, "-n", "-c", "4", "-T", "3")
    assert pgbench_invariants(cluster) > rows


def test_damage_in_the_middle_of_a_run(make_cluster):
    """Pages that lie one behind the other are read at once: of those that are damaged, and of no others, the pageserver is asked."""
    settings = {"autovacuum": "off", "ogel.readahead": "0", "max_parallel_workers_per_gather": "0", "bgwriter_lru_maxpages": "0"}
    cluster = make_cluster(shared_buffers="1MB", **settings, **{"ogel.file_cache_max_size": "64MB", "ogel.file_cache_size": "64MB"}).up()
    cluster.sql(STATS)
    cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 900) AS filler FROM generate_series(1, 16000) i")
    cluster.sql("VACUUM (FREEZE) t")
    right = [(16000, 8000 * 16001)]
    for _ in range(2):
        assert cluster.sql("SELECT count(*), sum(i) FROM t") == right
    damaged = 0
    path = cache_file(cluster)
    with path.open("r+b") as file:
        for block in range(5, path.stat().st_size // 8192, 16):
            file.seek(block * 8192 + 8000)
            if file.read(8) == b"x" * 8:
                file.seek(block * 8192 + 8000)
                file.write(b"\xde\xad")
                damaged += 1
    assert damaged > 100
    before, served = stats(cluster), pages_served(cluster)
    for _ in range(3):
        assert cluster.sql("SELECT count(*), sum(i) FROM t") == right
    after = stats(cluster)
    found = after["bad_checksums"] - before["bad_checksums"]
    assert damaged - 16 <= found <= damaged, (damaged, found)
    assert found <= pages_served(cluster) - served < found + 50, "only they are fetched anew, and only once"
    assert after["hits"] - before["hits"] > 3 * 2000 - found - 400
    assert after["io_errors"] == 0


def test_a_cache_of_fewer_blocks_than_a_read(make_cluster):
    """Blocks of one read share sets then."""
    cluster = start(make_cluster, max_mb=1)
    cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 900) AS filler FROM generate_series(1, 4000) i")
    for step in range(1, 4):
        cluster.sql("UPDATE t SET i = i + 1 WHERE i % 3 = 0")
        cluster.sql("SELECT count(*) FROM t")
    assert cluster.sql("SELECT count(*) FROM t") == [(4000,)]
    seen = stats(cluster)
    assert seen["bad_checksums"] == seen["io_errors"] == 0, seen


def test_resized_while_running(make_cluster):
    cluster = start(make_cluster)
    cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 900) AS filler FROM generate_series(1, 30000) i")
    cluster.sql("SELECT sum(i) FROM t")
    assert stats(cluster)["used_bytes"] > 20 << 20
    assert cache_file(cluster).stat().st_size > 20 << 20

    def resize(size_mb: int) -> None:
        body = json.dumps({"size_mb": size_mb}).encode()
        assert cluster.http("compute-main", "/v1/file_cache", "PUT", body, "application/json") == {"size_mb": size_mb}

    def has_size(size_mb: int) -> bool:
        cluster.sql("SELECT count(*) FROM t")
        return stats(cluster)["size_bytes"] == size_mb << 20

    for size_mb in (8, 0, 64):
        resize(size_mb)
        wait_until(lambda: has_size(size_mb), f"the cache has {size_mb} MB")
        assert stats(cluster)["used_bytes"] <= size_mb << 20
        assert cache_file(cluster).stat().st_size <= (size_mb << 20) + (1 << 20)
        assert cluster.sql("SELECT sum(i), count(*) FROM t") == [(450015000, 30000)]
    before = stats(cluster)["hits"]
    cluster.sql("SELECT count(*) FROM t")
    assert stats(cluster)["hits"] > before + 2000
