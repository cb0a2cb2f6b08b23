"""pgbench's books balance, whatever dies."""

import subprocess
import time

from cluster import Cluster, pg_bin, pgbench, pgbench_invariants, wait_until
from recorder import PendingCommit, Recorder


def test_pgbench_and_a_killed_compute(cluster: Cluster):
    pgbench(cluster, "-i", "-s", "10", "-q")
    recorder = Recorder(cluster).create().start()
    pgbench(cluster, "-c", "8", "-j", "2", "-T", "30")
    rows = pgbench_invariants(cluster)
    assert rows > 100
    cluster.ogel("compute", "kill", "main")
    assert not (cluster.dir / "compute-main").exists()
    recorder.stop()
    cluster.ogel("compute", "start", "main")
    assert pgbench_invariants(cluster) == rows
    assert recorder.count() > 100
    recorder.check()


def run_in_background(cluster: Cluster, *args: str) -> subprocess.Popen:
    command = [pg_bin("pgbench"), *args, cluster.url()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def history(cluster: Cluster) -> int:
    return cluster.sql("SELECT count(*) FROM pgbench_history")[0][0]


def test_one_safekeeper_dies_unnoticed(cluster: Cluster):
    pgbench(cluster, "-i", "-s", "2", "-q")
    bench = run_in_background(cluster, "-c", "4", "-j", "2", "-T", "12")
    wait_until(lambda: history(cluster) > 50, "pgbench runs")
    cluster.chaos("kill", "safekeeper-2")
    before = history(cluster)
    wait_until(lambda: history(cluster) > before + 50, "commits go on with two safekeepers")
    cluster.chaos("resume", "safekeeper-2")
    out, err = bench.communicate(timeout=120)
    assert bench.returncode == 0 and "aborted" not in err, err
    assert "number of failed transactions: 0 " in out, out
    pgbench_invariants(cluster)

    path = cluster.timeline_path()
    def caught_up() -> bool:
        positions = [cluster.http(f"safekeeper-{n}", path)["flush_lsn"] for n in (1, 2, 3)]
        return positions[0] == positions[1] == positions[2]
    wait_until(caught_up, "the safekeeper that was away has the same WAL again")


def test_pageserver_restarts_unnoticed(cluster: Cluster):
    pgbench(cluster, "-i", "-s", "2", "-q")
    bench = run_in_background(cluster, "-c", "4", "-j", "2", "-T", "12")
    wait_until(lambda: history(cluster) > 50, "pgbench runs")
    cluster.chaos("kill", "pageserver")
    cluster.chaos("resume", "pageserver")
    before = history(cluster)
    wait_until(lambda: history(cluster) > before + 50, "clients go on after the pageserver's restart")
    out, err = bench.communicate(timeout=120)
    assert bench.returncode == 0 and "aborted" not in err, err
    assert "number of failed transactions: 0 " in out, out
    pgbench_invariants(cluster)


def test_commits_wait_for_a_quorum(make_cluster):
    """Two safekeepers dead: nothing is acknowledged, cancelled or not, and what was not acknowledged may be lost. Reads go on.

    The buffers hold the catalogs: reading prunes pages, which is a change, and a page whose last change no quorum has cannot come back
    from the pageserver. The table that is read comes from there: the compute has just been started.
    """
    cluster = make_cluster(shared_buffers="64MB").up()
    cluster.sql("CREATE TABLE r AS SELECT i FROM generate_series(1, 100000) i")
    cluster.sql("CREATE TABLE w (i int)")
    recorder = Recorder(cluster).create()
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    recorder.start()
    wait_until(lambda: recorder.count() > 50, "the recorder writes")
    reader = cluster.connect()
    cluster.chaos("kill", "safekeeper-1")
    cluster.chaos("kill", "safekeeper-3")
    settled = recorder.count()
    deadline = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > deadline, "three seconds without a quorum")
    assert recorder.count() <= settled + recorder.writers, "acknowledged without a quorum"
    settled = recorder.count()

    # A client that gives up is never told of a success.
    impatient = cluster.connect()
    impatient.execute("SET statement_timeout = '500ms'")
    pending = PendingCommit(impatient, "INSERT INTO w VALUES (-1)").wait_until_it_waits(reader)
    reader.execute("SELECT pg_cancel_backend(%s)", (pending.pid,))
    reader.execute("SELECT pg_terminate_backend(%s)", (pending.pid,))
    assert pending.join(2) is None
    assert reader.execute("SELECT sum(i) FROM r").fetchone() == (5000050000,), "reads of what is committed go on"
    assert reader.execute("SELECT count(*) FROM w").fetchone() == (0,), "visible without a quorum"
    assert recorder.count() == settled

    # The compute dies with its WAL; nothing that was acknowledged goes with it.
    cluster.ogel("compute", "kill", "main")
    assert pending.join(30) == "error"
    cluster.chaos("resume", "safekeeper-1")
    cluster.ogel("compute", "start", "main")
    before = recorder.count()
    wait_until(lambda: recorder.count() > before + 50, "commits go on with two safekeepers")
    recorder.stop().check()
