"""The oracle of native redo: the core schedule on every change, and checks of the checker itself. `make walcheck` runs the whole."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Iterator

import psycopg
import pytest
import walcheck
from walcheck import CORPORA, ROOT, SQL, WALCHECK, Corpus, Server, compare, pg_prefix

PAGE_SIZE = 8192
# Resource managers with an rm_mask, and the pages that they write: by access method, heap for tables of all kinds, sequences.
MANAGERS = {"heap2": 9, "heap": 10, "btree": 11, "hash": 12, "gin": 13, "gist": 14, "sequence": 15, "spgist": 16, "brin": 17, "bloom": 20}


def assert_equal(report: dict) -> None:
    assert report["difference_count"] == 0 and report["not_implemented"] == 0, report["differences"]


@pytest.mark.timeout(600)
def test_redo_makes_what_postgresql_logged_in_its_regression_suite():
    """Less than a minute on two cores; its 10 GB of WAL are read as they are written and lie nowhere."""
    report = compare("stock", CORPORA["core"])
    assert_equal(report)
    assert report["compared"] > 1_500_000, report["compared"]


def test_transaction_logs_and_visibility_maps_are_those_of_the_stopped_cluster():
    report = compare("patched", CORPORA["coverage"])
    assert_equal(report)
    for kind in ("clog", "multixact offsets", "multixact members", "commit_ts", "visibility map"):
        assert report["kinds"][f"file/{kind}"]["compared"] > 0, f"no page of {kind} was compared"
    for record in ("CLOG/TRUNCATE", "MultiXact/TRUNCATE_ID", "CommitTs/TRUNCATE"):
        assert report["kinds"][record]["records"] > 0, f"the corpus did not write {record}"


def test_a_promotion_and_a_crash_within_a_record_are_replayed():
    report = compare("patched", CORPORA["recovery"])
    assert_equal(report)
    for record in ("XLOG/END_OF_RECOVERY", "XLOG/OVERWRITE_CONTRECORD"):
        assert report["kinds"][record]["records"] > 0, f"the corpus did not write {record}"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_one_wrong_bit_in_a_file_is_found(monkeypatch: pytest.MonkeyPatch):
    """In a page of each transaction log, and in a visibility map."""
    logs = ["pg_xact/0000", "pg_multixact/offsets/0000", "pg_multixact/members/0000", "pg_commit_ts/0000"]
    stop = Server.stop

    def flipped(server: Server, mode: str = "fast") -> None:
        running = (server.data / "postmaster.pid").exists()
        stop(server, mode)
        if running and mode == "fast":
            for log in logs:
                flip(server.data / log, 5000)
            flip(server.data / server.map_file, 4000)

    def run(server: Server) -> None:
        for name in ("heap_btree.sql", "transactions.sql"):
            (server.dir / name).write_text((SQL / "coverage" / name).read_text())
            server.psql("-f", server.dir / name)
        server.map_file = server.psql("-Atc", "SELECT pg_relation_filepath('rows') || '_vm'").strip()

    monkeypatch.setattr(Server, "stop", flipped)
    report = compare("stock", Corpus(run, {"autovacuum": "off"}))
    different = {kind: counts["differences"] for kind, counts in report["kinds"].items() if counts["differences"]}
    assert different == {f"file/{kind}": 1 for kind in
                         ("clog", "multixact offsets", "multixact members", "commit_ts", "visibility map")}


def test_a_difference_names_the_record_as_pg_waldump_prints_it_and_the_place_on_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """WAL of the stock build has no command ids: told that it has, the checker must miss the one of the second tuple."""
    strict = tmp_path / "walcheck"
    strict.write_text(f'#!/bin/sh\nexec "{WALCHECK}" "$@" --command-ids\n')
    strict.chmod(0o755)
    monkeypatch.setattr(walcheck, "WALCHECK", strict)
    where: list[str] = []

    def run(server: Server) -> None:
        server.psql("-c", "CREATE TABLE two (id int)", "-c", "CHECKPOINT")
        where.append(server.psql("-Atc", "SELECT pg_relation_filepath('two')").strip())
        server.psql("-c", "BEGIN; INSERT INTO two VALUES (1); INSERT INTO two VALUES (2); COMMIT")

    report = compare("stock", Corpus(run, {"autovacuum": "off"}))
    _, database, relation = where[0].split("/")
    found = [difference for difference in report["differences"] if difference["page"] == f"1663/{database}/{relation} block 0"]
    assert len(found) == 1, report["differences"]
    difference = found[0]
    assert (difference["record"], difference["section"]) == ("Heap/INSERT", "tuple 2, its byte 8")
    line = difference["waldump"]
    lsn = "{:X}/{:08X}".format(*(int(half, 16) for half in difference["start"].split("/")))
    for part in ("rmgr: Heap", f"lsn: {lsn}", "desc: INSERT off: 2", f"blkref #0: rel 1663/{database}/{relation} blk 0"):
        assert part in line, line


@pytest.fixture
def masking(tmp_path: Path) -> Iterator[tuple[Server, psycopg.Connection]]:
    """A cluster with the functions of mask_page, and a connection to it."""
    build = tmp_path / "mask_page"
    shutil.copytree(ROOT / "pgxn" / "modules" / "mask_page", build)
    subprocess.run(["make", "-s", "-C", build, f"PG_CONFIG={pg_prefix('stock')}/bin/pg_config", "with_llvm=no"], check=True)
    folder = Path(walcheck.tempfile.mkdtemp(prefix="ogel-mask-"))
    folder.chmod(0o755)
    shutil.copy(build / "mask_page.so", folder)
    if os.geteuid() == 0:
        shutil.chown(folder, walcheck.run_user(), walcheck.run_user())
    server = Server("stock", folder, {"archive_mode": "off", "autovacuum": "off", "wal_consistency_checking": ""})
    try:
        server.make()
        server.start()
        with psycopg.connect(host=str(folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            for function in ("mask_page", "found_flips"):
                connection.execute(f"CREATE FUNCTION {function}(int, bytea, int8) RETURNS bytea LANGUAGE C STRICT "
                                   f"AS '{folder}/mask_page'")
            yield server, connection
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def make_pages_of_every_kind(server: Server) -> None:
    coverage = [SQL / "coverage" / f"{name}.sql" for name in ("heap_btree", "index", "gin_posting_tree", "gin_deleted_page", "transactions")]
    for script in [*coverage, SQL / "pgbench" / "schema.sql"]:
        text = script.read_text().replace("CREATE EXTENSION bloom", "CREATE EXTENSION IF NOT EXISTS bloom")
        (server.dir / script.name).write_text("SET wal_consistency_checking = '';\n" + text.replace("SET wal_consistency_checking", "-- "))
        server.psql("-f", server.dir / script.name)


def masked_by_us(rmid: int, pages: list[tuple[int, bytes]]) -> list[bytes]:
    numbered = b"".join(struct.pack("<I", block) + page for block, page in pages)
    done = subprocess.run([str(WALCHECK), "--mask", str(rmid)], input=numbered, capture_output=True, check=True)
    return [done.stdout[at : at + PAGE_SIZE] for at in range(0, len(done.stdout), PAGE_SIZE)]


def test_masks_are_postgresqls_on_real_pages(masking: tuple[Server, psycopg.Connection]):
    """Every page of every relation, catalogs included, masked by both: a mask that is too wide would hide differences."""
    server, connection = masking
    make_pages_of_every_kind(server)
    query = """
        SELECT CASE WHEN c.relkind = 'S' THEN 'sequence' ELSE am.amname END, c.relname, block,
               get_raw_page(c.oid::regclass::text, 'main', block)
        FROM pg_class c LEFT JOIN pg_am am ON am.oid = c.relam,
             generate_series(0, pg_relation_size(c.oid) / 8192 - 1) block
        WHERE c.relkind IN ('r', 'i', 't', 'm', 'S') AND c.relpersistence = 'p'"""
    compared: Counter = Counter()
    connection.execute("CREATE EXTENSION pageinspect")
    pages: dict[int, list[tuple[str, int, bytes]]] = {}
    for method, relation, block, page in connection.execute(query, binary=True):
        is_new = page[14:16] == b"\0\0"
        for manager in [method, *(["heap2"] if method == "heap" else [])]:
            if not is_new:
                pages.setdefault(MANAGERS[manager], []).append((relation, block, page))
    for rmid, of_manager in pages.items():
        ours = masked_by_us(rmid, [(block, page) for _, block, page in of_manager])
        for (relation, block, page), mine in zip(of_manager, ours, strict=True):
            row = connection.execute("SELECT mask_page(%s, %s, %s)", (rmid, page, block), binary=True).fetchone()
            assert row and row[0] == mine, f"manager {rmid}, {relation} block {block}: {first_difference(row[0], mine)}"
            compared[rmid] += 1
    assert set(compared) == set(MANAGERS.values()), compared
    print(dict(compared))


def first_difference(postgres: bytes, ours: bytes) -> str:
    at = next(at for at, (a, b) in enumerate(zip(postgres, ours)) if a != b)
    return f"offset {at}: PostgreSQL {postgres[at:at + 16].hex()}, ours {ours[at:at + 16].hex()}"


SAMPLES = ROOT / "wal-decoder" / "walcheck" / "tests" / "data"
FOUND_FLIPS = SAMPLES / "found_flips.txt"


def test_wrong_bits_that_the_checker_must_find_are_those_that_postgresql_finds(masking: tuple[Server, psycopg.Connection]):
    """On one redone page of each kind of the WAL samples. PostgreSQL's answer for each bit is the file with which `tests/flips.rs` compares
    the checker's; OGEL_WRITE_FIXTURES=1 writes it anew."""
    _, connection = masking
    lines, managers = [], set()
    for sample in sorted(SAMPLES.glob("*.wal.zst")):
        with sample.open("rb") as wal:
            pages = subprocess.run([str(WALCHECK), "-", "--page-kinds"], stdin=wal, capture_output=True, check=True).stdout
        for lsn, block, rmid, block_id, fork, page in struct.iter_unpack("<QIBBBx8192s", pages):
            row = connection.execute("SELECT found_flips(%s, %s, %s)", (rmid, page, block), binary=True).fetchone()
            assert row
            runs = [(len(list(same)), bits) for bits, same in groupby(struct.unpack("<8192H", row[0]))]
            name = sample.name.removesuffix(".wal.zst")
            place = f"{name} {lsn >> 32:X}/{lsn & 0xFFFFFFFF:X} {rmid} {block_id} {fork}"
            lines.append(f"{place}: {' '.join(f'{count}*{bits:03x}' for count, bits in runs)}\n")
            managers.add(rmid)
    assert managers == set(MANAGERS.values())
    if os.environ.get("OGEL_WRITE_FIXTURES"):
        FOUND_FLIPS.write_text("".join(lines))
    expected = FOUND_FLIPS.read_text().splitlines(keepends=True)
    assert [line.partition(":")[0] for line in lines] == [line.partition(":")[0] for line in expected]
    assert [line.partition(":")[0] for line, other in zip(lines, expected) if line != other] == []
