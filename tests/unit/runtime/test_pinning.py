"""The request `pin_path`: which paths it means, what it changes, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.runtime.fakes import FakePaths, Host, path_status
from whalescale import status
from whalescale.protocol.paths.types import PathEvent, PathState, Pin, Reason
from whalescale.protocol.places import Endpoint
from whalescale.runtime import pinning
from whalescale.runtime.control_socket import ControlError
from whalescale.runtime.tunnel import Change, path_event


class Pinned:
    """Host 1 with a peer `b` over eth0, eth1 and, from another address, eth1 again."""

    def __init__(self, a: Host, b: Host) -> None:
        a.tunnel.commit(Change(add=[b.spec("b")]))
        (self.peer,) = a.tunnel.peers.values()
        self.tunnel = a.tunnel
        more = [path_status(0), path_status(1), path_status(2, interface="eth1")]
        self.fake = FakePaths(a.driver, {self.peer.handle: more})

    def ask(self, **params: Any) -> list[tuple[int, Pin]]:
        answer = pinning.pin(self.tunnel, {"peer": "b", **params})
        assert answer["peer"] == "b"
        return [(p["id"], Pin(**p["pin"])) for p in answer["paths"]]

    def pins(self) -> list[Pin]:
        return [p.pin for p in self.fake.paths[self.peer.handle]]


@pytest.fixture
def pinned() -> Iterator[Pinned]:
    hosts = [Host(n, f"192.0.2.{n}") for n in (1, 2)]
    yield Pinned(*hosts)
    for host in hosts:
        host.close()


@pytest.mark.parametrize(
    ("path", "ids", "group"),
    [
        ("0", [0], []),
        ("eth0", [0], [{"interface": "eth0"}]),
        ("eth1", [1, 2], [{"interface": "eth1"}]),
        ("10.0.0.3", [2], [{"local": "10.0.0.3"}]),
        ("10.0.0.3:51820", [2], [{"local": "10.0.0.3"}]),
    ],
)
def test_what_is_meant(pinned: Pinned, path: str, ids: list[int], group: list[Any]) -> None:
    assert pinned.ask(path=path, tier=3) == [(i, Pin(tier=3)) for i in ids]
    assert [n for n, pin in enumerate(pinned.pins()) if pin.tier == 3] == ids
    assert pinned.fake.groups == group


def test_paths_of_an_interface_keep_what_each_has_of_its_own(pinned: Pinned) -> None:
    pinned.ask(path="2", tier=7)
    assert pinned.ask(path="eth1", weight_cap=0.5) == [
        (1, Pin(weight_cap=0.5)),
        (2, Pin(tier=7, weight_cap=0.5)),
    ]
    assert pinned.pins()[1:] == [Pin(weight_cap=0.5), Pin(tier=7, weight_cap=0.5)]


def test_what_is_not_named_stays(pinned: Pinned) -> None:
    pinned.ask(path="1", tier=2, weight_cap=0.5)
    assert pinned.ask(path="1", disabled=True) == [(1, Pin(True, 2, 0.5))]
    assert pinned.ask(path="1", tier=None) == [(1, Pin(True, None, 0.5))]
    assert pinned.ask(path="1", disabled=False, weight_cap=1) == [(1, Pin())]
    pinned.ask(path="1", tier=2, weight_cap=0, disabled=True)
    assert pinned.ask(path="1", reset=True) == [(1, Pin())]


def test_the_answer_has_the_shape_of_the_status(pinned: Pinned) -> None:
    (path,) = pinning.pin(pinned.tunnel, {"peer": "b", "path": "0", "tier": 1})["paths"]
    assert set(path) == set(status.Path.__struct_fields__)


def test_one_path_stays_enabled(pinned: Pinned) -> None:
    pinned.ask(path="eth1", disabled=True)
    with pytest.raises(ControlError, match="nothing would be left") as e:
        pinned.ask(path="0", disabled=True)
    assert e.value.code == "refused"
    assert [p.disabled for p in pinned.pins()] == [False, True, True]
    pinned.ask(path="1", disabled=False)
    pinned.ask(path="0", disabled=True)


@pytest.mark.parametrize("state", [PathState.FAILED, PathState.PROBING])
def test_a_path_that_does_not_work_is_not_left(pinned: Pinned, state: PathState) -> None:
    paths = pinned.fake.paths[pinned.peer.handle]
    paths[1:] = [replace(p, state=state) for p in paths[1:]]
    with pytest.raises(ControlError, match="nothing would be left"):
        pinned.ask(path="0", disabled=True)
    # Nothing is lost by these.
    pinned.ask(path="eth1", disabled=True)
    pinned.ask(path="eth1", disabled=True, tier=4)
    paths[1] = replace(paths[1], state=PathState.DEGRADED, pin=Pin())
    pinned.ask(path="0", disabled=True)


@pytest.mark.parametrize(
    ("params", "code", "piece"),
    [
        ({"peer": "c", "path": "0", "tier": 1}, "not_found", "no peer 'c'"),
        ({"peer": None, "path": "0", "tier": 1}, "not_found", "no peer None"),
        ({"path": "7", "tier": 1}, "not_found", "b has no path '7'"),
        ({"path": "", "tier": 1}, "not_found", "no path ''"),
        ({"path": 0, "tier": 1}, "usage", "path is 0"),
        ({"tier": 1}, "usage", "path is None"),
        ({"path": ["eth0"], "tier": 1}, "usage", "path is"),
        ({"path": "0"}, "usage", "nothing to change"),
        ({"path": "0", "reset": True, "tier": 1}, "usage", "takes everything back"),
        ({"path": "0", "disabled": 1}, "usage", "disabled is 1"),
        ({"path": "0", "tier": True}, "usage", "tier is True"),
        ({"path": "0", "tier": -1}, "usage", "tier is -1"),
        ({"path": "0", "tier": 256}, "usage", "tier is 256"),
        ({"path": "0", "weight_cap": 1.01}, "usage", "weight_cap is 1.01"),
        ({"path": "0", "weight_cap": float("nan")}, "usage", "weight_cap is nan"),
        ({"path": "0", "weight_cap": None}, "usage", "weight_cap is None"),
    ],
)
def test_refused(pinned: Pinned, params: dict[str, Any], code: str, piece: str) -> None:
    with pytest.raises(ControlError, match=piece) as e:
        pinned.ask(**params)
    assert e.value.code == code
    assert e.value.fix
    assert pinned.pins() == [Pin()] * 3


def test_a_path_that_goes_away_meanwhile(pinned: Pinned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned.fake, "knows", lambda *_: False)
    with pytest.raises(ControlError, match="went away") as e:
        pinned.ask(path="0", tier=1)
    assert e.value.code == "not_found"


def test_a_peer_without_paths(pinned: Pinned) -> None:
    pinned.fake.paths.clear()
    with pytest.raises(ControlError) as e:
        pinned.ask(path="0", tier=1)
    assert "is its session up?" in e.value.fix


@pytest.mark.parametrize(
    ("state", "why", "expected"),
    [
        (PathState.HEALTHY, Reason.UP, "path 2 up: {}"),
        (PathState.HEALTHY, Reason.UP_AGAIN, "path 2 up: {}"),
        (PathState.HEALTHY, Reason.WELL_AGAIN, "path 2 up: {}: well again"),
        (PathState.DEGRADED, Reason.LOSS, "path 2 degraded: {}: 12% loss"),
        (PathState.FAILED, Reason.SILENT, "path 2 failed: {}: silent"),
        (None, Reason.LOCAL_GONE, "path 2 removed: {}: its local address is gone"),
        (None, Reason.MOVED, "path 2 roamed: {}: moved to 10.0.0.9"),
    ],
)
def test_events_of_paths(state: PathState | None, why: Reason, expected: str) -> None:
    ends = Endpoint("2001:db8::1", 51820), Endpoint("2001:db8::7", 51820)
    to = Endpoint("10.0.0.9", 51820) if why is Reason.MOVED else None
    event = PathEvent(2, state, why, "wlan0", *ends, loss=0.12, to=to)
    assert path_event(event) == expected.format("wlan0 2001:db8::1 to [2001:db8::7]:51820")
