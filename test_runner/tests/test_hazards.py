"""Schedules that would lose or corrupt data, run against a live cluster. H numbers are those of the design's list of hazards."""

import random
import threading

import psycopg
import pytest

from cluster import Cluster, lsn, wait_until
from recorder import PendingCommit, Recorder
from second_compute import SecondCompute


def committed_up_to(cluster: Cluster, position: int) -> None:
    def reached() -> bool:
        return lsn(cluster.http("compute-main", "/v1/status")["commit_lsn"]) >= position
    wait_until(reached, f"the quorum has all WAL up to {position:X}")


def end_log_at(cluster: Cluster, page_remainder: int) -> int:
    """Makes the WAL end `page_remainder` bytes before the end of a page (0: exactly with the page), and returns that position."""
    with cluster.connect() as connection:
        def insert_lsn() -> int:
            """End of the last record: PostgreSQL tells the position behind a page header where a record ends with its page."""
            position = lsn(connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0])
            return position - 24 if position % 8192 == 24 else position

        def emit(size: int) -> int:
            connection.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', %s), true)", (size,))
            return insert_lsn()

        # Overhead of one message, found by experiment; a message that fills the page to the byte then follows.
        for _ in range(200):
            before = insert_lsn()
            after = emit(100)
            if after // 8192 != before // 8192:
                continue
            overhead = after - before - 100
            space = 8192 - after % 8192 - page_remainder
            if space < overhead + 400:
                continue
            # Sizes above 255 bytes have a longer header, and all records are rounded up to 8 bytes: try the neighbours.
            end = emit(space - overhead - 8)
            if (-end) % 8192 == page_remainder:
                return end
    raise AssertionError(f"no record ended {page_remainder} bytes before a page's end")


@pytest.mark.parametrize("remainder", [0, 8, 16, 24, 64, 112])
def test_h14_start_checkpoint_at_page_ends(cluster: Cluster, remainder: int):
    """The start checkpoint record begins behind a page header, or crosses a page, according to where the log ends."""
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a")
    end = end_log_at(cluster, remainder)
    committed_up_to(cluster, end)
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT count(*) FROM t") == [(100,)]
    cluster.sql("INSERT INTO t VALUES (101)")
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT count(*) FROM t") == [(101,)]


def test_h7_h14_start_at_a_segment_boundary(cluster: Cluster):
    """A switched segment counts only with its padding; the next start checkpoint begins behind a long header."""
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a")
    cluster.sql("SELECT pg_switch_wal()")
    segment = 16 << 20
    end = lsn(cluster.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
    committed_up_to(cluster, (end - 1) // segment * segment)
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT count(*) FROM t") == [(100,)]
    cluster.ogel("compute", "stop", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SELECT count(*) FROM t") == [(100,)]


def test_h14_transaction_ids_are_never_reused(cluster: Cluster):
    """Subtransactions of a killed compute count: an id that is handed out twice makes rows of two transactions one."""
    cluster.sql("CREATE TABLE t (a int)")
    with cluster.connect() as connection:
        connection.execute("""DO $$ BEGIN FOR i IN 1..300 LOOP
            BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$""")
        highest = max(int(row[0]) for row in connection.execute("SELECT xmin::text FROM t").fetchall())
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert int(cluster.sql("SELECT pg_current_xact_id()::text")[0][0]) > highest
    assert cluster.sql("SELECT count(*) FROM t") == [(300,)]


def test_h12_reads_never_wait_for_a_page_header(cluster: Cluster):
    """Pages whose last change ends with a WAL page are read back at once."""
    cluster.sql("CREATE TABLE t (a int, pad text)")
    with cluster.connect() as connection:
        connection.execute("SET statement_timeout = '60s'")
        for _ in range(40):
            connection.execute("INSERT INTO t SELECT i, repeat('y', 700) FROM generate_series(1, 500) i")
            connection.execute("SELECT pg_switch_wal()")
            assert connection.execute("SELECT count(*) % 500 FROM t").fetchone() == (0,)


def test_h15_wal_readers_see_only_what_the_quorum_has(make_cluster):
    """A logical subscriber must not keep a transaction that never reached the quorum."""
    cluster = make_cluster(wal_level="logical").up()
    cluster.sql("CREATE TABLE t (a int)")
    cluster.sql("SELECT pg_create_logical_replication_slot('s', 'test_decoding')")
    cluster.sql("INSERT INTO t VALUES (1)")
    reader = cluster.connect()
    peek = "SELECT count(*) FROM pg_logical_slot_peek_changes('s', NULL, NULL) WHERE data LIKE '%INSERT%'"
    assert reader.execute(peek).fetchone() == (1,)
    cluster.chaos("kill", "safekeeper-1")
    cluster.chaos("kill", "safekeeper-2")
    pending = PendingCommit(cluster.connect(), "INSERT INTO t VALUES (2)").wait_until_it_waits(reader)
    assert reader.execute(peek).fetchone() == (1,), "a subscriber would have got an unacknowledged commit"
    cluster.ogel("compute", "kill", "main")
    assert pending.join(30) == "error"


@pytest.mark.parametrize("level", ["local", "remote_write", "on"])
def test_h16_no_setting_acknowledges_without_a_quorum(cluster: Cluster, level: str):
    cluster.sql("CREATE TABLE t (a int)")
    connection = cluster.connect()
    connection.execute(f"SET synchronous_commit = {level}")
    reader = cluster.connect()
    cluster.chaos("kill", "safekeeper-1")
    cluster.chaos("kill", "safekeeper-2")
    pending = PendingCommit(connection, "INSERT INTO t VALUES (1)").wait_until_it_waits(reader)
    assert pending.outcome is None
    cluster.chaos("resume", "safekeeper-1")
    assert pending.join(60) == "acknowledged"
    assert cluster.sql("SELECT count(*) FROM t") == [(1,)]


def test_h16_a_user_s_standby_cannot_stand_in_for_the_quorum(cluster: Cluster):
    """Only the walsender that holds the supervisor's slot is the synchronous standby, whatever name another one takes."""
    rows = cluster.sql("SELECT application_name, sync_state FROM pg_stat_replication")
    assert rows == [("ogel", "sync")], rows
    assert cluster.sql("SELECT slot_name, temporary, active FROM pg_replication_slots") == [("ogel", False, True)]


def test_h9_safety_settings_cannot_be_overridden(cluster: Cluster):
    for name, value in (("fsync", "off"), ("restart_after_crash", "off"), ("full_page_writes", "off"), ("wal_sender_timeout", "0")):
        assert cluster.sql(f"SHOW {name}") == [(value,)], name
    with cluster.connect() as connection:
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            connection.execute("ALTER SYSTEM SET restart_after_crash = on")
    assert cluster.sql("SHOW restart_after_crash") == [("off",)]


def test_h3_h8_committed_wal_is_the_same_on_every_safekeeper(cluster: Cluster):
    """After elections, a killed and a frozen safekeeper, all three agree on every committed byte and learn of it without a compute's help."""
    cluster.sql("CREATE TABLE t (a int)")
    for victim in (1, 2, 3):
        cluster.chaos("stop" if victim == 2 else "kill", f"safekeeper-{victim}")
        cluster.sql("INSERT INTO t SELECT generate_series(1, 1000)")
        cluster.ogel("compute", "kill", "main")
        cluster.ogel("compute", "start", "main")
        cluster.sql("INSERT INTO t SELECT generate_series(1, 1000)")
        cluster.chaos("resume", f"safekeeper-{victim}")
    cluster.ogel("compute", "stop", "main")
    path = cluster.timeline_path()

    def settled() -> bool:
        states = [cluster.http(f"safekeeper-{n}", path) for n in (1, 2, 3)]
        return len({(state["flush_lsn"], state["commit_lsn"]) for state in states}) == 1 and states[0]["flush_lsn"] == states[0]["commit_lsn"]
    wait_until(settled, "all safekeepers have the same flush and commit position")
    end = lsn(cluster.http("safekeeper-1", path)["commit_lsn"])
    start = lsn(cluster.http("safekeeper-1", path)["timeline_start_lsn"])
    contents = []
    for node in (1, 2, 3):
        wal = b""
        segments = sorted(p for p in (cluster.dir / f"safekeeper-{node}").rglob("*") if p.is_file() and len(p.name) == 24 and p.name.startswith("00000001"))
        for path_ in segments:
            number = int(path_.name[8:16], 16) * 256 + int(path_.name[16:], 16)
            base = number << 24
            data = path_.read_bytes()
            wal += data[max(0, start - base): max(0, min(len(data), end - base))]
        contents.append(wal)
    assert len(contents[0]) == end - start
    assert contents[0] == contents[1] == contents[2]
    assert cluster.run("compute", "start", "main").returncode == 0
    assert cluster.sql("SELECT count(*) FROM t") == [(6000,)]


def test_h11_scans_with_readahead_never_see_old_pages(make_cluster):
    """Pages change between being asked for ahead of a scan and being used by it; a stale one would break the bank's balance."""
    cluster = make_cluster(shared_buffers="1MB").up()
    cluster.sql("CREATE TABLE bank (id int PRIMARY KEY, balance bigint, pad text)")
    cluster.sql("INSERT INTO bank SELECT i, 1000, repeat('x', 400) FROM generate_series(1, 8000) i")
    stop = threading.Event()
    problems: list[str] = []
    transfers = 0

    def transfer(seed: int) -> None:
        nonlocal transfers
        dice = random.Random(seed)
        with cluster.connect() as connection:
            while not stop.is_set():
                one, other = sorted(dice.sample(range(1, 8001), 2))
                query = "UPDATE bank SET balance = balance + CASE id WHEN %s THEN 7 ELSE -7 END WHERE id IN (%s, %s)"
                try:
                    connection.execute(query, (one, one, other))
                    transfers += 1
                except psycopg.errors.DeadlockDetected:
                    pass

    def scan() -> None:
        with cluster.connect() as connection:
            for _ in range(25):
                total, rows = connection.execute("SELECT sum(balance), count(*) FROM bank").fetchone()
                if (total, rows) != (8_000_000, 8000):
                    problems.append(f"{rows} rows with {total}")

    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    writers = [threading.Thread(target=transfer, args=(seed + n,), daemon=True) for n in range(3)]
    scanners = [threading.Thread(target=scan, daemon=True) for _ in range(2)]
    for thread in writers + scanners:
        thread.start()
    for thread in scanners:
        thread.join(200)
        assert not thread.is_alive()
    stop.set()
    for thread in writers:
        thread.join(30)
    assert not problems, problems[:3]
    assert transfers > 100


def test_h17_the_walsender_may_be_ended_at_any_time(cluster: Cluster):
    """The slot keeps the WAL that no quorum has, so the supervisor attaches again and nothing is missing."""
    recorder = Recorder(cluster).create().start()
    for _ in range(10):
        before = recorder.count()
        wait_until(lambda: recorder.count() > before + 20, "commits go on")
        cluster.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ogel'")
    before = recorder.count()
    wait_until(lambda: recorder.count() > before + 20, "commits go on")
    assert cluster.node("compute-main")["process"]["restarts"] == 0
    recorder.stop()
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    recorder.check()


def test_h18_a_fenced_compute_never_campaigns_again(cluster: Cluster):
    """Two computes under restart policies would depose each other for ever."""
    newer = SecondCompute(cluster)
    try:
        with newer.connect_when_ready() as connection:
            wait_until(lambda: cluster.node("compute-main")["process"]["phase"] == "fenced", "the older one is fenced")
            term = connection.execute("SHOW ogel.term").fetchone()
            for _ in range(20):
                connection.execute("SELECT pg_switch_wal()")
                connection.execute("CREATE TABLE IF NOT EXISTS t (a int)")
                connection.execute("INSERT INTO t VALUES (1)")
            assert cluster.http("safekeeper-1", cluster.timeline_path())["term"] == int(term[0])
            process = cluster.node("compute-main")["process"]
            assert (process["phase"], process["restarts"], process["pid"]) == ("fenced", 0, None)
    finally:
        newer.stop()
