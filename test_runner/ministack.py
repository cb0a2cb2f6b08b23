"""An S3 server for one test: ministack, in a process and a virtual environment of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from cluster import ROOT, wait_until

BUCKET = "ogel"


class Ministack:
    """A running server with one bucket; its objects live as long as it does. `host` is the address that it serves."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        python = subprocess.run([ROOT / "test_runner" / "venv", "path", "ministack"], check=True, capture_output=True, text=True).stdout.strip()
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.port = probe.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory(prefix="ogel-s3-")
        env = dict(os.environ, BIND_HOST=host, GATEWAY_PORT=str(self.port), S3_PERSIST="1", S3_DATA_DIR=self.folder.name)
        self.process = subprocess.Popen([Path(python).parent / "ministack"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self._make_bucket, "the S3 server answers")
        except BaseException:
            self.stop()
            raise

    def _make_bucket(self) -> bool:
        request = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            raise AssertionError(f"the bucket cannot be made: {error}: {error.read()!r}") from error
        except OSError:
            assert self.process.poll() is None, "the S3 server has ended"
            return False

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def environment(self, prefix: str) -> dict[str, str]:
        """What tells a cluster to store there."""
        return {
            "OGEL_REMOTE": f"s3://{BUCKET}/{prefix}",
            "OGEL_S3_ENDPOINT": self.endpoint,
            "OGEL_S3_REGION": "us-east-1",
            "OGEL_S3_ACCESS_KEY_ID": "test",
            "OGEL_S3_SECRET_ACCESS_KEY": "test",
        }

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()
