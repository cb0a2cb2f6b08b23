"""What the schema holds now, and how rows, indexes and conditions are made for it.

A column's first letter is its role: which values it gets, which indexes it can have, how it is asked for. So a table that was altered, attached or copied
is still understood.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Callable

from twin.session import Outcome

# Tables, with their columns in order, and the names of their indexes; whatever is visible to the asking session.
CATALOG = """
SELECT c.relname, c.relkind, c.relpersistence, c.relispartition,
       (SELECT string_agg(a.attname, ',' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT string_agg(i.relname, ',' ORDER BY i.relname) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid),
       (SELECT p.relname FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent WHERE h.inhrelid = c.oid)
  FROM pg_class c
 WHERE (c.relnamespace = 'public'::regnamespace OR c.relnamespace = pg_my_temp_schema()) AND c.relkind IN ('r', 'p', 'm', 'v', 'S')
 ORDER BY c.relname"""


@dataclass(frozen=True)
class Table:
    name: str
    kind: str
    persistence: str
    is_partition: bool
    columns: tuple[str, ...]
    indexes: tuple[str, ...]
    parent: str | None

    def of(self, *roles: str) -> list[str]:
        """Its columns of these roles."""
        return [column for column in self.columns if column[0] in roles]


@dataclass
class Catalog:
    """All relations of the test, and numbers that are never used twice."""

    relations: list[Table] = field(default_factory=list)
    next_number: int = 0
    next_id: int = 1

    def read(self, outcome: Outcome) -> None:
        def split(value: bytes | None) -> tuple[str, ...]:
            return tuple(value.decode().split(",")) if value else ()

        self.relations = [
            Table(row[0].decode(), row[1].decode(), row[2].decode(), row[3] == b"t", split(row[4]), split(row[5]), row[6].decode() if row[6] else None)
            for row in outcome.rows if not row[0].startswith(b"audit")]

    def number(self) -> int:
        self.next_number += 1
        return self.next_number

    def ids(self, count: int) -> tuple[int, int]:
        """A range of ids that no row has had."""
        first = self.next_id
        self.next_id += count
        return first, self.next_id - 1

    def tables(self, session: int, kinds: str = "rp") -> list[Table]:
        """What a session can write to: other sessions' temporary tables are not among them."""
        return [table for table in self.relations
                if table.kind in kinds and (not table.name.startswith("tmp") or table.name.startswith(f"tmp{session}_"))]


@dataclass(frozen=True)
class Role:
    """A kind of column. `value` makes an SQL expression over the row's number `i`; `condition` one that some rows fulfil."""

    type: str
    value: Callable[[Random], str]
    condition: Callable[[Random, str], str]
    indexes: tuple[str, ...]


def between(random: Random, column: str) -> str:
    low = random.randrange(5000)
    return f"{column} BETWEEN {low} AND {low + random.choice((1, 50, 1000, 5000))}"


def words(count: int) -> str:
    return f"(SELECT string_agg(md5((i * 7 + g)::text), '') FROM generate_series(1, {count}) g)"


ROLES: dict[str, Role] = {
    "k": Role("int", lambda r: f"(i * {r.randrange(1, 97)} % {r.choice((7, 100, 5000))})::int", between,
              ("btree ({})", "btree ({} DESC)", "hash ({})", "brin ({}) WITH (pages_per_range = 2)", "brin ({} int4_minmax_multi_ops)", "brin ({} int4_bloom_ops)",
               "gist ({})", "gin ({})", "bloom ({})", "btree (({} % 13))", "btree ({}, id)")),
    "u": Role("bigint", lambda r: f"i * 1000 + {r.randrange(1000)}", lambda r, c: f"{c} % {r.randrange(2, 9)} = 0", ("btree ({})", "hash ({})")),
    "s": Role("text", lambda r: r.choice((f"md5((i * {r.randrange(1, 9)})::text)", "'w' || i % 50", "chr(97 + (i % 26)::int) || i",
                                          f"CASE WHEN i % 5 <> 0 THEN repeat(md5(i::text), {r.randrange(1, 8)}) END")),
              lambda r, c: r.choice((f"{c} LIKE '{r.choice('abcdef0123')}%'", f"{c} > '{r.choice('abcdef')}'", f"{c} LIKE '%{r.randrange(10, 99)}%'", f"{c} IS NULL")),
              ("btree ({})", "btree ({} text_pattern_ops)", "hash ({})", "gin ({} gin_trgm_ops)", "gist ({} gist_trgm_ops)", "spgist ({})", "btree (lower({}))", "bloom ({})")),
    "h": Role("text", lambda r: r.choice((words(r.randrange(20, 150)), f"repeat(md5(i::text), {r.randrange(100, 900)})")),
              lambda r, c: f"length({c}) > {r.randrange(10, 9000)}", ("hash ({})", "btree (md5({}))")),
    "n": Role("numeric", lambda r: f"(i * {r.randrange(1, 999)})::numeric / {r.choice((4, 8, 100))}", lambda r, c: f"{c} > {r.randrange(9999)}.5",
              ("btree ({})", "btree ({} DESC NULLS LAST)", "brin ({})", "hash ({})")),
    "j": Role("jsonb", lambda r: f"jsonb_build_object('k', i % {r.randrange(2, 40)}, 'tags', jsonb_build_array('t' || i % 5, i % 11), 'pad', repeat('x', {r.choice((0, 9, 300))}))",
              lambda r, c: r.choice((f"{c} @> '{{\"k\": {r.randrange(20)}}}'", f"{c} @? '$.tags[*] ? (@ == \"t{r.randrange(5)}\")'", f"({c} ->> 'k')::int > {r.randrange(30)}")),
              ("gin ({})", "gin ({} jsonb_path_ops)", "btree (({} ->> 'k'))")),
    "a": Role("int[]", lambda r: f"ARRAY[i % 9, i % {r.randrange(2, 200)}, {r.randrange(50)}]::int[]",
              lambda r, c: r.choice((f"{c} @> ARRAY[{r.randrange(9)}]", f"{c} && ARRAY[{r.randrange(60)}, {r.randrange(60)}]", f"{r.randrange(9)} = ANY ({c})")),
              ("gin ({})", "gin ({}) WITH (fastupdate = off)", "btree ({})")),
    "v": Role("tsvector", lambda r: f"to_tsvector('simple', 'w' || i % {r.randrange(2, 90)} || ' common x' || i % 7)",
              lambda r, c: r.choice((f"{c} @@ 'w{r.randrange(30)}'", f"{c} @@ 'common & x{r.randrange(7)}'")), ("gin ({})", "gist ({})")),
    "p": Role("point", lambda r: f"point(i % 100, i % {r.randrange(1, 77)})", lambda r, c: f"{c} <@ box '({r.randrange(50)},{r.randrange(50)}),(90,70)'",
              ("gist ({})", "spgist ({})", "spgist ({} kd_point_ops)")),
    "b": Role("box", lambda r: f"box(point(i % 90, i % 33), point(i % 90 + {r.randrange(9)}, i % 33 + 2))", lambda r, c: f"{c} && box '({r.randrange(60)},5),(70,20)'",
              ("gist ({})", "spgist ({})", "brin ({})")),
    "r": Role("int8range", lambda r: f"int8range(i * 10, i * 10 + {r.randrange(1, 10)})", lambda r, c: f"{c} && int8range({r.randrange(2000)}, {r.randrange(2000, 9000)})",
              ("gist ({})", "spgist ({})", "brin ({})", "btree ({})")),
    "d": Role("timestamp", lambda r: f"timestamp '2020-01-01' + i * interval '{r.randrange(1, 90)} minutes'", lambda r, c: f"{c} > timestamp '2020-01-{r.randrange(1, 29):02}'",
              ("btree ({})", "brin ({})", "gist ({})")),
    "f": Role("boolean", lambda r: f"i % {r.randrange(2, 6)} = 0", lambda r, c: c, ("btree ({})", "btree (id) WHERE {}")),
    "c": Role("inet", lambda r: f"('10.' || i % 200 || '.' || i % 33 || '.' || i % 99)::inet", lambda r, c: f"{c} << inet '10.{r.randrange(200)}.0.0/16'",
              ("btree ({})", "gist ({} inet_ops)", "spgist ({})", "brin ({})")),
}
# Roles whose index may be unique: nobody changes several of their values in one statement.
UNIQUE = {"u": "btree ({})", "r": "btree ({})"}


def condition(random: Random, table: Table) -> str:
    """An expression that some rows fulfil."""
    columns = [column for column in table.columns if column[0] in ROLES]
    choices = [ROLES[column[0]].condition(random, column) for column in random.sample(columns, min(len(columns), random.choice((1, 1, 2))))]
    if "id" in table.columns and random.random() < 0.4:
        choices.append(between(random, "id") if random.random() < 0.7 else f"id % {random.randrange(2, 20)} = {random.randrange(2)}")
    return random.choice((" AND ", " OR ")).join(choices) or "true"


def select_list(random: Random, table: Table) -> str:
    """Expressions over `i` for all columns, in order."""
    return ", ".join("i" if column == "id" else ROLES[column[0]].value(random) if column[0] in ROLES else "NULL" for column in table.columns)


def fold(columns: tuple[str, ...]) -> str:
    """A row as short text: long columns as their hash."""
    return " || '|' || ".join(f"coalesce({'md5(' + column + ')' if column[0] == 'h' else column + '::text'}, '-')" for column in columns) or "''"
