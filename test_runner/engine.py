"""A Docker engine for the tests: the one that runs, or one of the suite's own; and the images of this checkout in it."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from cluster import ROOT, wait_until

IMAGES = "ogelbase-test"
TARGETS = ["safekeeper", "pageserver", "compute"]
BASE_IMAGE = "debian:bookworm-slim"
# Left out of the distribution's slim image too.
NOT_IN_SLIM = ["doc", "man", "locale", "info", "groff", "lintian"]


class Engine:
    """`env` is what a docker client needs to reach it."""

    def __init__(self) -> None:
        # Debian's client builds without a plug-in, another one may shadow it.
        found = [path for path in ("/usr/bin/docker", shutil.which("docker")) if path and Path(path).exists()]
        if not found:
            pytest.skip("no docker client is installed (apt-get install docker.io docker-compose debootstrap iptables)")
        self.docker = found[0]
        self.env = dict(os.environ, DOCKER_BUILDKIT="1", COMPOSE_DOCKER_CLI_BUILD="1")
        self.env["PATH"] = f"{Path(self.docker).parent}:{self.env['PATH']}"
        self.daemon: subprocess.Popen | None = None
        self.folder = cache_folder() / "docker"
        self.firewall: str | None = None
        if not self._answers():
            self._start()
        self.compose = self._find_compose()

    def _answers(self) -> bool:
        return self.run("info", check=False).returncode == 0

    def _find_compose(self) -> list[str]:
        """Version 2 is a plug-in of the client, version 1 a program."""
        if self.run("compose", "version", check=False).returncode == 0:
            return [self.docker, "compose"]
        if program := shutil.which("docker-compose"):
            return [program]
        pytest.skip("neither `docker compose` nor docker-compose is installed")

    def _start(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("no Docker engine answers, and only root can start one")
        dockerd = shutil.which("dockerd", path=f"/usr/sbin:{os.environ['PATH']}")
        if dockerd is None:
            pytest.skip("no Docker engine answers, and there is no dockerd to start (apt-get install docker.io)")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env["DOCKER_HOST"] = f"unix://{self.folder}/docker.sock"
        if self._answers():  # one that another run has started
            return
        self.firewall = subprocess.run(["iptables-save"], capture_output=True, text=True).stdout
        log = self.folder / "dockerd.log"
        command = [dockerd, "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/dockerd.pid",
                   "-H", self.env["DOCKER_HOST"]]
        with log.open("w") as output:
            self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        wait_until(lambda: self._answers() or self.daemon.poll() is not None, "dockerd answers or ends", timeout_s=60)
        if self.daemon.poll() is not None:
            self._restore_firewall()
            pytest.skip(f"dockerd does not run here: {log.read_text(errors='replace')[-600:]}")
        # The engine forbids forwarding for everybody else on the machine, other tests' bridges included.
        subprocess.run(["iptables", "-P", "FORWARD", "ACCEPT"], check=False)
        for family in ("iptables", "ip6tables"):
            setting = Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}")
            if setting.exists():
                setting.write_text("0")

    def stop(self) -> None:
        """Ends the engine if it is ours; its images stay in the cache."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(60)
            self._restore_firewall()

    def _restore_firewall(self) -> None:
        if self.firewall is not None:
            subprocess.run(["iptables-restore"], input=self.firewall, text=True, check=False)

    def run(self, *args: str, check: bool = True, timeout_s: float = 600, **options) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([self.docker, *args], env=self.env, capture_output=True, text=True, timeout=timeout_s, **options)
        if check and done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(args)}: {done.stderr[-4000:]}")
        return done

    def build(self) -> dict[str, int]:
        """Builds the images of this checkout; their sizes in bytes. What is compiled already is taken as it is where the image's system is ours."""
        self._provide_base_image()
        arguments = ["--build-arg", f"ARTIFACTS={self._artifacts()}"] if runs_the_base_image() else []
        for target in TARGETS:
            self.run("build", *arguments, "--target", target, "-t", f"{IMAGES}/{target}", str(ROOT), timeout_s=3600)
        return {target: self.inspect(f"{IMAGES}/{target}")["Size"] for target in TARGETS}

    def _artifacts(self) -> str:
        """An image with the /out that the Dockerfile's first stage would make."""
        name = f"{IMAGES}/artifacts"
        with tempfile.TemporaryDirectory() as folder:
            out, archive = Path(folder) / "out", Path(folder) / "out.tar"
            subprocess.run([ROOT / "docker" / "collect", out], cwd=ROOT, check=True)
            with tarfile.open(archive, "w") as tar:
                tar.add(out, "out")
            self.run("import", str(archive), name)
        return name

    def _provide_base_image(self) -> None:
        if self.run("image", "inspect", BASE_IMAGE, check=False).returncode == 0 or self.run("pull", BASE_IMAGE, check=False).returncode == 0:
            return
        if os.geteuid() != 0 or not shutil.which("debootstrap"):
            pytest.skip(f"{BASE_IMAGE} cannot be pulled, and debootstrap cannot make it")
        with tempfile.TemporaryDirectory() as folder:
            root, archive = Path(folder) / "root", Path(folder) / "root.tar"
            subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root], check=True, capture_output=True)
            for needless in [root / "var/lib/apt/lists", root / "var/cache/apt/archives", *(root / "usr/share" / name for name in NOT_IN_SLIM)]:
                shutil.rmtree(needless, ignore_errors=True)
            subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
            self.run("import", "-c", 'CMD ["bash"]', str(archive), BASE_IMAGE)

    def host_address(self) -> str:
        """Where containers reach this machine: the first address of the default bridge, which old engines do not name."""
        network = self.inspect("bridge")["IPAM"]["Config"][0]
        return network.get("Gateway") or str(next(ipaddress.ip_network(network["Subnet"]).hosts()))

    def inspect(self, name: str) -> dict:
        return json.loads(self.run("inspect", name).stdout)[0]


def cache_folder() -> Path:
    if named := os.environ.get("OGEL_CACHE_DIR"):
        return Path(named)
    return Path("/var/cache/ogelbase") if os.geteuid() == 0 else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ogelbase"


def runs_the_base_image() -> bool:
    """Whether what was compiled on this machine finds its libraries in the image."""
    release = Path("/etc/os-release")
    return release.exists() and "VERSION_CODENAME=bookworm" in release.read_text()
