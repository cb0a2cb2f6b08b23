"""PostgreSQL's own TAP tests on our compute (`make tap`).

Each test file runs unchanged; `tap/OgelCluster.pm` has its servers be computes, each on a storage of its own. `tap_suites.py` names the files whose
subject a compute does not have, and the single checks that differ, with the reason for each. A check that fails without standing there fails this command,
and so does one that stands there and passes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from cluster import RELEASE, ROOT, pg_manifest
from regress import CACHES, as_server_user
from tap_suites import CUT, EVERYWHERE, SOCKETS, STOPPED, TestFile, chosen, test_files

# Of PostgreSQL's source: what holds tests, and what they read.
SOURCES = ["src/bin", "src/interfaces/libpq", "src/test", "contrib"]


@dataclass
class Report:
    """How one file went. `differs`: checks that the list of differences names."""

    file: TestFile
    passed: int = 0
    skipped: int = 0
    differs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0


def unpack(to: Path, manifest: dict[str, str]) -> Path:
    """PostgreSQL's test files, from the archive that the build came from."""
    archives = Path(manifest["patched"]).parents[1] / "src"
    version, _, name = (archives / "current").read_text().split()
    folder = f"postgresql-{version}"
    subprocess.run(["tar", "-xf", str(archives / name), "-C", str(to), *(f"{folder}/{source}" for source in SOURCES)], check=True)
    return to / folder


def cut(file: TestFile, source: Path) -> None:
    """Takes out of a test file what a compute refuses."""
    text = (source / file.path).read_text()
    for pattern, instead in CUT.get(file.name, []):
        text, count = re.subn(pattern, lambda _: instead, text, flags=re.S)
        if count == 0:
            raise SystemExit(f"{file.name} has nothing like {pattern}: correct CUT in tap_suites.py")
    for pattern, instead in EVERYWHERE:
        text = re.sub(pattern, instead, text)
    (source / file.path).write_text(text)


def environment(work: Path, source: Path, file: TestFile, manifest: dict[str, str], modes: dict[str, str]) -> dict[str, str]:
    """What PostgreSQL's makefiles would set."""
    prefix, suites = Path(manifest["patched"]), Path(manifest["patched"]) / "suites"
    out = work / file.name.replace("/", "-")
    programs = [prefix / "bin", suites / "modules" / file.folder.name]
    return {
        "PATH": ":".join([*map(str, programs), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]),
        "HOME": str(out), "LANG": "C.UTF-8", "TZ": "UTC", "TMPDIR": str(work / "tmp"),
        "TESTDATADIR": str(out), "TESTLOGDIR": str(out / "log"), "top_builddir": str(source), "PG_TEST_PORT_DIR": str(work / "ports"),
        "PG_REGRESS": str(suites / "regress" / "pg_regress"), "REGRESS_SHLIB": str(suites / "regress" / "regress.so"),
        "PG_TEST_TIMEOUT_DEFAULT": "120", "enable_injection_points": "no", "with_icu": "yes", "with_ssl": "openssl", "with_readline": "yes",
        "TAR": "tar", **{name: tool for name, tool in (("GZIP_PROGRAM", "gzip"), ("LZ4", "lz4"), ("ZSTD", "zstd")) if shutil.which(tool)}, "PG_TEST_EXTRA": "xid_wraparound",
        **modes, "OGEL_SOCKETS": "1" if file.name.startswith(SOCKETS) else "", "OGEL_RELEASE": str(RELEASE), "OGEL_PG": str(prefix), "OGEL_COMPUTES": str(work / "c"),
    }


def run(file: TestFile, work: Path, source: Path, prefix: list[str], manifest: dict[str, str], modes: dict[str, str]) -> Report:
    """Runs one file as `prove` would, and ends what it leaves running."""
    env = environment(work, source, file, manifest, modes)
    Path(env["TESTDATADIR"]).mkdir()
    as_server_user(Path(env["TESTDATADIR"]))
    command = [*prefix, "perl", f"-I{source}/src/test/perl", f"-I{ROOT}/test_runner/tap", f"-I{source / file.folder}", "-MOgelCluster", str(file.path)]
    started, limit_s = time.monotonic(), file.limit_s
    # A group of its own: all of it ends with it.
    process = subprocess.Popen(command, cwd=source / file.folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, errors="replace", start_new_session=True)
    try:
        output, _ = process.communicate(timeout=limit_s)
        late = []
    except subprocess.TimeoutExpired:
        late = [f"took longer than {limit_s} s"]
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    finally:
        for config in Path(env["TESTDATADIR"]).glob("*/storage/ogel.json"):
            subprocess.run([*prefix, str(RELEASE / "ogel"), "--dir", str(config.parent), "down", "--immediate"], env=env, capture_output=True)
    log = Path(env["TESTLOGDIR"]) / f"regress_log_{file.path.stem}"
    report = judge(file, output, process.returncode, log.read_text(errors="replace") if log.exists() else output)
    report.problems += late
    report.seconds = time.monotonic() - started
    return report


def judge(file: TestFile, output: str, code: int, log: str) -> Report:
    """What the file's TAP output says, the known differences considered."""
    report = Report(file)
    plan, failed, count = None, 0, 0
    for line in output.splitlines():
        if found := re.match(r"1\.\.(\d+)(.*)", line):
            plan = int(found[1])
            if plan == 0:
                report.problems.append(f"runs nothing here:{found[2]}")
        if not (found := re.match(r"(not )?ok \d+(?: - )?(.*)", line)):
            continue
        count += 1
        name, _, directive = found[2].partition(" # ")
        if directive.startswith(("SKIP", "skip", "TODO")):
            report.skipped += 1
        elif not found[1]:
            report.passed += 1
            if name in file.differs:
                report.problems.append(f"passes now, delete it from the differences: {name}")
        else:
            failed += 1
            (report.differs if name in file.differs else report.problems).append(name)
    if plan is None or plan != count:
        report.problems.append(f"ended after {count} checks of {plan if plan is not None else 'an unknown number'}: {' | '.join(log.splitlines()[-6:])}")
    elif code != min(failed, 254):
        report.problems.append(f"exit code {code}")
    seen = {*report.differs, *(problem.removeprefix("passes now, delete it from the differences: ") for problem in report.problems)}
    report.problems += [f"not seen, delete it from the differences: {name}" for name in file.differs if name not in seen]
    return report


def show(report: Report) -> None:
    extra = f", {len(report.differs)} differ" if report.differs else ""
    extra += f", {report.skipped} skipped" if report.skipped else ""
    print(f"{'ok  ' if not report.problems else 'FAIL'} {report.file.name:<52} {report.passed:>5} checks in {report.seconds:>6.1f} s{extra}", flush=True)
    for problem in report.problems[:20]:
        print(f"     - {problem}")


def check_machine() -> None:
    if subprocess.run(["perl", "-MIPC::Run", "-MTest::More", "-e1"], capture_output=True).returncode != 0:
        sys.exit("PostgreSQL's TAP tests need perl with IPC::Run: apt-get install libipc-run-perl (or cpan IPC::Run)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", help="bin, bin/scripts, contrib, modules, recovery, subscription, recovery/013 … [default: all]")
    parser.add_argument("--jobs", type=int, default=2, help="files at a time [default: %(default)s]")
    parser.add_argument("--all", action="store_true", help="also the files that are left out")
    parser.add_argument("--caches", choices=CACHES, default="normal", help="what computes keep of pages, where a test does not say it [default: %(default)s]")
    parser.add_argument("--kill", action="store_true", help="every stop is a kill")
    parser.add_argument("--keep", action="store_true", help="keep the folders of files that passed, too")
    args = parser.parse_args()
    check_machine()
    manifest = pg_manifest()
    work = Path(tempfile.mkdtemp(prefix="ogel-tap-", dir="/tmp"))
    work.chmod(0o755)
    source = unpack(work, manifest)
    for folder in ("tmp", "ports", "c"):
        (work / folder).mkdir()
    prefix = as_server_user(work)
    files = chosen(args.suites, test_files(source), args.all)
    if not files:
        shutil.rmtree(work)
        parser.error(f"no file is called {' '.join(args.suites)}")
    if args.kill:
        files = [file for file in files if not file.name.startswith(STOPPED)]
    for file in files:
        cut(file, source)
    modes = {"OGEL_STOPS": "kill" if args.kill else "", "OGEL_SETTINGS": " ".join(f"{name}={value}" for name, value in CACHES[args.caches].items())}
    reports = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for done in as_completed([pool.submit(run, file, work, source, prefix, manifest, modes) for file in files]):
            report = done.result()
            reports.append(report)
            show(report)
            if not report.problems and not args.keep:
                shutil.rmtree(work / report.file.name.replace("/", "-"), ignore_errors=True)
    bad = [report for report in reports if report.problems]
    print(f"{len(reports) - len(bad)} of {len(reports)} files pass: {sum(report.passed for report in reports)} checks pass, "
          f"{sum(len(report.differs) for report in reports)} differ as listed, {sum(report.skipped for report in reports)} skipped")
    if bad or args.keep:
        print(f"kept: {work}", file=sys.stderr)
    else:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
