"""A statement on both servers, and what must be the same."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable

from twin.session import Lost, Outcome, Session, Statement

ANSWER_S = 120
# As long as a statement may run before it is asked whether it waits.
GLANCE_S = 0.02


class Difference(Exception):
    """Our server did not do what stock did. The text shows both."""


@dataclass
class Pair:
    """The same session on both servers."""

    number: int
    ours: Session
    stock: Session

    @property
    def both(self) -> tuple[Session, Session]:
        return self.ours, self.stock

    def close(self) -> None:
        for session in self.both:
            session.close()


def connect(number: int, ours: str, stock: str) -> Pair:
    return Pair(number, Session(ours), Session(stock))


@dataclass(frozen=True)
class Waiting:
    """Who must end a transaction before a statement goes on: sessions by number; `None` for a prepared transaction."""

    holders: frozenset[int | None]


def waits_for(session: Session, observer: Session, numbers: dict[int, int]) -> Waiting | None:
    """What the session waits for, if for a lock. `numbers`: backend process → session."""
    rows = observer.ask(f"SELECT unnest(pg_blocking_pids({session.pid}))").rows
    if not rows:
        return None
    return Waiting(frozenset(numbers.get(int(pid)) if int(pid) else None for (pid,) in rows))


class Runner:
    """Runs statements on pairs. `control` says what belongs to no session, `observer` looks at who waits. `release` ends the transactions that a
    statement waits for, on both servers."""

    def __init__(self, control: Pair, observer: Pair, release: Callable[[Waiting], None]):
        self.control = control
        self.observer = observer
        self.release = release
        self.pairs: dict[int, Pair] = {}

    def run(self, pair: Pair, statement: Statement) -> Outcome:
        for session in pair.both:
            session.send(statement)
        deadline = time.monotonic() + ANSWER_S
        ours, stock = (session.poll(GLANCE_S) for session in pair.both)
        while ours is None or stock is None:
            if ours is None and stock is None and (waiting := self.waiting(pair)) is not None:
                self.release(waiting)
            elif time.monotonic() > deadline:
                raise Difference(self.stuck(pair, ours, stock))
            ours = ours or pair.ours.poll(GLANCE_S)
            stock = stock or pair.stock.poll(GLANCE_S)
        if ours != stock:
            raise Difference(difference(ours, stock))
        return stock

    def waiting(self, pair: Pair) -> Waiting | None:
        """What the pair's statement waits for on both servers."""
        answers = []
        for which in (0, 1):
            numbers = {other.both[which].pid: number for number, other in self.pairs.items()}
            answers.append(waits_for(pair.both[which], self.observer.both[which], numbers))
        return answers[0] if answers[0] == answers[1] else None

    def stuck(self, pair: Pair, ours: Outcome | None, stock: Outcome | None) -> str:
        lines = [f"no answer within {ANSWER_S} s"]
        for name, session, observer, outcome in zip(("ours", "stock"), pair.both, self.observer.both, (ours, stock)):
            state = f"answered {show(outcome)}" if outcome else observer.ask(
                f"SELECT wait_event_type, wait_event, pg_blocking_pids(pid) FROM pg_stat_activity WHERE pid = {session.pid}").rows
            lines.append(f"{name}: {state}")
        return "\n".join(lines)

    def quietly(self, pair: Pair, sql: str) -> Outcome:
        """A statement that must succeed on both."""
        outcome = self.run(pair, Statement(sql))
        if outcome.sqlstate:
            raise Difference(f"{sql}: {outcome.message}")
        return outcome


def show(outcome: Outcome) -> str:
    error = f" {outcome.sqlstate}: {outcome.message.strip()}" if outcome.sqlstate else ""
    return f"{', '.join(outcome.tags)} ({len(outcome.rows)} rows, transaction status {outcome.transaction}){error}"


def difference(ours: Outcome, stock: Outcome) -> str:
    lines = [f"ours:  {show(ours)}", f"stock: {show(stock)}"]
    pairs = list(zip(ours.rows, stock.rows))
    at = next((number for number, (a, b) in enumerate(pairs) if a != b), len(pairs))
    if ours.rows != stock.rows:
        lines += [f"first different row is {at}:", *(f"  {name}: {rows[at:at + 1]!r:.600}" for name, rows in (("ours", ours.rows), ("stock", stock.rows)))]
    return "\n".join(lines)


__all__ = ["Difference", "Lost", "Pair", "Runner", "Waiting", "connect", "difference", "show"]
