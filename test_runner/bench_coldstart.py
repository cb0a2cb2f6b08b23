"""Cold start of a compute, phase by phase (`make bench-coldstart`).

From `ogel compute start` on a stopped branch that holds a pgbench database to the first row of a table, storage warm, everything on loopback; beside it the start of
stock PostgreSQL on the same machine in the same run. Prints medians over N starts.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from cluster import Cluster, pg_manifest, pgbench


def first_row(url: str) -> tuple[float, float]:
    """Milliseconds of the first connection and of the first query; polls without sleeping while nobody listens."""
    while True:
        began = time.perf_counter()
        try:
            connection = psycopg.connect(url, autocommit=True)
            break
        except psycopg.OperationalError:
            continue
    connected = time.perf_counter()
    assert connection.execute("SELECT a FROM cold WHERE a = 1").fetchone() == (1,)
    answered = time.perf_counter()
    connection.close()
    return (connected - began) * 1e3, (answered - connected) * 1e3


def measure_ours(cluster: Cluster, starts: int, scale: int) -> list[dict[str, float]]:
    cluster.sql("CREATE TABLE cold AS SELECT generate_series(1, 1000) AS a")
    if scale:
        pgbench(cluster, "-i", "-s", str(scale), "-q")
        pgbench(cluster, "-c", "8", "-j", "2", "-T", "10")
    url = cluster.url()
    runs = []
    for _ in range(starts):
        cluster.ogel("compute", "stop", "main")
        began = time.perf_counter()
        starter = subprocess.Popen([Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release" / "ogel", "--dir", cluster.dir,
                                    "compute", "start", "main"], stdout=subprocess.DEVNULL)
        connect_ms, query_ms = first_row(url)
        total_ms = (time.perf_counter() - began) * 1e3
        assert starter.wait(60) == 0
        phases = {phase["name"]: phase["ms"] for phase in cluster.http("compute-main", "/v1/startup")["phases"]}
        runs.append({**phases, "first connection": connect_ms, "first query": query_ms, "total": total_ms})
    return runs


def measure_stock(starts: int) -> list[float]:
    """Milliseconds from exec of stock postgres to the first row, after a clean stop."""
    prefix = Path(pg_manifest()["stock"])
    folder = Path(tempfile.mkdtemp(prefix="ogel-bench-"))
    user = os.environ.get("OGEL_RUN_USER", "ogel") if os.geteuid() == 0 else None
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    data = folder / "data"
    try:
        subprocess.run([*as_user, prefix / "bin/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"], check=True, stdout=subprocess.DEVNULL)
        totals = []
        for number in range(starts + 1):
            began = time.perf_counter()
            server = subprocess.Popen([*as_user, prefix / "bin/postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            url = f"postgresql:///postgres?host={folder}&user=postgres"
            if number == 0:
                while True:
                    try:
                        with psycopg.connect(url, autocommit=True) as connection:
                            connection.execute("CREATE TABLE cold AS SELECT generate_series(1, 1000) AS a")
                        break
                    except psycopg.OperationalError:
                        continue
            else:
                first_row(url)
                totals.append((time.perf_counter() - began) * 1e3)
            server.terminate()
            server.wait(30)
        return totals
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=11, help="measured starts [default: %(default)s]")
    parser.add_argument("--scale", type=int, default=10, help="pgbench scale of what the branch holds; 0 is an empty branch [default: %(default)s]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cluster = Cluster()
    try:
        runs = measure_ours(cluster.up(), args.starts, args.scale)
    finally:
        cluster.remove()
    stock = statistics.median(measure_stock(args.starts))
    medians = {name: statistics.median(run[name] for run in runs if name in run) for name in runs[0]}
    if args.json:
        print(json.dumps({"median_ms": medians, "stock_ms": stock, "runs": runs}, indent=1))
    else:
        for name, value in medians.items():
            print(f"{name:<22} {value:8.1f} ms")
        print(f"{'stock, total':<22} {stock:8.1f} ms   (ours is {medians['total'] / stock:.1f} x)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
