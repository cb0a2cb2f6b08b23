"""Statements that only read."""

from __future__ import annotations

from random import Random

from twin.session import Statement
from twin.tables import Catalog, Table, condition, fold


def everything(random: Random, table: Table, other: Table) -> Statement:
    """All rows as one hash."""
    row = fold(table.columns)
    return Statement(f"SELECT count(*), md5(string_agg(md5({row}), '' ORDER BY md5({row}))) FROM {table.name}")


def some(random: Random, table: Table, other: Table) -> Statement:
    return Statement(f"SELECT {', '.join(column for column in table.columns if column[0] != 'h') or 'count(*)'} FROM {table.name} WHERE {condition(random, table)}")


def in_order(random: Random, table: Table, other: Table) -> Statement | None:
    if "id" not in table.columns:
        return None
    first = random.choice(table.columns)
    key = "id" if first[0] in "jvpba" or random.random() < 0.5 else f"{first} {random.choice(('', 'DESC', 'NULLS FIRST'))}, id"
    return Statement(f"SELECT id, md5({fold(table.columns)}) FROM {table.name} WHERE {condition(random, table)} "
                     f"ORDER BY {key}, md5({fold(table.columns)}) LIMIT {random.choice((1, 10, 500))}", ordered=True)


def grouped(random: Random, table: Table, other: Table) -> Statement | None:
    keys = table.of("k", "s", "f", "n", "d")
    if not keys:
        return None
    key = random.choice(keys)
    return Statement(f"SELECT {key}, count(*), min({table.columns[0]}), max({table.columns[-1] if table.columns[-1][0] in 'kusnd' else table.columns[0]}) "
                     f"FROM {table.name} GROUP BY {random.choice((key, f'ROLLUP ({key})'))} HAVING count(*) > {random.randrange(3)}")


def joined(random: Random, table: Table, other: Table) -> Statement | None:
    if "id" not in table.columns or "id" not in other.columns:
        return None
    how = random.choice(("JOIN", "LEFT JOIN", "FULL JOIN"))
    return Statement(f"SELECT count(*), sum(a.id), sum(b.id), md5(string_agg(a.id || ':' || b.id, ',' ORDER BY a.id, b.id)) "
                     f"FROM (SELECT * FROM {table.name} WHERE {condition(random, table)}) a {how} {other.name} b ON a.id = b.id")


def related(random: Random, table: Table, other: Table) -> Statement | None:
    left, right = table.of("k"), other.of("k")
    if not left or not right:
        return None
    negation = random.choice(("", "NOT "))
    return Statement(f"SELECT count(*), sum({left[0]}) FROM {table.name} a WHERE {negation}EXISTS (SELECT FROM {other.name} b WHERE b.{right[0]} = a.{left[0]} AND {right[0]} % 3 = 1)")


def windowed(random: Random, table: Table, other: Table) -> Statement | None:
    if "id" not in table.columns or not table.of("k"):
        return None
    key = table.of("k")[0]
    return Statement(f"SELECT id, {key}, sum({key}) OVER (ORDER BY id ROWS 3 PRECEDING), rank() OVER (PARTITION BY {key} % 10 ORDER BY id) FROM {table.name} WHERE {condition(random, table)}")


def nearest(random: Random, table: Table, other: Table) -> Statement | None:
    points = table.of("p")
    if not points or "id" not in table.columns:
        return None
    return Statement(f"SELECT d FROM (SELECT {points[0]} <-> point({random.randrange(100)}, {random.randrange(70)}) AS d FROM {table.name} "
                     f"ORDER BY 1 LIMIT {random.randrange(1, 40)}) x", ordered=True)


def keys_only(random: Random, table: Table, other: Table) -> Statement | None:
    """An index-only scan, where there is an index."""
    keys = table.of("k", "u", "i")
    return Statement(f"SELECT count(*), sum({keys[0]}::numeric) FROM {table.name} WHERE {keys[0]} > {random.randrange(3000)}") if keys else None


def sequences(random: Random, table: Table, other: Table) -> Statement:
    return Statement("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")


def copy_out(random: Random, table: Table, other: Table) -> Statement:
    return Statement(f"COPY (SELECT {', '.join(table.columns)} FROM {table.name} WHERE {condition(random, table)}) TO STDOUT" + random.choice(("", " WITH (FORMAT csv)")))


KINDS = {everything: 4, some: 6, in_order: 6, grouped: 3, joined: 3, related: 2, windowed: 2, nearest: 3, keys_only: 4, sequences: 1, copy_out: 1}


def query(random: Random, catalog: Catalog, session: int, lock: bool) -> Statement | None:
    """A question. `lock`: it may lock rows."""
    tables = catalog.tables(session, "rpm")
    if not tables:
        return None
    table, other = random.choice(tables), random.choice(tables)
    if lock and "id" in table.columns and random.random() < 0.2:
        how = random.choice(("UPDATE", "SHARE", "NO KEY UPDATE", "KEY SHARE", "UPDATE NOWAIT", "SHARE SKIP LOCKED"))
        return Statement(f"SELECT id FROM {table.name} WHERE {condition(random, table)} FOR {how}")
    return random.choices(list(KINDS), list(KINDS.values()))[0](random, table, other)
