"""The end of a life: both dumps are the same, every row is, and our tables and indexes are sound."""

from __future__ import annotations

import difflib
import re
import subprocess
from pathlib import Path

from cluster import pg_manifest
from twin.pair import Difference, Runner
from twin.servers import Ours, Stock
from twin.session import Statement
from twin.tables import Catalog, fold

# Every heap, with its TOAST table, and every B-tree, whose entries must be found from the heap. Temporary relations are their sessions' own.
SOUND = """
SELECT c.relname, v.msg FROM pg_class c, LATERAL verify_heapam(c.oid) v WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence <> 't'
UNION ALL
SELECT c.relname, bt_index_check(c.oid, true)::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
 WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' AND i.indisready AND i.indisvalid"""


def verdict(runner: Runner, catalog: Catalog, database: str, ours: Ours, stock: Stock) -> None:
    """Raises `Difference`."""
    for table in catalog.tables(0, "rpm"):
        row = fold(table.columns)
        runner.run(runner.control, Statement(f"SELECT count(*), md5(string_agg(md5({row}), '' ORDER BY md5({row}))) FROM {table.name}"))
    dumps = [dump(server, database) for server in (ours, stock)]
    if dumps[0] != dumps[1]:
        lines = list(difflib.unified_diff(dumps[1], dumps[0], "stock", "ours", lineterm="", n=1))
        raise Difference("the dumps differ:\n" + "\n".join(line[:300] for line in lines[:40]))
    outcome = runner.control.ours.ask(SOUND, 300)
    damage = [row for row in outcome.rows if row[1]]
    if outcome.sqlstate or damage:
        raise Difference(f"our relations are damaged: {outcome.message} {damage[:10]}")


def dump(server: Ours | Stock, database: str) -> list[str]:
    """`pg_dump` with the rows of each table sorted."""
    command = [Path(pg_manifest()["stock"]) / "bin" / "pg_dump", "--no-password", "-d", server.conninfo(database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise Difference(f"pg_dump of {server.name} failed: {done.stderr}")
    lines: list[str] = []
    rows: list[str] | None = None
    for line in done.stdout.splitlines():
        if rows is not None and line != "\\.":
            rows.append(line)
            continue
        if rows is not None:
            lines += sorted(rows)
            rows = None
        elif line.startswith("COPY ") and line.endswith("FROM stdin;"):
            rows = []
        if not re.match(r"\\(un)?restrict ", line):
            lines.append(line)
    return lines
