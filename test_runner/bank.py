"""A bank under load: transfers whose history is kept beside the database, and a checker that compares the two."""

from __future__ import annotations

import enum
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Callable

import psycopg

from cluster import Cluster, wait_until

OPENING_BALANCE = 1000


class Outcome(enum.Enum):
    """What is known about a transfer. The last two are never reported by a client: a check has found them out."""

    OPEN = "not answered yet"
    ACKNOWLEDGED = "acknowledged"
    NOT_COMMITTED = "not committed"
    UNCERTAIN = "COMMIT was sent and no answer came"
    OBSERVED = "was uncertain, and has been seen"
    BURIED = "was uncertain, and a later compute does not have it"


PRESENT = {Outcome.ACKNOWLEDGED, Outcome.OBSERVED}
ABSENT = {Outcome.NOT_COMMITTED, Outcome.BURIED}


@dataclass
class Transfer:
    """One transfer of a client; `number` counts from 1. Times are those of `time.monotonic`."""

    number: int
    source: int
    target: int
    amount: int
    term: int
    began_s: float
    ended_s: float = 0
    outcome: Outcome = Outcome.OPEN


@dataclass
class Client:
    """One client and its append-only list of transfers; those up to `settled` are PRESENT or ABSENT for good."""

    name: int
    transfers: list[Transfer] = field(default_factory=list)
    settled: int = 0
    acknowledged: int = 0


class Bank:
    """`clients` threads move money between accounts, one transaction each, on any of the computes that `urls` names.

    Invariants of the database, whatever dies:
    - the sum of all balances never changes, and each balance is the opening balance and the ledger's entries;
    - the ledger holds every acknowledged transfer, and nothing that no client sent, rolled back, or that a later compute has lacked once;
    - a client's transfers have rising transaction ids, and so have any two of which one was acknowledged before the other began.
    """

    def __init__(self, cluster: Cluster, seed: int, clients: int = 3, accounts: int = 100, urls: Callable[[], list[str]] | None = None):
        self.cluster = cluster
        self.accounts = accounts
        self.clients = [Client(name) for name in range(1, clients + 1)]
        own = cluster.url() if urls is None else ""
        self.urls = urls or (lambda: [own])
        self.seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def create(self) -> "Bank":
        with psycopg.connect(self.urls()[0], autocommit=True) as connection:
            connection.execute("CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)")
            connection.execute("INSERT INTO account SELECT i, %s FROM generate_series(1, %s) i", (OPENING_BALANCE, self.accounts))
            connection.execute("""
                CREATE TABLE ledger (client int, number int, source int NOT NULL, target int NOT NULL, amount int NOT NULL,
                                     xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint, PRIMARY KEY (client, number))""")
        return self

    def start(self) -> "Bank":
        self._stop.clear()
        self._threads = [threading.Thread(target=self._serve, args=(client,), daemon=True) for client in self.clients]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self, join_s: float = 60) -> "Bank":
        self._stop.set()
        for thread in self._threads:
            thread.join(join_s)
            assert not thread.is_alive(), "a client hangs in a transfer"
        return self

    def acknowledged(self) -> int:
        return sum(client.acknowledged for client in self.clients)

    def wait_for_commits(self, each: int = 5, timeout_s: float = 120) -> None:
        """Every client gets `each` acknowledgements from now on: none of them hangs."""
        for client, goal in [(client, client.acknowledged + each) for client in self.clients]:
            wait_until(lambda: client.acknowledged >= goal, f"client {client.name} commits again", timeout_s)

    def _serve(self, client: Client) -> None:
        dice = random.Random(f"{self.seed}/{client.name}/{len(client.transfers)}")
        connection, term = None, 0
        while not self._stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(dice.choice(self.urls()), autocommit=True, connect_timeout=5)
                    term = int(connection.execute("SHOW ogel.term").fetchone()[0])
            except psycopg.Error:
                self._stop.wait(0.05)
                continue
            self._transfer(connection, client, term, dice)
        if connection is not None:
            connection.close()

    def _transfer(self, connection: psycopg.Connection, client: Client, term: int, dice: random.Random) -> None:
        source, target = dice.sample(range(1, self.accounts + 1), 2)
        transfer = Transfer(len(client.transfers) + 1, source, target, dice.randint(1, 100), term, time.monotonic())
        client.transfers.append(transfer)
        outcome = Outcome.NOT_COMMITTED
        try:
            connection.execute("BEGIN")
            for account in sorted((source, target)):
                change = transfer.amount if account == target else -transfer.amount
                connection.execute("UPDATE account SET balance = balance + %s WHERE id = %s", (change, account))
            connection.execute("INSERT INTO ledger VALUES (%s, %s, %s, %s, %s)", (client.name, transfer.number, source, target, transfer.amount))
            if dice.random() < 0.05:
                connection.execute("ROLLBACK")
            else:
                outcome = Outcome.UNCERTAIN
                connection.execute("COMMIT")
                outcome = Outcome.ACKNOWLEDGED
        except psycopg.Error:
            connection.close()
        transfer.ended_s = time.monotonic()
        transfer.outcome = outcome
        client.acknowledged += outcome is Outcome.ACKNOWLEDGED

    def check(self, connection: psycopg.Connection | None = None, everything: bool = False) -> int:
        """Compares the ledger with the history, also while the clients go on; returns the number of ledger entries looked at.

        Only what was not settled by an earlier check is read one by one, unless `everything` is asked for.
        """
        if connection is None:
            with self.cluster.connect() as own:
                return self.check(own, everything)
        term = int(connection.execute("SHOW ogel.term").fetchone()[0])
        floors = {client.name: 0 if everything else client.settled for client in self.clients}
        before = {client.name: [transfer.outcome for transfer in client.transfers[floors[client.name]:]] for client in self.clients}
        entries = connection.execute("""
            SELECT client, number, source, target, amount, xid FROM ledger
            JOIN unnest(%s::int[], %s::int[]) AS floor (client, settled) USING (client) WHERE number > settled""",
            (list(floors), list(floors.values()))).fetchall()
        found: dict[int, dict[int, tuple]] = {client.name: {} for client in self.clients}
        for name, number, *entry in entries:
            assert name in found, f"an entry of client {name}, who does not exist"
            found[name][number] = tuple(entry)
        for client in self.clients:
            self._check_client(client, floors[client.name], before[client.name], found[client.name], term)
        self._check_order(found)
        self._check_books(connection)
        return len(entries)

    def _check_client(self, client: Client, floor: int, before: list[Outcome], found: dict[int, tuple], term: int) -> None:
        unknown = [number for number in found if not floor < number <= len(client.transfers)]
        assert not unknown, f"client {client.name}: entries that it never sent: {unknown[:5]}"
        for transfer, outcome in zip(client.transfers[floor:], before):
            entry = found.get(transfer.number)
            what = f"client {client.name}, transfer {transfer.number} of term {transfer.term} ({outcome.value})"
            if entry is None:
                assert outcome not in PRESENT, f"lost in term {term}: {what}"
                if outcome is Outcome.UNCERTAIN and term > transfer.term:
                    transfer.outcome = Outcome.BURIED
                continue
            assert outcome not in ABSENT, f"invented in term {term}: {what}"
            assert entry[:3] == (transfer.source, transfer.target, transfer.amount), f"changed: {what}: {entry}"
            if outcome is Outcome.UNCERTAIN:
                transfer.outcome = Outcome.OBSERVED
        xids = [found[number][3] for number in sorted(found)]
        assert all(one < next_ for one, next_ in zip(xids, xids[1:])), f"client {client.name}: transfers out of order"
        while client.settled < len(client.transfers) and client.transfers[client.settled].outcome in PRESENT | ABSENT:
            client.settled += 1

    def _check_order(self, found: dict[int, dict[int, tuple]]) -> None:
        """Commits in real time: what was acknowledged before another began has the lower transaction id."""
        by_xid = sorted((entry[3], name, number) for name, entries in found.items() for number, entry in entries.items())
        latest_began_s, latest = 0.0, ""
        for xid, name, number in by_xid:
            transfer = self.clients[name - 1].transfers[number - 1]
            what = f"client {name}, transfer {number}, xid {xid}"
            if transfer.outcome is Outcome.ACKNOWLEDGED:
                assert transfer.ended_s >= latest_began_s, f"reordered: {what} was acknowledged before {latest} began"
            if transfer.began_s > latest_began_s:
                latest_began_s, latest = transfer.began_s, what

    def _check_books(self, connection: psycopg.Connection) -> None:
        floors = {client.name: client.settled for client in self.clients}
        due = {client.name: sum(transfer.outcome in PRESENT for transfer in client.transfers[:client.settled]) for client in self.clients}
        total, wrong = connection.execute("""
            SELECT sum(balance), count(*) FILTER (WHERE balance <> %s + coalesce(moved, 0)) FROM account LEFT JOIN
                (SELECT id, sum(amount)::bigint AS moved FROM (SELECT target, amount FROM ledger UNION ALL SELECT source, -amount FROM ledger)
                    AS entry (id, amount) GROUP BY id) AS moves USING (id)""", (OPENING_BALANCE,)).fetchone()
        assert total == OPENING_BALANCE * self.accounts, f"the balances sum up to {total}"
        assert wrong == 0, f"{wrong} balances differ from the ledger"
        for by in ("enable_indexscan", "enable_seqscan"):
            with connection.transaction():
                connection.execute(f"SET LOCAL {by} = off")
                connection.execute("SET LOCAL enable_bitmapscan = off")
                counts = dict(connection.execute("""
                    SELECT client, count(number) FROM unnest(%s::int[], %s::int[]) AS floor (client, settled)
                    LEFT JOIN ledger USING (client) WHERE coalesce(number <= settled, true) GROUP BY client""",
                    (list(floors), list(floors.values()))).fetchall())
            counts = {name: counts.get(name, 0) for name in due}
            assert counts == due, f"settled entries with {by} = off: {counts}, due: {due}"
