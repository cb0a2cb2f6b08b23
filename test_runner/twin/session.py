"""One connection, driven so that a statement which waits for a lock does not stop the test."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, field

from psycopg import pq


@dataclass(frozen=True)
class Statement:
    """SQL, and what follows it. `ordered`: the order of its rows is part of the answer. `copy`: data for COPY FROM STDIN."""

    sql: str
    ordered: bool = False
    copy: bytes | None = None
    changes_schema: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a client sees of a statement. Messages are not compared: they may name whichever row was met first."""

    tags: tuple[str, ...]
    sqlstate: str | None
    rows: tuple[tuple[bytes | None, ...], ...]
    transaction: int
    message: str = field(default="", compare=False)


class Lost(Exception):
    """The server closed the connection."""


class Session:
    """A libpq connection. `send`, then `poll` until it returns the outcome."""

    def __init__(self, conninfo: str):
        self.connection = pq.PGconn.connect(conninfo.encode())
        if self.connection.status != pq.ConnStatus.OK:
            raise Lost(self.connection.error_message.decode(errors="replace"))
        self.pid = self.connection.backend_pid
        self.statement = Statement("")

    def close(self) -> None:
        self.connection.finish()

    def send(self, statement: Statement) -> None:
        self.statement = statement
        self.tags: list[str] = []
        self.rows: list[tuple[bytes | None, ...]] = []
        self.error: tuple[str, str] | None = None
        try:
            self.connection.send_query(statement.sql.encode())
        except Exception as error:
            raise Lost(str(error)) from None

    def poll(self, timeout_s: float) -> Outcome | None:
        """The outcome, or None when the server has not answered by then."""
        end = time.monotonic() + timeout_s
        while True:
            while not self.connection.is_busy():
                result = self.connection.get_result()
                if result is None:
                    return self.outcome()
                self.take(result)
            if not select.select([self.connection.socket], [], [], max(0, end - time.monotonic()))[0]:
                return None
            try:
                self.connection.consume_input()
            except Exception as error:
                raise Lost(str(error)) from None

    def take(self, result: pq.PGresult) -> None:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
            if sqlstate is None:
                raise Lost(self.connection.error_message.decode(errors="replace"))
            self.error = (sqlstate.decode(), result.error_message.decode(errors="replace"))
        elif result.status == pq.ExecStatus.COPY_IN:
            self.connection.put_copy_data(self.statement.copy or b"")
            self.connection.put_copy_end()
            return
        elif result.status == pq.ExecStatus.COPY_OUT:
            while (data := self.connection.get_copy_data(0))[0] > 0:
                self.rows.append((bytes(data[1]),))
            return
        self.rows += [tuple(result.get_value(row, column) for column in range(result.nfields)) for row in range(result.ntuples)]
        self.tags.append((result.command_status or b"").decode())

    def outcome(self) -> Outcome:
        rows = self.rows if self.statement.ordered else sorted(self.rows, key=lambda row: [(value is None, value or b"") for value in row])
        sqlstate, message = self.error or (None, "")
        return Outcome(tuple(self.tags), sqlstate, tuple(rows), int(self.connection.transaction_status), message)

    def ask(self, sql: str, timeout_s: float = 60) -> Outcome:
        """A statement that waits for nobody."""
        self.send(Statement(sql))
        outcome = self.poll(timeout_s)
        if outcome is None:
            raise Lost(f"no answer within {timeout_s} s: {sql}")
        return outcome
