"""Whatever dies, freezes, fills up or fights: nothing acknowledged is lost, nothing is invented, nothing changes its order."""

import errno
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from bank import Bank
from chaos import Chaos, seed_from_environment
from cluster import RELEASE, Cluster, lsn, wait_until
from namespaces import SpreadCluster
from recorder import PendingCommit, Recorder
from second_compute import SecondCompute


@pytest.mark.parametrize("tampering, says", [
    ("DELETE FROM ledger WHERE (client, number) = (SELECT client, max(number) FROM ledger WHERE client = 1 GROUP BY 1)", "lost"),
    ("INSERT INTO ledger VALUES (2, 1000000, 1, 2, 3)", "never sent"),
    ("INSERT INTO ledger SELECT 2, min(number), 1, 2, 3 FROM generate_series(1, 10000) number WHERE number NOT IN (SELECT number FROM ledger WHERE client = 2)", "invented"),
    ("UPDATE ledger SET xid = xid + 1000000 WHERE client = 1 AND number = (SELECT min(number) FROM ledger WHERE client = 1)", "out of order"),
    ("UPDATE ledger SET xid = xid + 1000000 WHERE client = 1 AND number > (SELECT max(number) - 2 FROM ledger WHERE client = 1);"
     "UPDATE ledger SET xid = xid + 2000000 WHERE client = 2", "reordered"),
    ("UPDATE ledger SET amount = amount + 1 WHERE client = 1 AND number = (SELECT max(number) FROM ledger WHERE client = 1)", "changed"),
    ("UPDATE account SET balance = balance + 1 WHERE id = 7", "sum up"),
    ("UPDATE account SET balance = balance + CASE id WHEN 7 THEN 1 ELSE -1 END WHERE id IN (7, 8)", "differ from the ledger"),
])
def test_the_checker_finds(bank_at_rest: tuple[Cluster, Bank], tampering: str, says: str):
    """A checker that cannot fail proves nothing."""
    cluster, bank = bank_at_rest
    with cluster.connect(autocommit=False) as connection:
        connection.execute(tampering)
        with pytest.raises(AssertionError, match=says):
            bank.check(connection, everything=True)
        connection.rollback()
    assert bank.check(everything=True) > 100


@pytest.fixture(scope="module")
def bank_at_rest():
    cluster = Cluster()
    try:
        bank = Bank(cluster.up(), seed=1, clients=2).create().start()
        bank.wait_for_commits(100)
        yield cluster, bank.stop()
    finally:
        cluster.remove()


def run_chaos(cluster: Cluster, rounds: int) -> None:
    seed = seed_from_environment()
    bank = Bank(cluster, seed).create().start()
    recorder = Recorder(cluster, writers=2).create().start()
    bank.wait_for_commits()
    chaos = Chaos(cluster, bank, seed)
    for number in range(1, rounds + 1):
        try:
            faults = chaos.round()
            entries = bank.check()
        except Exception:
            print(f"round {number} failed after: {', '.join(chaos.done)}")
            raise
        print(f"round {number}: {', '.join(faults)}; {bank.acknowledged()} acknowledged, {entries} entries checked", flush=True)
    recorder.stop().check()
    bank.stop().check(everything=True)
    assert bank.acknowledged() > rounds * 20 and recorder.count() > rounds * 10


def test_a_few_rounds(cluster: Cluster):
    run_chaos(cluster, int(os.environ.get("CHAOS_ROUNDS") or 5))


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_fifty_rounds(cluster: Cluster):
    run_chaos(cluster, int(os.environ.get("CHAOS_ROUNDS") or 50))


@pytest.fixture
def small_disk(make_cluster):
    """A cluster whose safekeeper-2 keeps its data on a tmpfs of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    cluster = make_cluster().up()
    cluster.ogel("down")
    folder = cluster.dir / "safekeeper-2"
    aside = folder.rename(cluster.dir / "aside")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield cluster.up(), folder
    finally:
        cluster.run("down", "--immediate")
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Takes all space that is left; deleting the file gives it back."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


def test_a_full_disk_stops_one_safekeeper_and_no_commit(small_disk: tuple[Cluster, Path]):
    cluster, folder = small_disk
    path = cluster.timeline_path()

    def flushed(node: int) -> int:
        return lsn(cluster.http(f"safekeeper-{node}", path)["flush_lsn"])

    def write_megabytes(count: int) -> None:
        cluster.sql("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 1000000)) FROM generate_series(1, %s)", count)

    bank = Bank(cluster, seed=1).create().start()
    bank.wait_for_commits()
    before = cluster.node("safekeeper-2")["process"]
    ballast = fill(folder)
    write_megabytes(40)
    bank.wait_for_commits(50)
    wait_until(lambda: "disk space" in cluster.log("safekeeper-2"), "the full node says so")
    stuck = flushed(2)
    assert stuck < min(flushed(1), flushed(3)) - (8 << 20)
    # What it says of its state, and what it holds, can still be read.
    assert lsn(cluster.http("safekeeper-2", path)["commit_lsn"]) <= stuck
    # It counts for nothing: with another node away, commits wait for space.
    cluster.chaos("kill", "safekeeper-3")
    with cluster.connect() as waiting, cluster.connect() as observer:
        commit = PendingCommit(waiting, "CREATE TABLE waited AS SELECT 1 AS a").wait_until_it_waits(observer)
        settled = bank.acknowledged()
        assert commit.join(3) is None and bank.acknowledged() <= settled + len(bank.clients)
        assert flushed(2) == stuck
        bank.check()
        ballast.unlink()
        assert commit.join(90) == "acknowledged", "commits go on once space has returned"
    bank.wait_for_commits()
    after = cluster.node("safekeeper-2")["process"]
    assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"]), "it recovered by a restart"
    cluster.chaos("resume", "safekeeper-3")
    bank.wait_for_commits()
    bank.stop()
    wait_until(lambda: flushed(1) == flushed(2) == flushed(3), "all three have the same WAL again")
    # The node that was full is as good as the others: it and one more elect the next compute.
    cluster.ogel("compute", "kill", "main")
    cluster.chaos("kill", "safekeeper-1")
    cluster.ogel("compute", "start", "main")
    bank.check(everything=True)


def test_an_election_waits_for_disk_space(small_disk: tuple[Cluster, Path]):
    """A vote is durable before it is given; a node that cannot write must not elect, and must not end either."""
    cluster, folder = small_disk
    bank = Bank(cluster, seed=2).create().start()
    bank.wait_for_commits()
    pid = cluster.node("safekeeper-2")["process"]["pid"]
    ballast = fill(folder)
    cluster.sql("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 1000000)) FROM generate_series(1, 40)")
    cluster.ogel("compute", "kill", "main")
    cluster.chaos("kill", "safekeeper-3")
    start = subprocess.Popen([RELEASE / "ogel", "--dir", cluster.dir, "compute", "start", "main"], stderr=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        start.wait(3)
    ballast.unlink()
    assert start.wait(90) == 0, start.stderr.read()
    assert cluster.node("safekeeper-2")["process"]["pid"] == pid
    cluster.chaos("resume", "safekeeper-3")
    bank.wait_for_commits()
    bank.stop().check(everything=True)


def test_two_computes_fight(cluster: Cluster):
    """Each start deposes the other. Clients use whichever answers; each of its acknowledgements must survive all others' elections."""
    seed = seed_from_environment()
    dice = random.Random(seed)
    urls = [cluster.url()]
    bank = Bank(cluster, seed, clients=4, urls=lambda: urls[:]).create().start()
    bank.wait_for_commits()

    for number in range(6):
        second = SecondCompute(cluster)
        try:
            second.connect_when_ready().close()
            urls.append(f"postgresql://postgres@127.0.0.1:{second.sql_port}/postgres")
            wait_until(lambda: cluster.node("compute-main")["process"]["phase"] == "fenced", "the cluster's own compute is fenced")
            bank.wait_for_commits()
            with second.connect() as connection:
                print(f"fight {number}: {bank.check(connection)} entries checked at the second compute")
            if dice.random() < 0.5:
                cluster.ogel("compute", "start", "main")
                wait_until(lambda: second.process.poll() is not None, "the second compute is fenced")
                assert second.process.returncode == 41
            elif dice.random() < 0.5:
                second.process.kill()
                second.process.wait(30)
        finally:
            second.stop()
            del urls[1:]
        cluster.ogel("compute", "start", "main")
        bank.wait_for_commits()
        print(f"fight {number}: {bank.check()} entries checked at the cluster's own compute, {bank.acknowledged()} acknowledged")
    bank.stop().check(everything=True)


@pytest.fixture
def spread():
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("iproute2's `ip` is not installed")
    with SpreadCluster().running() as cluster:
        yield cluster


def test_cut_from_safekeepers(spread: SpreadCluster):
    """One is not missed; without two, commits wait and reads go on; nothing was lost when they are back."""
    bank = Bank(spread, seed=3).create()
    with spread.connect() as waiting, spread.connect() as observer:
        observer.execute("CREATE TABLE calm AS SELECT i, repeat('x', 500) AS pad FROM generate_series(1, 5000) i")
        observer.execute("CREATE TABLE waited (a int)")
        bank.start().wait_for_commits()
        spread.network.cut("compute", "safekeeper-1")
        bank.wait_for_commits(30)
        spread.network.cut("compute", "safekeeper-2")
        commit = PendingCommit(waiting, "INSERT INTO waited VALUES (1)").wait_until_it_waits(observer)
        settled = bank.acknowledged()
        assert commit.join(4) is None and bank.acknowledged() <= settled + len(bank.clients)
        # These pages come from the pageserver: the table is larger than the compute's memory. (A page that the waiting transactions
        # have changed, and that has left the compute's memory, would wait with them: the pageserver has it when a quorum has.)
        assert observer.execute("SELECT count(*) FROM calm").fetchone() == (5000,)
        spread.network.heal()
        assert commit.join(90) == "acknowledged"
    bank.wait_for_commits()
    bank.stop().check(everything=True)


def test_cut_from_the_pageserver(spread: SpreadCluster):
    """Reads of what the compute has not cached wait, commits that need no page go on; then the reads give what they should."""
    with spread.connect() as reader, spread.connect() as writer, spread.connect() as observer:
        reader.execute("CREATE TABLE pages AS SELECT i, repeat('x', 500) AS pad FROM generate_series(1, 20000) i")
        emit = "SELECT pg_logical_emit_message(true, 'ogel', 'committed')"
        writer.execute(emit)
        spread.network.cut("compute", "pageserver")
        read = PendingCommit(reader, "SELECT 1 / (count(*) = 20000)::int FROM pages WHERE pad LIKE 'x%'")
        for _ in range(20):
            writer.execute(emit)
        assert read.join(3) is None, "pages that are not cached cannot be read now"
        spread.network.heal()
        assert read.join(90) == "acknowledged"
        assert observer.execute("SELECT count(*) FROM pages").fetchone() == (20000,)


def test_a_compute_that_is_cut_off_is_replaced(spread: SpreadCluster):
    """It can acknowledge nothing, whoever is its client; when it hears of the other it ends, for good."""
    urls = [spread.url()]
    bank = Bank(spread, seed=4, clients=4, urls=lambda: urls[:]).create().start()
    with spread.connect() as waiting, spread.connect() as observer:
        observer.execute("CREATE TABLE never (a int)")
        bank.wait_for_commits()
        for host in ("safekeeper-1", "safekeeper-2", "safekeeper-3"):
            spread.network.cut("compute", host)
        commit = PendingCommit(waiting, "INSERT INTO never VALUES (1)").wait_until_it_waits(observer)
        spread.network.cut("compute", "pageserver")
        spread.start_compute("second")
        urls[:] = [spread.url("second")]
        with spread.connect("second") as newer:
            newer.execute("CREATE TABLE mine AS SELECT 1 AS a")
            assert commit.join(2) is None and spread.processes["compute"].poll() is None
            bank.check(newer)
            spread.network.heal()
            assert spread.processes.pop("compute").wait(90) == 41
            assert commit.join(10) == "error"
            bank.wait_for_commits()
            bank.stop().check(newer, everything=True)
            assert newer.execute("SELECT a FROM mine").fetchone() == (1,)
            assert newer.execute("SELECT count(*) FROM never").fetchone() == (0,)


def test_links_cut_at_random(spread: SpreadCluster):
    """Any links, also one way only, also between safekeepers; after each round all are mended and the books are checked."""
    seed = seed_from_environment()
    dice = random.Random(seed)
    bank = Bank(spread, seed).create().start()
    hosts = list(spread.processes)
    for number in range(6):
        bank.wait_for_commits()
        cuts = [dice.sample(hosts, 2) for _ in range(dice.randint(1, 6))]
        for one, other in cuts:
            (spread.network.cut if dice.random() < 0.5 else spread.network.cut_one_way)(one, other)
        time.sleep(dice.uniform(0.2, 4))
        spread.network.heal()
        print(f"round {number}: {', '.join('/'.join(cut) for cut in cuts)}")
        bank.wait_for_commits()
        bank.check()
        spread.all_run()
    bank.stop().check(everything=True)
