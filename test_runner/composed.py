"""docker-compose.yml as its users run it, with images of this checkout, a project name and a port of the test's own."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import psycopg

from cluster import ROOT, wait_until
from engine import IMAGES, Engine

SERVICES = ["safekeeper-1", "safekeeper-2", "safekeeper-3", "pageserver", "compute"]


class ComposeProject:
    """One project. `transcript` is what was done and how long it took, for docs/docker.md. `bucket` are the variables of the S3 override."""

    def __init__(self, engine: Engine, bucket: dict[str, str] | None = None) -> None:
        self.engine = engine
        self.name = f"ogeltest{os.getpid()}{'s3' if bucket else ''}"
        self.files = ["-f", "docker-compose.yml", *(["-f", "docker-compose.s3.yml"] if bucket else [])]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.env = dict(engine.env, OGEL_IMAGES=IMAGES, OGEL_SQL_PORT=str(self.port), OGEL_PASSWORD="compose-test", OGEL_PG_SETTING="shared_buffers=1MB") | (bucket or {})
        self.transcript: list[str] = []

    def compose(self, *args: str, timeout_s: float = 180) -> str:
        """One command of docker-compose, with success demanded."""
        command = [*self.engine.compose, "-p", self.name, *self.files, *args]
        started = time.monotonic()
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT)
        files = self.files if len(self.files) > 2 else []
        self.note(f"docker-compose {shlex.join([*files, *args])}", time.monotonic() - started)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr[-3000:]}"
        return done.stdout

    def note(self, what: str, seconds: float) -> None:
        self.transcript.append(f"{seconds:6.1f} s  {what}")
        print(self.transcript[-1])

    def up(self) -> float:
        """Starts everything; seconds until the first query was answered."""
        started = time.monotonic()
        self.compose("up", "-d", "--no-build")
        self.serves()
        return time.monotonic() - started

    def serves(self, timeout_s: float = 60) -> None:
        started = time.monotonic()
        wait_until(self._answers, "SQL is served", timeout_s)
        self.note("until SQL was answered", time.monotonic() - started)

    def _answers(self) -> bool:
        try:
            return self.sql("SELECT 1") == [(1,)]
        except psycopg.Error:
            return False

    def url(self) -> str:
        return f"postgresql://postgres:compose-test@127.0.0.1:{self.port}/postgres"

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url(), autocommit=True, connect_timeout=10)

    def sql(self, query: str) -> list[tuple]:
        with self.connect() as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def container(self, service: str) -> dict:
        return self.engine.inspect(self.compose_id(service))

    def compose_id(self, service: str) -> str:
        found = self.engine.run("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}",
                                "--filter", f"label=com.docker.compose.service={service}").stdout.split()
        assert len(found) == 1, f"{service} has {len(found)} containers"
        return found[0]

    def kill_process(self, service: str) -> None:
        """kill -9 of the container's process, seen from the host: the restart policy applies, as after a crash."""
        before = self.container(service)
        started = time.monotonic()
        os.kill(before["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda: self.container(service)["RestartCount"] > before["RestartCount"], f"{service} is restarted")
        self.healthy(service)
        self.note(f"kill -9 of {service}'s process, until it is healthy again", time.monotonic() - started)

    def healthy(self, service: str) -> None:
        wait_until(lambda: self.container(service)["State"]["Health"]["Status"] == "healthy", f"{service} is healthy", timeout_s=90)

    def volume(self, name: str) -> str:
        return f"{self.name}_{name}"

    def logs(self, service: str, lines: int = 40) -> str:
        done = self.engine.run("logs", "--tail", str(lines), self.compose_id(service), check=False)
        return done.stdout + done.stderr

    def remove(self) -> None:
        self.compose("down", "-v", "--remove-orphans", "-t", "5")

    def write_transcript(self, path: Path) -> None:
        path.write_text("\n".join(self.transcript) + "\n")
