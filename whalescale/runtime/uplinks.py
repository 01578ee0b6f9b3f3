"""Which interfaces of this host are uplinks: where paths and handshakes may begin.

Another tunnel is none unless the file asks for it: what goes through it takes the same links again,
and two agents on one host would take each other's tunnel. Where the routing table sends a datagram
is for the table to say: an endpoint behind another tunnel is still reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from whalescale.protocol.places import LocalLink, Standing

#: IFLA_INFO_KIND of devices that carry packets inside other packets. Not "ppp": PPPoE and modems
#: are uplinks; "tun" is looked at closer.
TUNNELS: Final = frozenset(
    (
        *("wireguard", "amneziawg", "ovpn", "ovpn-dco", "xfrm", "vti", "vti6", "gtp", "amt"),
        *("ipip", "sit", "gre", "gretap", "erspan", "ip6tnl", "ip6gre", "ip6gretap", "ip6erspan"),
        *("vxlan", "geneve", "bareudp"),
    )
)
#: <linux/if_arp.h> TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE: where the kernel tells no kind
TUNNEL_TYPES: Final = frozenset((768, 769, 776, 778, 823))
IFF_TUN: Final = 1
#: they lead to virtual machines and containers mostly; or are, in a container, all there is
SPARE: Final = frozenset(("bridge", "veth", "dummy", "tun", "openvswitch"))


@dataclass(frozen=True, slots=True)
class Device:
    """An interface, as rtnetlink(7) tells of it."""

    ifindex: int
    name: str
    mtu: int
    #: IFLA_INFO_KIND; "" of hardware
    kind: str = ""
    #: ARPHRD_*
    type: int = 1
    #: kind "tun": it carries packets, not Ethernet frames
    packets: bool = False
    #: kind "tun": it stays when the program behind it ends
    persistent: bool = False

    @classmethod
    def of(cls, message: Any, default_mtu: int) -> Device:
        """Of an RTM_NEWLINK."""
        info = message.get("linkinfo") or {}
        data = info.get("data") or {}
        kind = str(info.get("kind") or "")
        tun = data.get("tun_type") if hasattr(data, "get") else None
        return cls(
            message["index"],
            str(message.get("ifname")),
            int(message.get("mtu") or default_mtu),
            kind,
            int(message.get("ifi_type") or 1),
            packets=kind == "tun" and (tun == IFF_TUN or message.get("ifi_type") != 1),
            persistent=bool(hasattr(data, "get") and data.get("tun_persist")),
        )

    @property
    def tunnel(self) -> bool:
        """A TAP device that ends with its program is a VPN's (ZeroTier, tinc, OpenVPN)."""
        if self.kind == "tun":
            return self.packets or not self.persistent
        return self.kind in TUNNELS or self.type in TUNNEL_TYPES


@dataclass(frozen=True, slots=True)
class Uplinks:
    """The file's `[multipath] interfaces` and `exclude`: names, with * ? [a-z] as in a shell."""

    #: these alone, tunnels too; empty: all but tunnels
    interfaces: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def of(self, devices: Iterable[Device]) -> dict[int, Device]:
        """Those that are uplinks, by index."""
        allowed = [d for d in devices if not _matches(d.name, self.exclude)]
        if self.interfaces:
            return {d.ifindex: d for d in allowed if _matches(d.name, self.interfaces)}
        found = {d.ifindex: d for d in allowed if not d.tunnel}
        if not found:
            # A container without privileges has a TAP device and nothing else (slirp4netns, pasta).
            found = {d.ifindex: d for d in allowed if d.kind == "tun" and not d.packets}
        return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def link(
    ip: str,
    device: Device,
    link_local: bool,
    prefix_length: int,
    standing: Standing = Standing.STABLE,
) -> LocalLink:
    return LocalLink(
        ip,
        device.ifindex,
        device.name,
        device.mtu,
        link_local,
        prefix_length,
        device.kind in SPARE,
        standing,
    )
