"""A random life is the same on our compute and on stock PostgreSQL, kills included; and one row that is not would be seen."""

from pathlib import Path
from typing import Iterator

import psycopg
import pytest

from twin.pair import Difference
from twin.schedule import Counts, Life
from twin.servers import Ours, Stock, both

STATEMENTS = 200
ONE_ROW = """
DO $$
DECLARE tab regclass; col text; changed int;
BEGIN
    FOR tab, col IN SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relnamespace = 'public'::regnamespace AND a.attname ~ '^k' AND NOT a.attisdropped LOOP
        EXECUTE format('UPDATE %1$s SET %2$I = coalesce(%2$I, 0) + 1 WHERE ctid = (SELECT min(ctid) FROM %1$s)', tab, col);
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed = 1 THEN RETURN; END IF;
    END LOOP;
    RAISE 'no table has a row';
END $$"""


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Ours, Stock]]:
    with both() as servers:
        yield servers


def life(servers: tuple[Ours, Stock], tmp_path: Path, seed: int, sabotage: str | None = None) -> Counts:
    transcript = tmp_path / f"twin-{seed}.sql"
    try:
        return Life(*servers, seed, STATEMENTS, transcript, sabotage).live()
    except Difference as difference:
        print(f"statements: {transcript}\nagain: make twin SEED={seed} STATEMENTS={STATEMENTS}\n{servers[0].log()}")
        raise difference


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_life_is_the_same(servers: tuple[Ours, Stock], tmp_path: Path, seed: int):
    counts = life(servers, tmp_path, seed)
    assert counts.kills + counts.restarts + counts.pageserver_kills >= 1
    assert counts.errors < counts.statements / 4, f"statements that fail compare little: {counts}"


def test_one_changed_row_is_seen(servers: tuple[Ours, Stock], tmp_path: Path):
    with pytest.raises(Difference, match="first different row|the dumps differ"):
        life(servers, tmp_path, 11, ONE_ROW)


class OneBreak(Life):
    """Ends once, after values that everybody knows."""

    how = "restart"

    def live(self) -> Counts:
        self.breaks = {self.length - 1: self.how}
        return super().live()

    def shut_down(self, how: str) -> None:
        self.runner.quietly(self.runner.control, "SELECT setval('seq_plain', 500)")
        self.runner.quietly(self.runner.control, "SELECT count(nextval('seq_plain')) FROM generate_series(1, 5)")
        super().shut_down(how)


@pytest.mark.parametrize(("how", "moved"), [("restart", 1), ("restart", -1), ("kill", 33), ("kill", -33), ("restart", 0), ("kill", 0)])
def test_a_value_given_twice_or_lost_is_seen(servers: tuple[Ours, Stock], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, moved: int):
    """After its start, one of our sequences is somewhere else."""
    ours, seed = servers[0], 2000 + moved + (100 if how == "kill" else 0)
    start = ours.start

    def start_elsewhere() -> None:
        start()
        with psycopg.connect(ours.conninfo(f"life{seed}"), autocommit=True) as connection:
            connection.execute("SELECT setval('seq_plain', last_value + %s) FROM seq_plain", (moved,))

    one = OneBreak(*servers, seed, 30, tmp_path / "twin.sql")
    one.how = how
    if moved == 0:
        one.live()
        return
    with monkeypatch.context() as patched, pytest.raises(Difference, match=f"after a {how}, sequence seq_plain of ours"):
        patched.setattr(ours, "start", start_elsewhere)
        one.live()
