"""A gigabyte through COPY, a kill and a dump: every row comes back, the compute's disk holds no copy of it, and the pageserver's memory is what its settings allow."""

import hashlib
import os
import random
import subprocess
import threading
from pathlib import Path
from typing import Callable, Iterator

import psycopg
import pytest

from cluster import Cluster, pg_bin
from test_readers import resident_megabytes

ROWS = 2_000_000
FILLER_BYTES = 485
# The pageserver's budgets by default: open layers 512 MB, page cache and block cache 128 MB each. What comes on top (code, stacks, a layer
# that is being written) has to fit into what one timeline does not use of the first. Measured: 449.
PAGESERVER_MEGABYTES = 768
# File cache 64 MB and max_wal_size 256 MB, which is exceeded while a checkpoint runs; restoring sorts an index. Measured: 341.
COMPUTE_MEGABYTES = 600


class Digest:
    """Of a set of rows, whatever their order."""

    def __init__(self) -> None:
        self.count = self.size_bytes = self.sum = 0

    def add(self, line: bytes) -> None:
        self.count += 1
        self.size_bytes += len(line)
        self.sum += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "big")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"{self.count} rows, {self.size_bytes} bytes, {self.sum:x}"


def lines(seed: int) -> Iterator[bytes]:
    """In COPY's text format. Neighbours in the index on `key` are strangers in the table."""
    dice = random.Random(seed)
    pool = "".join(dice.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=1 << 20))
    for number in range(ROWS):
        at = dice.randrange(len(pool) - FILLER_BYTES)
        yield f"{number}\t{number * 7919 % ROWS}\t{pool[at:at + FILLER_BYTES]}\n".encode()


class Peaks:
    """The largest size of the compute's folder and of the pageserver's memory while it runs."""

    def __init__(self, cluster: Cluster):
        self.folder = cluster.dir / "compute-main"
        self.pageserver = cluster.node("pageserver")["process"]["pid"]
        self.folder_megabytes = self.pageserver_megabytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.folder_megabytes = max(self.folder_megabytes, megabytes_on_disk(self.folder))
            self.pageserver_megabytes = max(self.pageserver_megabytes, resident_megabytes(self.pageserver))

    def __repr__(self) -> str:
        return f"compute's folder {self.folder_megabytes} MB, pageserver's memory {self.pageserver_megabytes} MB"


def megabytes_on_disk(folder: Path) -> int:
    blocks = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                blocks += os.lstat(os.path.join(parent, name)).st_blocks
            except FileNotFoundError:
                pass
    return blocks * 512 >> 20


def copy_in(cluster: Cluster, seed: int) -> Digest:
    digest, batch = Digest(), []
    with cluster.connect() as connection, connection.cursor().copy("COPY t FROM STDIN") as copy:
        for line in lines(seed):
            digest.add(line)
            batch.append(line)
            if len(batch) == 500:
                copy.write(b"".join(batch))
                batch.clear()
        copy.write(b"".join(batch))
    return digest


def copy_out(conninfo: str) -> Digest:
    digest = Digest()
    with psycopg.connect(conninfo) as connection, connection.cursor().copy("COPY t TO STDOUT") as copy:
        for line in copy:
            digest.add(bytes(line))
    return digest


def dump_and_restore(source: str, target: str) -> None:
    """Through a pipe: the dump is on no disk."""
    with subprocess.Popen([pg_bin("pg_dump"), "-Fc", "-Z0", "-d", source], stdout=subprocess.PIPE) as dump:
        subprocess.run([pg_bin("pg_restore"), "--exit-on-error", "-d", target], stdin=dump.stdout, check=True, timeout=900)
        assert dump.wait(60) == 0


def kill_amid_a_copy(cluster: Cluster) -> None:
    with pytest.raises(psycopg.OperationalError), cluster.connect() as connection, connection.cursor().copy("COPY t FROM STDIN") as copy:
        for number in range(1, 100_001):
            copy.write(f"{-number}\t{-number}\t{'x' * FILLER_BYTES}\n".encode())
        cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_a_gigabyte_in_and_out(make_cluster: Callable[..., Cluster]):
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 32))
    print(f"replay with CHAOS_SEED={seed}")
    caches = {name: "64MB" for name in ("ogel.file_cache_size", "ogel.file_cache_max_size")}
    cluster = make_cluster(shared_buffers="16MB", max_wal_size="256MB", **caches).up()
    cluster.sql("CREATE TABLE t (id int, key int, filler text)")
    cluster.sql("CREATE INDEX t_key ON t (key)")
    with Peaks(cluster) as peaks:
        there = copy_in(cluster, seed)
        assert there.size_bytes >= 1_000_000_000
        kill_amid_a_copy(cluster)
        assert copy_out(cluster.url()) == there, "after the kill: all of the COPY that was acknowledged, nothing of the one that was not"
        cluster.sql("CREATE DATABASE restored")
        port = cluster.config()["branches"][0]["sql_port"]
        restored = f"host=127.0.0.1 port={port} user=postgres dbname=restored"
        dump_and_restore(cluster.url(), restored)
        assert copy_out(restored) == there, "after dump and restore"
        check = [pg_bin("pg_amcheck"), "--heapallindexed", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "--install-missing", "--relation", "t"]
        for database in ("postgres", "restored"):
            done = subprocess.run([*check, "-d", database], capture_output=True, text=True, timeout=600)
            assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    print(peaks)
    assert peaks.folder_megabytes < COMPUTE_MEGABYTES, f"the compute's disk: {peaks}"
    assert peaks.pageserver_megabytes < PAGESERVER_MEGABYTES, f"the pageserver has taken memory: {peaks}"
    cluster.sql("CHECKPOINT")
    assert megabytes_on_disk(peaks.folder) < 64 + 100, "at rest there is little more than the file cache"
