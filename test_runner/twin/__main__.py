"""`make twin`: N seeds, or one (SEED=n)."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from cluster import RELEASE
from twin import __doc__ as essay
from twin.pair import Difference
from twin.schedule import Counts, Life
from twin.servers import Ours, Stock, both

STATEMENTS = 250


def report(seed: int, counts: Counts, seconds: float) -> str:
    return (f"seed {seed}: {counts.statements} statements, {counts.errors} errors, {counts.waits} waits, "
            f"{counts.kills} kills, {counts.restarts} restarts, {counts.pageserver_kills} of the pageserver, {seconds:.1f} s")


def run(seeds: list[int], statements: int, sabotage: str | None = None) -> list[str]:
    """Returns what went wrong, one text for each seed that failed."""
    failures, sqlstates = [], Counter()
    with both() as (ours, stock):
        for seed in seeds:
            started = time.monotonic()
            transcript = RELEASE.parent / f"twin-{seed}.sql"
            life = Life(ours, stock, seed, statements, transcript, sabotage)
            try:
                counts = life.live()
                sqlstates.update(counts.sqlstates)
                transcript.unlink()
                print(report(seed, counts, time.monotonic() - started), flush=True)
            except Difference as difference:
                failures.append(f"seed {seed}: {difference}\nstatements: {transcript}\nagain: make twin SEED={seed} STATEMENTS={statements}")
                print(failures[-1], flush=True)
                clean_up(ours, stock)
        print("errors on both:", dict(sqlstates.most_common()))
        return failures


def clean_up(*servers: Ours | Stock) -> None:
    """The next seed starts on servers where nothing is open. Prepared transactions of the failed one stay in its database."""
    for server in servers:
        server.stop("kill")
        server.start()


def main() -> int:
    parser = argparse.ArgumentParser(prog="twin", description=essay, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from --first on [default: %(default)s]")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--statements", type=int, default=STATEMENTS, help="of each seed [default: %(default)s]")
    args = parser.parse_args()
    seeds = [args.seed] if args.seed is not None else list(range(args.first, args.first + args.seeds))
    failures = run(seeds, args.statements)
    print(f"{len(seeds) - len(failures)} of {len(seeds)} seeds are the same on both")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
