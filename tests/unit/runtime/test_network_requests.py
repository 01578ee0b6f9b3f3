"""What a person asks of the agent's network, where the host has only just come up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.mesh.records import Place
from whalescale.protocol.places import Endpoint
from whalescale.runtime import network_requests
from whalescale.runtime.errors import AgentError


class Table:
    def __init__(self) -> None:
        self.own: Any = None

    def endpoints(self, _: bytes) -> Any:
        return self.own


def mesh_with(table: Table) -> Mesh:
    return cast("Mesh", SimpleNamespace(table=table, node_id=bytes(32)))


def test_an_invitation_waits_for_the_first_address() -> None:
    async def comes_later() -> None:
        table = Table()
        waiting = asyncio.create_task(network_requests.placed(mesh_with(table), 60))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        table.own = SimpleNamespace(places=(Place(Endpoint("192.0.2.1", 51820)),))
        await asyncio.wait_for(waiting, 30)

    asyncio.run(comes_later())


def test_but_not_for_ever() -> None:
    asyncio.run(asyncio.wait_for(network_requests.placed(mesh_with(Table()), 0.1), 30))


def test_a_machine_does_not_revoke_itself() -> None:
    """An only admin would be lost, and its sessions end before anybody hears of it."""
    own = SimpleNamespace(name="home")
    mesh = cast(
        "Mesh",
        SimpleNamespace(node_id=bytes(32), membership=SimpleNamespace(active=lambda _: own)),
    )
    with pytest.raises(AgentError, match="this is this machine"):
        network_requests.ask(mesh, {"op": "revoke", "name": "home"}, 0)


@pytest.mark.parametrize(
    ("op", "texts", "said"),
    [
        ("routes", ["224.0.0.0/4"], "no host that is routed to"),
        ("routes", ["127.0.0.1/32"], "no host that is routed to"),
        ("routes", ["nonsense"], "does not appear to be"),
        ("routes", ["10.0.0.1/8"], "host bits"),
        ("invite", ["fe80::/10"], "no host that is routed to"),
        ("invite", [7.5], "does not appear to be"),
    ],
)
def test_a_network_that_cannot_be_behind_a_member(op: str, texts: list[object], said: str) -> None:
    params = {"op": op, "name": "laptop", "add": texts, "routes": texts}
    with pytest.raises(AgentError, match=said) as refused:
        network_requests.ask(mesh_with(Table()), params, 1)
    assert "192.168.7.0/24" in refused.value.fix
