"""Bad input and bad days: one clear line with the next step, and a following good command works."""

import os
import shutil
import signal
import socket
import subprocess

import pytest

from cluster import RELEASE, Cluster, OgelError, wait_until
from second_compute import SecondCompute


def refusal(cluster: Cluster, *args: str) -> str:
    done = cluster.run(*args)
    assert done.returncode not in (0, 3), done.stdout
    lines = [line for line in done.stderr.strip().splitlines() if "starting" not in line and "creating" not in line]
    assert len(lines) == 1, f"one line is expected: {done.stderr}"
    assert "panicked" not in done.stderr
    return lines[0]


def test_port_in_use(make_cluster):
    cluster = make_cluster()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = str(server.getsockname()[1])
        text = refusal(cluster, "up", "--port", port)
        assert port in text and "--port" in text
    cluster.ogel("up", "--port", "0")
    assert cluster.sql("SELECT 1") == [(1,)]


def test_folder_of_another_version(make_cluster):
    cluster = make_cluster().up()
    cluster.ogel("down")
    config = cluster.dir / "ogel.json"
    text = config.read_text()
    config.write_text(text.replace('"version": 1', '"version": 99'))
    assert "another version" in refusal(cluster, "up")
    config.write_text(text)
    cluster.up()
    assert cluster.sql("SELECT 1") == [(1,)]


def test_nothing_there_yet(make_cluster):
    cluster = make_cluster()
    for command in (["down"], ["status"], ["psql"], ["url"], ["logs"], ["compute", "start", "main"]):
        assert "ogel up" in refusal(cluster, *command)
    assert "nothing to destroy" in refusal(cluster, "destroy", "--yes")


def test_unknown_names(cluster: Cluster):
    assert "main" in refusal(cluster, "url", "nosuch")
    assert "safekeeper-1" in refusal(cluster, "chaos", "kill", "nosuch")
    assert "ogel" in refusal(cluster, "logs", "nosuch")
    assert "--yes" in refusal(cluster, "destroy")
    assert cluster.sql("SELECT 1") == [(1,)]


def test_two_ups_in_one_folder(make_cluster):
    cluster = make_cluster()
    command = [RELEASE / "ogel", "--dir", cluster.dir, "up", "--port", "0"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [(process.wait(60), process.stderr.read()) for process in both]
    assert any(code == 0 for code, _ in results), results
    assert all("panicked" not in text for _, text in results)
    cluster.up()
    assert cluster.sql("SELECT 1") == [(1,)]
    nodes = cluster.ogel("status")["nodes"]
    assert all(node["process"]["restarts"] == 0 for node in nodes), nodes


@pytest.mark.parametrize("after", ["starting safekeepers", "creating the first timeline", "starting the compute"])
def test_interrupted_up(make_cluster, after: str):
    cluster = make_cluster()
    process = subprocess.Popen([RELEASE / "ogel", "--dir", cluster.dir, "up", "--port", "0"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if after in line:
            process.send_signal(signal.SIGINT)
            break
    assert process.wait(60) == 130
    assert cluster.run("status").returncode == 3, "what was begun is stopped"
    cluster.up()
    assert cluster.sql("SELECT 1") == [(1,)]


def test_corrupt_control_file_of_a_safekeeper(cluster: Cluster):
    """The damaged node refuses, says so, and the others carry on."""
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a")
    cluster.ogel("down")
    controls = [path for path in (cluster.dir / "safekeeper-2").rglob("*") if path.is_file() and "control" in path.name]
    assert controls
    for path in controls:
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        path.write_bytes(damaged)
    cluster.up()
    assert cluster.sql("SELECT a FROM t") == [(1,)]
    cluster.sql("INSERT INTO t VALUES (2)")
    assert "control" in cluster.log("safekeeper-2")


def test_the_pageserver_is_behind(cluster: Cluster):
    """A compute that starts while the pageserver is away waits, says for what, and goes on."""
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")
    cluster.ogel("compute", "stop", "main")
    cluster.chaos("kill", "pageserver")
    start = subprocess.Popen([RELEASE / "ogel", "--dir", cluster.dir, "compute", "start", "main"], stderr=subprocess.PIPE, text=True)
    def says() -> bool:
        detail = cluster.node("compute-main")["detail"] or {}
        return detail.get("state") == "basebackup" and "pageserver" in (detail.get("error") or "")
    wait_until(says, "the status names the pageserver")
    cluster.chaos("resume", "pageserver")
    assert start.wait(60) == 0, start.stderr.read()
    assert cluster.sql("SELECT count(*) FROM t") == [(1000,)]


def test_a_killed_daemon_leaves_a_cluster_that_comes_up(cluster: Cluster):
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a")
    daemon = int(subprocess.run(["pgrep", "-f", f"{cluster.dir} daemon"], capture_output=True, text=True, check=True).stdout.split()[0])
    os.kill(daemon, signal.SIGKILL)

    def up():
        try:
            return cluster.up()
        except OgelError:
            return None
    wait_until(up, "the cluster comes up again")
    assert cluster.sql("SELECT a FROM t") == [(1,)]


def test_safekeepers_that_disagree_on_the_system_identifier(cluster: Cluster):
    """Parts of two databases must never make one quorum."""
    tenant, timeline = cluster.config()["tenant"], os.urandom(16).hex()
    path = f"/v1/tenant/{tenant}/timeline/{timeline}"
    made = cluster.http("pageserver", path, "PUT", b'{"source":"template"}', "application/json")
    prefix = cluster.http("pageserver", f"{path}/wal_prefix")
    stores = {n: cluster.http(f"safekeeper-{n}", "/v1/status")["store_uuid"] for n in (1, 2, 3)}
    members = ",".join(f"{n}:{store}" for n, store in stores.items())
    for n in (1, 2, 3):
        system = int(made["system_identifier"]) + (n == 2)
        # The long page header at a segment's start holds it too: bytes 24 to 32.
        wal = prefix[:24] + system.to_bytes(8, "little") + prefix[32:]
        query = (f"system_identifier={system}&pg_version_num={made['pg_version_num']}&wal_segment_size={made['wal_segment_size']}"
                 f"&start_lsn={made['start_lsn']}&generation=1&members={members}")
        cluster.http(f"safekeeper-{n}", f"{path}?{query}", "PUT", wal)
    cluster.chaos("kill", "safekeeper-3")
    stray = SecondCompute(cluster, timeline)
    try:
        wait_until(lambda: "system identifier" in cluster.log("second"), "the compute says what is wrong")
        assert "panicked" not in cluster.log("second")
        for n in (1, 2):
            assert cluster.http(f"safekeeper-{n}", path)["commit_lsn"] == made["start_lsn"]
    finally:
        stray.stop()
    cluster.chaos("resume", "safekeeper-3")
    assert cluster.sql("SELECT 1") == [(1,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_as_an_ordinary_user(make_cluster):
    cluster = make_cluster()
    shutil.chown(cluster.dir, "nobody")
    cluster.prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    cluster.up()
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a")
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT a FROM t") == [(1,)]
    cluster.ogel("down")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused a closed folder")
def test_a_folder_that_postgres_s_user_cannot_enter(make_cluster):
    cluster = make_cluster()
    cluster.dir.chmod(0o700)
    inner = cluster.dir / "inner"
    done = subprocess.run([RELEASE / "ogel", "--dir", inner, "up", "--port", "0"], capture_output=True, text=True)
    assert done.returncode == 1 and str(cluster.dir) in done.stderr and "--dir" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
