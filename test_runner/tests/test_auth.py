"""Tokens: without a good one nobody gets in, with one only to what it is for."""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request

import pytest
from psycopg import pq

from cluster import RELEASE, Cluster, pg_bin, wait_until

OTHER_TENANT = "ee" * 16


@pytest.fixture(scope="module")
def guarded():
    cluster = Cluster()
    try:
        yield cluster.up("--auth")
    finally:
        cluster.remove()


def token(cluster: Cluster, *args: str, key: str = "auth/key") -> str:
    return cluster.ogel("token", "--key", str(cluster.dir / key), *args)["token"]


def wire(cluster: Cluster, service: str, password: str, command: str) -> str:
    """The error that a wire port answers with; empty when it does what it is asked."""
    config = cluster.config()
    node = config["pageserver"] if service == "pageserver" else config["safekeepers"][0]
    options = f"-c ogel.tenant={config['tenant']} -c ogel.timeline={config['branches'][0]['timeline']}"
    info = {"host": "127.0.0.1", "port": str(node["pg_port"]), "user": "u", "dbname": "d", "password": password, "options": options}
    connection = pq.PGconn.connect(" ".join(f"{name}='{value}'" for name, value in info.items()).encode())
    try:
        if connection.status != pq.ConnStatus.OK:
            return connection.error_message.decode()
        result = connection.exec_(command.encode())
        failed = result.status == pq.ExecStatus.FATAL_ERROR
        return result.error_message.decode() if failed else ""
    finally:
        connection.finish()


def http_status(cluster: Cluster, node: str, path: str, bearer: str | None, method: str = "GET") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{cluster.http_port(node)}{path}", method=method)
    if bearer is not None:
        request.add_header("authorization", f"Bearer {bearer}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def commands(cluster: Cluster) -> dict[str, str]:
    config = cluster.config()
    tenant, timeline = config["tenant"], config["branches"][0]["timeline"]
    return {"safekeeper": "IDENTIFY_SYSTEM", "pageserver": f"pagestream 1 {tenant} {timeline} 1000000"}


def test_a_cluster_that_asks_for_tokens_works(guarded: Cluster):
    guarded.sql("CREATE TABLE kept AS SELECT generate_series(1, 100000) AS a")
    guarded.ogel("compute", "stop", "main")
    guarded.ogel("compute", "start", "main")
    assert guarded.sql("SELECT count(*) FROM kept") == [(100000,)]


@pytest.mark.parametrize("service", ["safekeeper", "pageserver"])
def test_only_the_tenants_token_lets_in(guarded: Cluster, service: str):
    command, tenant = commands(guarded)[service], guarded.config()["tenant"]
    guarded.ogel("keys", "new", str(guarded.dir / f"stranger-{service}"))
    good = token(guarded, "--tenant", tenant)
    stranger = token(guarded, "--tenant", tenant, key=f"stranger-{service}")
    assert wire(guarded, service, good, command) == ""
    assert "does not allow" in wire(guarded, service, token(guarded, "--tenant", OTHER_TENANT), command)
    assert "does not allow" in wire(guarded, service, token(guarded, "--tenant", tenant, "--timeline", OTHER_TENANT), command)
    assert "not signed by a key" in wire(guarded, service, stranger, command)
    assert "not a token" in wire(guarded, service, "postgres", command)
    assert "password" in wire(guarded, service, "", command)

    node = "pageserver" if service == "pageserver" else "safekeeper-1"
    path = guarded.timeline_path()
    assert http_status(guarded, node, path, good) == 200
    assert http_status(guarded, node, path, token(guarded, "--tenant", OTHER_TENANT)) == 403
    assert http_status(guarded, node, path, good, "DELETE") == 403, "a tenant's token deletes nothing"
    assert http_status(guarded, node, path, stranger) == 401
    assert http_status(guarded, node, path, None) == 401
    assert http_status(guarded, node, "/v1/status", token(guarded, "--scope", "admin")) == 200
    assert http_status(guarded, node, "/readyz", None) == 200


def test_pg_receivewal_shows_its_token_as_password(guarded: Cluster, tmp_path):
    config = guarded.config()
    tenant, timeline = config["tenant"], config["branches"][0]["timeline"]
    env = {**os.environ, "PGOPTIONS": f"-c ogel.tenant={tenant} -c ogel.timeline={timeline}", "PGPASSWORD": token(guarded, "--tenant", tenant)}
    port = config["safekeepers"][0]["pg_port"]
    command = [pg_bin("pg_receivewal"), "-h", "127.0.0.1", "-p", str(port), "-D", str(tmp_path), "--no-loop"]
    receiver = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: any(tmp_path.iterdir()) or receiver.poll() is not None, "WAL arrives")
        assert receiver.poll() is None, receiver.stderr.read()
    finally:
        receiver.terminate()
        receiver.wait(30)


def test_no_superuser_sees_the_token(guarded: Cluster):
    secret = (guarded.dir / "auth/compute.token").read_text()
    assert guarded.sql("SELECT count(*) FROM pg_settings WHERE setting LIKE %s", f"%{secret[:20]}%") == [(0,)]
    environment = guarded.sql("SELECT encode(pg_read_binary_file('/proc/self/environ'), 'escape')")[0][0]
    command_line = guarded.sql("SELECT encode(pg_read_binary_file('/proc/self/cmdline'), 'escape')")[0][0]
    assert secret[:20] not in environment + command_line
    for log in (guarded.dir / "logs").glob("*.log"):
        assert secret[:20] not in log.read_text(errors="replace"), log


def test_other_machines_are_not_served_without_keys(tmp_path):
    for program, more in (("safekeeper", ["--node-id=1"]), ("pageserver", ["--safekeepers=127.0.0.1:1"])):
        command = [RELEASE / program, f"--data-dir={tmp_path}", "--listen-pg=0.0.0.0:0", "--check-config", *more]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode != 0 and "--allow-unauthenticated" in refused.stderr, refused
        allowed = subprocess.run([*command, "--allow-unauthenticated"], capture_output=True, text=True)
        assert allowed.returncode == 0, allowed.stderr
