"""A safekeeper's store is lost, damaged or full, or a timeline is deleted: what is promised for each of these holds under load."""

import urllib.error
from pathlib import Path

import pytest

from cluster import Cluster, lsn, wait_until
from recorder import PendingCommit, Recorder


def more_commits(recorder: Recorder, what: str, count: int = 30) -> None:
    before = recorder.count()
    wait_until(lambda: recorder.count() > before + count, what)


def test_a_wiped_safekeeper_is_replaced_under_load(cluster: Cluster):
    """H4: the new store counts only once it has the others' WAL; then any other node may die."""
    recorder = Recorder(cluster).create().start()
    more_commits(recorder, "commits on three")
    term = cluster.node("compute-main")["detail"]["term"]
    cluster.chaos("wipe", "safekeeper-2")
    more_commits(recorder, "commits on two")
    done = cluster.ogel("safekeeper", "replace", "2")
    assert done["complete"] and [timeline["state"] for timeline in done["timelines"]] == ["joined"], done
    more_commits(recorder, "commits go on")
    assert cluster.node("compute-main")["detail"]["term"] == term, "the compute has lived on"
    members = [cluster.http(f"safekeeper-{n}", cluster.timeline_path() + "/membership") for n in (1, 2, 3)]
    assert [member["generation"] for member in members] == [2, 2, 2]
    assert cluster.ogel("safekeeper", "replace", "2")["complete"], "it may be repeated"

    cluster.chaos("kill", "safekeeper-1")
    more_commits(recorder, "commits on the new member and the last survivor")
    recorder.stop()
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    recorder.check()


def test_a_replacement_waits_for_all_other_members(cluster: Cluster):
    """The one that has not heard of the new store could still make a quorum with the lost one."""
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a")
    cluster.chaos("kill", "safekeeper-3")
    cluster.chaos("wipe", "safekeeper-2")
    done = cluster.run("safekeeper", "replace", "2", timeout_s=60)
    assert done.returncode == 1 and "safekeeper 3" in done.stderr and "repeat" in done.stderr, done.stderr
    cluster.chaos("resume", "safekeeper-3")
    assert cluster.ogel("safekeeper", "replace", "2")["complete"]
    cluster.chaos("kill", "safekeeper-1")
    assert cluster.sql("SELECT a FROM t") == [(1,)]
    cluster.sql("INSERT INTO t VALUES (2)")


def test_rot_is_repaired_from_the_peers(cluster: Cluster):
    """H6: a node that finds acknowledged WAL damaged has no vote until it has taken the peers' bytes."""
    recorder = Recorder(cluster).create().start()
    more_commits(recorder, "commits")
    flushed = lsn(cluster.http("safekeeper-2", cluster.timeline_path())["flush_lsn"])
    cluster.chaos("kill", "safekeeper-2")
    more_commits(recorder, "commits on two")
    config = cluster.config()
    folder = cluster.dir / "safekeeper-2" / "tenants" / config["tenant"] / "timelines" / config["branches"][0]["timeline"]
    number, offset = divmod(flushed - 2000, 16 << 20)
    segment: Path = folder / f"00000001{number >> 8:08X}{number & 0xFF:08X}"
    with segment.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))
    cluster.chaos("resume", "safekeeper-2")
    wait_until(lambda: "damaged WAL repaired" in cluster.log("safekeeper-2"), "it says so")
    metrics = cluster.http("safekeeper-2", "/metrics").decode()
    assert "safekeeper_repaired_timelines_total 1" in metrics and "safekeeper_refused_timelines 0" in metrics
    cluster.chaos("kill", "safekeeper-1")
    more_commits(recorder, "commits on the repaired node")
    recorder.stop()
    recorder.check()


def test_a_deleted_timeline_stays_deleted(cluster: Cluster):
    """A compute that still runs, and whoever creates it again, is told."""
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a")
    path = cluster.timeline_path()
    for n in (1, 2, 3):
        assert cluster.http(f"safekeeper-{n}", path, "DELETE")["deleted"]

    def told() -> bool:
        detail = cluster.node("compute-main")["detail"] or {}
        return any("was deleted" in (node.get("error") or "") for node in detail.get("safekeepers", []))

    wait_until(told, "the compute's status says why nothing is committed")
    cluster.chaos("kill", "safekeeper-2")
    cluster.chaos("resume", "safekeeper-2")
    for n in (1, 2):
        with pytest.raises(urllib.error.HTTPError) as refused:
            cluster.http(f"safekeeper-{n}", path)
        assert refused.value.code == 404 and b"was deleted" in refused.value.read()


def test_a_used_up_quota_makes_commits_wait_and_says_why(make_cluster, monkeypatch):
    """Back-pressure, not a disconnect loop: the writer waits, the status names the quota, and it goes on by itself once WAL was removed."""
    monkeypatch.setenv("OGEL_TIMELINE_QUOTA_BYTES", str(64 << 20))
    # WAL can be removed once the pageserver has its pages in the object store: by itself it takes its time here.
    monkeypatch.setenv("OGEL_FREEZE_SIZE_MB", "1024")
    monkeypatch.setenv("OGEL_FREEZE_WAL_MB", "4096")
    monkeypatch.setenv("OGEL_FREEZE_AGE_S", "3600")
    cluster = make_cluster().up()
    cluster.sql("CREATE TABLE t (a int, filler text)")
    writer = cluster.connect()
    pending = PendingCommit(writer, "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 120000) i")

    wait_until(lambda: "fills its quota of" in cluster.log("compute-main"), "the compute says why its commits wait")
    restarts = cluster.node("compute-main")["process"]["restarts"]
    assert pending.outcome is None, "nothing is acknowledged without a place for it"

    def stored_and_done() -> bool:
        cluster.http("pageserver", f"{cluster.timeline_path()}/checkpoint", method="POST")
        return pending.outcome is not None
    wait_until(stored_and_done, "it goes on by itself")
    assert pending.outcome == "acknowledged"
    assert cluster.sql("SELECT count(*) FROM t") == [(120000,)]
    assert cluster.node("compute-main")["process"]["restarts"] == restarts
