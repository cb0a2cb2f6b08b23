"""A wrong environment ends a start within ten seconds, with one line that names the variable and what to do."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator

import pytest

from cluster import RELEASE, Cluster, pg_manifest, wait_until
from ministack import Ministack

LIMIT_S = 10
SAFEKEEPERS = "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3"


def start(program: str, env: dict[str, str], *args: str) -> str:
    """Runs it until it gives up; the one line that it ends with."""
    began = time.monotonic()
    verb = {"compute": ["run"], "ogel": ["create-timeline"]}.get(program, [])
    command = [RELEASE / program, *verb, *args]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]} | env, capture_output=True, text=True, timeout=30)
    elapsed = time.monotonic() - began
    assert done.returncode not in (0, 101), done.stderr
    assert elapsed < LIMIT_S, f"it took {elapsed:.1f} s"
    # What was logged on the way, and that it waits, comes before.
    lines = [line for line in done.stderr.splitlines() if not re.search("WARN|INFO|waiting for", line)]
    assert len(lines) == 1, f"{done.stderr!r}"
    return lines[0]


def safekeeper(folder: Path, **changes: str | None) -> str:
    return start("safekeeper", settings({"OGEL_DATA_DIR": str(folder / "data"), "OGEL_NODE_ID": "1", "OGEL_PEERS": SAFEKEEPERS,
                                         "OGEL_LISTEN_PG": "127.0.0.1:0", "OGEL_LISTEN_HTTP": "127.0.0.1:0"}, changes))


def pageserver(folder: Path, **changes: str | None) -> str:
    return start("pageserver", settings({"OGEL_DATA_DIR": str(folder / "data"), "OGEL_SAFEKEEPERS": "127.0.0.1:1",
                                         "OGEL_LISTEN_PG": "127.0.0.1:0", "OGEL_LISTEN_HTTP": "127.0.0.1:0"}, changes))


def compute(folder: Path, **changes: str | None) -> str:
    return start("compute", settings({"OGEL_DATA_DIR": str(folder / "data"), "OGEL_TENANT": "1" * 32, "OGEL_TIMELINE": "2" * 32,
                                      "OGEL_SAFEKEEPERS": SAFEKEEPERS, "OGEL_PAGESERVER": "127.0.0.1:1", "OGEL_SQL_LISTEN": f"127.0.0.1:{free_port()}",
                                      "OGEL_PG_PREFIX": pg_manifest()["patched"], "OGEL_EXT_DIR": str(RELEASE / "ext")}, changes))


def create_timeline(folder: Path, **changes: str | None) -> str:
    """What a compute's container does first."""
    return start("ogel", settings({"OGEL_TENANT": "1" * 32, "OGEL_TIMELINE": "2" * 32, "OGEL_PAGESERVER_HTTP": f"127.0.0.1:{free_port()}",
                                   "OGEL_SAFEKEEPERS_HTTP": f"127.0.0.1:{free_port()}"}, changes), "--wait", "5")


def settings(good: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in (good | changes).items() if value is not None}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's: PostgreSQL's own user must be able to pass through it."""
    with tempfile.TemporaryDirectory(prefix="ogel-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("starts, variable", [
    (safekeeper, "OGEL_DATA_DIR"), (safekeeper, "OGEL_NODE_ID"), (pageserver, "OGEL_SAFEKEEPERS"), (compute, "OGEL_TENANT"),
    (compute, "OGEL_TIMELINE"), (compute, "OGEL_SAFEKEEPERS"), (compute, "OGEL_PAGESERVER"), (create_timeline, "OGEL_TENANT"),
    (create_timeline, "OGEL_TIMELINE"), (create_timeline, "OGEL_SAFEKEEPERS_HTTP"), (create_timeline, "OGEL_PAGESERVER_HTTP"),
])
def test_missing(folder: Path, starts, variable: str):
    assert f"{variable} (--" in starts(folder, **{variable: None}) and not (folder / "data").exists()


@pytest.mark.parametrize("starts, changes, says", [
    (safekeeper, {"OGEL_NODE_ID": "one"}, "OGEL_NODE_ID"),
    (safekeeper, {"OGEL_NODE_ID": "0"}, "OGEL_NODE_ID"),
    (safekeeper, {"OGEL_PEERS": "2=a:1,2=b:1"}, "OGEL_PEERS"),
    (safekeeper, {"OGEL_PEERS": "safekeeper-2:5454"}, "OGEL_PEERS"),
    (safekeeper, {"OGEL_AUTH_KEYS": "key.pem", "OGEL_ALLOW_UNAUTHENTICATED": "true"}, "OGEL_ALLOW_UNAUTHENTICATED"),
    (safekeeper, {"OGEL_S3_ENDPOINT": "https://s3.example"}, "OGEL_REMOTE"),
    (pageserver, {"OGEL_SAFEKEEPERS": "safekeeper-1"}, "OGEL_SAFEKEEPERS"),
    (pageserver, {"OGEL_PAGE_CACHE_MB": "0"}, "OGEL_PAGE_CACHE_MB"),
    (pageserver, {"OGEL_REMOTE": ""}, "OGEL_REMOTE"),
    (pageserver, {"OGEL_REMOTE": "s3://b", "OGEL_S3_ENDPOINT": "https://s3.example"}, "OGEL_S3_SECRET_ACCESS_KEY"),
    (safekeeper, {"OGEL_REMOTE": "gs://bucket"}, "OGEL_REMOTE"),
    (safekeeper, {"OGEL_DATA_DIR": "/proc/ogel"}, "OGEL_DATA_DIR"),
    (safekeeper, {"OGEL_AUTH_KEYS": "/nowhere.pub"}, "OGEL_AUTH_KEYS"),
    (safekeeper, {"OGEL_AUTH_TOKEN_FILE": "/nowhere.token"}, "OGEL_AUTH_TOKEN_FILE"),
    (safekeeper, {"OGEL_LISTEN_PG": "0.0.0.0:0"}, "OGEL_ALLOW_UNAUTHENTICATED"),
    (pageserver, {"OGEL_SAFEKEEPERS": "127.0.0.1:1,127.0.0.1:1"}, "OGEL_SAFEKEEPERS"),
    (pageserver, {"OGEL_TEMPLATE": "/nowhere.tar.zst"}, "OGEL_TEMPLATE"),
    (pageserver, {"OGEL_NODE_ID": "0"}, "OGEL_NODE_ID"),
    (compute, {"OGEL_TENANT": "acme"}, "OGEL_TENANT"),
    (compute, {"OGEL_SAFEKEEPERS": "1=a:1,1=b:1"}, "OGEL_SAFEKEEPERS"),
    (compute, {"OGEL_SAFEKEEPERS": "1=a:1,2=a:1"}, "OGEL_SAFEKEEPERS"),
    (compute, {"OGEL_PAGESERVER": "pageserver"}, "OGEL_PAGESERVER"),
    (compute, {"OGEL_SQL_LISTEN": "127.0.0.1:0"}, "OGEL_SQL_LISTEN"),
    (compute, {"OGEL_PG_SETTING": "fsync=off"}, "OGEL_PG_SETTING"),
    (compute, {"OGEL_PG_PREFIX": "/nowhere"}, "OGEL_PG_PREFIX"),
    (compute, {"OGEL_EXT_DIR": "/nowhere"}, "OGEL_EXT_DIR"),
    (compute, {"OGEL_HTTP_LISTEN": "status"}, "OGEL_HTTP_LISTEN"),
    (compute, {"OGEL_PASSWORD_FILE": "/nowhere"}, "OGEL_PASSWORD_FILE"),
    (compute, {"OGEL_AUTH_TOKEN_FILE": "/nowhere.token"}, "OGEL_AUTH_TOKEN_FILE"),
    (create_timeline, {"OGEL_TIMELINE": "main"}, "OGEL_TIMELINE"),
    (create_timeline, {"OGEL_SAFEKEEPERS_HTTP": ""}, "OGEL_SAFEKEEPERS_HTTP"),
    (create_timeline, {"OGEL_PAGESERVER_HTTP": "pageserver"}, "OGEL_PAGESERVER_HTTP"),
])
def test_contradictory_or_malformed(folder: Path, starts, changes: dict[str, str], says: str):
    assert says in starts(folder, **changes)


@pytest.mark.parametrize("starts, changes", [
    (pageserver, {"OGEL_SAFEKEEPERS": "no-such-safekeeper.invalid:5454"}),
    (compute, {"OGEL_SAFEKEEPERS": "1=127.0.0.1:1,2=no-such-two.invalid:5454,3=no-such-three.invalid:5454"}),
    (compute, {"OGEL_PAGESERVER": "no-such-pageserver.invalid:6400"}),
])
def test_names_that_nobody_has(folder: Path, starts, changes: dict[str, str]):
    line = starts(folder, **changes)
    assert next(iter(changes)) in line and "no-such" in line


def test_safekeepers_of_whom_none_answers(folder: Path):
    assert "OGEL_SAFEKEEPERS" in compute(folder)


def test_safekeepers_under_each_others_numbers(cluster: Cluster, folder: Path):
    config = cluster.config()
    ports = [node["pg_port"] for node in config["safekeepers"]]
    line = compute(folder, OGEL_TENANT=config["tenant"], OGEL_TIMELINE=config["branches"][0]["timeline"],
                   OGEL_SAFEKEEPERS=",".join(f"{1 + (i + 1) % 3}=127.0.0.1:{port}" for i, port in enumerate(ports)))
    assert "OGEL_SAFEKEEPERS" in line and "it says that it is node" in line
    assert cluster.sql("SELECT 1") == [(1,)], "nobody was deposed"


def test_a_volume_of_another_program(folder: Path):
    env = settings({"OGEL_DATA_DIR": str(folder / "data"), "OGEL_NODE_ID": "1", "OGEL_LISTEN_PG": "127.0.0.1:0", "OGEL_LISTEN_HTTP": "127.0.0.1:0"}, {})
    process = subprocess.Popen([RELEASE / "safekeeper"], env={"PATH": os.environ["PATH"]} | env, stderr=subprocess.DEVNULL)
    try:
        wait_until((folder / "data" / "tenants").exists, "the folder has an owner")
    finally:
        process.kill()
        process.wait()
    assert "OGEL_DATA_DIR" in pageserver(folder)


def test_a_volume_of_another_node(folder: Path):
    for name, starts in (("safekeeper", safekeeper), ("pageserver", pageserver)):
        (folder / name).mkdir()
        env = settings({"OGEL_DATA_DIR": str(folder / name / "data"), "OGEL_NODE_ID": "1", "OGEL_SAFEKEEPERS": "127.0.0.1:1",
                        "OGEL_LISTEN_PG": "127.0.0.1:0", "OGEL_LISTEN_HTTP": "127.0.0.1:0"}, {})
        process = subprocess.Popen([RELEASE / name], env={"PATH": os.environ["PATH"]} | env, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: any((folder / name / "data").glob("*.json")), "the folder has an owner")
        finally:
            process.kill()
            process.communicate()
        line = starts(folder / name, OGEL_NODE_ID="2")
        assert "OGEL_NODE_ID" in line and "belongs to" in line


class Refuses(BaseHTTPRequestHandler):
    """An S3 server that answers everything with one error."""

    answer = (403, "")

    def reply(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status, code = self.answer
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"1"')
        self.send_header("last-modified", "Sat, 21 Nov 2026 10:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = do_DELETE = do_HEAD = reply

    def log_message(self, *_: object) -> None:
        pass


def s3(endpoint: str, bucket: str = "ogel") -> dict[str, str]:
    return {"OGEL_REMOTE": f"s3://{bucket}/x", "OGEL_S3_ENDPOINT": endpoint, "OGEL_S3_ACCESS_KEY_ID": "id", "OGEL_S3_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize("starts", [safekeeper, pageserver])
@pytest.mark.parametrize("answer, says", [
    ((403, "SignatureDoesNotMatch"), "OGEL_S3_SECRET_ACCESS_KEY"),
    ((403, "InvalidAccessKeyId"), "OGEL_S3_ACCESS_KEY_ID"),
    ((403, "RequestTimeTooSkewed"), "clock"),
    ((400, "AuthorizationHeaderMalformed"), "OGEL_S3_REGION"),
    ((301, "PermanentRedirect"), "OGEL_S3_REGION"),
    ((404, "NoSuchBucket"), "OGEL_REMOTE"),
    ((200, ""), "conditional writes"),
], ids=["key", "key-id", "clock", "region", "redirect", "bucket", "conditional"])
def test_a_bucket_that_cannot_be_used(folder: Path, starts, answer: tuple[int, str], says: str):
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Refuses,), {"answer": answer}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        assert says in starts(folder, **s3(f"http://127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        server.server_close()


def test_an_absent_bucket_on_a_real_server(folder: Path):
    server = Ministack()
    try:
        line = pageserver(folder, **s3(server.endpoint, "no-such-bucket"))
        assert "no-such-bucket" in line and "OGEL_REMOTE" in line
    finally:
        server.stop()


def test_a_store_that_is_away_is_no_reason_not_to_start(folder: Path):
    """An outage of the bucket must not become one of the database."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        env = settings({"OGEL_DATA_DIR": str(folder / "data"), "OGEL_SAFEKEEPERS": "127.0.0.1:1", "OGEL_LISTEN_PG": "127.0.0.1:0",
                        "OGEL_LISTEN_HTTP": "127.0.0.1:0"}, s3(f"http://127.0.0.1:{nobody.getsockname()[1]}"))
        process = subprocess.Popen([RELEASE / "pageserver"], env={"PATH": os.environ["PATH"]} | env, stderr=subprocess.PIPE, text=True)
        try:
            said = ""
            for line in process.stderr:
                said += line
                if "pageserver runs" in line:
                    break
            assert "pageserver runs" in said and "OGEL_S3_ENDPOINT" in said, said
        finally:
            process.kill()
            process.communicate()


def test_two_safekeepers_with_one_number(folder: Path):
    """Found before the first timeline is made: they would be two votes of one node."""
    processes, http = [], []
    try:
        for name, node in (("a", "1"), ("b", "1"), ("page", "1")):
            program = "pageserver" if name == "page" else "safekeeper"
            port = free_port()
            env = settings({"OGEL_DATA_DIR": str(folder / name), "OGEL_NODE_ID": node, "OGEL_SAFEKEEPERS": "127.0.0.1:1", "OGEL_LISTEN_PG": "127.0.0.1:0",
                            "OGEL_LISTEN_HTTP": f"127.0.0.1:{port}", "OGEL_TEMPLATE": pg_manifest()["template"]}, {})
            processes.append(subprocess.Popen([RELEASE / program], env={"PATH": os.environ["PATH"]} | env, stderr=subprocess.DEVNULL))
            http.append(f"127.0.0.1:{port}")
        line = start("ogel", {}, "--tenant", "1" * 32, "--timeline", "2" * 32, "--pageserver", http[2],
                     "--safekeepers", ",".join(http[:2]), "--wait", "8")
        assert "OGEL_NODE_ID" in line and http[0] in line and http[1] in line
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_nodes_that_do_not_answer_are_named_with_their_variable(folder: Path):
    port = free_port()
    line = start("ogel", {}, "--tenant", "1" * 32, "--timeline", "2" * 32, "--pageserver", f"127.0.0.1:{port}",
                 "--safekeepers", "no-such-safekeeper.invalid:7676", "--wait", "5")
    assert "OGEL_PAGESERVER_HTTP" in line and "OGEL_SAFEKEEPERS_HTTP" in line and "no-such-safekeeper.invalid:7676" in line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
