"""The engine and the core are told of what is inside tunnels whenever that changes."""

from __future__ import annotations

import asyncio
import ipaddress

from fakes import Host, here, until

from whalescale.endpoints import HostPort
from whalescale.protocol.inside import OVERLAY, Network
from whalescale.protocol.places import LocalLink
from whalescale.runtime.inside import InsideKeeper
from whalescale.runtime.tunnel import Change


def nets(*texts: str) -> set[Network]:
    return {ipaddress.ip_network(t) for t in texts}


def test_it_follows_peers_links_and_other_tunnels() -> None:
    async def main() -> None:
        host, other = Host(1, "192.0.2.1"), Host(2, "192.0.2.2")
        own = [ipaddress.ip_interface("10.77.0.1/24")]
        keeper = InsideKeeper(
            host.node,
            host.engine.as_engine(),
            host.tunnel,
            lambda: own,
            host.driver.now,
            host.notices,
        )
        try:
            keeper.update()
            assert set(host.engine.inside[0]) == nets("10.77.0.0/24") | {OVERLAY}
            spec = other.spec(
                "site",
                allowed_ips=tuple(nets("10.77.0.2/32", "192.168.0.0/16")),
                endpoints=(HostPort("192.168.200.7", 51820, True),),
            )
            host.tunnel.commit(Change(add=[spec]))
            await until(lambda: ipaddress.ip_network("192.168.0.0/16") in host.engine.inside[0])
            assert set(host.engine.inside[1]) == nets("192.168.200.7/32")

            link = LocalLink("192.168.1.5", 2, "eth0", 1500, prefix_length=24)
            keeper.follow(here(links=[link]))
            keeper.follow_others([nets("10.78.0.0/24", "0.0.0.0/0")])  # type: ignore[list-item]
            assert ipaddress.ip_network("10.78.0.0/24") in host.engine.inside[0]
            assert ipaddress.ip_network("0.0.0.0/0") not in host.engine.inside[0]
            assert set(host.engine.inside[1]) == nets("192.168.200.7/32", "192.168.1.0/24")

            host.tunnel.commit(Change(remove=list(host.tunnel.peers.values())))
            await until(lambda: host.engine.inside[1] == ())
            assert set(host.engine.inside[0]) == nets("10.77.0.0/24", "10.78.0.0/24") | {OVERLAY}
        finally:
            for one in (host, other):
                one.close()

    asyncio.run(main())
