"""Election to first commit (`make bench-election`), beside the disk's fdatasync and the loopback round trip of the same run.

Starts the compute of a stopped branch again and again and reads its own phases: the election itself, and the time until the start of the new term is
committed. Once with three safekeepers, once with one of them killed: the missing one must add no waiting. The limit of the design is 12 fdatasyncs
and 8 round trips.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

from bench_commit import fdatasync_us, loopback_us
from cluster import Cluster

LIMIT_FDATASYNCS = 12
LIMIT_ROUND_TRIPS = 8


def election_us(cluster: Cluster) -> dict[str, float]:
    """One start; microseconds from connecting to the safekeepers to the victory, and to the first commit of the term."""
    cluster.ogel("compute", "stop", "main")
    cluster.ogel("compute", "start", "main")
    cluster.sql("SELECT 1")
    metrics = cluster.http("compute-main", "/metrics").decode()
    return {name: float(metric(metrics, f"ogel_compute_{name}_seconds")) * 1e6 for name in ("election", "first_commit")}


def metric(text: str, name: str) -> str:
    return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))


def measure(cluster: Cluster, starts: int) -> dict[str, float]:
    runs = [election_us(cluster) for _ in range(starts)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=11, help="starts of each kind [default: %(default)s]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cluster = Cluster()
    try:
        cluster.up().sql("CREATE TABLE written AS SELECT 1")
        three = measure(cluster, args.starts)
        cluster.chaos("kill", "safekeeper-3")
        two = measure(cluster, args.starts)
        disk, loopback = fdatasync_us(cluster.dir), loopback_us()
    finally:
        cluster.remove()
    limit = LIMIT_FDATASYNCS * disk + LIMIT_ROUND_TRIPS * loopback
    report = {"three": three, "one_of_three_absent": two, "fdatasync_us": disk, "loopback_us": loopback, "limit_us": limit}
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    for name, run in (("three safekeepers", three), ("one of three absent", two)):
        print(f"{name:<20} elected {run['election']:7.0f} us, first commit {run['first_commit']:7.0f} us   ({run['first_commit'] / limit:.2f} of the limit)")
    print(f"fdatasync {disk:.0f} us, loopback round trip {loopback:.0f} us; the limit of {LIMIT_FDATASYNCS} and {LIMIT_ROUND_TRIPS} of them is {limit:.0f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
