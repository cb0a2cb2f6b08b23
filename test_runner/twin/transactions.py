"""The frame of transactions: begin and end, savepoints, cursors, two phases, settings, sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from twin.session import Statement
from twin.tables import Catalog, condition, fold

PLANS = ("enable_seqscan", "enable_indexscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_indexonlyscan", "enable_sort", "enable_material")


@dataclass
class State:
    """What a session has open."""

    savepoints: list[str] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    changed_schema: bool = False

    def ended(self) -> None:
        self.savepoints.clear()
        self.cursors.clear()


def begin(random: Random) -> Statement:
    return Statement(random.choice(("BEGIN", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN READ ONLY")))


def end(random: Random, catalog: Catalog) -> Statement:
    kind = random.choices(("COMMIT", "ROLLBACK", "PREPARE TRANSACTION 'p{}'", "COMMIT AND CHAIN"), (10, 3, 3, 1))[0]
    return Statement(kind.format(catalog.number()))


def savepoint(random: Random, catalog: Catalog, state: State) -> Statement:
    if state.savepoints and random.random() < 0.6:
        name = random.choice(state.savepoints)
        verb = random.choice(("ROLLBACK TO", "RELEASE"))
        at = state.savepoints.index(name)
        del state.savepoints[at + 1 if verb == "ROLLBACK TO" else at:]
        # A cursor opened since is gone with it; asking for it then is an error on both.
        return Statement(f"{verb} {name}", changes_schema=state.changed_schema)
    state.savepoints.append(f"sp{catalog.number()}")
    return Statement(f"SAVEPOINT {state.savepoints[-1]}")


def cursor(random: Random, catalog: Catalog, session: int, state: State) -> Statement | None:
    known = state.cursors + state.held
    if known and random.random() < 0.7:
        name = random.choice(known)
        if random.random() < 0.1:
            return Statement(f"CLOSE {name}")
        return Statement(f"FETCH {random.choice(('1', '5', '60', 'ALL', 'BACKWARD 3', 'ABSOLUTE 7', 'LAST'))} FROM {name}", ordered=True)
    tables = [table for table in catalog.tables(session) if "id" in table.columns]
    if not tables:
        return None
    table, name = random.choice(tables), f"c{catalog.number()}"
    hold = random.random() < 0.25
    (state.held if hold else state.cursors).append(name)
    return Statement(f"DECLARE {name} {random.choice(('', 'SCROLL '))}CURSOR {'WITH HOLD ' if hold else ''}FOR SELECT id, md5({fold(table.columns)}) "
                     f"FROM {table.name} WHERE {condition(random, table)} ORDER BY id, md5({fold(table.columns)})")


def finish_prepared(random: Random, prepared: list[str]) -> Statement:
    return Statement(f"{random.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))} PREPARED '{random.choice(prepared)}'", changes_schema=True)


def setting(random: Random) -> Statement:
    return Statement(random.choice((f"SET {random.choice(PLANS)} = {random.choice(('on', 'off'))}", "SET work_mem = '64kB'", "SET work_mem = '4MB'", "RESET ALL", "DISCARD PLANS",
                                    "SET maintenance_work_mem = '1MB'", "SET gin_pending_list_limit = '64kB'", "SET max_parallel_workers_per_gather = 0")))


def sequence(random: Random, catalog: Catalog) -> Statement:
    name = random.choice(("seq_plain", "seq_cached", "seq_short"))
    return Statement(random.choice((
        f"SELECT nextval('{name}')", f"SELECT nextval('{name}')", f"SELECT count(nextval('{name}')) FROM generate_series(1, {random.randrange(1, 90)})",
        f"SELECT setval('{name}', {random.randrange(1, 800)})", f"SELECT last_value, is_called FROM {name}", f"ALTER SEQUENCE {name} RESTART {random.randrange(1, 800)}")))
