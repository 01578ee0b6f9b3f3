"""Which of several pins holds for a path, and what takes one back."""

from __future__ import annotations

import pytest

from whalescale.protocol.candidates import Source
from whalescale.protocol.paths.health import Path
from whalescale.protocol.paths.pins import MAX_PINS, Pins
from whalescale.protocol.paths.types import Pin
from whalescale.protocol.places import Endpoint, LocalLink

OFF = Pin(disabled=True)
LOCAL, REMOTE = "10.0.0.1", "10.0.9.1"


def path(local: str = LOCAL, remote: str = REMOTE, interface: str = "eth1") -> Path:
    link = LocalLink(local, 2, interface, 1500)
    return Path(1, Endpoint(local, 1), Endpoint(remote, 2), link, Source.CONFIGURED, 0)


def test_what_is_said_of_an_interface_holds_for_paths_to_come() -> None:
    pins = Pins()
    pins.set(OFF, None, None, "eth1")
    assert pins.of(path()) == pins.of(path(local="10.0.0.9", remote="10.0.9.9")) == OFF
    assert pins.of(path(interface="eth0")) == Pin()


def test_one_path_of_a_pinned_interface_can_be_let_go() -> None:
    pins = Pins()
    pins.set(OFF, None, None, "eth1")
    pins.set(Pin(), LOCAL, REMOTE, "eth1")
    assert pins.of(path()) == Pin()
    assert pins.of(path(remote="10.0.9.9")) == OFF


@pytest.mark.parametrize("wide", [(None, None, "eth1"), (LOCAL, None, None), (None, None, None)])
def test_taken_back_for_all_is_taken_back_for_each(wide: tuple[str | None, ...]) -> None:
    pins = Pins()
    pins.set(OFF, LOCAL, REMOTE, "eth1")
    pins.set(Pin(), *wide)
    assert pins.of(path()) == Pin()
    # Nothing remains that would hold later.
    pins.set(Pin(tier=3), "10.0.0.8", None, None)
    assert pins.of(path()) == Pin()


def test_a_local_address_taken_back_leaves_the_rest_of_its_interface() -> None:
    pins = Pins()
    pins.set(OFF, None, None, "eth1")
    pins.set(Pin(), LOCAL, None, None)
    assert pins.of(path()) == Pin()
    assert pins.of(path(local="10.0.0.2")) == OFF


def test_the_newest_holds_and_the_oldest_go() -> None:
    pins = Pins()
    pins.set(OFF, LOCAL, REMOTE, "eth1")
    pins.set(Pin(tier=1), None, None, "eth1")
    assert pins.of(path()) == Pin(tier=1)
    for n in range(MAX_PINS):
        pins.set(OFF, f"10.1.0.{n}", None, None)
    assert pins.of(path()) == Pin()
