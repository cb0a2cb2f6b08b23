"""Statements that change rows."""

from __future__ import annotations

from random import Random

from twin.session import Statement
from twin.tables import ROLES, Catalog, Table, condition, select_list


def rows_to_add(random: Random) -> int:
    return random.choice((1, 1, 3, 20, 100, 400, 1500))


def insert(random: Random, catalog: Catalog, table: Table) -> str:
    first, last = catalog.ids(rows_to_add(random))
    if random.random() < 0.15:
        # Some of them exist.
        first = max(1, first - random.randrange(1, 60))
    columns = ", ".join(table.columns)
    text = f"INSERT INTO {table.name} ({columns}) SELECT {select_list(random, table)} FROM generate_series({first}, {last}) i"
    if "id" in table.columns and random.random() < 0.35:
        changed = [column for column in table.columns if column[0] in "ks"]
        text += " ON CONFLICT DO NOTHING" if not changed or random.random() < 0.4 else f" ON CONFLICT (id) DO UPDATE SET {changed[0]} = excluded.{changed[0]}"
    if random.random() < 0.2:
        text += f" RETURNING {table.columns[0]}"
    return text


def assignments(random: Random, table: Table) -> str | None:
    """New values, the same whatever the order of the rows."""
    columns = [column for column in table.columns if column[0] in ROLES and column[0] not in "ur"]
    if not columns:
        return None
    chosen = random.sample(columns, min(len(columns), random.choice((1, 1, 2, 3))))
    old = "id" if "id" in table.columns else "7"
    return ", ".join(f"{column} = (SELECT {ROLES[column[0]].value(random)} FROM (SELECT {old}::bigint + {random.randrange(99)} AS i) x)" for column in chosen)


def update(random: Random, catalog: Catalog, table: Table) -> str | None:
    changes = assignments(random, table)
    if changes is None:
        return None
    text = f"UPDATE {table.name} SET {changes} WHERE {condition(random, table)}"
    return text + (f" RETURNING {table.columns[0]}" if random.random() < 0.2 else "")


def move_one(random: Random, catalog: Catalog, table: Table) -> str | None:
    """A key changes, perhaps to another partition."""
    if "id" not in table.columns:
        return None
    return f"UPDATE {table.name} SET id = {catalog.ids(1)[0]} WHERE id = (SELECT id FROM {table.name} WHERE {condition(random, table)} ORDER BY id LIMIT 1)"


def delete(random: Random, catalog: Catalog, table: Table) -> str:
    return f"DELETE FROM {table.name} WHERE {condition(random, table)}" + (f" RETURNING {table.columns[0]}" if random.random() < 0.2 else "")


def merge(random: Random, catalog: Catalog, table: Table) -> str | None:
    changed = [column for column in table.columns if column[0] == "k"]
    if "id" not in table.columns or not changed:
        return None
    first, last = catalog.ids(random.choice((5, 50, 300)))
    columns = ", ".join(table.columns)
    return (f"MERGE INTO {table.name} t USING (SELECT * FROM (SELECT {select_list(random, table)} FROM generate_series({max(1, first - 100)}, {last}) i) AS v ({columns})) s "
            f"ON t.id = s.id WHEN MATCHED AND t.{changed[0]} % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET {changed[0]} = s.{changed[0]} + 1 "
            f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({', '.join('s.' + column for column in table.columns)})")


def between_tables(random: Random, catalog: Catalog, table: Table, other: Table) -> str | None:
    """Rows go from one table to another."""
    if "id" not in table.columns or "id" not in other.columns:
        return None
    common = [column for column in table.columns if column in other.columns]
    columns = ", ".join(common)
    return (f"WITH gone AS (DELETE FROM {other.name} WHERE {condition(random, other)} RETURNING {columns}) "
            f"INSERT INTO {table.name} ({columns}) SELECT DISTINCT ON (id) {columns} FROM gone ORDER BY id ON CONFLICT DO NOTHING")


def copy_in(random: Random, catalog: Catalog, table: Table) -> Statement | None:
    columns = [column for column in table.columns if column == "id" or column[0] in "kush"]
    if "id" not in columns:
        return None
    first, last = catalog.ids(random.choice((2, 200, 1200)))
    values = {"k": lambda i: str(i % 991), "u": lambda i: str(i * 1000 + 999), "s": lambda i: f"copy {i % 77}" if i % 6 else "\\N",
              "h": lambda i: f"{i:x}-" * (i % 800), "i": str}
    lines = ["\t".join(values[column[0]](i) for column in columns) for i in range(first, last + 1)]
    if random.random() < 0.1:
        lines.append("not a number")
    return Statement(f"COPY {table.name} ({', '.join(columns)}) FROM STDIN" + random.choice(("", "", " WITH (FREEZE)")), copy=("\n".join(lines) + "\n").encode())


def with_subtransactions(random: Random, catalog: Catalog, table: Table) -> str:
    return f"SELECT many_subtransactions('{table.name}', {catalog.ids(200)[0]}, {random.choice((3, 70, 150))})"


def large_object(random: Random, catalog: Catalog, table: Table) -> str:
    known = 1_000_000 + random.randrange(8)
    return random.choice((
        f"SELECT lo_from_bytea({known}, decode({'repeat(md5(1::text), 4000)'}, 'hex')) > 0",
        f"SELECT lo_put({known}, {random.randrange(70000)}, '\\x{random.randrange(1 << 64):016x}')",
        f"SELECT md5(lo_get({known}))", f"SELECT lo_unlink({known})"))


def truncate(random: Random, catalog: Catalog, table: Table) -> str:
    return f"TRUNCATE {table.name}" + random.choice(("", " RESTART IDENTITY", " CASCADE"))


def write(random: Random, catalog: Catalog, session: int) -> Statement | None:
    tables = catalog.tables(session)
    if not tables:
        return None
    table = random.choice(tables)
    maker = random.choices((insert, update, delete, merge, move_one, with_subtransactions, large_object, truncate, copy_in, between_tables),
                           (30, 24, 9, 5, 5, 4, 3, 1, 8, 3))[0]
    if maker is between_tables:
        text: str | Statement | None = between_tables(random, catalog, table, random.choice(tables))
    else:
        text = maker(random, catalog, table)
    return Statement(text) if isinstance(text, str) else text
