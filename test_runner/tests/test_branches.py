"""Branches at the head, at an LSN and at a time; several computes at once; looks into the past; what is refused."""

from __future__ import annotations

import random
import threading
import time
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from cluster import Cluster, OgelError, wait_until


def create(cluster: Cluster, name: str, *args: str) -> dict:
    """A branch with a running compute."""
    made = cluster.ogel("branch", "create", name, *args)
    cluster.ogel("compute", "start", name)
    return made


def refused(cluster: Cluster, *args: str) -> str:
    with pytest.raises(OgelError) as error:
        cluster.ogel(*args)
    return str(error.value)


def psql_at(cluster: Cluster, branch: str, at: str, query: str) -> str:
    done = cluster.run("psql", branch, "--at", at, "--", "-Atc", query)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Model:
    """A table on a branch, and what must be in it."""

    def __init__(self, branch: str, rows: dict[int, int]):
        self.branch, self.rows = branch, dict(rows)

    def work(self, cluster: Cluster, seed: int, steps: int) -> None:
        chance = random.Random(seed)
        with cluster.connect(self.branch, autocommit=False) as connection:
            for _ in range(steps):
                rows = dict(self.rows)
                for _ in range(chance.randrange(1, 30)):
                    key = chance.randrange(3000)
                    if chance.random() < 0.2:
                        connection.execute("DELETE FROM t WHERE k = %s", [key])
                        rows.pop(key, None)
                    else:
                        value = chance.randrange(1 << 30)
                        connection.execute(
                            "INSERT INTO t VALUES (%s, %s, repeat('x', 300)) ON CONFLICT (k) DO UPDATE SET v = excluded.v", [key, value])
                        rows[key] = value
                if chance.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    self.rows = rows

    def check(self, cluster: Cluster) -> None:
        assert dict(cluster.sql("SELECT k, v FROM t", branch=self.branch)) == self.rows, self.branch


class Housekeeping(threading.Thread):
    """Gives up all history that nobody needs and merges every layer, on every timeline, all the time."""

    def __init__(self, cluster: Cluster):
        super().__init__(daemon=True)
        self.cluster, self.merges, self.cutoffs, self.done = cluster, 0, set(), threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.05):
            config = self.cluster.config()
            for branch in config["branches"]:
                path = f"/v1/tenant/{config['tenant']}/timeline/{branch['timeline']}"
                try:
                    self.cluster.http("pageserver", f"{path}/checkpoint", "POST")
                    self.cutoffs.add(self.cluster.http("pageserver", f"{path}/gc", "POST")["cutoff"])
                    self.merges += self.cluster.http("pageserver", f"{path}/compact?full=true", "POST")["merges"]
                except OSError:  # killed, or busy with its start
                    continue

    def stop(self) -> None:
        self.done.set()
        self.join()
        assert self.merges > 10 and len(self.cutoffs) > 10, (self.merges, self.cutoffs)


def test_three_levels_written_at_once_while_parents_lose_history(make_cluster, monkeypatch):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    monkeypatch.setenv("OGEL_RETENTION_S", "0")
    cluster = make_cluster(shared_buffers="1MB", **{"ogel.file_cache_size": "0"}).up()
    housekeeping = Housekeeping(cluster)
    housekeeping.start()
    cluster.sql("CREATE TABLE t (k int PRIMARY KEY, v int, pad text)")
    main = Model("main", {})
    main.work(cluster, seed, 60)
    create(cluster, "dev")
    dev = Model("dev", main.rows)
    dev.check(cluster)
    dev.work(cluster, seed + 1, 20)
    made = create(cluster, "deep", "--from", "dev")
    assert made["ancestor"]["timeline"] == next(b["timeline"] for b in cluster.config()["branches"] if b["name"] == "dev")
    deep = Model("deep", dev.rows)
    models = [main, dev, deep]
    for round_ in range(3):
        threads = [threading.Thread(target=model.work, args=(cluster, seed + 10 * round_ + at, 25)) for at, model in enumerate(models)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for model in models:
            model.check(cluster)
        victim = ["compute-dev", "pageserver", "compute-deep"][round_]
        cluster.chaos("kill", victim)
        cluster.chaos("resume", victim)
        for model in models:
            wait_until(lambda: answers(cluster, model.branch), f"{model.branch} serves again")
            model.check(cluster)
    housekeeping.stop()
    branches = {branch["name"]: branch for branch in cluster.ogel("branch", "list")["branches"]}
    assert (branches["dev"]["parent"], branches["deep"]["parent"], branches["main"]["parent"]) == ("main", "dev", None)
    assert {branch["compute"] for branch in branches.values()} == {"running"}
    cluster.ogel("down")
    cluster.up()
    for name in ("dev", "deep"):
        cluster.ogel("compute", "start", name)
    for model in models:
        model.check(cluster)


def answers(cluster: Cluster, branch: str) -> bool:
    try:
        return cluster.sql("SELECT 1", branch=branch) == [(1,)]
    except psycopg.Error:
        return False


def test_a_branch_at_the_head_sees_the_last_commit(cluster: Cluster):
    """H25, also while the pageserver lags behind."""
    cluster.sql("CREATE TABLE t (a int)")
    for number in range(3):
        with cluster.connect() as connection:
            connection.execute("INSERT INTO t SELECT generate_series(1, 20000)")
            connection.execute("INSERT INTO t VALUES (%s)", [-number])
            cluster.ogel("branch", "create", f"b{number}")
        cluster.ogel("compute", "start", f"b{number}")
        assert cluster.sql("SELECT count(*) FROM t WHERE a = %s AND a <= 0", -number, branch=f"b{number}") == [(1,)]
        assert cluster.sql("SELECT count(*) FROM t WHERE a > 0", branch=f"b{number}") == [(20000 * (number + 1),)]


def times_of_a_workload(cluster: Cluster, commits: int) -> list[tuple[datetime, int]]:
    """(a moment at which no commit was under way, how many rows were committed by then)"""
    noted = []
    cluster.sql("CREATE TABLE noted (n int)")
    with cluster.connect() as connection:
        for number in range(commits):
            connection.execute("INSERT INTO noted VALUES (%s)", [number])
            noted.append((datetime.now(timezone.utc), number + 1))
            if random.random() < 0.3:
                connection.execute("BEGIN")
                connection.execute("INSERT INTO noted VALUES (-1)")
                connection.execute("ROLLBACK")
    return noted


def check_times(cluster: Cluster, count: int) -> None:
    noted = times_of_a_workload(cluster, 300)
    for at, rows in random.sample(noted, count):
        name = f"at-{rows}"
        create(cluster, name, "--at", at.isoformat())
        assert cluster.sql("SELECT count(*), max(n) FROM noted", branch=name) == [(rows, rows - 1)], at
        cluster.ogel("branch", "delete", name)


def test_a_branch_at_each_time_has_what_was_committed_by_then(cluster: Cluster):
    check_times(cluster, 8)


@pytest.mark.heavy
def test_fifty_random_times(cluster: Cluster):
    check_times(cluster, 50)


def test_a_look_into_the_past_leaves_nothing(cluster: Cluster):
    cluster.sql("CREATE TABLE t (a int)")
    cluster.sql("INSERT INTO t VALUES (1)")
    lsn = cluster.sql("SELECT pg_current_wal_lsn()::text")[0][0]
    time.sleep(0.01)
    then = datetime.now(timezone.utc)
    cluster.sql("DELETE FROM t")
    cluster.sql("DROP TABLE t")
    before = cluster.config()
    assert psql_at(cluster, "main", lsn, "SELECT count(*) FROM t") == "1"
    assert psql_at(cluster, "main", then.isoformat(), "SELECT a FROM t") == "1"
    refusal = cluster.run("psql", "main", "--at", lsn, "--", "-c", "DELETE FROM t")
    assert "read-only transaction" in refusal.stderr
    wait_until(lambda: cluster.config() == before, "nothing of the looks stays in the configuration")
    timelines = cluster.http("pageserver", "/v1/status")["timelines"]
    assert len(timelines) == 1 and not list(cluster.dir.glob("compute-look*"))


def test_what_is_refused(cluster: Cluster):
    cluster.sql("CREATE TABLE t (a int)")
    create(cluster, "dev")
    cluster.sql("INSERT INTO t VALUES (1)", branch="dev")
    cluster.ogel("branch", "create", "deep", "--from", "dev")
    assert "already" in refused(cluster, "branch", "create", "dev")
    assert "there are: main, dev, deep" in refused(cluster, "branch", "create", "x", "--from", "nowhere")
    for name in ("Dev", "", "a/b", "-x", "x" * 64):
        assert "name" in refused(cluster, "branch", "create", "--", name)
    tomorrow = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
    assert "future" in refused(cluster, "branch", "create", "x", "--at", tomorrow)
    assert "future" in refused(cluster, "branch", "create", "x", "--at", "FF/0")
    assert "before the history" in refused(cluster, "branch", "create", "x", "--at", "1999-01-01T00:00:00Z")
    assert "before the history" in refused(cluster, "branch", "create", "x", "--at", "0/10")
    assert "not a time" in refused(cluster, "branch", "create", "x", "--at", "yesterday")
    assert "deep (from" in refused(cluster, "branch", "delete", "dev")
    assert "main" in refused(cluster, "branch", "delete", "main")
    assert "--to" in refused(cluster, "branch", "reset", "main")
    assert "no branch" in refused(cluster, "branch", "delete", "x")
    assert "unfinished" not in cluster.config(), "nothing is left of what was refused"
    assert len(cluster.http("pageserver", "/v1/status")["timelines"]) == 3
    for name in ("deep", "dev"):
        cluster.ogel("branch", "delete", name)
    assert len(cluster.http("pageserver", "/v1/status")["timelines"]) == 1
    assert len(cluster.http("safekeeper-1", "/v1/status")["timelines"]) == 1


def test_reset_keeps_the_old_state(cluster: Cluster):
    cluster.sql("CREATE TABLE t (a int)")
    create(cluster, "dev")
    cluster.sql("INSERT INTO t VALUES (1)", branch="dev")
    cluster.sql("INSERT INTO t VALUES (100)")
    kept = cluster.ogel("branch", "reset", "dev")["kept_as"]
    assert cluster.sql("SELECT a FROM t", branch="dev") == [(100,)]
    cluster.ogel("compute", "start", kept)
    assert cluster.sql("SELECT a FROM t", branch=kept) == [(1,)]
    cluster.ogel("branch", "rename", kept, "old")
    assert cluster.sql("SELECT a FROM t", branch="old") == [(1,)]

    # Restore: main goes back to before a mistake.
    lsn = cluster.sql("SELECT pg_current_wal_lsn()::text")[0][0]
    cluster.sql("DROP TABLE t")
    cluster.ogel("branch", "reset", "main", "--to", lsn)
    assert cluster.sql("SELECT a FROM t") == [(100,)]
    cluster.sql("INSERT INTO t VALUES (101)")
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert sorted(cluster.sql("SELECT a FROM t")) == [(100,), (101,)]
