"""Branch creation in the pageserver, on a small and on a larger database (`make bench-branch`).

Prints the median over N branches of main at its head: the time of the pageserver's own request, which includes asking the safekeepers what was
acknowledged, and the time of one durable 4 KiB file on the same disk beside it. Branches are deleted again.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import time

from cluster import Cluster, pgbench


def durable_write_ms(cluster: Cluster, count: int) -> float:
    """One file written, synced, renamed, and its folder synced."""
    took = []
    for number in range(count):
        path = cluster.dir / f"probe-{number}"
        began = time.perf_counter()
        with open(path.with_suffix(".new"), "wb") as file:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
        os.rename(path.with_suffix(".new"), path)
        folder = os.open(cluster.dir, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        took.append((time.perf_counter() - began) * 1e3)
        path.unlink()
    return statistics.median(took)


def branch_ms(cluster: Cluster, count: int) -> list[float]:
    config = cluster.config()
    tenant, main = config["tenant"], config["branches"][0]["timeline"]
    body = json.dumps({"source": {"branch": {"ancestor": main}}}).encode()
    took = []
    for number in range(count):
        cluster.sql("INSERT INTO ticks VALUES (%s)", number)
        path = f"/v1/tenant/{tenant}/timeline/{secrets.token_hex(16)}"
        began = time.perf_counter()
        cluster.http("pageserver", path, "PUT", body, "application/json")
        took.append((time.perf_counter() - began) * 1e3)
        cluster.http("pageserver", path, "DELETE")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--branches", type=int, default=40, help="branches per size")
    parser.add_argument("--scale", type=int, default=60, help="pgbench scale of the larger database, 15 MB each; 280 is 4 GB")
    args = parser.parse_args()
    cluster = Cluster()
    try:
        cluster.up()
        cluster.sql("CREATE TABLE ticks (n int)")
        for scale in (0, args.scale):
            if scale:
                pgbench(cluster, "-i", "-s", str(scale), "-q", timeout_s=3600)
            size = cluster.sql("SELECT pg_database_size('postgres')")[0][0]
            took = sorted(branch_ms(cluster, args.branches))
            print(
                f"{size >> 20:6} MiB: median {statistics.median(took):.1f} ms, slowest {took[-1]:.1f} ms; "
                f"one durable file {durable_write_ms(cluster, args.branches):.1f} ms")
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
