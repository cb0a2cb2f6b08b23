"""Whatever dies, freezes, fills up or fights: nothing acknowledged is lost, nothing is invented, nothing changes its order."""

import os

import pytest

from bank import Bank
from chaos import Chaos, seed_from_environment
from cluster import Cluster
from recorder import Recorder


@pytest.mark.parametrize("tampering, says", [
    ("DELETE FROM ledger WHERE (client, number) = (SELECT client, max(number) FROM ledger WHERE client = 1 GROUP BY 1)", "lost"),
    ("INSERT INTO ledger VALUES (2, 1000000, 1, 2, 3)", "never sent"),
    ("INSERT INTO ledger SELECT 2, min(number), 1, 2, 3 FROM generate_series(1, 10000) number WHERE number NOT IN (SELECT number FROM ledger WHERE client = 2)", "invented"),
    ("UPDATE ledger SET xid = xid + 1000000 WHERE client = 1 AND number = (SELECT min(number) FROM ledger WHERE client = 1)", "out of order"),
    ("UPDATE ledger SET xid = xid + 1000000 WHERE client = 1 AND number > (SELECT max(number) - 2 FROM ledger WHERE client = 1);"
     "UPDATE ledger SET xid = xid + 2000000 WHERE client = 2", "reordered"),
    ("UPDATE ledger SET amount = amount + 1 WHERE client = 1 AND number = (SELECT max(number) FROM ledger WHERE client = 1)", "changed"),
    ("UPDATE account SET balance = balance + 1 WHERE id = 7", "sum up"),
    ("UPDATE account SET balance = balance + CASE id WHEN 7 THEN 1 ELSE -1 END WHERE id IN (7, 8)", "differ from the ledger"),
])
def test_the_checker_finds(bank_at_rest: tuple[Cluster, Bank], tampering: str, says: str):
    """A checker that cannot fail proves nothing."""
    cluster, bank = bank_at_rest
    with cluster.connect(autocommit=False) as connection:
        connection.execute(tampering)
        with pytest.raises(AssertionError, match=says):
            bank.check(connection, everything=True)
        connection.rollback()
    assert bank.check(everything=True) > 100


@pytest.fixture(scope="module")
def bank_at_rest():
    cluster = Cluster()
    try:
        bank = Bank(cluster.up(), seed=1, clients=2).create().start()
        bank.wait_for_commits(100)
        yield cluster, bank.stop()
    finally:
        cluster.remove()


def run_chaos(cluster: Cluster, rounds: int) -> None:
    seed = seed_from_environment()
    bank = Bank(cluster, seed).create().start()
    recorder = Recorder(cluster, writers=2).create().start()
    bank.wait_for_commits()
    chaos = Chaos(cluster, bank, seed)
    for number in range(1, rounds + 1):
        try:
            faults = chaos.round()
            entries = bank.check()
        except Exception:
            print(f"round {number} failed after: {', '.join(chaos.done)}")
            raise
        print(f"round {number}: {', '.join(faults)}; {bank.acknowledged()} acknowledged, {entries} entries checked", flush=True)
    recorder.stop().check()
    bank.stop().check(everything=True)
    assert bank.acknowledged() > rounds * 20 and recorder.count() > rounds * 10


def test_a_few_rounds(cluster: Cluster):
    run_chaos(cluster, int(os.environ.get("CHAOS_ROUNDS") or 5))


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_fifty_rounds(cluster: Cluster):
    run_chaos(cluster, int(os.environ.get("CHAOS_ROUNDS") or 50))
