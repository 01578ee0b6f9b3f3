"""Order of the tests, for several processes at once (`make test`)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Hashable, Iterator

import pytest
from hypothesis import settings

from tests.costs import Costs
from tools.nursery import Nursery
from tools.peers import Whalescale

# Every agent and `ws` that is started would compile a hundred modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("whalescale", deadline=None)
settings.load_profile("whalescale")


@pytest.fixture(scope="session")
def _nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def agents_by_nursery(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents are forked from one that has its modules imported.

    `whole_start`: those of the test are executed and import everything, as a user's do.
    WS_WHOLE_START=1: those of every test.
    """
    whole = request.node.get_closest_marker("whole_start") or os.environ.get("WS_WHOLE_START")
    if os.geteuid() == 0 and not whole:
        monkeypatch.setattr(Whalescale, "nursery", request.getfixturevalue("_nursery"))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Costs(), "costs")


@pytest.hookimpl(tryfirst=True)  # before -m takes tests away
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What mostly waits begins first: the others fill the time."""
    for item in items:
        if item.get_closest_marker("alone") and "/netns/" not in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: `make test` looks for `alone` in tests/netns")
        if "standing" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    sample(items)
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


def sample(items: list[pytest.Item]) -> None:
    """`sampled(n)`: each combination of n parameters' values stays, the rest is long."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("long"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for variants in tests.values():
        marker = variants[0].get_closest_marker("sampled")
        assert marker is not None
        of = {item: set(combinations_of(item, marker.args[0])) for item in variants}
        wanted = set[Hashable]().union(*of.values())
        while wanted:
            best = max(of, key=lambda item: len(of[item] & wanted))
            wanted -= of.pop(best)
        for item in of:
            item.add_marker(pytest.mark.long)


def combinations_of(item: pytest.Item, n: int) -> Iterator[Hashable]:
    params: dict[str, object] = item.callspec.params  # type: ignore[attr-defined]
    return itertools.combinations(sorted((k, repr(v)) for k, v in params.items()), n)
