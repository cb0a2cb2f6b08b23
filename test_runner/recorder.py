"""Writers that remember which of their commits were acknowledged."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import psycopg

from cluster import Cluster, wait_until


@dataclass
class Recorder:
    """Threads insert increasing numbers, one transaction each.

    `acknowledged`: the client was told of success, so it must be there for ever. `uncertain`: sent, and the answer never came; it may
    or may not be there. Everything else must not be there.
    """

    cluster: Cluster
    writers: int = 4
    acknowledged: set[int] = field(default_factory=set)
    uncertain: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._next = 0

    def create(self) -> "Recorder":
        self.cluster.sql("CREATE TABLE record (id bigint PRIMARY KEY, filler text)")
        return self

    def start(self) -> "Recorder":
        self._stop.clear()
        url = self.cluster.url()
        self._threads = [threading.Thread(target=self._write, args=(url,), daemon=True) for _ in range(self.writers)]
        for thread in self._threads:
            thread.start()
        return self

    def _write(self, url: str) -> None:
        connection = None
        while not self._stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(url, autocommit=True, connect_timeout=5)
            except psycopg.Error:
                self._stop.wait(0.05)
                continue
            with self._lock:
                self._next += 1
                number = self._next
                self.uncertain.add(number)
            try:
                connection.execute("INSERT INTO record VALUES (%s, repeat('x', 100))", (number,))
            except psycopg.Error as error:
                with self._lock:
                    self.errors.append(f"{type(error).__name__}: {error}")
                continue
            with self._lock:
                self.acknowledged.add(number)
                self.uncertain.discard(number)
        if connection is not None:
            connection.close()

    def count(self) -> int:
        with self._lock:
            return len(self.acknowledged)

    def stop(self, join_s: float = 30) -> "Recorder":
        self._stop.set()
        for thread in self._threads:
            thread.join(join_s)
        return self

    def check(self) -> None:
        """Nothing acknowledged is lost and nothing is invented."""
        present = {row[0] for row in self.cluster.sql("SELECT id FROM record")}
        with self._lock:
            lost = self.acknowledged - present
            invented = present - self.acknowledged - self.uncertain
        assert not lost, f"{len(lost)} acknowledged commits are lost, such as {sorted(lost)[:5]}"
        assert not invented, f"rows that nobody wrote: {sorted(invented)[:5]}"
        with self.cluster.connect() as connection:
            connection.execute("SET enable_seqscan = off")
            by_index = connection.execute("SELECT count(*) FROM record WHERE id > 0").fetchall()
        assert by_index[0][0] == len(present), "table and index disagree"


class PendingCommit:
    """One statement on a connection of its own, in a thread, because its commit is expected to wait for the quorum."""

    def __init__(self, connection: psycopg.Connection, statement: str):
        self.outcome: str | None = None
        self.pid = connection.info.backend_pid
        self._thread = threading.Thread(target=self._run, args=(connection, statement), daemon=True)
        self._thread.start()

    def _run(self, connection: psycopg.Connection, statement: str) -> None:
        try:
            connection.execute(statement)
            self.outcome = "acknowledged"
        except psycopg.Error:
            self.outcome = "error"

    def wait_until_it_waits(self, observer: psycopg.Connection) -> "PendingCommit":
        """Returns once the server shows that the commit waits for the quorum."""
        query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: observer.execute(query, (self.pid,)).fetchone() == ("SyncRep",), "the commit waits for the quorum")
        return self

    def join(self, timeout_s: float) -> str | None:
        """What came of it: acknowledged, error, or None while it still waits."""
        self._thread.join(timeout_s)
        return self.outcome
