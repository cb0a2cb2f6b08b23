"""Speeds of the pageserver (`make bench-pageserver`): pages over TCP beside a bare echo server, and ingest beside stock PostgreSQL's crash redo.

For ingest, a stock cluster, made from the template, writes WAL without a checkpoint and is killed; its restart says how long redo took. Then the
pageserver ingests the same WAL into a timeline from the same template, layer files included. Both read from memory.
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

from cluster import pg_manifest
from walcheck import ROOT, Server, WalcheckFailed, run_user
from walcheck_bench import lsn

SETTINGS = {"fsync": "off", "max_wal_size": "30GB", "checkpoint_timeout": "1d", "autovacuum": "off", "log_min_messages": "log", "shared_buffers": "512MB",
            "listen_addresses": "", "max_connections": "60"}
# Name, full_page_writes, bound of the ratio.
WORKLOADS = [("pgbench", "on", 1.5), ("pgbench without full-page images", "off", 1.0)]


def stock_redo(full_page_writes: str, folder: Path) -> tuple[float, Path]:
    """Stock's redo in MB/s, and a folder with the WAL."""
    server = Server("stock", folder, {})
    data = server.data
    data.mkdir(mode=0o700)
    subprocess.run(["tar", "--zstd", "-xf", pg_manifest()["template"], "-C", data], check=True)
    settings = {**SETTINGS, "full_page_writes": full_page_writes, "unix_socket_directories": str(folder)}
    with (data / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    (data / "pg_hba.conf").write_text("local all all trust\n")
    (data / "pg_ident.conf").touch()
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{run_user()}:", folder], check=True)
    subprocess.run(["chmod", "-R", "u=rwX,go=", data], check=True)
    try:
        server.start()
        server.program("pgbench", "-i", "-s", "20", "-q")
        server.program("pgbench", "-n", "-c", "8", "-j", "2", "-t", "20000")
        server.stop("immediate")
        wal = folder / "wal"
        wal.mkdir()
        for segment in (data / "pg_wal").glob("0*"):
            if len(segment.name) == 24:
                shutil.copy(segment, wal)
        server.program("pg_ctl", "-D", data, "-w", "-t", "1200", "-l", folder / "redo.log", "start")
        log = (folder / "redo.log").read_text()
        begin = re.search(r"redo starts at (\S+)", log)
        done = re.search(r"redo done at (\S+) system usage: .* elapsed: (\S+) s", log)
        if begin is None or done is None:
            raise WalcheckFailed(f"PostgreSQL did not say how long redo took:\n{log[-2000:]}")
        return (lsn(done.group(1)) - lsn(begin.group(1))) / float(done.group(2)) / 1e6, wal
    finally:
        server.stop("immediate")


def bench(**env: str) -> str:
    """Runs `cargo bench -p pageserver` and returns what it printed."""
    environment = {**os.environ, "OGEL_TEMPLATE": pg_manifest()["template"], **env}
    return subprocess.run(["cargo", "bench", "--quiet", "-p", "pageserver", "--bench", "speed"], cwd=ROOT, env=environment, check=True,
                          stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["pages", "ingest"])
    args = parser.parse_args()
    if args.only != "ingest":
        print(bench(), end="", flush=True)
    for name, full_page_writes, bound in WORKLOADS if args.only != "pages" else []:
        folder = Path(tempfile.mkdtemp(prefix="ogel-ingest-"))
        try:
            stock, wal = stock_redo(full_page_writes, folder)
            printed = bench(OGEL_BENCH_WAL=str(wal))
            ours = re.search(r"ingest and flush\s+(\d+) MB/s", printed)
            if ours is None:
                raise WalcheckFailed(f"the bench printed no speed:\n{printed}")
            print(f"{name}: stock's redo {stock:.0f} MB/s, ours {ours.group(1)} MB/s, {float(ours.group(1)) / stock:.2f} × (bound {bound})", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WalcheckFailed as error:
        sys.exit(f"bench_pageserver: {error}")
