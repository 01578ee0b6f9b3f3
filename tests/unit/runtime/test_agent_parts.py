"""A part of the agent needs no file but its own and a line in the list; notices reach who asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tests.unit.runtime.fakes import Host, here
from whalescale.agent import Agent
from whalescale.config import Config, NetworkConfig
from whalescale.runtime.logbuffer import LogBuffer
from whalescale.runtime.notices import Notices, PeersChanged, PortChanged
from whalescale.runtime.part import Here, Part
from whalescale.runtime.sockets import Sockets


class Toy(Part):
    name = "toy"

    def __init__(self, notices: Notices) -> None:
        self.told: list[Any] = []
        notices.on(PortChanged, lambda changed: self.told.append(changed.port))

    def follow(self, here: Here) -> None:
        self.told.append(here.port)

    def status(self) -> dict[str, Any]:
        return {"told": len(self.told)}


def test_a_part_is_told_in_its_turn() -> None:
    host = Host(1, "192.0.2.1")
    interface = SimpleNamespace(name="ws0", anchor=False)
    config = SimpleNamespace(interface=interface, network=NetworkConfig())
    agent = Agent(cast(Config, config), host.identity, host.limits, LogBuffer())
    first, second = Toy(agent._notices), Toy(agent._notices)
    agent._parts += [first, Part(), second]
    agent._follow(here(port=7))
    assert (first.told, second.told) == ([7], [7])
    assert {p.name: p.status() for p in agent._parts if p.name} == {"toy": {"told": 1}}
    host.close()


def test_a_port_is_told_when_it_changes_not_when_it_is_opened_first() -> None:
    notices = Notices()
    toy = Toy(notices)
    host = Host(1, "192.0.2.1")
    sockets = Sockets(host.engine.as_engine(), notices)
    sockets.open(51820)
    assert toy.told == []
    sockets.reopen(51820)
    sockets.reopen(40001)
    assert toy.told == [40001]
    notices.tell(PeersChanged())  # nobody asked for it
    host.close()
