"""The topology of docker-compose.yml on machines of their own whose network speaks IPv6 only, is slow, loses and is cut: nothing acknowledged is lost."""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Iterator

import pytest

from bank import Bank
from chaos import seed_from_environment
from namespaces import SAFEKEEPERS, SpreadCluster, run
from slow_network import SlowNetwork

DELAY_MS = 4


@pytest.fixture
def slow() -> Iterator[SpreadCluster]:
    if os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        pytest.skip("needs root, iproute2's `ip` and /dev/net/tun")
    with SpreadCluster(SlowNetwork(delay_ms=DELAY_MS, jitter_ms=2, loss=0.01, seed=seed_from_environment())).running() as cluster:
        yield cluster


@pytest.mark.timeout(600)
def test_ipv6_only_slow_lossy_and_cut(slow: SpreadCluster):
    dice = random.Random(seed_from_environment())
    for host in slow.processes:
        addresses = run("ip", "-n", slow.network.namespace(host), "-4", "-o", "address", "show", "dev", "eth0").stdout
        assert not addresses, f"{host} has IPv4"
    with slow.connect() as connection:
        began = time.monotonic()
        connection.execute("SELECT 1")
        assert time.monotonic() - began >= 2 * DELAY_MS / 1000, "the network is as slow as it should be"
    bank = Bank(slow, seed_from_environment()).create().start()
    hosts = [*SAFEKEEPERS, "pageserver", "compute"]
    for number in range(4):
        bank.wait_for_commits(20)
        cuts = [dice.sample(hosts, 2) for _ in range(dice.randint(1, 4))]
        for one, other in cuts:
            (slow.network.cut if dice.random() < 0.5 else slow.network.cut_one_way)(one, other)
        time.sleep(dice.uniform(0.5, 3))  # for the cut to be felt
        slow.network.heal()
        print(f"round {number}: {', '.join('/'.join(cut) for cut in cuts)}")
        bank.wait_for_commits(20)
        bank.check()
        slow.all_run()
    bank.stop().check(everything=True)
