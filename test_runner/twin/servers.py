"""The two servers: an OgelBase cluster whose compute keeps next to nothing in memory, and a stock PostgreSQL with the same settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from cluster import Cluster, OgelError, pg_manifest
from walcheck import unprivileged

# Of both. A checkpoint decides how many sequence values a crash loses, so only the schedule makes one.
SETTINGS = {
    "shared_buffers": "1MB", "max_prepared_transactions": "20", "max_connections": "40", "autovacuum": "off", "max_wal_size": "100GB", "checkpoint_timeout": "1d",
    "deadlock_timeout": "10s", "temp_buffers": "800kB", "max_locks_per_transaction": "256",
}
OURS = {"ogel.file_cache_size": "0", "ogel.file_cache_max_size": "0"}
# Full-page writes stay on: without them PostgreSQL's redo of a BRIN record for an index that was dropped later reads the page of no buffer, and crashes.
STOCK = {"fsync": "off", "full_page_writes": "on", "listen_addresses": "", "datestyle": "iso, mdy", "timezone": "UTC", "lc_messages": "C",
         "default_text_search_config": "pg_catalog.english"}


class Ours:
    """Our compute. A kill leaves nothing of it but what the quorum and the pageserver have."""

    name = "ours"

    def __init__(self) -> None:
        self.cluster = Cluster({**SETTINGS, **OURS})
        self.cluster.up()

    def conninfo(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.cluster.config()['branches'][0]['sql_port']} user=postgres dbname={database} connect_timeout=30"

    def stop(self, how: str) -> None:
        self.cluster.ogel("compute", {"kill": "kill", "restart": "stop"}[how], "main")

    def start(self) -> None:
        self.cluster.ogel("compute", "start", "main")

    def lose_pageserver(self) -> None:
        """It is killed and starts again; computes wait for it."""
        self.cluster.chaos("kill", "pageserver")
        self.cluster.chaos("resume", "pageserver")

    def remove(self) -> None:
        self.cluster.remove()

    def log(self) -> str:
        return self.cluster.logs_tail()


class Stock:
    """PostgreSQL as its authors made it."""

    name = "stock"

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="ogel-twin-"))
        self.dir.chmod(0o755)
        self.data = self.dir / "data"
        self.data.mkdir(mode=0o700)
        subprocess.run(["tar", "--zstd", "-xf", pg_manifest()["template"], "-C", str(self.data)], check=True)
        settings = {**SETTINGS, **STOCK, "unix_socket_directories": str(self.data)}
        (self.data / "postgresql.conf").write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        (self.data / "pg_hba.conf").write_text("local all all trust\n")
        (self.data / "pg_ident.conf").touch()
        if os.geteuid() == 0:
            user = os.environ.get("OGEL_RUN_USER", "ogel")
            subprocess.run(["chown", "-R", f"{user}:", str(self.dir)], check=True)
        subprocess.run(["chmod", "-R", "u=rwX,go=", str(self.data)], check=True)
        self.start()

    def pg_ctl(self, *args: str) -> None:
        command = [*unprivileged(), f"{pg_manifest()['stock']}/bin/pg_ctl", "-D", str(self.data), "-w", "-t", "120", *args]
        done = subprocess.run(command, cwd="/", text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=150)
        if done.returncode != 0:
            raise OgelError(f"pg_ctl {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{self.log()}")

    def conninfo(self, database: str) -> str:
        return f"host={self.data} user=postgres dbname={database} connect_timeout=30"

    def stop(self, how: str) -> None:
        self.pg_ctl("stop", "-m", {"kill": "immediate", "restart": "fast"}[how])
        if how == "restart":
            self.empty_unlogged()

    def start(self) -> None:
        self.pg_ctl("start", "-l", str(self.dir / "log"))

    def empty_unlogged(self) -> None:
        """A compute's disk does not outlive it, so its unlogged relations are empty after every start, not only after a crash."""
        for init in self.data.glob("base/*/*_init"):
            main = init.with_name(init.name.removesuffix("_init"))
            for path in [*init.parent.glob(f"{main.name}_[fv]*"), *init.parent.glob(f"{main.name}.*")]:
                path.unlink()
            shutil.copyfile(init, main)

    def remove(self) -> None:
        try:
            if (self.data / "postmaster.pid").exists():
                self.pg_ctl("stop", "-m", "immediate")
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def log(self) -> str:
        log = self.dir / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-25:]) if log.exists() else ""


@contextmanager
def both() -> Iterator[tuple[Ours, Stock]]:
    """Both servers, started, and removed afterwards."""
    ours = Ours()
    try:
        stock = Stock()
        try:
            yield ours, stock
        finally:
            stock.remove()
    finally:
        ours.remove()
