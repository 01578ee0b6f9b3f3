"""Which interfaces are uplinks."""

from __future__ import annotations

from typing import Any

import pytest

from whalescale.runtime.uplinks import Device, Uplinks, link


def device(number: int, name: str, kind: str = "", type_: int = 1, **data: Any) -> Device:
    info = {"kind": kind, "data": data} if kind else None
    message = {"index": number, "ifname": name, "mtu": 1500, "ifi_type": type_, "linkinfo": info}
    return Device.of(message, 1500)


ETH = device(1, "eth0")
WWAN = device(2, "wwan0", type_=519)
PPP = device(3, "ppp0", "ppp", 512)
BRIDGE = device(4, "docker0", "bridge")
VETH = device(5, "eth7", "veth")
TUNNELS = [
    device(11, "ws1", "tun", 65534, tun_type=1, tun_persist=0),
    device(12, "tun0", "tun", 65534, tun_type=1, tun_persist=1),
    device(13, "ztabc", "tun", 1, tun_type=2, tun_persist=0),
    device(14, "wg0", "wireguard", 65534),
    device(15, "gre1", "gre", 778),
    device(16, "vxlan5", "vxlan"),
    device(17, "sit1", "sit", 776),
    device(18, "old", "", 768),
    device(19, "ipsec0", "xfrm", 65534),
]
TAP = device(20, "tap0", "tun", 1, tun_type=2, tun_persist=1)


def names(found: dict[int, Device]) -> list[str]:
    return [d.name for d in found.values()]


def test_all_but_tunnels() -> None:
    found = Uplinks().of([ETH, WWAN, PPP, BRIDGE, VETH, *TUNNELS, TAP])
    assert names(found) == ["eth0", "wwan0", "ppp0", "docker0", "eth7", "tap0"]


@pytest.mark.parametrize("tunnel", TUNNELS, ids=lambda d: d.name)
def test_a_tunnel_that_is_asked_for(tunnel: Device) -> None:
    asked = Uplinks(interfaces=("eth*", tunnel.name))
    assert names(asked.of([ETH, WWAN, tunnel])) == ["eth0", tunnel.name]


def test_those_left_out() -> None:
    assert names(Uplinks(exclude=("docker*", "eth[1-9]")).of([ETH, BRIDGE, VETH])) == ["eth0"]
    both = Uplinks(interfaces=("eth*",), exclude=("eth7",))
    assert names(both.of([ETH, WWAN, VETH])) == ["eth0"]


def test_a_container_that_has_a_tap_device_only() -> None:
    rootless = device(2, "tap0", "tun", 1, tun_type=2, tun_persist=0)
    assert names(Uplinks().of([rootless])) == ["tap0"]
    assert names(Uplinks().of([ETH, rootless])) == ["eth0"]
    assert names(Uplinks().of([TUNNELS[0], TUNNELS[3]])) == []


@pytest.mark.parametrize(("one", "spare"), [(ETH, False), (PPP, False), (BRIDGE, True)])
def test_bridges_are_tried_last(one: Device, spare: bool) -> None:
    assert link("192.0.2.1", one, False, 24).spare is spare
