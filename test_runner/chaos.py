"""Random faults from a seed: nodes killed and frozen, computes wiped, the whole cluster pulled down, within what is promised."""

from __future__ import annotations

import os
import random
import signal
import time

import psycopg

from bank import Bank
from cluster import Cluster, wait_until

SAFEKEEPERS = ["safekeeper-1", "safekeeper-2", "safekeeper-3"]
COMPUTE = "compute-main"


def seed_from_environment() -> int:
    """CHAOS_SEED, or a new one; printed, so that a failure can be replayed."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 32))
    print(f"replay with CHAOS_SEED={seed}")
    return seed


class Chaos:
    """Rounds of faults on a cluster that serves a bank. No safekeeper ever loses its disk, so nothing acknowledged may be lost.

    The seed fixes the faults and the pauses between them; what the cluster makes of them is not repeatable to the instruction.
    """

    def __init__(self, cluster: Cluster, bank: Bank, seed: int):
        self.cluster = cluster
        self.bank = bank
        self.dice = random.Random(seed)
        self.down: set[str] = set()
        self.compute_runs = True
        self.done: list[str] = []

    def round(self) -> list[str]:
        """One to four faults, overlapping; then everything is mended, every client commits and the books are checked."""
        self.done = []
        for _ in range(self.dice.randint(1, 4)):
            name = self.dice.choice(list(self._possible()))
            target = self._possible()[name]
            self.done.append(f"{name} {target}".strip())
            getattr(self, f"_{name}")(target)
            self._dwell()
        self._mend()
        self.bank.wait_for_commits()
        return self.done

    def _possible(self) -> dict[str, str]:
        """Faults that make sense now, with their victims."""
        up = [node for node in SAFEKEEPERS if node not in self.down]
        storage = up + ["pageserver"] * ("pageserver" not in self.down)
        quorum = len(up) >= 2 and "pageserver" not in self.down
        faults = {"down_and_up": "", "resume": self.dice.choice(sorted(self.down) or [""]), "kill": "", "freeze": "",
                  "kill_compute": "", "start_compute": "", "wipe_compute": "", "kill_supervisor": "", "kill_backend": "", "freeze_supervisor": ""}
        if len(up) > 1 or storage[-1] == "pageserver":
            victims = [node for node in storage if node == "pageserver" or len(up) > 1]
            faults["kill"], faults["freeze"] = self.dice.choice(victims), self.dice.choice(victims)
        else:
            del faults["kill"], faults["freeze"]
        if not self.down:
            del faults["resume"]
        if not (quorum and not self.compute_runs):
            del faults["start_compute"]
        if not (quorum and self.compute_runs):
            del faults["wipe_compute"]
        if not self.compute_runs:
            del faults["kill_compute"]
        if not self.compute_runs or COMPUTE in self.down:
            for name in ("kill_supervisor", "kill_backend", "freeze_supervisor"):
                del faults[name]
        return faults

    def _dwell(self) -> None:
        """The load goes on under the fault for a while; a part of the faults follow one another at once."""
        time.sleep(self.dice.choice([0, 0.05, 0.3, self.dice.uniform(0.3, 2.5)]))

    def _kill(self, node: str) -> None:
        self.cluster.chaos("kill", node)
        self.down.add(node)

    def _freeze(self, node: str) -> None:
        self.cluster.chaos("stop", node)
        self.down.add(node)

    def _resume(self, node: str) -> None:
        self.cluster.chaos("resume", node)
        self.down.discard(node)

    def _kill_compute(self, _: str) -> None:
        self.cluster.ogel("compute", "kill", "main")
        assert not (self.cluster.dir / COMPUTE).exists()
        self.compute_runs = False
        self.down.discard(COMPUTE)

    def _start_compute(self, _: str) -> None:
        self.cluster.ogel("compute", "start", "main")
        self.compute_runs = True

    def _wipe_compute(self, _: str) -> None:
        self.cluster.chaos("wipe", COMPUTE)
        self.down.discard(COMPUTE)

    def _kill_supervisor(self, _: str) -> None:
        pid = self.cluster.node(COMPUTE)["process"]["pid"]
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def _kill_backend(self, _: str) -> None:
        """As the kernel does when memory runs out; all of Postgres starts anew."""
        try:
            with self.cluster.connect(connect_timeout=2) as victim:
                os.kill(victim.info.backend_pid, signal.SIGKILL)
        except (psycopg.Error, ProcessLookupError):
            pass

    def _freeze_supervisor(self, _: str) -> None:
        if self.cluster.node(COMPUTE)["process"]["pid"] is not None:
            self.cluster.chaos("stop", COMPUTE)
            self.down.add(COMPUTE)

    def _down_and_up(self, _: str) -> None:
        self.cluster.ogel("down", "--immediate")
        self.cluster.up()
        self.down.clear()
        self.compute_runs = True

    def _mend(self) -> None:
        nodes = sorted(self.down)
        self.dice.shuffle(nodes)
        for node in nodes:
            self._resume(node)
        self.cluster.ogel("compute", "start", "main")
        self.compute_runs = True

        def serves() -> bool:
            process = self.cluster.node(COMPUTE)["process"]
            assert process["phase"] not in ("fenced", "failed"), f"the only compute is {process}"
            try:
                return self.cluster.sql("SELECT 1") == [(1,)]
            except psycopg.Error:
                return False
        wait_until(serves, "SQL works after everything was mended", 120)
