"""Every page of the pageserver compared with stock PostgreSQL's (`make pagecheck`).

A workload runs on our compute. Then, for the final LSN and five earlier ones: a stock cluster, made from the same template, replays the same
WAL (as stock `pg_receivewal` got it from a safekeeper) up to exactly that LSN; every relation's main, visibility-map and init fork is dumped
from the pageserver at that LSN; `pagecheck` masks both as PostgreSQL's own consistency check does and compares them byte for byte.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

from cluster import RELEASE, Cluster, lsn, pg_bin, pg_manifest, pgbench, wait_until
from walcheck import run_user, unprivileged

EARLIER = 5
PAGES_AT_ONCE = 1024
SEGMENT_BYTES = 16 << 20
SETTINGS = {
    "listen_addresses": "", "fsync": "off", "full_page_writes": "off", "autovacuum": "off", "hot_standby": "off", "wal_level": "replica",
    "max_prepared_transactions": "20", "allow_in_place_tablespaces": "on", "recovery_target_inclusive": "off", "recovery_target_action": "promote",
    "recovery_target_timeline": "current", "max_connections": "100",
}


class PagecheckFailed(Exception):
    """The comparison could not be made; the text says at which step."""


def binary() -> Path:
    """The comparing program, of the release build or of this tree's development build."""
    for folder in (RELEASE, RELEASE.parent / "debug"):
        if (folder / "pagecheck").exists():
            return folder / "pagecheck"
    raise PagecheckFailed("pagecheck is not built: cargo build --release -p walcheck")


class ReceiveWal:
    """Stock `pg_receivewal`, attached to a safekeeper from the branch's first segment on."""

    def __init__(self, cluster: Cluster):
        config = cluster.config()
        self.folder = cluster.dir / "received"
        self.folder.mkdir()
        options = f"-c ogel.tenant={config['tenant']} -c ogel.timeline={config['branches'][0]['timeline']}"
        command = [Path(pg_manifest()["stock"]) / "bin" / "pg_receivewal", "--directory", self.folder, "--slot", "pagecheck", "--no-password",
                   "--dbname", f"host=127.0.0.1 port={config['safekeepers'][0]['pg_port']} user=postgres"]
        self.log = (cluster.dir / "logs" / "pg_receivewal.log").open("w")
        self.process = subprocess.Popen(command, env={**os.environ, "PGOPTIONS": options}, stdout=self.log, stderr=self.log)

    def has(self, position: int) -> bool:
        """Whether the WAL up to there is in the folder: the segment behind is begun, or this one's last bytes are not zeros."""
        if self.process.poll() is not None:
            raise PagecheckFailed(f"pg_receivewal ended with {self.process.returncode}:\n{Path(self.log.name).read_text()[-2000:]}")
        number, offset = divmod(position - 1, SEGMENT_BYTES)
        name = self.folder / f"00000001{number // 256:08X}{number % 256:08X}"
        for path in (name, name.with_suffix(".partial")):
            if path.exists():
                with path.open("rb") as segment:
                    segment.seek(max(0, offset - 7))
                    return path == name or segment.read(8).strip(b"\0") != b""
        return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()
        for partial in self.folder.glob("*.partial"):
            partial.rename(partial.with_suffix(""))


@contextmanager
def sampled(cluster: Cluster, every_s: float) -> Iterator[list[str]]:
    """Collects positions at which a record ends while the body runs."""
    positions: list[str] = []
    done = threading.Event()

    def sample() -> None:
        with cluster.connect() as connection:
            while not done.wait(every_s):
                positions.append(connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield positions
    finally:
        done.set()
        thread.join()


def stock(name: str, *args: str | Path, timeout_s: float = 1800) -> None:
    """Runs one of the unpatched PostgreSQL's programs as the server's user."""
    command = [*unprivileged(), str(Path(pg_manifest()["stock"]) / "bin" / name), *map(str, args)]
    done = subprocess.run(command, cwd="/", text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise PagecheckFailed(f"{name} {' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout[-3000:]}")


def replay(cluster: Cluster, wal: Path, at: str, data: Path) -> None:
    """A stock cluster from the template that has applied every record before `at`, and was shut down then."""
    data.mkdir(mode=0o700)
    subprocess.run(["tar", "--zstd", "-xf", pg_manifest()["template"], "-C", str(data)], check=True)
    (data / "global" / "pg_control").write_bytes(cluster.http("pageserver", f"{cluster.timeline_path()}/control_file"))
    shutil.rmtree(data / "pg_wal")
    (data / "pg_wal").mkdir()
    settings = {**SETTINGS, "unix_socket_directories": str(data), "recovery_target_lsn": at, "restore_command": f'cp "{wal}/%f" "%p"'}
    with (data / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    (data / "pg_hba.conf").write_text("local all all trust\n")
    (data / "pg_ident.conf").touch()
    (data / "recovery.signal").touch()
    # The redo starts from the template's shutdown checkpoint, whose segment is the first of the WAL.
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{run_user()}:", str(data)], check=True)
    subprocess.run(["chmod", "-R", "u=rwX,go=", str(data)], check=True)
    try:
        stock("pg_ctl", "-D", data, "-W", "-l", data / "log", "start")
        wait_until(lambda: replayed(data / "log"), f"the stock cluster has replayed up to {at}", 1800)
        stock("pg_ctl", "-D", data, "-m", "fast", "-w", "-t", "600", "stop")
    except PagecheckFailed as error:
        log = data / "log"
        raise PagecheckFailed(f"{error}\nserver log:\n{log.read_text()[-3000:] if log.exists() else ''}") from None


def replayed(log: Path) -> bool:
    """Whether the cluster has reached its target and been promoted there. `pg_ctl -w` returns when it is consistent, long before."""
    text = log.read_text() if log.exists() else ""
    if "FATAL" in text or "PANIC" in text or "is shut down" in text:
        raise PagecheckFailed("the stock cluster cannot replay the WAL")
    if "ready to accept connections" not in text:
        return False
    if "recovery stopping before WAL location" not in text:
        raise PagecheckFailed("the stock cluster did not stop at its target")
    return True


def dump(cluster: Cluster, at: str, folder: Path) -> None:
    """Every relation fork as the pageserver has it at `at`, but free space maps."""
    path = cluster.timeline_path()
    connection = http.client.HTTPConnection("127.0.0.1", cluster.http_port("pageserver"), timeout=300)

    def get(resource: str) -> bytes:
        connection.request("GET", f"{path}/{resource}")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise PagecheckFailed(f"{resource}: {answer.status} {body[:500]!r}")
        return body

    for relation in json.loads(get(f"relations?lsn={at}"))["relations"]:
        rel, blocks = relation["rel"], relation["blocks"]
        if rel.endswith("_fsm"):
            continue
        file = folder / rel
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            for first in range(0, blocks, PAGES_AT_ONCE):
                out.write(get(f"pages?rel={rel}&first={first}&count={min(PAGES_AT_ONCE, blocks - first)}&lsn={at}"))


def compare(cluster: Cluster, wal: Path, at: str) -> dict[str, Any]:
    """What `pagecheck` found at one position."""
    ours, data = cluster.dir / "pages-ours", cluster.dir / "pages-stock"
    try:
        replay(cluster, wal, at, data)
        dump(cluster, at, ours)
        done = subprocess.run([binary(), ours, data], capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise PagecheckFailed(done.stderr)
        return {"lsn": at, **json.loads(done.stdout)}
    finally:
        shutil.rmtree(ours, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)


def check(cluster: Cluster, workload: Callable[[], object], every_s: float = 0.25) -> list[dict[str, Any]]:
    """Runs the workload on a running cluster, then compares; one report for each position, the final one last."""
    received = ReceiveWal(cluster)
    try:
        with sampled(cluster, every_s) as samples:
            workload()
        final = cluster.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0]
        # Something behind it, so that recovery can stop there and does not run out of WAL.
        cluster.sql("SELECT pg_logical_emit_message(true, 'pagecheck', repeat('x', 20000))")
        cluster.sql("SELECT pg_switch_wal()")
        end = cluster.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0]
        cluster.sql("SELECT pg_logical_emit_message(true, 'pagecheck', 'end')")
        ingested = lambda: lsn(cluster.http("pageserver", cluster.timeline_path())["last_record_lsn"]) >= lsn(end)  # noqa: E731
        wait_until(ingested, "the pageserver has the final position", 300)
        wait_until(lambda: received.has(lsn(end)), "pg_receivewal has the final position", 300)
    finally:
        received.stop()
    earlier = sorted(set(samples) - {final}, key=lsn)
    if len(earlier) < EARLIER:
        raise PagecheckFailed(f"only {len(earlier)} positions were seen while the workload ran")
    step = len(earlier) / EARLIER
    positions = [earlier[int(number * step)] for number in range(EARLIER)] + [final]
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{run_user()}:", str(received.folder)], check=True)
    received.folder.chmod(0o755)
    return [compare(cluster, received.folder, at) for at in positions]


def regression(cluster: Cluster) -> None:
    """PostgreSQL's core regression suite; which tests pass is `make regress`'s matter."""
    suite = Path(pg_manifest()["patched"]) / "suites" / "regress"
    work = cluster.dir / "regress"
    work.mkdir()
    if os.geteuid() == 0:
        shutil.chown(work, run_user(), run_user())
    port = cluster.config()["branches"][0]["sql_port"]
    command = [*unprivileged(), suite / "pg_regress", f"--inputdir={suite}", f"--outputdir={work}", f"--dlpath={suite}",
               f"--bindir={pg_manifest()['patched']}/bin", f"--schedule={suite / 'parallel_schedule'}", "--max-connections=10",
               "--host=127.0.0.1", f"--port={port}", "--user=postgres", "--dbname=regression"]
    with (work / "output.txt").open("w") as output:
        subprocess.run(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, cwd=work, env={**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(port)})
    passed = (work / "output.txt").read_text().count("\nok ")
    print(f"the suite ran: {passed} tests passed", file=sys.stderr)
    if passed < 100:
        raise PagecheckFailed(f"the suite did not run:\n{(work / 'output.txt').read_text()[-2000:]}")


def bench(cluster: Cluster) -> None:
    """TPC-B with an update-heavy table and a vacuum."""
    pgbench(cluster, "-i", "-s", "5", "-q")
    pgbench(cluster, "-n", "-c", "4", "-j", "2", "-T", "20")
    subprocess.run([pg_bin("psql"), "-q", "-c", "VACUUM", cluster.url()], check=True)


WORKLOADS: dict[str, Callable[[Cluster], None]] = {"regression": regression, "pgbench": bench}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="all")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    reports: dict[str, list[dict[str, Any]]] = {}
    for name in WORKLOADS if args.workload == "all" else [args.workload]:
        cluster = Cluster({"max_prepared_transactions": "10"})
        try:
            cluster.up()
            reports[name] = check(cluster, lambda: WORKLOADS[name](cluster))
        finally:
            cluster.remove()
            shutil.rmtree(cluster.dir, ignore_errors=True)
        for report in [] if args.json else reports[name]:
            print(f"{name} at {report['lsn']}: {report['pages']} pages of {report['forks']} forks ({report['nonzero_pages']} not empty), {report['different']} different")
            for difference in report["differences"][:10]:
                print(f"  {difference['page']} offset {difference['offset']}\n    ours     {difference['ours']}\n    postgres {difference['postgres']}")
    if args.json:
        print(json.dumps(reports, indent=1))
    return 1 if any(report["different"] for found in reports.values() for report in found) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PagecheckFailed as error:
        sys.exit(f"pagecheck: {error}")
