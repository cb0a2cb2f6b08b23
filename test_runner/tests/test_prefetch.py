"""Pages are asked for before they are needed: counted in waits for the network per page, on a wire of 1 ms in each direction."""

from typing import Iterator

import psycopg
import pytest

from cluster import Cluster, wait_until
from page_proxy import PageProxy

ROWS = 60000
WAITS = "SELECT sum(waits)::int FROM ogel.waits WHERE wait_event IN ('OgelPageRead', 'OgelPrefetchedRead', 'OgelSizeRequest')"
WASTE = "SELECT issued, used, stale + unused + failed FROM ogel.prefetch"


@pytest.fixture
def wire(make_cluster) -> Iterator[PageProxy]:
    settings = {"ogel.file_cache_size": "0", "autovacuum": "off", "max_parallel_workers_per_gather": "0", "max_parallel_maintenance_workers": "0"}
    cluster = make_cluster(shared_buffers="2MB", **settings).up()
    cluster.sql("CREATE EXTENSION ogel")
    cluster.sql("CREATE EXTENSION pg_prewarm")
    # Neighbours in the index on r are strangers in the heap.
    cluster.sql(f"""CREATE TABLE t AS SELECT i, (i::bigint * 7919 % {ROWS})::int AS r, repeat('x', 300) AS filler
        FROM generate_series(1, {ROWS}) i""")
    cluster.sql("CREATE INDEX t_r ON t (r)")
    with PageProxy(cluster) as proxy:
        proxy.divert()
        proxy.delay_s = 0.001
        yield proxy


def waits_per_page(wire: PageProxy, *statements: str) -> tuple[float, int]:
    """What the last statement costs; those before prepare for it."""
    with wire.cluster.connect() as connection:
        connection.execute("SELECT count(*) FROM pg_class")
        for statement in statements[:-1]:
            connection.execute(statement)
        connection.execute(WAITS)
        before, pages = connection.execute(WAITS).fetchone()[0], wire.pages
        connection.execute(statements[-1])
        pages = wire.pages - pages
        return (connection.execute(WAITS).fetchone()[0] - before) / max(pages, 1), pages


def test_few_waits_per_page(wire: PageProxy):
    blocks = wire.cluster.sql("SELECT pg_relation_size('t') / 8192")[0][0]
    index_scan = ("SET enable_seqscan = off", "SET enable_bitmapscan = off")
    range_of_index = f"SELECT sum(length(filler)) FROM t WHERE r BETWEEN 1000 AND {1000 + ROWS // 6}"
    cases = {
        "sequential scan": (["SELECT count(*) FROM t"], blocks),
        "bitmap heap scan": (["SET enable_seqscan = off", "SET enable_indexscan = off", range_of_index], blocks // 4),
        "index scan": ([*index_scan, range_of_index], ROWS // 10),
        "index-only scan": ([*index_scan, f"SELECT sum(r) FROM t WHERE r BETWEEN 1000 AND {1000 + ROWS // 6}"], ROWS // 10),
        "analyze": (["ANALYZE t"], blocks // 2),
        "index build": (["CREATE INDEX ON t (i)"], blocks),
        "prewarm": (["SELECT pg_prewarm('t')"], blocks),
        "prewarm by reading": (["SELECT pg_prewarm('t', 'read')"], blocks),
        "vacuum": (["VACUUM (DISABLE_PAGE_SKIPPING) t"], blocks),
    }
    costs = {}
    for name, (statements, at_least) in cases.items():
        cost, pages = waits_per_page(wire, *statements)
        costs[name] = f"{cost:.3f} of {pages} pages"
        assert pages >= at_least * 0.8, (name, pages, at_least)
        assert cost < 0.1, (name, costs)
    print(costs)
    issued, used, wasted = wire.cluster.sql(WASTE)[0]
    assert wasted < 0.15 * issued, (issued, used, wasted)
    cost, _ = waits_per_page(wire, *index_scan, "SET ogel.readahead = 0", range_of_index)
    assert cost > 0.9, "without asking ahead each page is a round trip: the measure works"


# Neighbours in each index are strangers in the heap.
PLACES = f"""
    CREATE TABLE places (grp int, at point, quad point, net inet, filler text);
    CREATE INDEX by_hash ON places USING hash (grp);
    INSERT INTO places SELECT n % 30, point(n % 250, n / 250), point(n % 250, n / 250), ('10.' || n % 200 || '.' || n / 200 % 250 || '.1')::inet, repeat('x', 300)
        FROM (SELECT n FROM generate_series(0, {ROWS - 1}) n ORDER BY hashint4(n)) numbers;
    CREATE INDEX by_gist ON places USING gist (at);
    CREATE INDEX by_spgist ON places USING spgist (net);
    CREATE INDEX by_quad ON places USING spgist (quad)"""
# Plan, rows to be folded, pages at least.
SCANS = {
    "backward": ("Backward using t_r", f"SELECT filler FROM t WHERE r BETWEEN 1000 AND {1000 + ROWS // 6} ORDER BY r DESC OFFSET 0", ROWS // 10),
    "hash": ("using by_hash", "SELECT filler FROM places WHERE grp = 7", ROWS // 60),
    "gist": ("using by_gist", "SELECT filler FROM places WHERE at <@ box(point(20, 20), point(90, 90))", 70 * 70 // 2),
    "gist by distance": ("using by_gist", "SELECT filler FROM places ORDER BY at <-> point(100, 100) LIMIT 3000", 1500),
    "sp-gist": ("using by_spgist", "SELECT filler FROM places WHERE net << '10.16.0.0/12'", 16 * 300 // 2),
    "sp-gist by distance": ("using by_quad", "SELECT filler FROM places ORDER BY quad <-> point(100, 100) LIMIT 3000", 1500),
}


def test_index_scans_of_every_kind(wire: PageProxy):
    """What an access method has read of its index and not returned yet says which pages are next."""
    for statement in PLACES.split(";"):
        wire.cluster.sql(statement)
    wire.cluster.sql("VACUUM ANALYZE places")
    costs, in_vain = {}, {}
    for name, (plan, rows, at_least) in SCANS.items():
        query = f"SELECT sum(length(filler)) FROM ({rows}) rows"
        setup = ("SET enable_seqscan = off", "SET enable_bitmapscan = off", "SET enable_sort = off")
        with wire.cluster.connect() as connection:
            explained = "\n".join(line for statement in (*setup, "EXPLAIN " + query) for (line,) in fetched(connection, statement))
        assert plan in explained, explained
        before = settled(wire.cluster)
        cost, pages = waits_per_page(wire, *setup, query)
        issued, wasted = (after - before for after, before in zip(settled(wire.cluster), before))
        needed = pages - wasted
        assert needed >= at_least, (name, needed, at_least)
        costs[name] = round(cost * pages / needed, 3)
        in_vain[name] = round(wasted / max(issued, 1), 3)
    print("waits per page:", costs, "part that was asked for in vain:", in_vain)
    assert all(cost < 0.15 for cost in costs.values()), costs
    assert all(part < 0.4 for part in in_vain.values()), in_vain


def fetched(connection: psycopg.Connection, statement: str) -> list[tuple]:
    cursor = connection.execute(statement)
    return cursor.fetchall() if cursor.description else []


def settled(cluster: Cluster) -> tuple[int, int]:
    """Pages asked for ahead, and those of them that were of no use, once no session holds any more."""
    def counts():
        issued, used, wasted = cluster.sql(WASTE)[0]
        return (issued, wasted) if issued == used + wasted else None
    return wait_until(counts, "nothing is held")


def wasted(cluster: Cluster) -> int:
    return settled(cluster)[1]


def test_little_is_asked_for_in_vain(wire: PageProxy):
    """Short statements ask for next to nothing that they do not use."""
    cluster = wire.cluster
    cluster.sql("VACUUM ANALYZE t")
    start = wasted(cluster)
    with cluster.connect() as connection:
        connection.execute("SET enable_seqscan = off")
        for key in range(0, ROWS, ROWS // 100):
            connection.execute("SELECT filler FROM t WHERE r = %s", (key,))
    points = wasted(cluster)
    with cluster.connect() as connection:
        for _ in range(10):
            connection.execute("SELECT filler FROM t LIMIT 5")
        connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        for key in range(0, ROWS, ROWS // 10):
            connection.execute("SELECT filler FROM t WHERE r > %s ORDER BY r LIMIT 20", (key,))
        for key in range(0, ROWS, ROWS // 10):
            connection.execute("SELECT filler FROM t WHERE r < %s ORDER BY r DESC LIMIT 20", (key,))
    limited = wasted(cluster)
    # Catalog reads of the connections that count are among them.
    assert points - start < 200, "point reads ask for nothing ahead"
    assert limited - points < 10 * 16 + 20 * 40, (start, points, limited)


def test_parallel_scans_share_the_work(wire: PageProxy):
    """Each process of a parallel scan asks for its own chunks, not for those of the others."""
    cluster = wire.cluster
    cluster.sql("ALTER TABLE t SET (parallel_workers = 2, fillfactor = 10)")
    cluster.sql("INSERT INTO t SELECT i, i, repeat('x', 300) FROM generate_series(1, 40000) i")
    blocks = cluster.sql("SELECT pg_relation_size('t') / 8192")[0][0]
    assert blocks > 2048 * 9, "so many that chunks have 16 blocks or more"
    with cluster.connect() as connection:
        connection.execute("SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
        pages = wire.pages
        plan = "\n".join(line for (line,) in connection.execute("EXPLAIN (ANALYZE, BUFFERS) SELECT count(*) FROM t"))
    assert "Workers Launched: 2" in plan, plan
    assert wire.pages - pages < blocks * 1.15, f"{wire.pages - pages} pages for {blocks} blocks\n{plan}"
