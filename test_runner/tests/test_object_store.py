"""The object store is the truth of the pageserver: its own disk may be lost at any moment."""

import subprocess
import time

import pytest

from cluster import Cluster, lsn, pg_bin, pgbench, pgbench_invariants, wait_until
from ministack import Ministack


@pytest.fixture
def s3(monkeypatch):
    server = Ministack()
    for name, value in server.environment("cluster").items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def remote_consistent(cluster: Cluster) -> int:
    return lsn(cluster.http("pageserver", cluster.timeline_path())["remote_consistent_lsn"])


def test_lost_pageserver_disk_under_load(s3, make_cluster):
    cluster = make_cluster(shared_buffers="1MB", **{"ogel.file_cache_size": "0"}).up()
    pgbench(cluster, "-i", "-q", "-s", "2")
    command = [pg_bin("pgbench"), "-n", "-c", "2", "-T", "20", cluster.url()]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    times = []
    for _ in range(2):
        time.sleep(3)  # load, so that there is something to lose
        started = time.monotonic()
        cluster.chaos("wipe", "pageserver")
        layers = cluster.dir / "pageserver" / "tenants"
        wait_until(lambda: cluster.http("pageserver", cluster.timeline_path())["state"] == "active", "the timeline is back")
        times.append(time.monotonic() - started)
        print(f"back after {times[-1]:.1f} s with {sum(f.stat().st_size for f in layers.rglob('*.layer'))} bytes on its disk")
    _, errors = load.communicate(timeout=120)
    assert load.returncode == 0, errors[-4000:]
    rows = pgbench_invariants(cluster)
    assert rows > 0

    # Nothing of it was on the pageserver's disk only.
    cluster.chaos("wipe", "pageserver")
    assert pgbench_invariants(cluster) == rows
    assert cluster.sql("SELECT count(*) FROM pgbench_accounts") == [(200_000,)]


def seconds_to_come_back(cluster: Cluster, aid: int) -> float:
    """From a lost disk to a row that only the pageserver has."""
    started = time.monotonic()
    cluster.chaos("wipe", "pageserver")
    assert cluster.sql(f"SELECT count(*) FROM pgbench_accounts WHERE aid = {aid}") == [(1,)]
    return time.monotonic() - started


def test_the_time_to_come_back_does_not_grow_with_the_database(s3, make_cluster):
    cluster = make_cluster(shared_buffers="1MB", **{"ogel.file_cache_size": "0"}).up()
    medians = {}
    for scale in (1, 20):
        pgbench(cluster, "-i", "-q", "-s", str(scale))
        cluster.http("pageserver", f"{cluster.timeline_path()}/checkpoint", "POST")
        times = sorted(seconds_to_come_back(cluster, 1 + n * scale * 100_000 // 5) for n in range(5))
        megabytes = cluster.sql("SELECT pg_database_size('postgres') / 1000000")[0][0]
        local = sum(file.stat().st_size for file in (cluster.dir / "pageserver").rglob("*.layer")) // 1_000_000
        medians[megabytes] = times[2]
        print(f"{megabytes} MB: the first row after {times[2]:.2f} s (of 5: {times[0]:.2f} to {times[4]:.2f}), {local} MB on the new disk")
    (small, before), (large, after) = medians.items()
    assert large > 8 * small
    assert after < 3 * before + 1, medians
    assert cluster.sql("SELECT count(*) FROM pgbench_accounts") == [(scale * 100_000,)]


def test_clean_restart_keeps_everything_in_the_store(s3, make_cluster):
    cluster = make_cluster().up()
    cluster.sql("CREATE TABLE kept AS SELECT generate_series(1, 10000) AS id")
    written = lsn(cluster.sql("SELECT pg_current_wal_flush_lsn()")[0][0])
    # What the pageserver has not taken in is not its to upload: the safekeepers have that.
    wait_until(lambda: lsn(cluster.http("pageserver", cluster.timeline_path())["last_record_lsn"]) >= written, "the pageserver has the table")
    cluster.ogel("down")
    cluster.up()
    assert cluster.sql("SELECT count(*), sum(id) FROM kept") == [(10_000, 50_005_000)]
    assert remote_consistent(cluster) >= written, "the stop uploaded what was in memory"


def test_store_that_cannot_be_used_is_named(s3, make_cluster, monkeypatch):
    monkeypatch.setenv("OGEL_REMOTE", "s3://no-such-bucket/x")
    cluster = make_cluster()
    done = cluster.run("up", "--port", "0")
    assert done.returncode != 0
    assert "no-such-bucket" in done.stderr + cluster.log("pageserver")
