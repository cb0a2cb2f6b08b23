"""Only one compute of a branch can commit, and an older one never reads what a newer one wrote."""

import os
import signal
import subprocess
import urllib.error
from pathlib import Path

import psycopg
import pytest

from cluster import RELEASE, Cluster, pg_manifest, wait_until
from recorder import Recorder
from second_compute import SecondCompute


@pytest.fixture
def second(cluster: Cluster):
    made: list[SecondCompute] = []

    def start() -> SecondCompute:
        made.append(SecondCompute(cluster))
        return made[-1]

    yield start
    for compute in made:
        compute.stop()


def test_a_second_compute_fences_the_first(cluster: Cluster, second):
    recorder = Recorder(cluster).create().start()
    wait_until(lambda: recorder.count() > 50, "the first compute commits")
    newer = second()
    with newer.connect_when_ready() as connection:
        settled = recorder.count()
        wait_until(lambda: cluster.node("compute-main")["process"]["phase"] == "fenced", "the first compute is fenced and stays down")
        recorder.stop()
        assert recorder.count() <= settled + recorder.writers
        present = {row[0] for row in connection.execute("SELECT id FROM record").fetchall()}
        assert recorder.acknowledged <= present, "the newer compute misses acknowledged commits"
        connection.execute("CREATE TABLE mine AS SELECT 1 AS a")
    newer.stop()
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT a FROM mine") == [(1,)]
    recorder.check()


def test_a_frozen_supervisor_s_backends_never_see_newer_pages(cluster: Cluster, second):
    """H10: both computes use the same transaction ids; the older one's backends keep reading while their supervisor is frozen."""
    cluster.sql("CREATE TABLE pages (id int PRIMARY KEY, owner text, pad text)")
    cluster.sql("INSERT INTO pages SELECT i, 'old', repeat('x', 1000) FROM generate_series(1, 2000) i")
    older = cluster.connect()
    assert older.execute("SELECT count(*) FROM pages WHERE owner = 'old'").fetchone() == (2000,)
    cluster.chaos("stop", "compute-main")
    newer = second()
    with newer.connect_when_ready() as connection:
        connection.execute("UPDATE pages SET owner = 'new'")
        connection.execute("INSERT INTO pages SELECT i, 'new', '' FROM generate_series(2001, 3000) i")
        assert connection.execute("SELECT count(*) FROM pages WHERE owner = 'new'").fetchone() == (3000,)
        # Make the older one read the pages again: its cache is far smaller than the table. Stale and consistent is right, an error too.
        try:
            rows = older.execute("SELECT owner, count(*) FROM pages GROUP BY 1").fetchall()
            assert rows == [("old", 2000)], rows
        except psycopg.Error:
            pass
        # It can never acknowledge anything.
        older_url = cluster.url()
        with pytest.raises(psycopg.Error):
            with psycopg.connect(older_url, autocommit=True, connect_timeout=3) as attempt:
                attempt.execute("SET statement_timeout = '1s'")
                wait = subprocess.Popen(
                    [str(Path(pg_manifest()["patched"]) / "bin" / "psql"), older_url, "-c", "INSERT INTO pages VALUES (-1, 'old', '')"],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                try:
                    out, _ = wait.communicate(timeout=3)
                    assert "INSERT 0 1" not in out, "acknowledged by a fenced compute"
                except subprocess.TimeoutExpired:
                    wait.kill()
                raise psycopg.OperationalError("it waits, as it must")
        cluster.chaos("resume", "compute-main")
        wait_until(lambda: cluster.node("compute-main")["process"]["phase"] == "fenced", "the woken supervisor finds itself fenced")
        assert connection.execute("SELECT count(*) FROM pages WHERE id = -1").fetchone() == (0,)


def test_a_wiped_safekeeper_does_not_vote(cluster: Cluster):
    """H4: with an amnesiac's vote, 2 of 3 could elect a log that lacks acknowledged commits."""
    recorder = Recorder(cluster).create().start()
    wait_until(lambda: recorder.count() > 20, "commits")
    cluster.chaos("kill", "safekeeper-3")
    before = recorder.count()
    wait_until(lambda: recorder.count() > before + 20, "commits on 1 and 2 only")
    recorder.stop()
    cluster.ogel("compute", "kill", "main")
    cluster.chaos("kill", "safekeeper-2")
    cluster.chaos("wipe", "safekeeper-1")
    cluster.chaos("resume", "safekeeper-3")
    # 1 has forgotten, 3 was away, 2 is dead: nobody can know what was acknowledged, so no compute may start.
    with pytest.raises(urllib.error.HTTPError):
        cluster.http("safekeeper-1", cluster.timeline_path())
    start = subprocess.Popen([RELEASE / "ogel", "--dir", cluster.dir, "compute", "start", "main"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    def waits() -> bool:
        status = cluster.node("compute-main")["detail"]
        return bool(status) and status.get("state") == "electing"
    wait_until(waits, "the compute waits for a quorum")
    with pytest.raises(subprocess.TimeoutExpired):
        start.wait(5)
    cluster.chaos("resume", "safekeeper-2")
    assert start.wait(60) == 0, start.stderr.read()
    recorder.check()


def test_killing_the_supervisor_kills_postgres(cluster: Cluster):
    pid = cluster.node("compute-main")["process"]["pid"]
    backend = cluster.connect()
    backend_pid = backend.info.backend_pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{backend_pid}").exists() or "Z" in Path(f"/proc/{backend_pid}/stat").read_text().split(")")[1][:3],
               "the orphaned backend dies")


def test_a_crashed_backend_is_a_new_life(cluster: Cluster):
    """H9: nothing survives in place; the next postmaster has a new folder and empty caches."""
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")
    with cluster.connect() as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)

    def serves():
        try:
            return cluster.sql("SELECT count(*) FROM t") == [(1000,)]
        except psycopg.Error:
            return False
    wait_until(serves, "a new postmaster serves")
    assert cluster.http("compute-main", "/v1/status")["term"] >= 2
