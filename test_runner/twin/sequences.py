"""Where sequences go on after a server has ended: exactly where they were after a stop, at most what was logged ahead later after a kill."""

from __future__ import annotations

from dataclasses import dataclass

from twin.pair import Difference
from twin.session import Session

INCREMENTS = {"seq_plain": 1, "seq_cached": 3, "seq_short": 1}
# SEQ_LOG_VALS: so many values beyond those given out are claimed by one record.
LOGGED_AHEAD = 32
POSITIONS = " UNION ALL ".join(f"SELECT '{name}', last_value, is_called, log_cnt FROM {name}" for name in INCREMENTS)


@dataclass(frozen=True)
class Position:
    """Of one sequence. What sessions have taken into their caches counts as given out. `logged`: values beyond `last` that the WAL claims."""

    name: str
    last: int
    called: bool
    logged: int


def positions(session: Session) -> list[Position]:
    outcome = session.ask(POSITIONS)
    if outcome.sqlstate:
        raise Difference(f"{POSITIONS}: {outcome.message}")
    return [Position(name.decode(), int(last), called == b"t", int(logged)) for name, last, called, logged in outcome.rows]


def check_gap(how: str, server: str, was: Position, now: Position) -> None:
    """No value twice, and none lost but those of a kill: there stock loses what was logged ahead too, unless a checkpoint came after it."""
    skipped, odd = divmod(now.last - was.last, INCREMENTS[was.name])
    allowed = min(was.logged, LOGGED_AHEAD) if how == "kill" else 0
    if odd or skipped not in range(allowed + 1) or now.called != was.called:
        raise Difference(f"after a {how}, sequence {was.name} of {server} may go on up to {allowed} values later: {was} became {now}")


def equalising(ours: list[Position], stock: list[Position]) -> list[str]:
    """Statements after which both go on from the later value, where they differ."""
    return [f"SELECT setval('{a.name}', {max(a.last, b.last)}, {a.called})" for a, b in zip(ours, stock) if a.last != b.last]
