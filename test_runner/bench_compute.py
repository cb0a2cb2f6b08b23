"""Queries on our compute beside stock PostgreSQL on the same machine (`make bench-compute`).

Both have the same shared_buffers and defaults; stock syncs its disk, ours its quorum. Interleaved rounds, medians, ratios with the goal beside:

    select-only   pgbench -S on data that is in memory                              ours / stock tps     at least 0.97
    cold scan     count(*) on a table four times as large as shared_buffers and
                  file cache together; operating system's cache, compute and
                  pageserver start cold                                             stock / ours time    at least 0.6
    bulk load     pgbench -i                                                        ours / stock time    at most 1.3
    index build   CREATE INDEX on a table of the given size                         ours / stock time    at most 1.3

The cold scan needs root (it drops the operating system's caches); otherwise it says so and is warm for both.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import psycopg

from bench_commit import SETTINGS, StockTrio, processor_us
from cluster import Cluster, pg_manifest

GOALS = {"select-only": (">=", 0.97), "cold scan": (">=", 0.6), "bulk load": ("<=", 1.3), "index build": ("<=", 1.3)}


class Stock(StockTrio):
    """A single stock server."""

    def start(self) -> "Stock":
        self.run("initdb", "-D", self.dir / "data", "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "--locale-provider=builtin", "-E", "UTF8", "-N")
        return self.again()

    def again(self, **settings: str) -> "Stock":
        for server in self.servers:
            server.terminate()
            server.wait(120)
        self.servers.clear()
        self.serve(self.dir / "data", 0, synchronous_commit="on", **settings)
        return self


class Ours:
    """Our cluster with the same settings."""

    def __init__(self, **settings: str):
        self.cluster = Cluster({**SETTINGS, **settings}).up()

    def url(self) -> str:
        return self.cluster.url()

    def stop(self) -> None:
        self.cluster.remove()

    def rest(self) -> None:
        """Until all processes together have used less than a tenth of a processor for half a second."""
        used, until = 1.0, time.monotonic() + 60
        while used > 0.05 and time.monotonic() < until:
            before = processor_us(self.cluster.dir)
            time.sleep(0.5)
            used = sum((processor_us(self.cluster.dir) - before).values()) / 1e6


def pgbench(url: str, *args: str) -> str:
    done = subprocess.run([Path(pg_manifest()["stock"]) / "bin/pgbench", *args, url], capture_output=True, text=True, check=True)
    return done.stdout


def seconds(url: str, *statements: str) -> float:
    """How long the last one takes."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        began = time.perf_counter()
        connection.execute(statements[-1])
        return time.perf_counter() - began


def fill(url: str, megabytes: int) -> None:
    """A table `wide` of that size: 1,000 rows are about 1 MB."""
    seconds(url, "DROP TABLE IF EXISTS wide", f"""CREATE TABLE wide AS SELECT i, (i::bigint * 7919 % 10000019)::int AS r, repeat('x', 980) AS filler
        FROM generate_series(1, {megabytes * 1000}) i""")
    seconds(url, "VACUUM (FREEZE, ANALYZE) wide")


def drop_os_cache() -> bool:
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    except OSError:
        return False


def bulk_load(url: str, scale: int) -> float:
    began = time.perf_counter()
    pgbench(url, "-i", "-q", "-s", str(scale))
    return time.perf_counter() - began


def select_only(url: str, clients: int, duration_s: int) -> float:
    pgbench(url, "-n", "-S", "-M", "prepared", "-c", str(clients), "-T", "2")
    out = pgbench(url, "-n", "-S", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(duration_s))
    return float(re.search(r"tps = ([\d.]+)", out).group(1))


def interleaved(rounds: int, ours: Callable[[], float], stock: Callable[[], float], rest: Callable[[], None]) -> tuple[float, float]:
    """Medians. `rest` waits until we have done what we put off: it must not fall into stock's turn."""
    pairs = []
    for _ in range(rounds):
        took = ours()
        rest()
        pairs.append((took, stock()))
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def report(name: str, unit: str, ours: float, stock: float, ratio: float, note: str = "") -> dict:
    sign, goal = GOALS[name]
    met = ratio >= goal if sign == ">=" else ratio <= goal
    print(f"{name:<12} ours {ours:>10.2f} {unit:<4} stock {stock:>10.2f} {unit:<4} ratio {ratio:5.2f}  goal {sign} {goal}  {'met' if met else 'MISSED'}  {note}", flush=True)
    return {"name": name, "ours": ours, "stock": stock, "unit": unit, "ratio": ratio, "goal": f"{sign} {goal}", "met": met, "note": note}


def in_memory(args: argparse.Namespace) -> list[dict]:
    caches = {name: f"{args.file_cache_mb}MB" for name in ("ogel.file_cache_max_size", "ogel.file_cache_size") if args.file_cache_mb}
    ours, stock = Ours(**caches), Stock().start()
    try:
        load = interleaved(args.rounds, lambda: bulk_load(ours.url(), args.scale), lambda: bulk_load(stock.url(), args.scale), ours.rest)
        results = [report("bulk load", "s", *load, load[0] / load[1], f"pgbench -i -s {args.scale}")]
        few = max(1, min(args.scale, 10))
        for server in (ours, stock):
            bulk_load(server.url(), few)
            seconds(server.url(), "VACUUM ANALYZE pgbench_accounts")
            seconds(server.url(), "SELECT sum(abalance) FROM pgbench_accounts")
        select = [lambda server=server: select_only(server.url(), args.clients, args.seconds) for server in (ours, stock)]
        tps = interleaved(args.rounds, *select, ours.rest)
        results.append(report("select-only", "tps", *tps, tps[0] / tps[1], f"-c {args.clients}, scale {few}, in memory"))
        for server in (ours, stock):
            fill(server.url(), args.index_mb)
        build = ["SET maintenance_work_mem = '64MB'", "DROP INDEX IF EXISTS wide_r", "CREATE INDEX wide_r ON wide (r)"]
        took = interleaved(args.rounds, lambda: seconds(ours.url(), *build), lambda: seconds(stock.url(), *build), ours.rest)
        results.append(report("index build", "s", *took, took[0] / took[1], f"{args.index_mb} MB"))
        return results
    finally:
        ours.stop()
        stock.stop()


def cold_scan(args: argparse.Namespace) -> dict:
    half = args.scan_mb // 8
    small = {"shared_buffers": f"{half}MB"}
    caches = {"ogel.file_cache_max_size": f"{half}MB", "ogel.file_cache_size": f"{half}MB"}
    ours, stock = Ours(**small, **caches), Stock().start()
    cold = True
    try:
        for server in (ours, stock):
            fill(server.url(), args.scan_mb)

        def ours_cold() -> float:
            nonlocal cold
            ours.cluster.ogel("compute", "stop", "main")
            ours.cluster.chaos("kill", "pageserver")
            ours.cluster.chaos("resume", "pageserver")
            cold &= drop_os_cache()
            ours.cluster.ogel("compute", "start", "main")
            return seconds(ours.url(), "SELECT 1", "SELECT count(*) FROM wide")

        def stock_cold() -> float:
            stock.again(**small)
            drop_os_cache()
            return seconds(stock.url(), "SELECT 1", "SELECT count(*) FROM wide")

        took = interleaved(args.rounds, ours_cold, stock_cold, ours.rest)
        note = f"{args.scan_mb} MB, shared_buffers and file cache {half} MB each" + ("" if cold else "; the operating system's cache was WARM")
        return report("cold scan", "s", *took, took[1] / took[0], note)
    finally:
        ours.stop()
        stock.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=50, help="of the bulk load")
    parser.add_argument("--index-mb", type=int, default=1024, help="table of the index build")
    parser.add_argument("--scan-mb", type=int, default=1024, help="table of the cold scan")
    parser.add_argument("--file-cache-mb", type=int, default=0, help="file cache of all but the cold scan; 0 = the default; stock has the system's cache")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=10, help="of each select-only run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the results there")
    args = parser.parse_args()
    results = [*in_memory(args), cold_scan(args)]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    sys.exit(0 if all(result["met"] for result in results) else 1)


if __name__ == "__main__":
    main()
