"""Who reads from the safekeepers: PostgreSQL's own tools get the same bytes; whoever sends rubbish is shown the door."""

import os
import random
import re
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Iterator

from cluster import Cluster, lsn, pg_bin, pg_manifest, pgbench, pgbench_invariants, wait_until
from recorder import Recorder

SEGMENT_BYTES = 16 << 20
STORAGE = ["safekeeper-1", "safekeeper-2", "safekeeper-3", "pageserver"]


def stock_bin(name: str) -> str:
    """One of the unpatched PostgreSQL's programs."""
    return str(Path(pg_manifest()["stock"]) / "bin" / name)


def segment_name(number: int) -> str:
    return f"00000001{number // 256:08X}{number % 256:08X}"


class ReceiveWal:
    """Stock `pg_receivewal`, attached to one safekeeper from the branch's first segment on."""

    def __init__(self, cluster: Cluster, node: int, folder: Path):
        config = cluster.config()
        self.folder = folder
        folder.mkdir()
        port = next(one["pg_port"] for one in config["safekeepers"] if one["id"] == node)
        options = f"-c ogel.tenant={config['tenant']} -c ogel.timeline={config['branches'][0]['timeline']}"
        command = [stock_bin("pg_receivewal"), "--directory", folder, "--slot", "reader", "--synchronous", "--no-password",
                   "--dbname", f"host=127.0.0.1 port={port} user=postgres"]
        self.log = (cluster.dir / "logs" / f"pg_receivewal-{node}.log").open("a")
        self.process = subprocess.Popen(command, env={**os.environ, "PGOPTIONS": options}, stdout=self.log, stderr=self.log)

    def wal(self, start: int, end: int) -> bytes:
        """What it has received from `start` to `end`; shorter while it has less."""
        return read_wal(self.folder, start, end)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
        self.log.close()


def read_wal(folder: Path, start: int, end: int, archive: Path | None = None) -> bytes:
    """The WAL from `start` to `end` out of a folder's segments, finished ones and the one that still grows, or else the archive's."""
    wal = b""
    for number in range(start // SEGMENT_BYTES, (end - 1) // SEGMENT_BYTES + 1):
        base = number * SEGMENT_BYTES
        names = [folder / segment_name(number), folder / f"{segment_name(number)}.partial"]
        names += [archive / f"{segment_name(number)}.zst"] if archive else []
        path = next((path for path in names if path.exists()), None)
        if path is None:
            break
        segment = unpacked(path) if path.suffix == ".zst" else path.read_bytes()
        wal += segment[max(0, start - base):end - base]
    return wal


def unpacked(path: Path) -> bytes:
    """What the stock tool makes of an object of the archive."""
    return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout


def stored_wal(cluster: Cluster, node: int, start: int, end: int) -> bytes:
    """The same out of a safekeeper's store."""
    folders = {path.parent for path in (cluster.dir / f"safekeeper-{node}").rglob(segment_name((end - 1) // SEGMENT_BYTES))}
    assert len(folders) == 1, folders
    folder = folders.pop()
    archive = cluster.dir / "remote" / folder.relative_to(cluster.dir / f"safekeeper-{node}") / "wal"
    return read_wal(folder, start, end, archive)


def test_stock_tools_read_the_wal(cluster: Cluster):
    pgbench(cluster, "-i", "-s", "2", "-q")
    path = cluster.timeline_path()
    start = lsn(cluster.http("safekeeper-2", path)["timeline_start_lsn"])
    received = ReceiveWal(cluster, 2, cluster.dir / "received")
    late = None
    try:
        # Begun while commits go on, one from the first segment, one in the midst of the load, with a compute that dies in between.
        pgbench(cluster, "-n", "-c", "4", "-j", "2", "-T", "5")
        cluster.sql("SELECT pg_switch_wal()")
        late = ReceiveWal(cluster, 3, cluster.dir / "received-late")
        cluster.ogel("compute", "kill", "main")
        cluster.ogel("compute", "start", "main")
        pgbench(cluster, "-n", "-c", "4", "-j", "2", "-T", "5")
        rows = pgbench_invariants(cluster)
        cluster.sql("SELECT pg_switch_wal()")
        cluster.ogel("compute", "stop", "main")
        wait_until(lambda: len({cluster.http(f"safekeeper-{node}", path)["commit_lsn"] for node in (1, 2, 3)}) == 1, "all know the last commit")
        end = lsn(cluster.http("safekeeper-2", path)["commit_lsn"])
        assert end - start > SEGMENT_BYTES
        for reader, node in ((received, 2), (late, 3)):
            stored = stored_wal(cluster, node, start, end)
            assert len(stored) == end - start
            wait_until(lambda: reader.wal(start, end) == stored, f"pg_receivewal has safekeeper {node}'s bytes")
            assert reader.process.poll() is None
    finally:
        received.stop()
        if late is not None:
            late.stop()
    # The first segment holds, before the branch's start, what the template's WAL was; a reader gets it too.
    first = start // SEGMENT_BYTES * SEGMENT_BYTES
    assert received.wal(first, start) == stored_wal(cluster, 2, first, end)[:start - first]
    assert dumped_commits(received.folder, start, end) >= rows


def dumped_commits(folder: Path, start: int, end: int) -> int:
    """Runs stock `pg_waldump` over the whole range; returns the number of commit records."""
    for partial in folder.glob("*.partial"):
        partial.rename(partial.with_suffix(""))

    def text(position: int) -> str:
        return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"

    done = subprocess.run([stock_bin("pg_waldump"), "--path", folder, "--start", text(start), "--end", text(end)],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "error" not in done.stderr, done.stderr
    last = done.stdout.splitlines()[-1]
    assert "CHECKPOINT_SHUTDOWN" in last, f"the compute was stopped cleanly, so its last record is a checkpoint, not: {last}"
    return len(re.findall(r"^rmgr: Transaction .*desc: COMMIT ", done.stdout, re.MULTILINE))


def test_no_reader_is_shown_wal_that_no_quorum_has(cluster: Cluster):
    """What one safekeeper has alone may still be cut off; a reader that had it would have another history."""
    path = cluster.timeline_path()
    cluster.sql("CREATE TABLE t (a int)")
    received = ReceiveWal(cluster, 1, cluster.dir / "received")
    start = lsn(cluster.http("safekeeper-1", path)["timeline_start_lsn"])
    try:
        cluster.chaos("kill", "safekeeper-2")
        cluster.chaos("kill", "safekeeper-3")
        commit = lsn(cluster.http("safekeeper-1", path)["commit_lsn"])
        writer = subprocess.Popen([pg_bin("psql"), cluster.url(), "-c", "INSERT INTO t VALUES (1)"], stdout=subprocess.DEVNULL)
        wait_until(lambda: lsn(cluster.http("safekeeper-1", path)["flush_lsn"]) > commit, "one safekeeper has more than a quorum has")
        commit = lsn(cluster.http("safekeeper-1", path)["commit_lsn"])
        end = lsn(cluster.http("safekeeper-1", path)["flush_lsn"])
        assert commit < end
        stored = stored_wal(cluster, 1, start, end)
        wait_until(lambda: received.wal(start, commit) == stored[:commit - start], "the committed part arrives")
        assert not received.wal(commit, end).strip(b"\0"), "WAL beyond the commit position was shown"
        assert stored[commit - start:].strip(b"\0")
        cluster.chaos("resume", "safekeeper-2")
        assert writer.wait(60) == 0
        wait_until(lambda: received.wal(start, end) == stored, "the rest arrives once a quorum has it")
        cluster.chaos("resume", "safekeeper-3")
    finally:
        received.stop()


def message(tag: bytes, body: bytes) -> bytes:
    return tag + struct.pack(">I", len(body) + 4) + body


def startup(cluster: Cluster) -> bytes:
    config = cluster.config()
    options = f"-c ogel.tenant={config['tenant']} -c ogel.timeline={config['branches'][0]['timeline']}"
    body = struct.pack(">I", 3 << 16) + b"user\0postgres\0options\0" + options.encode() + b"\0\0"
    return struct.pack(">I", len(body) + 4) + body


def rubbish(cluster: Cluster, dice: random.Random) -> Iterator[bytes]:
    """From pure noise to conversations that go wrong late."""
    noise = dice.randbytes
    config = cluster.config()
    branch = f"{config['tenant']} {config['branches'][0]['timeline']}".encode()
    hello = startup(cluster)
    yield b""
    yield noise(dice.randint(1, 5000))
    yield struct.pack(">I", 0xFFFFFFFF) + noise(100)
    yield struct.pack(">II", 8, 80877103) + noise(300)
    yield struct.pack(">I", 500) + struct.pack(">I", 3 << 16) + noise(492)
    yield hello[:dice.randint(1, len(hello) - 1)]
    yield hello + noise(2000)
    yield hello + b"Q" + struct.pack(">I", 0x7FFFFFFF) + noise(2000)
    yield hello + b"Q" + struct.pack(">I", dice.randint(0, 3))
    yield hello + message(b"Q", noise(dice.randint(1, 500)))
    for command in (b"START_WAL_PUSH", b"PEER_STATUS 2", b"pagestream 1 " + branch + b" 1", b"START_REPLICATION PHYSICAL 0/0 TIMELINE 1",
                    b"START_REPLICATION PHYSICAL FFFFFFFF/FFFFFFFF TIMELINE 1", b"basebackup 1 " + branch + b" FFFFFFFF/FFFFFF00 1",
                    b"basebackup 1 " + branch + b" 0/0 99999", b"START_WAL_PUSH " + noise(4).hex().encode()):
        opened = hello + message(b"Q", command + b"\0")
        yield opened
        yield opened + message(b"d", noise(dice.randint(0, 300)))
        yield opened + message(b"d", dice.choice([b"g", b"v", b"e", b"a", b"s", b"\x03"]) + noise(dice.randint(0, 200))) + noise(50)
        yield opened + b"d" + struct.pack(">I", dice.choice([0, 3, 0x7FFFFFFF, 0xFFFFFFFF])) + noise(100)
        yield opened + message(noise(1), noise(10))
    for line in (b"GET /" + noise(300), b"PUT /v1/tenant/" + noise(32) + b"/timeline/x HTTP/1.1\r\n\r\n",
                 b"PUT /v1/tenant/" + b"0" * 32 + b"/timeline/" + b"1" * 32 + b"?start_lsn=FFFFFFFF/FFFFFFFF HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n",
                 b"GET /v1/status HTTP/1.1\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n", b"\x16\x03\x01" + noise(400)):
        yield line


def throw(port: int, data: bytes) -> None:
    """Sends it, and waits shortly for what the other side makes of it; how the connection ends does not matter."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.settimeout(0.05)
        try:
            connection.sendall(data)
            while connection.recv(65536):
                pass
        except OSError:
            pass


def test_rubbish_on_every_port(cluster: Cluster):
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 32))
    print(f"replay with CHAOS_SEED={seed}")
    dice = random.Random(seed)
    config = cluster.config()
    recorder = Recorder(cluster).create().start()
    wait_until(lambda: recorder.count() > 20, "commits")
    path = cluster.timeline_path()
    term = cluster.http("safekeeper-1", path)["term"]
    before = {node: cluster.node(node)["process"] for node in STORAGE}
    for node in [*config["safekeepers"], config["pageserver"]]:
        for port in (node["pg_port"], node["http_port"]):
            for data in rubbish(cluster, dice):
                throw(port, data)
    settled = recorder.count()
    wait_until(lambda: recorder.count() > settled + 50, "commits go on")
    for node in STORAGE:
        process = cluster.node(node)["process"]
        assert (process["pid"], process["restarts"]) == (before[node]["pid"], 0), f"{node} did not survive: {process}"
        assert "panicked" not in cluster.log(node)
        assert resident_megabytes(process["pid"]) < 700, f"{node} has taken memory for rubbish"
    assert cluster.http("safekeeper-1", path)["term"] == term, "rubbish has deposed the compute"
    recorder.stop()
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    recorder.check()


def resident_megabytes(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()).group(1)) // 1024
