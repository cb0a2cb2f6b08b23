"""Which of PostgreSQL's suites run on our compute, and with which settings.

The lists of tests are PostgreSQL's own: its schedules, and the makefiles of contrib and of src/test/modules. The suites' folders are in the cache
of builds (`pgxn/README.md`) and are not written to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from regress_variant import FOLDER

# Not built: they need Perl, Python or SELinux in the server, or injection points, which are compiled into debugging builds only.
NOT_BUILT = {"bool_plperl", "hstore_plperl", "jsonb_plperl", "hstore_plpython", "jsonb_plpython", "ltree_plpython", "sepgsql", "gin", "injection_points"}

# Settings that suites expect of a server. Those that do not contradict each other share a cluster.
PLAIN = {"max_prepared_transactions": "10", "allow_alter_system": "on"}
# One slot is the supervisor's: four are left.
LOGICAL = {**PLAIN, "wal_level": "logical", "max_replication_slots": "5", "logical_decoding_work_mem": "64kB", "autovacuum_naptime": "1d",
           "autovacuum": "off", "shared_preload_libraries": "pg_stat_statements,test_slru", "track_commit_timestamp": "on"}
NEEDS_LOGICAL = {"test_decoding", "pg_stat_statements", "pg_freespacemap", "pg_walinspect", "commit_ts", "test_slru"}
# Waits two minutes for an archived segment that never comes; with one kind of caches is enough.
ONCE = {"contrib/basic_archive"}
# Roles that a suite wants to find.
OPTIONS = {"unsafe_tests": ["--create-role=regress_authenticated_user_sr", "--create-role=regress_authenticated_user_ssa"]}


@dataclass(frozen=True)
class Suite:
    """Some tests of one folder, run by `pg_regress` or `pg_isolation_regress`."""

    name: str
    folder: Path
    isolation: bool
    tests: tuple[str, ...]
    options: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]

    def inputs(self, to: Path) -> Path:
        """The folder to run it in: PostgreSQL's, or one of links to it when the builds' cache lacks the suite's data."""
        data = FOLDER / self.name.replace("/", "-") / "data"
        if not data.exists():
            return self.folder
        to.mkdir()
        for path in [*self.folder.iterdir(), data]:
            (to / path.name).symlink_to(path)
        return to


def listed(makefile: Path, name: str) -> tuple[str, ...]:
    """The words of a makefile's variable."""
    text = makefile.read_text().replace("\\\n", " ")
    found = re.search(rf"^{name}\s*[:+]?=(.*)$", text, re.M)
    return tuple(word for word in found.group(1).split() if not word.startswith("$")) if found else ()


def of_folder(kind: str, folder: Path) -> list[Suite]:
    """The suites of a contrib module or test module: its regression tests, then its isolation tests."""
    makefile = folder / "Makefile"
    settings = LOGICAL if folder.name in NEEDS_LOGICAL else PLAIN
    suites = []
    for variable, isolation in (("REGRESS", False), ("ISOLATION", True)):
        if tests := listed(makefile, variable):
            extensions = tuple(option for option in listed(makefile, f"{variable}_OPTS") if option.startswith("--load-extension"))
            name = f"{kind}/{folder.name}" + ("/isolation" if isolation else "")
            suites.append(Suite(name, folder, isolation, tests, (*extensions, *OPTIONS.get(folder.name, ())), tuple(settings.items())))
    return suites


def all_suites(folder: Path) -> list[Suite]:
    """Every suite below an installation's `suites`."""
    plain = tuple(PLAIN.items())
    plpgsql = tuple(sorted(path.stem for path in (folder / "plpgsql" / "sql").glob("*.sql")))
    suites = [
        Suite("core", folder / "regress", False, ("--schedule=parallel_schedule",), ("--max-connections=10",), plain),
        Suite("isolation", folder / "isolation", True, ("--schedule=isolation_schedule",), (), plain),
        Suite("plpgsql", folder / "plpgsql", False, plpgsql, (), plain),
    ]
    for kind in ("contrib", "modules"):
        for module in sorted((folder / kind).iterdir()):
            if module.is_dir() and (module / "Makefile").exists() and module.name not in NOT_BUILT:
                suites += of_folder(kind, module)
    return suites
