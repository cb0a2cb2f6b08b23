"""Decoding and effects against stock PostgreSQL's own crash redo of the same WAL (`make bench-redo`).

A stock cluster writes WAL from one checkpoint on and is killed; its restart says how long redo took. Then `cargo bench -p wal-decoder` reads the
same segments. Both run on one core, from the page cache.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable

from walcheck import ROOT, Server, WalcheckFailed, run_user

SETTINGS = {"archive_mode": "off", "wal_consistency_checking": "", "full_page_writes": "on", "max_wal_size": "20GB",
            "checkpoint_timeout": "1d", "autovacuum": "off", "log_min_messages": "log", "log_checkpoints": "on",
            "track_commit_timestamp": "off", "recovery_init_sync_method": "fsync"}


def pgbench(server: Server) -> None:
    server.program("pgbench", "-n", "-c", "8", "-j", "2", "-t", "12000")


def load(server: Server) -> None:
    server.program("pgbench", "-i", "-s", "40", "-q", "-I", "dtGp")


WORKLOADS: dict[str, Callable[[Server], None]] = {"pgbench": pgbench, "load": load}


def measure(name: str) -> tuple[float, str]:
    """Stock's redo in MB/s, and what the bench printed."""
    folder = Path(tempfile.mkdtemp(prefix="ogel-redo-"))
    if os.geteuid() == 0:
        shutil.chown(folder, run_user(), run_user())
    server = Server("stock", folder, SETTINGS)
    try:
        server.make()
        server.start()
        server.program("pgbench", "-i", "-s", "10", "-q")
        server.psql("-c", "CHECKPOINT")
        server.psql("-c", "SELECT pg_switch_wal()", "-c", "CHECKPOINT")
        first = server.psql("-Atc", "SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()").strip()
        WORKLOADS[name](server)
        server.stop("immediate")
        wal = folder / "wal"
        wal.mkdir()
        for segment in sorted((server.data / "pg_wal").glob("0*")):
            if len(segment.name) == 24 and segment.name >= first:
                shutil.copy(segment, wal)
        # Both read from memory, and no other core helps.
        server.program("pg_ctl", "-D", server.data, "-w", "-t", "600", "-l", folder / "redo.log", "start")
        log = (folder / "redo.log").read_text()
        begin = re.search(r"redo starts at (\S+)", log)
        done = re.search(r"redo done at (\S+) system usage: CPU: user: (\S+) s, system: (\S+) s, elapsed: (\S+) s", log)
        if begin is None or done is None:
            raise WalcheckFailed(f"PostgreSQL did not say how long redo took:\n{log[-2000:]}")
        size = lsn(done.group(1)) - lsn(begin.group(1))
        bench = subprocess.run(["cargo", "bench", "--quiet", "-p", "wal-decoder"], cwd=ROOT, env={**os.environ, "OGEL_BENCH_WAL": str(wal)},
                               check=True, capture_output=True, text=True)
        return size / float(done.group(4)) / 1e6, bench.stdout
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def lsn(text: str) -> int:
    high, low = text.rstrip(",").split("/")
    return int(high, 16) << 32 | int(low, 16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="all")
    args = parser.parse_args()
    for name in WORKLOADS if args.workload == "all" else [args.workload]:
        stock, printed = measure(name)
        ours = re.search(r"decode and effects\s+(\d+) MB/s", printed)
        if ours is None:
            raise WalcheckFailed(f"the bench printed no speed:\n{printed}")
        print(f"{name}: stock's redo {stock:.0f} MB/s, ours {ours.group(1)} MB/s, {float(ours.group(1)) / stock:.1f} times\n{printed}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WalcheckFailed as error:
        sys.exit(f"walcheck_bench: {error}")
