"""A compute that is not one of the cluster's: what a second machine would run by mistake."""

from __future__ import annotations

import signal
import socket
import subprocess

import psycopg

from cluster import RELEASE, Cluster, pg_manifest, wait_until


class SecondCompute:
    """Another supervisor of branch main (or of `timeline`), beside the cluster's own."""

    def __init__(self, cluster: Cluster, timeline: str | None = None):
        config = cluster.config()
        branch = config["branches"][0]
        self.dir = cluster.dir / "second"
        self.log = (cluster.dir / "logs" / "second.log").open("a")
        self.sql_port, self.http_port = free_port(), free_port()
        manifest = pg_manifest()
        safekeepers = ",".join(f"{node['id']}=127.0.0.1:{node['pg_port']}" for node in config["safekeepers"])
        self.process = subprocess.Popen(
            [RELEASE / "compute", "run", "--data-dir", self.dir, "--tenant", config["tenant"],
             "--timeline", timeline or branch["timeline"], "--safekeepers", safekeepers,
             "--pageserver", f"127.0.0.1:{config['pageserver']['pg_port']}",
             "--sql-listen", f"127.0.0.1:{self.sql_port}", "--http-listen", f"127.0.0.1:{self.http_port}",
             "--pg-prefix", manifest["patched"], "--ext-dir", RELEASE / "ext", "--pg-setting", "shared_buffers=1MB"],
            stdout=self.log, stderr=self.log)

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.sql_port}/postgres", autocommit=True, connect_timeout=5)

    def connect_when_ready(self) -> psycopg.Connection:
        def attempt():
            assert self.process.poll() is None, "the second compute ended"
            try:
                return self.connect()
            except psycopg.OperationalError:
                return None
        return wait_until(attempt, "the second compute serves SQL")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        self.log.close()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
