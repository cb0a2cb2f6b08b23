"""Every runbook is followed to the letter after its disaster, while others write; nothing acknowledged is lost."""

import http.client
import os
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import runbooks
from cluster import RELEASE, Cluster, pg_manifest, wait_until
from ministack import Ministack
from recorder import PendingCommit, Recorder


@pytest.fixture
def in_a_folder(monkeypatch, tmp_path: Path) -> str:
    """An object store outside the pageserver's folder."""
    remote = f"file://{tmp_path / 'objects'}"
    monkeypatch.setenv("OGEL_REMOTE", remote)
    return remote


def follow(name: str, cluster: Cluster, folder: Path, **env: str) -> str:
    programs = f"{RELEASE}:{Path(pg_manifest()['patched']) / 'bin'}:{os.environ['PATH']}"
    return runbooks.execute(name, os.environ | {"PATH": programs, "OGEL_DIR": str(cluster.dir)} | env, folder)


def more_commits(recorder: Recorder, count: int = 20) -> None:
    before = recorder.count()
    wait_until(lambda: recorder.count() >= before + count, "commits go on", timeout_s=90)


def test_each_block_of_the_document_is_followed_somewhere():
    text = runbooks.DOCUMENT.read_text()
    assert len(runbooks.blocks()) == text.count("```sh"), "a block without a name"
    tests = "".join((Path(__file__).parent / name).read_text() for name in ("test_runbooks.py", "test_compose.py"))
    for name in runbooks.blocks():
        assert re.search(rf'"{name}"', tests), f"nobody follows {name}"


def test_lost_safekeeper(cluster: Cluster, tmp_path: Path):
    recorder = Recorder(cluster).create().start()
    more_commits(recorder)
    cluster.chaos("wipe", "safekeeper-2")
    follow("lost-safekeeper", cluster, tmp_path)
    cluster.chaos("kill", "safekeeper-1")
    more_commits(recorder)
    recorder.stop().check()


def test_lost_pageserver_volume(in_a_folder: str, cluster: Cluster, tmp_path: Path):
    recorder = Recorder(cluster).create().start()
    more_commits(recorder)
    cluster.chaos("wipe", "pageserver")
    more_commits(recorder)
    recorder.stop()
    follow("lost-pageserver", cluster, tmp_path)
    recorder.check()


def test_full_disk(make_cluster, monkeypatch, tmp_path: Path):
    """A floor above what the disk has free is a full disk: commits wait until there is room, and status and log say for what."""
    cluster = make_cluster().up()
    cluster.sql("CREATE TABLE t (a int, filler text)")
    cluster.ogel("down")
    monkeypatch.setenv("OGEL_FREE_SPACE_FLOOR_BYTES", str(1 << 60))
    cluster.up()
    commit = PendingCommit(cluster.connect(), "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 60000) i")
    said = lambda: re.findall(r"safekeeper (\d): no disk space", cluster.log("compute-main"))
    wait_until(lambda: set(said()) == {"1", "2", "3"}, "the compute says why commits wait")
    lines = follow("full-disk", cluster, tmp_path).splitlines()
    for node in range(1, 4):
        line = next(line for line in lines if line.startswith(f"safekeeper-{node}"))
        assert "waits_for_space no disk space" in line and "must stay free" in line, line
        assert f"safekeeper {node}: no disk space" in next(line for line in lines if line.startswith("compute-main")), lines
    assert any("cannot be used now" in line for line in lines), lines
    assert commit.outcome is None, "a commit waits, it does not fail"
    cluster.ogel("down")
    assert commit.join(30) == "error"
    assert sorted(said()) == ["1", "2", "3"], "it was tried again for seconds, and said once"
    monkeypatch.delenv("OGEL_FREE_SPACE_FLOOR_BYTES")
    cluster.up()
    cluster.sql("INSERT INTO t VALUES (1)")


def test_object_store_outage(make_cluster, monkeypatch, tmp_path: Path):
    server = Ministack()
    try:
        for name, value in server.environment("cluster").items():
            monkeypatch.setenv(name, value)
        cluster = make_cluster().up()
        recorder = Recorder(cluster).create().start()
        more_commits(recorder)
        os.kill(server.process.pid, 19)
        more_commits(recorder, 50)
        follow("object-store-outage", cluster, tmp_path)
        os.kill(server.process.pid, 18)
        more_commits(recorder)
        recorder.stop().check()
        cluster.ogel("down")
        follow("object-store-after", cluster, tmp_path)
    finally:
        os.kill(server.process.pid, 18)
        server.stop()


def test_slow_commits(cluster: Cluster, tmp_path: Path):
    """With two safekeepers frozen the views name them, and what the commit waits for."""
    cluster.sql("CREATE EXTENSION ogel")
    cluster.sql("CREATE TABLE t (a int)")
    writer, observer = cluster.connect(), cluster.connect()
    for node in ("safekeeper-1", "safekeeper-2"):
        cluster.chaos("stop", node)
    commit = PendingCommit(writer, "INSERT INTO t VALUES (1)").wait_until_it_waits(observer)
    said = follow("slow-commits", cluster, tmp_path)
    assert "commits wait for a quorum" in said, said
    for node in ("safekeeper-1", "safekeeper-2"):
        cluster.chaos("resume", node)
    assert commit.join(60) == "acknowledged"


def test_upgrade(cluster: Cluster, tmp_path: Path):
    cluster.sql("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS a")
    follow("upgrade", cluster, tmp_path)
    assert cluster.sql("SELECT count(*) FROM kept") == [(1000,)]


def test_rotating_keys(make_cluster, tmp_path: Path):
    cluster = make_cluster()
    follow_env = {"OGEL_DIR": str(cluster.dir)}
    subprocess.run([RELEASE / "ogel", "keys", "new", "old"], cwd=tmp_path, check=True, capture_output=True)
    old = subprocess.run([RELEASE / "ogel", "token", "--key", "old", "--scope", "admin"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    follow("rotating-keys", cluster, tmp_path, **follow_env)
    new = (tmp_path / "admin.token").read_text().strip()
    for keys, expected in (("old.pub", (200, 401)), ("old.pub,new.pub", (200, 200)), ("new.pub", (401, 200))):
        assert answers(tmp_path, keys, old, new) == expected, keys


def answers(folder: Path, keys: str, *tokens: str) -> tuple[int, ...]:
    """What a safekeeper with these keys says to each token."""
    log = folder / "safekeeper.log"
    command = [RELEASE / "safekeeper", "--data-dir", folder / "data", "--node-id", "1", "--listen-pg", "127.0.0.1:0", "--listen-http", "127.0.0.1:0",
               "--auth-keys", keys]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_until(lambda: "serving" in log.read_text() or process.poll() is not None, "it serves")
        port = listening_port(process.pid)
        return tuple(status(port, token) for token in tokens)
    finally:
        process.terminate()
        process.wait(30)


def listening_port(pid: int) -> int:
    """The port that speaks HTTP."""
    found = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    for port in re.findall(rf"127\.0\.0\.1:(\d+) .*pid={pid},", found):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
            return int(port)
        except (OSError, http.client.HTTPException):
            continue
    raise AssertionError(f"no HTTP port of process {pid} in {found}")


def status(port: int, token: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/status", headers={"authorization": f"Bearer {token}"})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def test_restore_drill(cluster: Cluster, tmp_path: Path):
    cluster.sql("CREATE TABLE precious AS SELECT generate_series(1, 10) AS a")
    # In whole seconds, and not before the table was made.
    at = cluster.sql("""SELECT to_char((clock_timestamp() + interval '1 s') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')""")[0][0]
    wait_until(lambda: cluster.sql("SELECT clock_timestamp() > %s::timestamptz", at)[0][0], "that moment has passed")
    cluster.sql("DELETE FROM precious")
    follow("restore-drill", cluster, tmp_path, AT=at)
    dump = (tmp_path / "drill.sql").read_text()
    assert re.search(r"COPY public.precious .*\n1\n2\n3\n", dump), dump[:2000]
    assert cluster.sql("SELECT count(*) FROM precious") == [(0,)]
    follow("take-back", cluster, tmp_path, AT=at)
    assert cluster.sql("SELECT count(*) FROM precious") == [(10,)]
    cluster.sql("INSERT INTO precious VALUES (11)")
