"""A branch's services on machines of their own: network namespaces on one bridge, whose links can be cut pair by pair."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import psycopg
import pytest

from cluster import RELEASE, pg_manifest, wait_until

# Nobody has this address: what is sent to it is lost without a word, as on a broken link.
NOWHERE = "02:00:00:00:00:01"
HOSTS = {"safekeeper-1": 1, "safekeeper-2": 2, "safekeeper-3": 3, "pageserver": 10, "compute": 20, "second": 21}
SAFEKEEPERS = ["safekeeper-1", "safekeeper-2", "safekeeper-3"]


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done


class Network:
    """One namespace per host, all on a bridge which the test itself is attached to. The names hold the test's process id."""

    def __init__(self, owner: int | None = None) -> None:
        self.id = owner or os.getpid()
        self.bridge = f"ogbr{self.id}"
        # 198.18.0.0/15 is set aside for tests of networks (RFC 2544).
        self.subnet = f"198.18.{random.randrange(256)}"

    def create(self) -> "Network":
        self._remove_orphans()
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.subnet}.254/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        for host, number in HOSTS.items():
            namespace, port = self.namespace(host), f"og{self.id}p{number}"
            run("ip", "netns", "add", namespace)
            run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            run("ip", "link", "set", port, "master", self.bridge, "up")
            run("ip", "-n", namespace, "address", "add", f"{self.ip(host)}/24", "dev", "eth0")
            run("ip", "-n", namespace, "link", "set", "eth0", "up")
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        return self

    def remove(self) -> None:
        """Also what was made only in part. The ports go first: with their namespace they would go some time later."""
        for host, number in HOSTS.items():
            run("ip", "link", "delete", f"og{self.id}p{number}", check=False)
            run("ip", "netns", "delete", self.namespace(host), check=False)
        run("ip", "link", "delete", self.bridge, check=False)

    @staticmethod
    def _remove_orphans() -> None:
        """What a test left that was killed before it could tidy up."""
        for owner in {int(found) for found in re.findall(r"^ogel-(\d+)-", run("ip", "netns", "list").stdout, re.MULTILINE)}:
            if not Path(f"/proc/{owner}").exists():
                Network(owner).remove()

    def namespace(self, host: str) -> str:
        return f"ogel-{self.id}-{host}"

    def ip(self, host: str) -> str:
        return f"{self.subnet}.{HOSTS[host]}"

    def address(self, host: str) -> str:
        """As it stands before a port."""
        return self.ip(host)

    def cut_one_way(self, sender: str, receiver: str) -> None:
        """Nothing that `sender` sends reaches `receiver` any more; neither of them is told."""
        run("ip", "-n", self.namespace(sender), "neighbour", "replace", self.ip(receiver), "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent")

    def cut(self, one: str, other: str) -> None:
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def heal(self) -> None:
        """Everybody reaches everybody."""
        for one in HOSTS:
            for other in HOSTS:
                run("ip", "-n", self.namespace(one), "neighbour", "delete", self.ip(other), "dev", "eth0", check=False)


class SpreadCluster:
    """Three safekeepers, a pageserver and up to two computes of one branch, each in its namespace."""

    def __init__(self, network: Network | None = None) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="ogel-test-"))
        self.dir.chmod(0o755)
        self.network = network or Network()
        self.processes: dict[str, subprocess.Popen] = {}
        self.tenant, self.timeline = os.urandom(16).hex(), os.urandom(16).hex()

    @contextmanager
    def running(self) -> Iterator["SpreadCluster"]:
        """Started, and removed afterwards; that all processes still run is checked, and what they said is printed."""
        try:
            yield self.up()
            self.all_run()
        finally:
            for host in self.processes:
                print(f"==> {host}\n{self.log(host)[-3000:]}")
            self.remove()

    def up(self) -> "SpreadCluster":
        try:
            self.network.create()
        except RuntimeError as error:
            if re.search("not permitted|not supported|Unknown device type|Read-only", str(error)):
                pytest.skip(f"network namespaces cannot be made here: {error}")
            raise
        self.start_storage()
        http = [f"{self.network.address(node)}:7676" for node in SAFEKEEPERS]
        run(RELEASE / "ogel", "--dir", self.dir, "create-timeline", "--tenant", self.tenant, "--timeline", self.timeline,
            "--pageserver", f"{self.network.address('pageserver')}:9898", "--safekeepers", ",".join(http))
        self.start_compute("compute")
        return self

    def start_storage(self) -> None:
        for number, node in enumerate(SAFEKEEPERS, 1):
            peers = [f"{other}={self.network.address(name)}:5454" for other, name in enumerate(SAFEKEEPERS, 1) if name != node]
            self._start(node, "safekeeper", "--allow-unauthenticated", "--node-id", str(number), "--peers", ",".join(peers))
        safekeepers = ",".join(f"{self.network.address(node)}:5454" for node in SAFEKEEPERS)
        self._start("pageserver", "pageserver", "--allow-unauthenticated", "--safekeepers", safekeepers, "--template", pg_manifest()["template"])

    def start_compute(self, host: str) -> None:
        """Starts one, and waits until it serves SQL."""
        address = self.network.address(host)
        safekeepers = ",".join(f"{number}={self.network.address(node)}:5454" for number, node in enumerate(SAFEKEEPERS, 1))
        self._start(host, "compute", "--tenant", self.tenant, "--timeline", self.timeline, "--safekeepers", safekeepers,
                    "--pageserver", f"{self.network.address('pageserver')}:6400", "--pg-prefix", pg_manifest()["patched"],
                    "--ext-dir", str(RELEASE / "ext"), "--sql-listen", f"{address}:5432", "--http-listen", f"{address}:8080",
                    "--auth", "trust", "--pg-setting", "shared_buffers=1MB")

        def ready() -> bool:
            assert self.processes[host].poll() is None, f"{host} ended: {self.log(host)[-2000:]}"
            try:
                return urllib.request.urlopen(f"http://{address}:8080/readyz", timeout=2).status == 200
            except (urllib.error.URLError, OSError):
                return False
        wait_until(ready, f"{host} serves SQL")

    def _start(self, host: str, program: str, *args: str) -> None:
        command = ["ip", "netns", "exec", self.network.namespace(host), str(RELEASE / program), *(["run"] if program == "compute" else []),
                   "--data-dir", str(self.dir / host), *args]
        with (self.dir / f"{host}.log").open("a") as log:
            self.processes[host] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def url(self, host: str = "compute") -> str:
        return f"postgresql://postgres@{self.network.address(host)}:5432/postgres"

    def connect(self, host: str = "compute") -> psycopg.Connection:
        return psycopg.connect(self.url(host), autocommit=True, connect_timeout=10)

    def log(self, host: str) -> str:
        return (self.dir / f"{host}.log").read_text(errors="replace")

    def all_run(self) -> None:
        """Nothing that the network does may end a process."""
        for host, process in self.processes.items():
            assert process.poll() is None, f"{host} ended with {process.returncode}: {self.log(host)[-2000:]}"
            assert "panicked" not in self.log(host)

    def remove(self) -> None:
        """Computes first. A supervisor's Postgres ends with it."""
        try:
            for host, process in reversed(self.processes.items()):
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                process.wait(30)
        finally:
            self.network.remove()
            shutil.rmtree(self.dir, ignore_errors=True)
