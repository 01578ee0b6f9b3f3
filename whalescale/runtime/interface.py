"""The tunnel's own interface: whether its name is free, which addresses it has, and its start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from whalescale.config import IPV6_MTU_MIN, Config
from whalescale.config_values import parse_address
from whalescale.identity import PlainIdentity
from whalescale.runtime.errors import AgentError
from whalescale.runtime.netlink import Interface, Netlink

#: the kernel takes down a killed agent's interface once it has ended its io_uring
LEAVING_S: Final = 3.0
LOOK_S: Final = 0.05


class TunnelInterface:
    """`find` comes before what needs `ifindex`, `bring_up` before what needs `queue`."""

    def __init__(
        self,
        netlink: Netlink,
        name: str,
        identity: PlainIdentity,
        network: Callable[[], Iterable[Interface]] = tuple,
    ) -> None:
        """`network()`: the addresses that the network of one's own machines gives this host."""
        self._netlink = netlink
        self._identity = identity
        self._network = network
        self.name = name
        self.ifindex = 0
        #: packets that the kernel lets wait for it
        self.queue = 0

    def addresses(self, config: Config) -> list[Interface]:
        """The file's, the network's, and the one derived from the node ID."""
        if self._identity.overlay_address is None:
            return list(config.interface.addresses)
        overlay = parse_address(f"{self._identity.overlay_address}/128")
        return [*config.interface.addresses, *self._network(), overlay]

    async def wait_for_name(self) -> None:
        """AgentError: the interface exists. That of an agent just killed gets the time to go."""
        deadline = time.monotonic() + LEAVING_S
        while (ifindex := await self._netlink.find_interface(self.name)) is not None:
            if time.monotonic() > deadline or not await self._netlink.is_tun(ifindex):
                raise AgentError(
                    f"interface {self.name} is there already",
                    f"choose another [interface] name, or remove it: ip link del {self.name}",
                )
            await asyncio.sleep(LOOK_S)

    async def find(self) -> int:
        """Its index, once the device is made. AgentError: somebody removed it."""
        found = await self._netlink.find_interface(self.name)
        if found is None:
            raise AgentError(f"interface {self.name} went away during the start", "start again")
        self.ifindex = found
        return found

    async def bring_up(self, config: Config) -> None:
        """AgentError: none of its addresses can be had on this host. OSError."""
        wanted = self.addresses(config)
        link = await self._netlink.link_state(self.ifindex)
        given = wanted
        if config.interface.mtu < IPV6_MTU_MIN:
            given = [a for a in wanted if a.version == 4]
        elif link is not None and not link.ipv6:
            # The keeper says what is left out, and adds it when the host has IPv6.
            given = [a for a in wanted if a.version == 4]
            if wanted and not given:
                raise AgentError(
                    f"IPv6 is switched off on this host, and {config.path} has no IPv4 address",
                    "give [interface] addresses an IPv4 one, or `sysctl -w net.ipv6.conf.all."
                    "disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0`",
                )
        for address in given:
            await self._netlink.add_address(self.ifindex, address)
        await self._netlink.set_up(self.ifindex, config.interface.mtu)
        self.queue = link.queue if link is not None else 0
