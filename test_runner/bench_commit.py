"""Commits on our quorum beside stock PostgreSQL with the same durability (`make bench-commit`).

pgbench TPC-B over loopback TCP, interleaved rounds on the same machine: ours (3 safekeepers, commit on 2 of 3, pageserver ingesting), and stock
with two streaming standbys and `synchronous_standby_names = 'ANY 1 (s1, s2)'`, fsync on everywhere. Prints medians and ratios, and beside them
the disk's fdatasync and the loopback round trip, which bound what is possible.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg

from cluster import Cluster, pg_manifest, wait_until

SETTINGS = {"shared_buffers": "512MB", "autovacuum": "off", "max_wal_size": "20GB", "checkpoint_timeout": "1h"}


class StockTrio:
    """A stock primary with two synchronous-quorum standbys in a folder of their own."""

    def __init__(self) -> None:
        self.prefix = Path(pg_manifest()["stock"])
        self.dir = Path(tempfile.mkdtemp(prefix="ogel-bench-"))
        user = os.environ.get("OGEL_RUN_USER", "ogel") if os.geteuid() == 0 else None
        self.as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        if user:
            entry = pwd.getpwnam(user)
            os.chown(self.dir, entry.pw_uid, entry.pw_gid)
        self.ports = [free_port() for _ in range(3)]
        self.servers: list[subprocess.Popen] = []

    def run(self, program: str, *args: object) -> None:
        subprocess.run([*self.as_user, self.prefix / "bin" / program, *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self) -> "StockTrio":
        primary = self.dir / "primary"
        self.run("initdb", "-D", primary, "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "--locale-provider=builtin", "-E", "UTF8", "-N")
        self.serve(primary, 0, synchronous_standby_names="ANY 1 (s1, s2)")
        for number in (1, 2):
            standby = self.dir / f"s{number}"
            self.run("pg_basebackup", "-D", standby, "-h", "127.0.0.1", "-p", self.ports[0], "-U", "postgres", "-R", "-c", "fast", "--no-sync")
            info = f"host=127.0.0.1 port={self.ports[0]} user=postgres application_name=s{number}"
            self.serve(standby, number, primary_conninfo=info)
        query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: psycopg.connect(self.url()).execute(query).fetchone() == (2,), "two standbys stream")
        return self

    def serve(self, data: Path, number: int, **settings: str) -> None:
        options = [f"-c{name}={value}" for name, value in {**SETTINGS, **settings, "port": str(self.ports[number])}.items()]
        log = (self.dir / f"{data.name}.log").open("w")
        command = [*self.as_user, self.prefix / "bin/postgres", "-D", data, "-k", self.dir, *options]
        self.servers.append(subprocess.Popen(command, stdout=log, stderr=log))
        ready = [self.prefix / "bin/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.ports[number])]
        wait_until(lambda: subprocess.run(ready).returncode == 0, f"{data.name} serves")

    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.ports[0]}/postgres"

    def stop(self) -> None:
        for server in self.servers:
            server.terminate()
        for server in self.servers:
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def pgbench(url: str, *args: str) -> str:
    done = subprocess.run([Path(pg_manifest()["stock"]) / "bin/pgbench", *args, url], capture_output=True, text=True, check=True)
    return done.stdout


def tps(url: str, clients: int, seconds: int, folder: Path, costs: Counter[str]) -> float:
    """Transactions per second; adds the processor time, and under "" the transactions, to `costs`."""
    before = processor_us(folder)
    out = pgbench(url, "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds))
    costs.update(processor_us(folder) - before)
    costs[""] += int(re.search(r"actually processed: (\d+)", out).group(1))
    return float(re.search(r"tps = ([\d.]+)", out).group(1))


def processor_us(folder: Path) -> Counter[str]:
    """Processor time so far of all server processes of a folder, and of their children that have ended, by program."""
    parents, programs, used = {}, {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            command, text = (stat.parent / "cmdline").read_text(), stat.read_text()
        except OSError:
            continue
        pid, program = int(stat.parent.name), text[text.index("(") + 1:text.rindex(")")]
        fields = text[text.rindex(")") + 2:].split()
        parents[pid], programs[pid] = int(fields[1]), program
        used[pid] = sum(map(int, fields[11:15])), str(folder) in command
    def belongs(pid: int) -> bool:
        return pid in used and (used[pid][1] or belongs(parents[pid]))
    total: Counter[str] = Counter()
    for pid, (ticks, _) in used.items():
        if belongs(pid):
            total[programs[pid]] += int(ticks * 1e6 / os.sysconf("SC_CLK_TCK"))
    return total


def fdatasync_us(folder: Path) -> float:
    """Median of an 8 KiB write and fdatasync into a file that is allocated already."""
    path = folder / "probe"
    with path.open("wb", buffering=0) as file:
        file.write(bytes(8 << 20))
        os.fsync(file.fileno())
        times = []
        for number in range(400):
            began = time.perf_counter()
            os.pwrite(file.fileno(), bytes(8192), number * 8192)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1e6)
    path.unlink()
    return statistics.median(times)


def loopback_us() -> float:
    """Median of a 64 byte round trip over loopback TCP between two threads' sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def echo() -> None:
            peer, _ = server.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := peer.recv(64):
                peer.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        with socket.create_connection(server.getsockname()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times = []
            for _ in range(2000):
                began = time.perf_counter()
                client.sendall(bytes(64))
                client.recv(64)
                times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=20, help="pgbench scale [default: %(default)s]")
    parser.add_argument("--seconds", type=int, default=10, help="of each run [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds [default: %(default)s]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cluster = Cluster({**SETTINGS, "checkpoint_timeout": "1h"})
    stock = StockTrio()
    try:
        urls = {"ours": cluster.up().url(), "stock": stock.start().url()}
        for url in urls.values():
            pgbench(url, "-i", "-q", "-s", str(args.scale))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
        folders = {"ours": cluster.dir, "stock": stock.dir}
        runs: dict[str, dict[int, list[float]]] = {name: {1: [], 16: []} for name in urls}
        costs: dict[str, dict[int, Counter[str]]] = {name: {1: Counter(), 16: Counter()} for name in urls}
        for _ in range(args.rounds):
            for clients in (1, 16):
                for name, url in urls.items():
                    runs[name][clients].append(tps(url, clients, args.seconds, folders[name], costs[name][clients]))
        disk = fdatasync_us(cluster.dir)
    finally:
        cluster.remove()
        stock.stop()
    medians = {name: {clients: statistics.median(values) for clients, values in by.items()} for name, by in runs.items()}
    processor = {name: {clients: {program: us / cost[""] for program, us in sorted(cost.items()) if program}
                        for clients, cost in by.items()} for name, by in costs.items()}
    report = {"processor_us_per_transaction": processor, "tps": medians, "ratio": {c: medians["ours"][c] / medians["stock"][c] for c in (1, 16)}, "runs": runs,
              "fdatasync_us": disk, "loopback_us": loopback_us()}
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    for clients in (1, 16):
        ours, theirs = medians["ours"][clients], medians["stock"][clients]
        print(f"-c {clients:<3} ours {ours:8.0f} tps   stock ANY 1 of 2 {theirs:8.0f} tps   ratio {ours / theirs:.2f}   "
              f"({clients * 1e6 / ours:.0f} and {clients * 1e6 / theirs:.0f} us a transaction)")
        for name in urls:
            parts = processor[name][clients]
            print(f"      {name}: {sum(parts.values()):.0f} us of processor time a transaction: "
                  + ", ".join(f"{program} {us:.0f}" for program, us in parts.items()))
    print(f"fdatasync {report['fdatasync_us']:.0f} us, loopback round trip {report['loopback_us']:.0f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
