"""One seed: which session says what, and when both servers are killed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Callable

from psycopg.pq import TransactionStatus

from twin import transactions
from twin.pair import Difference, Lost, Pair, Runner, Waiting, connect
from twin.queries import query
from twin.schema import PRELUDE, change_schema, create_table, maintenance
from twin.sequences import Position, check_gap, equalising, positions
from twin.servers import Ours, Stock
from twin.session import Outcome, Statement
from twin.tables import CATALOG, Catalog
from twin.transactions import State
from twin.verdict import verdict
from twin.writes import write

SESSIONS = 4


@dataclass
class Counts:
    """What a seed did."""

    statements: int = 0
    errors: int = 0
    waits: int = 0
    kills: int = 0
    restarts: int = 0
    pageserver_kills: int = 0
    sqlstates: dict[str, int] = field(default_factory=dict)


class Life:
    """A seed on both servers, in a database of its own. `sabotage` is run on our server alone, before the end: the proof that a difference is seen."""

    def __init__(self, ours: Ours, stock: Stock, seed: int, statements: int, transcript: Path, sabotage: str | None = None):
        self.servers = (ours, stock)
        self.seed = seed
        self.random = Random(seed)
        self.length = statements
        self.sabotage = sabotage
        self.database = f"life{seed}"
        self.catalog = Catalog()
        self.states: dict[int, State] = {}
        # Somebody else's statement goes on as soon as this one is answered: what the schema is then, only that one's end tells.
        self.releasing = False
        self.transcript = transcript.open("w")
        self.counts = Counts()
        steps = range(statements // 5, statements)
        self.breaks = {step: self.random.choice(("kill", "kill", "restart", "pageserver")) for step in self.random.sample(steps, min(len(steps), self.random.randrange(1, 4)))}

    def live(self) -> Counts:
        """Raises `Difference` when our server is not the twin's."""
        try:
            self.create()
            for step in range(self.length):
                if how := self.breaks.get(step):
                    self.lose_pageserver() if how == "pageserver" else self.shut_down(how)
                self.step()
            self.end()
        except Lost as lost:
            raise Difference(f"a connection was lost: {lost}") from lost
        finally:
            self.disconnect()
            self.transcript.close()
        self.drop()
        return self.counts

    def create(self) -> None:
        self.at_postgres(f"CREATE DATABASE {self.database}")
        self.connect()
        self.runner.quietly(self.runner.control, PRELUDE)
        for _ in range(4):
            self.say(1, Statement(create_table(self.random, self.catalog, 1), changes_schema=True))

    def drop(self) -> None:
        self.at_postgres(f"DROP DATABASE {self.database}")

    def at_postgres(self, sql: str) -> None:
        pair = connect(0, *(server.conninfo("postgres") for server in self.servers))
        for session in pair.both:
            if (outcome := session.ask(sql)).sqlstate:
                raise Difference(f"{sql}: {outcome.message}")
        pair.close()

    def connect(self) -> None:
        targets = [server.conninfo(self.database) for server in self.servers]
        self.runner = Runner(connect(0, *targets), connect(0, *targets), self.release)
        self.runner.pairs = {number: connect(number, *targets) for number in range(1, SESSIONS + 1)}
        self.states = {number: State() for number in self.runner.pairs}

    def disconnect(self) -> None:
        if hasattr(self, "runner"):
            for pair in [self.runner.control, self.runner.observer, *self.runner.pairs.values()]:
                pair.close()

    def say(self, number: int, statement: Statement) -> Outcome:
        """One statement on both; afterwards the state of its session is known."""
        pair, state, waits = self.runner.pairs[number], self.states[number], self.counts.waits
        self.transcript.write(f"/* {number} */ {statement.sql};\n")
        self.transcript.flush()
        self.counts.statements += 1
        try:
            outcome = self.runner.run(pair, statement)
        except Difference as difference:
            raise Difference(f"statement {self.counts.statements}, session {number}: {statement.sql}\n{difference}") from None
        if outcome.sqlstate:
            self.counts.errors += 1
            self.counts.sqlstates[outcome.sqlstate] = self.counts.sqlstates.get(outcome.sqlstate, 0) + 1
        state.changed_schema |= statement.changes_schema or waits != self.counts.waits
        if outcome.transaction == TransactionStatus.IDLE:
            state.ended()
        if state.changed_schema and outcome.transaction != TransactionStatus.INERROR and not self.releasing:
            self.catalog.read(self.runner.run(pair, Statement(CATALOG, ordered=True)))
            state.changed_schema = outcome.transaction != TransactionStatus.IDLE
        return outcome

    def release(self, waiting: Waiting) -> None:
        """Those that somebody waits for end their transactions."""
        self.counts.waits += 1
        self.releasing = True
        for holder in sorted(waiting.holders, key=lambda number: number or 0):
            if holder is None:
                self.finish_all_prepared()
            elif holder in self.runner.pairs and self.status(holder) != TransactionStatus.ACTIVE:
                self.say(holder, Statement(self.random.choice(("COMMIT", "COMMIT", "ROLLBACK"))))
        self.releasing = False

    def finish_all_prepared(self) -> None:
        for name in self.prepared():
            outcome = self.runner.run(self.runner.control, transactions.finish_prepared(self.random, [name]))
            self.transcript.write(f"/* 0 */ {outcome.tags} {name};\n")

    def prepared(self) -> list[str]:
        rows = self.runner.quietly(self.runner.control, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid").rows
        return [row[0].decode() for row in rows]

    def status(self, number: int) -> int:
        return self.runner.pairs[number].stock.connection.transaction_status

    def step(self) -> None:
        number = self.random.randrange(1, SESSIONS + 1)
        status = self.status(number)
        choices = {TransactionStatus.IDLE: self.when_idle, TransactionStatus.INTRANS: self.inside, TransactionStatus.INERROR: self.after_an_error}
        statement = choices[status](number)
        if statement is not None:
            self.say(number, statement)

    def chosen(self, weights: dict[Callable[[], Statement | None], int]) -> Statement | None:
        return self.random.choices(list(weights), list(weights.values()))[0]()

    def when_idle(self, number: int) -> Statement | None:
        random, catalog = self.random, self.catalog
        return self.chosen({
            lambda: transactions.begin(random): 18,
            lambda: write(random, catalog, number): 26,
            lambda: query(random, catalog, number, lock=False): 22,
            lambda: change_schema(random, catalog, number): 14,
            lambda: self.maintenance(number): 10,
            lambda: transactions.setting(random): 3,
            lambda: transactions.sequence(random, catalog): 4,
            lambda: transactions.cursor(random, catalog, number, self.states[number]) if self.states[number].held else None: 2,
            lambda: self.finish_one_prepared(): 3,
        })

    def maintenance(self, number: int) -> Statement | None:
        """Vacuum waits for pins, which open cursors keep wherever they stand."""
        if any(state.cursors for state in self.states.values()):
            return None
        return maintenance(self.random, self.catalog, number)

    def finish_one_prepared(self) -> Statement | None:
        names = self.prepared()
        return transactions.finish_prepared(self.random, names) if names else None

    def inside(self, number: int) -> Statement | None:
        random, catalog, state = self.random, self.catalog, self.states[number]
        return self.chosen({
            lambda: transactions.end(random, catalog): 14,
            lambda: write(random, catalog, number): 30,
            lambda: query(random, catalog, number, lock=True): 22,
            lambda: transactions.savepoint(random, catalog, state): 12,
            lambda: transactions.cursor(random, catalog, number, state): 14,
            lambda: change_schema(random, catalog, number): 6,
            lambda: transactions.sequence(random, catalog): 2,
            lambda: Statement(f"SELECT pg_advisory_xact_lock({random.randrange(4)})"): 1,
        })

    def after_an_error(self, number: int) -> Statement | None:
        state = self.states[number]
        if state.savepoints and self.random.random() < 0.5:
            name = self.random.choice(state.savepoints)
            del state.savepoints[state.savepoints.index(name) + 1:]
            return Statement(f"ROLLBACK TO {name}", changes_schema=state.changed_schema)
        return Statement(self.random.choices(("ROLLBACK", "COMMIT", "SELECT 1"), (6, 3, 1))[0])

    def lose_pageserver(self) -> None:
        """No session may notice."""
        self.transcript.write("/* pageserver */\n")
        self.counts.pageserver_kills += 1
        self.servers[0].lose_pageserver()

    def shut_down(self, how: str) -> None:
        """Both servers end and start again. Open transactions are lost on both, prepared ones are not."""
        self.transcript.write(f"/* {how} */\n")
        self.counts.kills += how == "kill"
        self.counts.restarts += how == "restart"
        for pair in self.runner.pairs.values():
            pair.close()
        before = self.sequences()
        if [(one.last, one.called) for one in before[0]] != [(one.last, one.called) for one in before[1]]:
            raise Difference(f"before a {how}, the sequences differ: {before[0]}\nstock: {before[1]}")
        self.runner.quietly(self.runner.control, "SELECT count(pg_logical_emit_message(true, 'twin', 'flush'))")
        self.disconnect()
        failures: list[BaseException] = []

        def again(server: Ours | Stock) -> None:
            try:
                server.stop(how)
                server.start()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=again, args=(server,)) for server in self.servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        self.connect()
        self.continue_sequences(how, before)
        self.catalog.read(self.runner.run(self.runner.control, Statement(CATALOG, ordered=True)))

    def sequences(self) -> list[list[Position]]:
        """Where the sequences are, on both servers."""
        return [positions(session) for session in self.runner.control.both]

    def continue_sequences(self, how: str, before: list[list[Position]]) -> None:
        """Where a kill has skipped more values on one server than on the other, both go on from the later one."""
        after = self.sequences()
        for server, then, now in zip(self.servers, before, after):
            for was, became in zip(then, now):
                check_gap(how, server.name, was, became)
        for statement in equalising(*after):
            self.runner.quietly(self.runner.control, statement)

    def end(self) -> None:
        """Nothing is left open, then everything is compared."""
        for number in self.runner.pairs:
            if self.status(number) != TransactionStatus.IDLE:
                self.say(number, Statement("COMMIT"))
        self.finish_all_prepared()
        self.catalog.read(self.runner.run(self.runner.control, Statement(CATALOG, ordered=True)))
        if self.sabotage and (outcome := self.runner.control.ours.ask(self.sabotage)).sqlstate:
            raise RuntimeError(f"the sabotage failed: {outcome.message}")
        verdict(self.runner, self.catalog, self.database, *self.servers)
