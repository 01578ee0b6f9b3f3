"""Order of the tests, for several processes at once (`make test`)."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Every agent and `ws` that is started would compile a hundred modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("whalescale", deadline=None)
settings.load_profile("whalescale")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What mostly waits begins first: the others fill the time."""
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)
