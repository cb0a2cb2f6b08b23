"""Fixtures: a cluster per test, removed afterwards; its logs are shown when the test failed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cluster import Cluster  # noqa: E402


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = (yield).get_result()
    if report.when == "call":
        item.stash[FAILED] = report.failed


FAILED = pytest.StashKey[bool]()


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters that are not started yet."""
    made: list[Cluster] = []

    def make(**settings: str) -> Cluster:
        made.append(Cluster(settings))
        return made[-1]

    yield make
    for cluster in made:
        if request.node.stash.get(FAILED, True):
            print(cluster.logs_tail())
        cluster.remove()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """A running cluster whose compute keeps next to nothing in memory, so that pages really travel."""
    return make_cluster(shared_buffers="1MB", **{"ogel.file_cache_size": "0"}).up()
