"""Bad days of a compute: its pageserver, the wire to it and its disk misbehave. Never a wrong page, never a wait that a cancel cannot end."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator

import psycopg
import pytest

from cluster import Cluster, pgbench, pgbench_invariants, wait_until
from page_proxy import Cut, PageProxy, error_response

ROWS = 20000
SUM = "SELECT count(*), sum(i) FROM t"
RIGHT = [(ROWS, ROWS * (ROWS + 1) // 2)]


@pytest.fixture
def table(make_cluster) -> Cluster:
    settings = {"ogel.file_cache_size": "0", "ogel.request_timeout": "1s"}
    cluster = make_cluster(shared_buffers="4MB", **settings).up()
    cluster.sql("CREATE EXTENSION ogel")
    cluster.sql(f"CREATE TABLE t AS SELECT i, repeat('x', 400) AS filler FROM generate_series(1, {ROWS}) i")
    return cluster


@pytest.fixture
def proxy(table: Cluster) -> Iterator[PageProxy]:
    with PageProxy(table) as proxy:
        proxy.divert()
        assert table.sql(SUM) == RIGHT
        yield proxy


def sqlstate(work: Callable[[], object]) -> str:
    with pytest.raises(psycopg.Error) as raised:
        work()
    return raised.value.sqlstate


# What to do with an answer so that it must not be believed.
def noise(frame: bytes) -> bytes:
    return os.urandom(len(frame))


def crc32c(data: bytes) -> int:
    """CRC-32C, table-driven."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def crc_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_TABLE = [crc_entry(value) for value in range(256)]


# With a right checksum: what a server that has gone wrong could say.
def wrong_tag(frame: bytes) -> bytes:
    body = b"\xee" + frame[6:-4]
    return frame[:5] + body + crc32c(body).to_bytes(4, "big")


def wrong_id(frame: bytes) -> bytes:
    body = frame[5:6] + os.urandom(8) + frame[14:-4]
    return frame[:5] + body + crc32c(body).to_bytes(4, "big")


def shorter(frame: bytes) -> bytes:
    cut = frame[5:-100] if len(frame) > 200 else frame[5:-1]
    return frame[:1] + (len(cut) + 4).to_bytes(4, "big") + cut


def longer(frame: bytes) -> bytes:
    return frame[:1] + (len(frame) + 7).to_bytes(4, "big") + frame[5:] + b"\0" * 8


def fewer_pages(frame: bytes) -> bytes:
    if frame[5] != 103 or len(frame) < 9000:
        return frame
    count = int.from_bytes(frame[22:24], "big") - 1
    body = frame[5:22] + count.to_bytes(2, "big") + frame[24:24 + count * 8192]
    body += crc32c(body).to_bytes(4, "big")
    return frame[:1] + (len(body) + 4).to_bytes(4, "big") + body


def flipped_bit(frame: bytes) -> bytes:
    at = len(frame) * 3 // 4
    return frame[:at] + bytes([frame[at] ^ 4]) + frame[at + 1:]


def of_length(length: int) -> Callable[[bytes], bytes]:
    """A frame that says so, whatever it holds."""
    return lambda frame: frame[:1] + length.to_bytes(4, "big") + frame[5:]


def cut_in_the_head(frame: bytes) -> bytes:
    return Cut(frame[:3])


def cut_in_the_middle(frame: bytes) -> bytes:
    return Cut(frame[:len(frame) // 2])


def ended(frame: bytes) -> bytes:
    return b"c" + (4).to_bytes(4, "big")


def shut_down(frame: bytes) -> bytes:
    return error_response("57P01", "the server is shutting down")


def half_an_error(frame: bytes) -> bytes:
    return b"E" + (9).to_bytes(4, "big") + b"SFATA"


def with_notice(frame: bytes) -> bytes:
    """Not garbage: a notice may come at any time, here before an answer that is not whole."""
    return b"N" + error_response("01000", "the server will move soon")[1:] + flipped_bit(frame)


GARBAGE = [flipped_bit, noise, wrong_tag, wrong_id, shorter, longer, fewer_pages, of_length(0x7FFFFFFF), of_length(0xFFFFFFFF), of_length(3), of_length(0),
           of_length(2_000_000), cut_in_the_head, cut_in_the_middle, ended, shut_down, half_an_error, with_notice]


def test_garbage_is_not_believed(table: Cluster, proxy: PageProxy):
    """Some of the answers are damaged: each is noticed and asked for again."""
    for garbage in GARBAGE:
        every, seen, before = 7, 0, proxy.corrupted

        def some(frame: bytes) -> bytes:
            nonlocal seen
            seen += 1
            return garbage(frame) if seen % every == 0 and proxy.corrupted < before + 4 else frame

        proxy.corrupt = some
        assert table.sql(SUM) == RIGHT, garbage
        assert proxy.corrupted > before, garbage
        if garbage is fewer_pages:
            continue  # answers of one page are whole
        proxy.corrupt = garbage
        with table.connect() as connection:
            connection.execute("SET statement_timeout = '500ms'")
            assert sqlstate(lambda: connection.execute(SUM)) == "57014", garbage
            proxy.corrupt = None
            connection.execute("SET statement_timeout = 0")
            assert connection.execute(SUM).fetchall() == RIGHT
    proxy.corrupt = None


def test_answers_come_in_pieces(table: Cluster, proxy: PageProxy):
    """Heads and pages torn apart at every place; statements canceled amid an answer leave the others whole."""
    for piece in (1, 4, 5, 6, 7, 1000, 8191):
        proxy.piece = piece
        with table.connect() as connection:
            if piece < 1000:
                connection.execute("SET statement_timeout = '200ms'")
                assert sqlstate(lambda: connection.execute(SUM)) == "57014"
                proxy.piece = 1000
                connection.execute("SET statement_timeout = 0")
            connection_count = proxy.connections
            assert connection.execute(SUM).fetchall() == RIGHT
            assert proxy.connections <= connection_count + 1
        assert table.sql(SUM) == RIGHT


def test_a_refusal_amid_the_stream_is_an_error(table: Cluster, proxy: PageProxy):
    """The pageserver ends the stream and says why, as it does when the compute's right to ask ends."""
    with table.connect() as connection:
        proxy.corrupt = lambda frame: error_response("28000", "the token is not valid any more")
        with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification) as raised:
            connection.execute(SUM)
        assert "the token is not valid any more" in str(raised.value)
        proxy.corrupt = None
        assert connection.execute(SUM).fetchall() == RIGHT


def test_connections_are_cut_under_load(cluster: Cluster):
    pgbench(cluster, "-i", "-s", "2", "-q")
    with PageProxy(cluster) as proxy:
        proxy.divert()
        with ThreadPoolExecutor() as pool:
            load = pool.submit(pgbench, cluster, "-c", "4", "-T", "6")
            cuts = 0
            while not load.done():
                time.sleep(0.15)
                proxy.cut()
                cuts += 1
            load.result()
        assert pgbench_invariants(cluster) > 0 and cuts > 10
        assert proxy.connections > cuts


def test_pageserver_restarts_under_load(cluster: Cluster):
    pgbench(cluster, "-i", "-s", "2", "-q")
    with ThreadPoolExecutor() as pool:
        load = pool.submit(pgbench, cluster, "-c", "4", "-T", "8")
        for _ in range(3):
            cluster.chaos("kill", "pageserver")
            cluster.chaos("resume", "pageserver")
        load.result()
    assert pgbench_invariants(cluster) > 0




WAITS = {"page": ("OgelPageRead", "OgelPrefetchedRead"), "size": ("OgelSizeRequest",), "connect": ("OgelPageServerConnect",),
         "retry": ("OgelPageServerRetry",)}


def test_every_wait_can_be_ended(table: Cluster, proxy: PageProxy):
    """By statement_timeout, by a cancel and by a termination, within moments."""
    watcher, target = table.connect(), proxy.target
    look = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
    end = "SELECT {}(pid) FROM pg_stat_activity WHERE pid = %s"
    for warm in (look, end.format("pg_cancel_backend"), end.format("pg_terminate_backend")):
        watcher.execute(warm, (0,))

    def heal() -> None:
        proxy.silent, proxy.target = "", target

    def hurt(what: str) -> None:
        proxy.target = 1 if what == "retry" else target
        proxy.silent = "all" if what == "connect" else "stream"
        if what in ("connect", "retry"):
            proxy.cut()

    with ThreadPoolExecutor() as pool:
        for what, events in WAITS.items():
            query = "SELECT pg_database_size('postgres')" if what == "size" else SUM
            victim = table.connect()
            pid = victim.info.backend_pid
            victim.execute("SET statement_timeout = 0")
            right = victim.execute(query).fetchall()

            def stuck() -> bool:
                return watcher.execute(look, (pid,)).fetchone()[0] in events
            try:
                hurt(what)
                began = time.monotonic()
                victim.execute("SET statement_timeout = '300ms'")
                assert sqlstate(lambda: victim.execute(query)) == "57014"
                assert time.monotonic() - began < 5, what

                victim.execute("SET statement_timeout = 0")
                waiting = pool.submit(sqlstate, lambda: victim.execute(query))
                wait_until(stuck, f"it waits in {events}", 20)
                watcher.execute(end.format("pg_cancel_backend"), (pid,))
                assert waiting.result(5) == "57014", what
                heal()
                assert victim.execute(query).fetchall() == right, f"the session goes on after {what}"

                hurt(what)
                waiting = pool.submit(sqlstate, lambda: victim.execute(query))
                wait_until(stuck, f"it waits in {events}", 20)
                watcher.execute(end.format("pg_terminate_backend"), (pid,))
                assert waiting.result(5) in ("57P01", None), what
            finally:
                heal()
    assert table.sql(SUM) == RIGHT


def test_a_commit_wait_ends_only_in_the_truth(table: Cluster):
    with table.connect() as connection, ThreadPoolExecutor() as pool:
        connection.execute("SET statement_timeout = '300ms'")
        connection.execute("INSERT INTO t VALUES (0)")
        watcher = table.connect()
        look = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        pid = connection.info.backend_pid
        watcher.execute(look, (pid,))
        try:
            for name in ("safekeeper-2", "safekeeper-3"):
                table.chaos("stop", name)
            commit = pool.submit(connection.execute, "INSERT INTO t VALUES (0)")
            wait_until(lambda: watcher.execute(look, (pid,)).fetchone()[0] == "SyncRep", "the commit waits")
            watcher.execute("SELECT pg_cancel_backend(%s)", (pid,))
            time.sleep(1)
            assert not commit.done()
        finally:
            for name in ("safekeeper-2", "safekeeper-3"):
                table.chaos("resume", name)
        commit.result(60)
        connection.execute("SET statement_timeout = 0")
        assert connection.execute("SELECT count(*) FROM t WHERE i = 0").fetchone() == (2,)


def test_a_backend_is_killed_in_a_page_request(table: Cluster, proxy: PageProxy):
    """A new life begins in a new folder, and nothing acknowledged is missing."""
    table.sql("INSERT INTO t VALUES (0)")
    victim, watcher = table.connect(), table.connect()
    look = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
    watcher.execute(look, (victim.info.backend_pid,))
    victim.execute("SELECT 1")
    proxy.silent = "stream"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(sqlstate, lambda: victim.execute(SUM))
        wait_until(lambda: watcher.execute(look, (victim.info.backend_pid,)).fetchone()[0] in ("OgelPageRead", "OgelPrefetchedRead", "OgelPageServerConnect"), "it waits")
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        waiting.result(20)
    proxy.silent = ""

    def again():
        try:
            return table.sql(SUM)
        except psycopg.OperationalError:
            return None
    assert wait_until(again, "the compute is back") == [(ROWS + 1, RIGHT[0][1])]


def test_no_disk_for_the_file_cache(make_cluster):
    """A full disk under the file cache costs hits, not answers, and when there is room again it is used."""
    cluster = make_cluster(shared_buffers="1MB", autovacuum="off", bgwriter_lru_maxpages="0").up()
    cluster.sql("CREATE EXTENSION ogel")
    path = next((cluster.dir / "compute-main").rglob("ogel_file_cache"))
    path.unlink()
    path.symlink_to("/dev/full")
    cluster.sql(f"CREATE TABLE t AS SELECT i, repeat('x', 400) AS filler FROM generate_series(1, {ROWS}) i")
    for _ in range(2):
        assert cluster.sql(SUM) == RIGHT
    cluster.sql("UPDATE t SET i = -i")
    assert cluster.sql("SELECT count(*), -sum(i) FROM t") == RIGHT
    look = "SELECT io_errors, hits FROM ogel.file_cache"
    assert cluster.sql(look)[0][0] > 1000
    path.unlink()
    cluster.sql(SUM)
    errors, hits = cluster.sql(look)[0]
    assert cluster.sql("SELECT count(*), -sum(i) FROM t") == RIGHT
    after = cluster.sql(look)[0]
    # a process that runs since before, like the checkpointer, may still have the full disk's file open
    assert after[1] > hits + 500 and after[0] - errors < (after[1] - hits) / 10, (errors, hits, after)


def test_a_refused_token_is_an_error(table: Cluster, proxy: PageProxy):
    with table.connect() as connection:
        for code in ("28P01", "42501"):
            assert connection.execute(SUM).fetchall() == RIGHT
            proxy.refusal = (code, "the token is not for this tenant")
            proxy.cut()
            with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification) as raised:
                connection.execute(SUM)
            assert "the token is not for this tenant" in str(raised.value) and raised.value.diag.message_hint
            proxy.refusal = None
        assert connection.execute(SUM).fetchall() == RIGHT
