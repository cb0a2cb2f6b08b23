"""PostgreSQL's own suites on our compute (`make regress`).

The core and isolation schedules, PL/pgSQL's, contrib's and the test modules' suites run as installation checks, against PostgreSQL's expected
output or one of the few variants in `regress_variants/`, each of which names the part of the data directory that is its subject. A test that
differs fails this command, and so does a variant that no test needs any more.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

from cluster import Cluster, pg_manifest
import regress_variant
from regress_suites import ONCE, Suite, all_suites
from walcheck import run_user, unprivileged

# What a compute keeps of pages. `tiny`: as little as PostgreSQL starts with, and no file cache: every page travels.
CACHES = {
    "normal": {"shared_buffers": "128MB", "ogel.file_cache_size": "512MB"},
    "small": {"shared_buffers": "2MB", "ogel.file_cache_size": "64MB"},
    "tiny": {"shared_buffers": "1MB", "ogel.file_cache_size": "0"},
}
# The server connects to itself, as libpq does when nobody names a role: as the one called like the server's user.
CONNECT_BACK = {"dblink", "postgres_fdw"}


@dataclass
class Report:
    """How a suite went. `differences`: test → the first lines of the difference."""

    suite: str
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    needless: list[str] = field(default_factory=list)
    differences: dict[str, str] = field(default_factory=dict)
    seconds: float = 0

    @property
    def ok(self) -> bool:
        return bool(self.passed) and not self.failed and not self.needless


def as_server_user(folder: Path) -> list[str]:
    """Suites exchange files with the server in `folder`, so they run as the server's user. Returns the command prefix for that."""
    if os.geteuid() != 0:
        return []
    subprocess.run(["chown", "-Rh", f"{run_user()}:", str(folder)], check=True)
    return unprivileged()


def local_socket(cluster: Cluster, port: int) -> Path:
    """Where libpq looks when nobody names a host, as `dblink` and `postgres_fdw` do in their tests: a link to the compute's socket."""
    link = Path(f"/tmp/.s.PGSQL.{port}")
    link.unlink(missing_ok=True)
    link.symlink_to(next(cluster.dir.glob(f"compute-main/lives/*/socket/.s.PGSQL.{port}")))
    return link


def run(suite: Suite, cluster: Cluster, accept: tuple[str, str] | None) -> Report:
    """Runs one suite on a running cluster. `accept`: subject and reason of the variants to make for what differs."""
    work = cluster.dir / "suites" / suite.name.replace("/", "-")
    outputs = work / "out"
    outputs.mkdir(parents=True)
    inputs = suite.inputs(work / "in")
    manifest = pg_manifest()
    suites = Path(manifest["patched"]) / "suites"
    program = suites / "isolation" / "pg_isolation_regress" if suite.isolation else suites / "regress" / "pg_regress"
    port = cluster.config()["branches"][0]["sql_port"]
    user = "postgres"
    if suite.folder.name in CONNECT_BACK:
        user = run_user() if os.geteuid() == 0 else getpass.getuser()
        if not cluster.sql("SELECT 1 FROM pg_roles WHERE rolname = %s", user):
            cluster.sql(f'CREATE ROLE "{user}" SUPERUSER LOGIN')
    tests = [test.replace("=", f"={inputs}/") if test.startswith("--schedule=") else test for test in suite.tests]
    database = "regression" if suite.name == "core" else "isolation_regression" if suite.isolation else "contrib_regression"
    command = [*as_server_user(work), str(program), f"--inputdir={inputs}", f"--outputdir={outputs}", f"--dlpath={suites / 'regress'}", f"--bindir={manifest['patched']}/bin",
               "--host=127.0.0.1", f"--port={port}", f"--user={user}", f"--dbname={database}", *suite.options, *tests]
    started = time.monotonic()
    with (work / "output.txt").open("w") as output:
        subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=inputs, env={**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(port)})
    text = (work / "output.txt").read_text(errors="replace")
    report = judge(suite, text, outputs, accept)
    report.seconds = round(time.monotonic() - started, 1)
    return report


def judge(suite: Suite, output: str, outputs: Path, accept: tuple[str, str] | None) -> Report:
    """What the output of `pg_regress` says, the variants considered."""
    passed, failed = (re.findall(rf"^{word} \d+\s+[+-]\s+(\S+)", output, re.M) for word in ("ok", "not ok"))
    variants = regress_variant.of_suite(suite.name)
    report = Report(suite.name, passed, needless=[test for test in variants if test in passed])
    for test in failed:
        result = outputs / "results" / f"{test}.out"
        if accept and result.exists():
            print("made", regress_variant.write(suite.name, test, *accept, suite.folder / "expected", result))
            variants = regress_variant.of_suite(suite.name)
        if test in variants and result.exists() and variants[test].met(suite.folder / "expected", result):
            report.variants.append(test)
            report.passed.append(test)
        else:
            report.failed.append(test)
            report.differences[test] = difference(outputs / "regression.diffs", test)
    if not passed and not failed:
        report.differences["(nothing ran)"] = output[-1500:]
    return report


def difference(diffs: Path, test: str) -> str:
    """The part of `regression.diffs` that is about the test, its first lines."""
    text = diffs.read_text(errors="replace") if diffs.exists() else ""
    for part in re.split(r"^(?=diff )", text, flags=re.M):
        if re.match(rf"diff .*/{re.escape(test)}\.out\n", part):
            return "\n".join(line for line in part.splitlines()[3:] if line[:1] in "+-@")[:1500]
    return "no output"


def chosen(names: list[str], suites: list[Suite]) -> list[Suite]:
    """Those whose names begin with one of `names`."""
    return [suite for suite in suites if not names or any(suite.name == name or suite.name.startswith(f"{name}/") for name in names)]


def run_all(suites: list[Suite], caches: str, keep: bool, accept: tuple[str, str] | None) -> list[Report]:
    """A cluster for each group of settings, the suites one after the other."""
    reports = []
    ordered = sorted(suites, key=lambda suite: suite.settings)
    for settings, group in groupby(ordered, key=lambda suite: suite.settings):
        cluster = Cluster({**CACHES[caches], **dict(settings)})
        link: Path | None = None
        try:
            cluster.up()
            link = local_socket(cluster, cluster.config()["branches"][0]["sql_port"])
            for suite in group:
                reports.append(run(suite, cluster, accept))
                show(reports[-1])
        finally:
            if link:
                link.unlink(missing_ok=True)
            if keep:
                print(f"kept: {cluster.dir}", file=sys.stderr)
            else:
                cluster.remove()
    return reports


def show(report: Report) -> None:
    variants = f", {len(report.variants)} as variants: {' '.join(report.variants)}" if report.variants else ""
    print(f"{report.suite:<36} {len(report.passed):>4} of {len(report.passed) + len(report.failed):>4} pass in {report.seconds:>6} s{variants}", flush=True)
    for test, text in report.differences.items():
        print(f"--- {report.suite} {test}\n{text}")
    for test in report.needless:
        print(f"--- {report.suite} {test} gives PostgreSQL's own output: delete its variant")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", help="core, isolation, plpgsql, contrib, modules, contrib/NAME … [default: all]")
    parser.add_argument("--caches", choices=CACHES, default="normal", help="[default: %(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports there too")
    parser.add_argument("--accept", nargs=2, metavar=("SUBJECT", "REASON"), help="make variants of what differs, about this part of the data directory")
    parser.add_argument("--keep", action="store_true", help="keep the clusters and the results")
    args = parser.parse_args()
    suites = chosen(args.suites, all_suites(Path(pg_manifest()["patched"]) / "suites"))
    if args.caches != "normal":
        suites = [suite for suite in suites if suite.name not in ONCE]
    if not suites:
        parser.error(f"no suite is called {' '.join(args.suites)}")
    reports = run_all(suites, args.caches, args.keep, tuple(args.accept) if args.accept else None)
    if args.json:
        args.json.write_text(json.dumps([asdict(report) for report in reports], indent=1))
    passed, failed = (sum(len(getattr(report, what)) for report in reports) for what in ("passed", "failed"))
    print(f"{args.caches} caches: {passed} of {passed + failed} tests pass in {len(reports)} suites, {sum(len(report.variants) for report in reports)} of them as variants")
    return 0 if all(report.ok for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
