"""`ogel up` to SQL, and SQL on tables larger than everything that the compute can hold."""

import json
import os
import subprocess
from pathlib import Path

from cluster import ROOT, RELEASE, Cluster, pg_bin


def permanent_relation_files(cluster: Cluster) -> list[str]:
    """Relation files on the compute's disk that are neither temporary (t<n>_<n>) nor of an unlogged relation."""
    found = []
    for base in list(cluster.dir.glob("compute-main/**/base")) + list(cluster.dir.glob("compute-main/**/global")):
        for path in base.rglob("*"):
            if path.is_file() and path.name[0].isdigit():
                found.append(path)
    unlogged = {row[0] for row in cluster.sql("SELECT pg_relation_filenode(oid)::text FROM pg_class WHERE relpersistence = 'u'")}
    return [str(path) for path in found if path.name.split("_")[0].split(".")[0] not in unlogged]


def test_tables_larger_than_all_caches(cluster: Cluster):
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, grp int, pad text)")
        connection.execute("INSERT INTO t SELECT i, i % 100, repeat(md5(i::text), 8) FROM generate_series(1, 100000) i")
        connection.execute("CREATE INDEX t_grp ON t (grp)")
        connection.execute("UPDATE t SET grp = grp + 1000 WHERE id % 3 = 0")
        connection.execute("DELETE FROM t WHERE id % 5 = 0")
        connection.execute("VACUUM (ANALYZE) t")
        size = connection.execute("SELECT pg_table_size('t') > 20 * 1024 * 1024").fetchone()
        assert size == (True,), "the table is far larger than shared_buffers (1 MB)"
        expected = sum(1 for i in range(1, 100001) if i % 5 and i % 3 == 0)
        assert connection.execute("SELECT count(*) FROM t WHERE grp >= 1000").fetchone() == (expected,)
        connection.execute("SET enable_seqscan = off")
        expected = sum(1 for i in range(1, 100001) if i % 5 and i % 3 and i % 100 == 7)
        assert connection.execute("SELECT count(*) FROM t WHERE grp = 7").fetchone() == (expected,)
        pads = connection.execute("SELECT count(*) FROM t WHERE pad <> repeat(md5(id::text), 8)").fetchone()
        assert pads == (0,), "a page came back with other content"
        connection.execute("CREATE UNLOGGED TABLE u AS SELECT 1 AS a")
        connection.execute("CREATE TEMP TABLE tmp AS SELECT 1 AS a")
        connection.execute("CHECKPOINT")
        assert permanent_relation_files(cluster) == []


def test_data_survives_stop_kill_and_down(cluster: Cluster):
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS m FROM generate_series(1, 20000) i")
    cluster.sql("CREATE INDEX ON t (i)")
    check = "SELECT count(*), count(*) FILTER (WHERE m = md5(i::text)) FROM t"
    for stop in (("compute", "stop", "main"), ("compute", "kill", "main")):
        cluster.ogel(*stop)
        assert cluster.node("compute-main")["process"]["pid"] is None
        cluster.ogel("compute", "start", "main")
        assert cluster.sql(check) == [(20000, 20000)]
    for down in (("down",), ("down", "--immediate")):
        cluster.ogel(*down)
        cluster.up()
        assert cluster.sql(check) == [(20000, 20000)]


def test_unlogged_tables_are_empty_after_a_restart(cluster: Cluster):
    """H19: the init forks come with the basebackup."""
    cluster.sql("CREATE UNLOGGED TABLE u (a int PRIMARY KEY)")
    cluster.sql("INSERT INTO u SELECT generate_series(1, 1000)")
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT count(*) FROM u") == [(0,)]
    cluster.sql("INSERT INTO u VALUES (1)")
    assert cluster.sql("SELECT a FROM u WHERE a = 1") == [(1,)]


def test_indexes_of_unlogged_tables_can_be_used_after_a_crash(cluster: Cluster):
    """Access methods that leave their init fork to the disk included: bloom logs nothing for an unlogged relation."""
    cluster.sql("CREATE EXTENSION bloom")
    methods = {"bloom": "a", "brin": "a", "btree": "a", "gin": "v", "gist": "p", "hash": "a", "spgist": "p"}
    cluster.sql("CREATE UNLOGGED TABLE u (a int, v tsvector, p point)")
    fill = "INSERT INTO u SELECT i, to_tsvector('simple', i::text), point(i, i) FROM generate_series(1, 1000) i"
    for method, column in methods.items():
        cluster.sql(f"CREATE INDEX u_{method} ON u USING {method} ({column})")
    with cluster.connect() as connection:
        connection.execute("BEGIN; SAVEPOINT s; CREATE INDEX gone ON u USING bloom (a); ROLLBACK TO s")
        connection.execute("CREATE INDEX dropped ON u USING bloom (a); DROP INDEX dropped; COMMIT")
    for change in ("SELECT", "TRUNCATE u", "REINDEX INDEX CONCURRENTLY u_bloom"):
        cluster.sql(change)
        cluster.ogel("compute", "kill", "main")
        cluster.ogel("compute", "start", "main")
        cluster.sql(fill)
        with cluster.connect() as connection:
            connection.execute("SET enable_seqscan = off")
            for condition in ("a = 700", "v @@ '700'", "p <@ box '(700,700),(700,700)'"):
                assert connection.execute(f"SELECT a FROM u WHERE {condition}").fetchall() == [(700,)], (change, condition)


def test_prepared_transactions_survive(cluster: Cluster):
    cluster.ogel("down")
    cluster.settings["max_prepared_transactions"] = "5"
    cluster.up()
    cluster.sql("CREATE TABLE p (a int)")
    with cluster.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO p VALUES (1)")
        connection.execute("PREPARE TRANSACTION 'one'")
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT gid FROM pg_prepared_xacts") == [("one",)]
    cluster.sql("COMMIT PREPARED 'one'")
    assert cluster.sql("SELECT a FROM p") == [(1,)]


def test_databases_are_created_and_dropped(cluster: Cluster):
    cluster.sql("CREATE DATABASE other")
    other = cluster.url()[: -len("postgres")] + "other"
    subprocess.run([pg_bin("psql"), other, "-qc", "CREATE TABLE x AS SELECT 7 AS a"], check=True)
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    done = subprocess.run([pg_bin("psql"), other, "-Atc", "SELECT a FROM x"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "7"
    assert cluster.sql("SELECT pg_database_size('other') > 5000000") == [(True,)]
    cluster.sql("DROP DATABASE other")
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT count(*) FROM pg_database WHERE datname = 'other'") == [(0,)]


def test_own_rows_stay_visible_while_pages_travel(cluster: Cluster):
    """A page rebuilt from WAL in the middle of a transaction knows each row's command id."""
    with cluster.connect(autocommit=False) as connection:
        connection.execute("CREATE TABLE c (a int, pad text)")
        connection.execute("INSERT INTO c SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i")
        connection.execute("DECLARE cur CURSOR FOR SELECT count(*) FROM c")
        connection.execute("INSERT INTO c SELECT a + 20000, pad FROM c")
        connection.execute("UPDATE c SET a = -a WHERE a % 2 = 0")
        assert connection.execute("FETCH cur").fetchone() == (20000,), "a cursor sees what was there when it was opened"
        assert connection.execute("SELECT count(*), count(*) FILTER (WHERE a < 0) FROM c").fetchone() == (40000, 20000)


def test_status_psql_url_and_logs(cluster: Cluster):
    status = cluster.ogel("status")
    assert {node["name"] for node in status["nodes"]} == {
        "safekeeper-1", "safekeeper-2", "safekeeper-3", "pageserver", "compute-main"}
    assert all(node["process"]["phase"] == "running" for node in status["nodes"])
    psql = cluster.run("psql", "main", "--", "-Atc", "SELECT 1 + 1")
    assert psql.stdout.strip() == "2", psql.stderr
    assert cluster.run("url").stdout.strip() == cluster.url()
    assert {"compute-main", "postgres-main", "pageserver", "safekeeper-1", "ogel"} <= set(cluster.ogel("logs"))
    assert "ready to accept connections" in cluster.run("logs", "postgres-main", "-n", "100").stdout


def test_the_makefile_has_the_contract():
    """The targets that people and checks rely on exist."""
    text = (ROOT / "Makefile").read_text()
    for target in "up down test verify fix regress walcheck sim chaos fuzz bench bench-coldstart".split():
        assert f"\n{target}:" in text, target
    assert os.access(RELEASE / "ogel", os.X_OK)
    assert json.loads((RELEASE / "pg-install.json").read_text())["patched"]
    assert Path(ROOT / ".ci" / "run").exists()


def test_a_killed_compute_leaves_no_shared_memory(cluster: Cluster):
    """The machine has room for 4096 segments; each start takes one."""
    def segments() -> set[str]:
        return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}

    for end in (["compute", "kill", "main"], ["destroy", "--yes"]):
        pid_file = next(cluster.dir.glob("compute-main/lives/*/pgdata/postmaster.pid"))
        segment = pid_file.read_text().splitlines()[6].split()[1]
        assert segment in segments()
        cluster.ogel(*end)
        assert segment not in segments()
        if cluster.exists():
            cluster.ogel("compute", "start", "main")
