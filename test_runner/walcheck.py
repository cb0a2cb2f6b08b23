"""Native redo compared with PostgreSQL's own page images (`make walcheck`).

For each corpus: a cluster of the stock or patched build that logs an image of every page that a record touches; PostgreSQL's own suites or
our SQL on it; `walcheck`, which reads the WAL as it is archived and compares every page. Nobody keeps the WAL: it is 39 times its usual size.
After the shutdown, visibility maps and transaction logs are compared with the cluster's files. Fails on any difference, on a record without
redo, and on a kind of record that no corpus reached and that is not in `walcheck_unreached.txt`, or is there and was reached.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release"
WALCHECK = RELEASE / "walcheck"
SQL = ROOT / "wal-decoder" / "walcheck"
UNREACHED = HERE / "walcheck_unreached.txt"
CONTRIB = ["bloom", "pg_trgm", "btree_gin", "btree_gist", "hstore", "intarray", "ltree", "cube", "seg"]
SETTINGS = {
    "listen_addresses": "", "fsync": "off", "full_page_writes": "off", "wal_consistency_checking": "all",
    "checkpoint_timeout": "1h", "max_wal_size": "2GB", "archive_mode": "on", "track_commit_timestamp": "on",
    "max_prepared_transactions": "20", "max_connections": "60", "log_min_messages": "fatal", "shared_buffers": "256MB",
}


class WalcheckFailed(Exception):
    """The comparison could not be made; the text says at which step."""


def pg_prefix(build: str) -> Path:
    return Path(json.loads((RELEASE / "pg-install.json").read_text())[build])


def run_user() -> str:
    return os.environ.get("OGEL_RUN_USER", "ogel")


def unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root. The command prefix that makes it run as another user."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={run_user()}", f"--regid={run_user()}", "--clear-groups"]


@dataclass
class Server:
    """One cluster whose WAL goes, segment by segment, through a pipe into `walcheck`."""

    build: str
    dir: Path
    settings: dict[str, str]
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    segment_size: int = 16 << 20

    @property
    def data(self) -> Path:
        return self.dir / "data"

    @property
    def suites(self) -> Path:
        return pg_prefix(self.build) / "suites"

    def command(self, *args: str | Path, cwd: Path | None = None, timeout_s: float = 1800, check: bool = True) -> str:
        """Runs a program as the server's user and returns what it printed."""
        env = {**os.environ, "PGHOST": str(self.dir), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        done = subprocess.run([*unprivileged(), *map(str, args)], cwd=cwd or self.dir, env=env, text=True, timeout=timeout_s,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if check and done.returncode != 0:
            raise WalcheckFailed(f"{Path(args[0]).name} ended with {done.returncode}:\n{done.stdout[-3000:]}")
        return done.stdout

    def program(self, name: str, *args: str | Path, **options: Any) -> str:
        return self.command(pg_prefix(self.build) / "bin" / name, *args, **options)

    def psql(self, *args: str | Path) -> str:
        return self.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *args)

    def make(self) -> None:
        self.program("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8",
                     f"--wal-segsize={self.segment_size >> 20}")
        settings = {**SETTINGS, **self.settings, "unix_socket_directories": str(self.dir),
                    "archive_command": f'case %f in *.*) ;; *) cat "%p" >{self.pipe} ;; esac'}
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    @property
    def pipe(self) -> Path:
        return self.dir / "wal.pipe"

    def start(self) -> None:
        self.program("pg_ctl", "-D", self.data, "-w", "-l", self.dir / "log", "start")

    def stop(self, mode: str = "fast") -> None:
        if (self.data / "postmaster.pid").exists():
            self.program("pg_ctl", "-D", self.data, "-m", mode, "-t", "1200", "stop")

    def suite(self, program: Path, inputs: Path, database: str, *tests: str | Path) -> None:
        """Runs a suite of PostgreSQL. Its tests may fail where they look at settings; a suite that hardly ran is an error."""
        results = self.dir / f"results-{inputs.name}"
        self.command("mkdir", "-p", results)
        output = self.command(program, f"--inputdir={inputs}", f"--outputdir={results}", f"--dlpath={self.suites / 'regress'}",
                              f"--bindir={pg_prefix(self.build) / 'bin'}", f"--host={self.dir}", "--user=postgres",
                              f"--dbname={database}", *tests, cwd=inputs, check=False)
        passed = len(re.findall(r"^ok \d+", output, re.M))
        failed = re.findall(r"^not ok \d+\s+[+-]\s+(\S+)", output, re.M)
        if passed < 4 * len(failed) or not passed:
            raise WalcheckFailed(f"the suite {inputs.name} did not run: {passed} tests passed, {len(failed)} failed\n{output[-3000:]}")
        self.passed += passed
        self.failed += failed


def core(server: Server) -> None:
    suite = server.suites / "regress"
    server.suite(suite / "pg_regress", suite, "regression", f"--schedule={suite / 'parallel_schedule'}", "--max-concurrent-tests=20")


def isolation(server: Server) -> None:
    suite = server.suites / "isolation"
    server.suite(suite / "pg_isolation_regress", suite, "isolation_regression", f"--schedule={suite / 'isolation_schedule'}")


def contrib(server: Server) -> None:
    for name in CONTRIB:
        folder = server.suites / "contrib" / name
        makefile = (folder / "Makefile").read_text().replace("\\\n", " ")
        tests = re.search(r"^REGRESS\s*=(.*)$", makefile, re.M)
        if tests is None:
            raise WalcheckFailed(f"{folder}/Makefile names no tests")
        server.suite(server.suites / "regress" / "pg_regress", folder, f"contrib_{name}", *tests.group(1).split())


def pgbench(server: Server) -> None:
    for name in ("schema", "transactions"):
        (server.dir / f"{name}.sql").write_text((SQL / "pgbench" / f"{name}.sql").read_text())
    server.psql("-f", server.dir / "schema.sql")
    server.program("pgbench", "-i", "-s", "2", "-q")
    server.program("pgbench", "-n", "-c", "4", "-j", "2", "-t", "1500")
    server.program("pgbench", "-n", "-c", "4", "-j", "2", "-t", "700", "-f", server.dir / "transactions.sql")
    server.psql("-c", "VACUUM")


def coverage(server: Server) -> None:
    for script in sorted((SQL / "coverage").glob("*.sql")):
        (server.dir / script.name).write_text(script.read_text())
        server.psql("-f", server.dir / script.name)
    # Every database must be frozen before anything of the transaction logs is truncated.
    server.psql("-c", "ALTER DATABASE template0 ALLOW_CONNECTIONS true")
    server.program("vacuumdb", "--all", "--freeze")
    server.psql("-c", "CHECKPOINT")
    server.psql("-c", "DO $$ BEGIN FOR i IN 1..900 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")


def recovery(server: Server) -> None:
    """A standby is promoted, and later crashes."""
    server.program("pg_ctl", "-D", server.data, "-w", "promote")
    server.psql("-c", "CREATE TABLE survivors AS SELECT i FROM generate_series(1, 5000) i", "-c", "DELETE FROM survivors WHERE i % 3 = 0")
    crash_within_a_record(server)
    server.psql("-c", "INSERT INTO survivors SELECT generate_series(1, 500)", "-c", "VACUUM survivors")


def crash_within_a_record(server: Server) -> None:
    """Of the last record only the first pages are on disk: after the restart, WAL goes on with a record that says so."""
    server.psql("-c", "SELECT pg_switch_wal()")
    wait_until_archived(server)
    inside = "pg_logical_emit_message(false, 'crash', repeat('x', 40000), true) - 20000"
    file, offset = server.psql("-Atc", f"SELECT file_name || ' ' || file_offset FROM pg_walfile_name_offset({inside})").split()
    server.stop("immediate")
    with (server.data / "pg_wal" / file).open("r+b") as wal:
        wal.seek(int(offset) // 8192 * 8192)
        wal.write(bytes(server.segment_size - wal.tell()))
    server.start()


def wait_until_archived(server: Server) -> None:
    deadline = time.monotonic() + 60
    while list((server.data / "pg_wal" / "archive_status").glob("*.ready")):
        if time.monotonic() > deadline:
            raise WalcheckFailed("the server does not archive its WAL")
        time.sleep(0.05)


def near_the_limits(server: Server) -> None:
    """Transaction ids just before the end of a clog segment, multixact members just before the end of their number space."""
    zeros = bytes(32 * 8192)
    xact, members = server.data / "pg_xact" / "0000", server.data / "pg_multixact" / "members" / "14078"
    xact.write_bytes(xact.read_bytes().ljust(len(zeros), b"\0"))
    members.write_bytes(zeros)
    if os.geteuid() == 0:
        shutil.chown(members, run_user(), run_user())
    server.program("pg_resetwal", "-x", "1047500", "-O", "4294966000", "-D", server.data)


@dataclass(frozen=True)
class Corpus:
    run: Callable[[Server], None]
    settings: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Server], None] = lambda server: None


# The images of each compression are read somewhere.
CORPORA = {
    "core": Corpus(core),
    "isolation": Corpus(isolation, {"wal_compression": "lz4"}),
    "contrib": Corpus(contrib, {"wal_compression": "zstd"}),
    "pgbench": Corpus(pgbench, {"wal_compression": "pglz", "wal_level": "logical", "autovacuum_naptime": "1s"}),
    "coverage": Corpus(coverage, {"autovacuum": "off", "wal_level": "logical", "wal_log_hints": "on"}, near_the_limits),
    "recovery": Corpus(recovery, {"max_connections": "100"}, prepare=lambda server: (server.data / "standby.signal").touch()),
}


def compare(build: str, corpus: Corpus, keep: bool = False) -> dict[str, Any]:
    """Runs a corpus and returns `walcheck`'s report, with `seconds`, `passed` and `failed` of the suites."""
    folder = Path(tempfile.mkdtemp(prefix="ogel-walcheck-"))
    if os.geteuid() == 0:
        shutil.chown(folder, run_user(), run_user())
    server = Server(build, folder, corpus.settings)
    started = time.monotonic()
    try:
        server.make()
        corpus.prepare(server)
        for log in ("pg_xact", "pg_multixact", "pg_commit_ts"):
            shutil.copytree(server.data / log, folder / "base" / log)
        report = checked_run(server, corpus)
        return {**report, "seconds": round(time.monotonic() - started, 1), "passed": server.passed, "failed": server.failed}
    finally:
        server.stop("immediate")
        if keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def checked_run(server: Server, corpus: Corpus) -> dict[str, Any]:
    os.mkfifo(server.pipe, 0o600)
    if os.geteuid() == 0:
        shutil.chown(server.pipe, run_user(), run_user())
    # The pipe has a writer from the first to the last segment, so that its end is not seen between two of them.
    reader = os.open(server.pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(server.pipe, os.O_WRONLY)
    os.set_blocking(reader, True)
    dump = pg_prefix(server.build) / "bin" / "pg_waldump"
    command = [str(WALCHECK), "-", "--json", f"--base={server.dir / 'base'}", f"--files={server.data}", f"--pg-waldump={dump}"]
    if server.build == "patched":
        command.append("--command-ids")
    with (server.dir / "report.json").open("w+") as report, (server.dir / "walcheck.log").open("w+") as log:
        checker = subprocess.Popen(command, stdin=reader, stdout=report, stderr=log)
        os.close(reader)
        try:
            server.start()
            corpus.run(server)
            # A clean shutdown switches the segment and waits until the last one is archived.
            server.stop()
            os.close(writer)
            writer = -1
            checker.wait(1200)
        finally:
            if writer >= 0:
                os.close(writer)
            if checker.poll() is None:
                checker.kill()
                checker.wait()
        if checker.returncode not in (0, 1):
            log.seek(0)
            raise WalcheckFailed(f"walcheck ended with {checker.returncode}: {log.read()}")
        report.seek(0)
        return json.load(report)


def merge(reports: list[dict[str, Any]]) -> dict[str, Counter]:
    kinds: dict[str, Counter] = {}
    for report in reports:
        for kind, counts in report["kinds"].items():
            kinds.setdefault(kind, Counter()).update(counts)
    return kinds


def unreached_list() -> dict[str, str]:
    """Record kind → why nothing reaches it."""
    lines = (line.partition(":") for line in UNREACHED.read_text().splitlines() if line.strip() and not line.startswith("#"))
    return {kind.strip(): reason.strip() for kind, _, reason in lines}


def table(kinds: dict[str, Counter]) -> str:
    columns = ["records", "compared", "seeded", "images", "not_implemented", "differences"]
    lines = [f"{'record':<34}" + "".join(f"{column:>16}" for column in columns)]
    lines += [f"{kind:<34}" + "".join(f"{counts[column]:>16,}" for column in columns) for kind, counts in sorted(kinds.items())]
    return "\n".join(lines)


def problems(reports: dict[str, dict[str, Any]], whole: bool) -> list[str]:
    """What makes the command fail. Only a `whole` run says anything of kinds that were not reached."""
    found = []
    for name, report in reports.items():
        found += [f"{name}: {json.dumps(difference)}" for difference in report["differences"][:10]]
        if report["difference_count"] or report["not_implemented"]:
            found.append(f"{name}: {report['difference_count']} pages differ, {report['not_implemented']} are without redo")
    unreached = set.intersection(*(set(report["unreached"]) for report in reports.values()))
    known = unreached_list()
    print("unreached:", ", ".join(f"{kind} ({known[kind]})" if kind in known else kind for kind in sorted(unreached)) or "none")
    if whole:
        found += [f"{kind} was not reached, and {UNREACHED.name} does not say why" for kind in sorted(unreached - set(known))]
        found += [f"{kind} was reached: take it off {UNREACHED.name}" for kind in sorted(set(known) - unreached)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=[*CORPORA, "all"], default="all")
    parser.add_argument("--build", choices=["stock", "patched", "both"], default="both")
    parser.add_argument("--keep", action="store_true", help="keep the clusters (not their WAL)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports there too")
    args = parser.parse_args()
    corpora = CORPORA if args.corpus == "all" else {args.corpus: CORPORA[args.corpus]}
    reports = {}
    started = time.monotonic()
    for build in ["stock", "patched"] if args.build == "both" else [args.build]:
        for name, corpus in corpora.items():
            print(f"{build} {name} …", end=" ", file=sys.stderr, flush=True)
            report = reports[f"{build} {name}"] = compare(build, corpus, args.keep)
            failed = f", not {' '.join(report['failed'])}" if report["failed"] else ""
            tests = f", {report['passed']} tests pass{failed}" if report["passed"] else ""
            print(f"{report['compared']:,} pages compared, {report['difference_count']} differ, {report['seconds']} s{tests}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1))
    print(table(merge(list(reports.values()))))
    found = problems(reports, whole=args.corpus == "all")
    print(f"{sum(report['compared'] for report in reports.values()):,} pages compared in {time.monotonic() - started:.0f} s")
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WalcheckFailed as error:
        sys.exit(f"walcheck: {error}")
