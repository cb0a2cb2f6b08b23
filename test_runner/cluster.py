"""A local cluster for one test: its own folder, free ports, driven by `ogel` as a user would drive it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable

import psycopg

ROOT = Path(__file__).resolve().parent.parent
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release"


class OgelError(Exception):
    """`ogel` ended with an error; the text is what it printed."""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """Returns the first true value of `condition`; fails with `what` when there is none in time."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


def lsn(text: str) -> int:
    """A position in the WAL, from PostgreSQL's notation."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def pg_manifest() -> dict[str, str]:
    """Where PostgreSQL lies: `patched`, `stock`, `template`."""
    return json.loads((RELEASE / "pg-install.json").read_text())


def pg_bin(name: str) -> str:
    """One of the patched PostgreSQL's programs."""
    return str(Path(pg_manifest()["patched"]) / "bin" / name)


class Cluster:
    """One cluster. `settings` are PostgreSQL settings of its computes."""

    def __init__(self, settings: dict[str, str] | None = None):
        # Not pytest's tmp_path: PostgreSQL's own user must be able to pass through all folders above.
        self.dir = Path(tempfile.mkdtemp(prefix="ogel-test-"))
        self.dir.chmod(0o755)
        self.settings = settings or {}
        self.prefix: list[str] = []

    def run(self, *args: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs `ogel` and returns what it printed, whatever its exit code."""
        env = dict(os.environ)
        env["OGEL_PG_SETTINGS"] = " ".join(f"{name}={value}" for name, value in self.settings.items())
        command = [*self.prefix, str(RELEASE / "ogel"), "--dir", str(self.dir), *args]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)

    def ogel(self, *args: str, timeout_s: float = 120) -> Any:
        """Runs `ogel --json`, demands success, returns its answer."""
        done = self.run("--json", *args, timeout_s=timeout_s)
        if done.returncode not in (0, 3):
            raise OgelError(f"ogel {' '.join(args)}: exit {done.returncode}\n{done.stderr}{done.stdout}")
        return json.loads(done.stdout)

    def up(self, *args: str) -> "Cluster":
        """Starts it on a free SQL port."""
        self.ogel("up", *([] if self.exists() else ["--port", "0"]), *args)
        return self

    def exists(self) -> bool:
        return (self.dir / "ogel.json").exists()

    def config(self) -> dict[str, Any]:
        return json.loads((self.dir / "ogel.json").read_text())

    def url(self, branch: str = "main", **options: str) -> str:
        """Connection string of a branch, for any libpq program."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return self.ogel("url", branch)["connection_string"] + (f"?{query}" if query else "")

    def connect(self, branch: str = "main", **options: Any) -> psycopg.Connection:
        options.setdefault("autocommit", True)
        options.setdefault("connect_timeout", 10)
        return psycopg.connect(self.url(branch), **options)

    def sql(self, query: str, *params: Any, branch: str = "main") -> list[tuple]:
        """One statement on a connection of its own; its rows."""
        with self.connect(branch) as connection:
            cursor = connection.execute(query, params or None)
            return cursor.fetchall() if cursor.description else []

    def node(self, name: str) -> dict[str, Any]:
        """A node as `ogel status` shows it."""
        return next(node for node in self.ogel("status")["nodes"] if node["name"] == name)

    def http(self, name: str, path: str, method: str = "GET", body: bytes | None = None, content_type: str = "application/octet-stream") -> Any:
        """A request to a node's HTTP port; raises urllib's error on a refusal."""
        port = self.http_port(name)
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method=method, headers={"content-type": content_type})
        with urllib.request.urlopen(request, timeout=30) as response:
            data = response.read()
        return json.loads(data) if "json" in response.headers.get("content-type", "") else data

    def http_port(self, name: str) -> int:
        config = self.config()
        if name == "pageserver":
            return config["pageserver"]["http_port"]
        kind, _, which = name.partition("-")
        if kind == "safekeeper":
            return next(node["http_port"] for node in config["safekeepers"] if str(node["id"]) == which)
        return next(branch["http_port"] for branch in config["branches"] if branch["name"] == which)

    def timeline_path(self) -> str:
        """HTTP path of branch main's timeline on the storage nodes."""
        config = self.config()
        return f"/v1/tenant/{config['tenant']}/timeline/{config['branches'][0]['timeline']}"

    def chaos(self, verb: str, node: str) -> None:
        self.ogel("chaos", verb, node)

    def log(self, name: str) -> str:
        path = self.dir / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def logs_tail(self, lines: int = 25) -> str:
        parts = []
        for path in sorted(self.dir.glob("logs/*.log")) + sorted(self.dir.glob("compute-*/*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"==> {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)

    def remove(self) -> None:
        """Stops everything at once and deletes the folder."""
        if self.exists():
            self.run("destroy", "--yes")
        shutil.rmtree(self.dir, ignore_errors=True)


def pgbench(cluster: Cluster, *args: str, check: bool = True, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
    """Runs pgbench on branch main."""
    command = [pg_bin("pgbench"), *args, cluster.url()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    if check:
        assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return done


def pgbench_invariants(cluster: Cluster) -> int:
    """TPC-B's books balance. Returns the number of history rows."""
    query = """
        SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
               (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
               (SELECT count(*) FROM pgbench_history)"""
    accounts, tellers, branches, history, rows = cluster.sql(query)[0]
    assert accounts == tellers == branches == history, (accounts, tellers, branches, history)
    return rows
