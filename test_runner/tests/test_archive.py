"""WAL in the object store: it gets there, compressed as stock tools know it, goes from the safekeepers, comes back to whoever needs it, and can be checked."""

import json
import os
import subprocess
from pathlib import Path
from typing import Callable

import pytest
from cluster import RELEASE, Cluster, lsn, pgbench, pgbench_invariants, wait_until
from test_readers import SEGMENT_BYTES, ReceiveWal, read_wal, segment_name

NODES = (1, 2, 3)


@pytest.fixture
def archiving(make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster whose safekeepers drop the WAL of a timeline that was idle for two seconds."""
    monkeypatch.setenv("OGEL_IDLE_AFTER_S", "2")
    return make_cluster().up()


def states(cluster: Cluster) -> list[dict]:
    return [cluster.http(f"safekeeper-{node}", cluster.timeline_path()) for node in NODES]


def archive(cluster: Cluster) -> Path:
    """The folder of the branch's WAL objects."""
    config = cluster.config()
    return cluster.dir / "remote" / "tenants" / config["tenant"] / "timelines" / config["branches"][0]["timeline"] / "wal"


def local_files(cluster: Cluster, node: int) -> list[str]:
    """What a safekeeper has of the branch, spare segments aside."""
    timeline = cluster.config()["branches"][0]["timeline"]
    folder, = (path for path in (cluster.dir / f"safekeeper-{node}").rglob(timeline) if path.is_dir())
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def check(cluster: Cluster, *args: str) -> tuple[int, dict]:
    """`safekeeper archive check`: exit code and report."""
    command = [RELEASE / "safekeeper", "archive", "check", "--json", "--remote", f"file://{cluster.dir / 'remote'}", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_wal_is_archived_and_checked(archiving: Cluster):
    cluster = archiving
    pgbench(cluster, "-i", "-s", "6", "-q")
    pgbench(cluster, "-n", "-c", "4", "-j", "2", "-T", "3")
    rows = pgbench_invariants(cluster)
    cluster.sql("SELECT pg_switch_wal()")
    start = lsn(states(cluster)[0]["timeline_start_lsn"])
    # Once the pageserver has in the object store what it made of them, finished segments go from all safekeepers.
    cluster.http("pageserver", f"{cluster.timeline_path()}/checkpoint", "POST")
    for node in NODES:
        wait_until(lambda: segment_name(start // SEGMENT_BYTES + 2) not in local_files(cluster, node), f"safekeeper {node} removes segments")
        assert "acked" in local_files(cluster, node), "it is not idle"
    cluster.ogel("compute", "stop", "main")

    def archived() -> int:
        """End of what all know to be archived, if that is all that was finished."""
        found = states(cluster)
        ends = {lsn(state["backup_lsn"]) for state in found} | {lsn(state["commit_lsn"]) // SEGMENT_BYTES * SEGMENT_BYTES for state in found}
        return ends.pop() if len(ends) == 1 else 0

    end = wait_until(archived, "all finished segments are in the object store", 30)
    first, last = start // SEGMENT_BYTES, end // SEGMENT_BYTES
    assert last - first >= 3
    assert sorted(path.name for path in archive(cluster).iterdir()) == [f"{segment_name(number)}.zst" for number in range(first, last)]

    # Stock pg_receivewal from the first segment on, wherever the bytes are.
    received = ReceiveWal(cluster, 1, cluster.dir / "received")
    try:
        wait_until(lambda: received.wal(first * SEGMENT_BYTES, end) == read_wal(cluster.dir, first * SEGMENT_BYTES, end, archive(cluster)),
                   "pg_receivewal has the archive's bytes")
    finally:
        received.stop()

    code, report = check(cluster, "--data-dir", str(cluster.dir / "safekeeper-2"))
    assert code == 0 and report["good"], report
    assert lsn(report["timelines"][0]["to"]) >= start
    checked = report["timelines"][0]
    assert checked["size_bytes"] * 3 < checked["wal_bytes"], f"WAL is compressed: {checked}"
    damaged = archive(cluster) / f"{segment_name(first + 1)}.zst"
    good = damaged.read_bytes()
    middle = len(good) // 2
    damaged.write_bytes(good[:middle] + bytes([good[middle] ^ 4]) + good[middle + 1:])
    code, report = check(cluster)
    finding = report["timelines"][0]["findings"][0]
    assert code == 1 and damaged.name in finding["object"] and "piece " in finding["problem"], report
    damaged.write_bytes(good)

    cluster.ogel("compute", "start", "main")
    assert pgbench_invariants(cluster) == rows


def test_local_wal_goes_and_an_idle_branch_costs_a_control_file(archiving: Cluster):
    cluster = archiving
    pgbench(cluster, "-i", "-s", "4", "-q")
    rows = 0
    for _ in range(2):
        pgbench(cluster, "-n", "-c", "4", "-j", "2", "-T", "2")
        rows = pgbench_invariants(cluster)
        cluster.ogel("compute", "stop", "main")
        wait_until(lambda: all(state["wal_dropped"] for state in states(cluster)), "all safekeepers have dropped the idle branch's WAL", 90)
        for node in NODES:
            wait_until(lambda: local_files(cluster, node) == ["control"], "a control file is left")
        # A restarted safekeeper knows where its WAL is.
        cluster.chaos("kill", "safekeeper-2")
        cluster.chaos("resume", "safekeeper-2")
        wait_until(lambda: all(state["wal_dropped"] for state in states(cluster)), "the restarted one knows it")
        code, report = check(cluster, "--data-dir", str(cluster.dir / "safekeeper-2"))
        assert code == 0 and report["timelines"][0]["to"] == states(cluster)[1]["commit_lsn"], report
        cluster.ogel("compute", "start", "main")
        assert pgbench_invariants(cluster) == rows
