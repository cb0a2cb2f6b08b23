"""PostgreSQL's own core regression suite on our compute (`make regress`).

Runs the parallel schedule as an installation check, prints each failing test with what in the logs explains it (a record kind whose redo is
missing, an error of ours, or a difference in output), and compares the list with `regress_expected_failures.txt`: a test that fails
without being on that list fails this command, and so does one on the list that passes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cluster import ROOT, Cluster, pg_manifest

EXPECTED = Path(__file__).with_name("regress_expected_failures.txt")
CAUSES = [
    re.compile(r"redo of [^\n]{0,160}"),
    re.compile(r"(?:ERROR|FATAL|PANIC):[^\n]*(?:page service|pageserver|not_modified_since|redo)[^\n]*"),
    re.compile(r"server closed the connection unexpectedly"),
]


def expected_failures() -> dict[str, str]:
    """Test name → reason."""
    pairs = {}
    for line in EXPECTED.read_text().splitlines():
        name, _, reason = line.partition(":")
        if name.strip() and not name.startswith("#"):
            pairs[name.strip()] = reason.strip()
    return pairs


def failing_tests(output: str) -> list[str]:
    return re.findall(r"^not ok \d+\s+[+-]\s+(\S+)", output, re.M)


def passing_tests(output: str) -> list[str]:
    return re.findall(r"^ok \d+\s+[+-]\s+(\S+)", output, re.M)


def cause(name: str, results: Path, expected_dir: Path) -> str:
    """The first thing in a test's output that explains why it differs."""
    text = (results / f"{name}.out").read_text(errors="replace") if (results / f"{name}.out").exists() else ""
    for pattern in CAUSES:
        found = pattern.search(text)
        if found:
            return found.group(0)
    wanted = expected_dir / f"{name}.out"
    if wanted.exists():
        diff = subprocess.run(["diff", "-U0", str(wanted), str(results / f"{name}.out")], capture_output=True, text=True).stdout
        lines = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        return f"{len(lines)} lines differ, first: {lines[0][:120]}" if lines else "differs from every expected file"
    return "no output"


def as_server_user(folder: Path) -> list[str]:
    """The suite exchanges files with the server in `folder`, so it runs as the server's user. Returns the command prefix for that."""
    if os.geteuid() != 0:
        return []
    user = os.environ.get("OGEL_RUN_USER", "ogel")
    shutil.chown(folder, user, user)
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared-buffers", default="128MB", help="of the compute [default: %(default)s]")
    parser.add_argument("--file-cache", default="512MB", help="size of the compute's local file cache [default: %(default)s]")
    parser.add_argument("--schedule", default="parallel_schedule")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the cluster and the results")
    args = parser.parse_args()
    suite = Path(pg_manifest()["patched"]) / "suites" / "regress"
    cluster = Cluster({"shared_buffers": args.shared_buffers, "ogel.file_cache_size": args.file_cache, "max_prepared_transactions": "10"})
    work = cluster.dir / "regress"
    work.mkdir()
    as_user = as_server_user(work)
    try:
        cluster.up()
        port = cluster.config()["branches"][0]["sql_port"]
        started = time.monotonic()
        with (work / "output.txt").open("w") as output:
            subprocess.run(
                [*as_user, str(suite / "pg_regress"), f"--inputdir={suite}", f"--outputdir={work}", f"--dlpath={suite}",
                 f"--bindir={pg_manifest()['patched']}/bin", f"--schedule={suite / args.schedule}", "--max-connections=10",
                 "--host=127.0.0.1", f"--port={port}", "--user=postgres", "--dbname=regression"],
                stdout=output, stderr=subprocess.STDOUT, cwd=work, env={**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(port)})
        text = (work / "output.txt").read_text()
        failed, passed = failing_tests(text), passing_tests(text)
        known = expected_failures()
        report = {
            "passed": len(passed), "failed": len(failed), "seconds": round(time.monotonic() - started, 1),
            "failures": [{"test": name, "cause": cause(name, work / "results", suite / "expected"), "known": known.get(name)} for name in failed],
            "unexpected": [name for name in failed if name not in known],
            "repaired": [name for name in passed if name in known],
        }
        if args.json:
            print(json.dumps(report, indent=1))
        else:
            for failure in report["failures"]:
                mark = "known" if failure["known"] else "NEW"
                print(f"{failure['test']:<28} {mark:<6} {failure['cause']}")
            print(f"{len(passed)} of {len(passed) + len(failed)} tests pass in {report['seconds']} s")
            for name in report["repaired"]:
                print(f"{name} passes now: take it off {EXPECTED.relative_to(ROOT)}")
            if not passed and not failed:
                print(text[-3000:])
        return 0 if passed and not report["unexpected"] and not report["repaired"] else 1
    finally:
        if args.keep:
            print(f"kept: {cluster.dir}", file=sys.stderr)
        else:
            cluster.remove()
            shutil.rmtree(cluster.dir, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
