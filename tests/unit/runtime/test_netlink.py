"""The real kernel, in a network namespace of its own that nothing leads out of."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

PREAMBLE = """
import asyncio, errno, ipaddress, os, sys
from whalescale.runtime.netlink import (
    MAIN_TABLE, LinkState, LocalAddress, Netlink, Route, Rule
)
from whalescale.runtime.tun import open_tun
from whalescale.runtime.uplinks import Uplinks
from whalescale.runtime.watcher import watch_addresses
# What `print` and the commands of os.system write stays in order, also into a pipe.
sys.stdout.reconfigure(line_buffering=True)
net, face = ipaddress.ip_network, ipaddress.ip_interface

async def device(nl, name):
    tun = open_tun(name)
    index = await nl.find_interface(name)
    assert index is not None
    return tun, index
"""

ROUTES = """
async def main():
    async with Netlink.open() as nl:
        assert await nl.find_interface("wsu0") is None
        tun, index = await device(nl, "wsu0")
        assert not os.get_blocking(tun.fds[0])
        assert await nl.is_tun(index)
        for _ in range(2):  # idempotent
            await nl.add_address(index, face("10.77.0.1/24"))
            await nl.add_address(index, face("fd77::1/128"))
        await nl.set_up(index, 1380)
        os.system("ip link show wsu0 | grep -o 'mtu [0-9]*'")
        for text, table in (("10.78.0.0/16", 254), ("fd78::/64", 254), ("0.0.0.0/0", 51820)):
            await nl.add_route(index, Route(net(text), table))
            try:
                await nl.add_route(index, Route(net(text), table))
            except OSError as e:
                assert e.errno == errno.EEXIST and text in e.strerror, e
            else:
                raise AssertionError("a second route of the same kind")
        assert await nl.table_in_use(51820) and not await nl.table_in_use(51821)
        assert await nl.routes_of(index) >= {
            Route(net("10.78.0.0/16")), Route(net("fd78::/64")), Route(net("0.0.0.0/0"), 51820)
        }
        assert await nl.addresses_of(index) == {face("10.77.0.1/24"), face("fd77::1/128")}
        link = await nl.link_state(index)
        assert link == LinkState("wsu0", True, 1380, 500, True), link
        own = face("10.77.0.1/24"), face("fd77::1/128")
        os.system("ip addr change 10.77.0.1/24 dev wsu0 preferred_lft 0; ip route del 10.77.0.0/24")
        os.system("ip addr change fd77::1/128 dev wsu0 valid_lft 600 preferred_lft 500")
        os.system("ip link set wsu0 carrier off")
        assert not (await nl.link_state(index)).carrier
        assert not await nl.addresses_of(index, lasting=True)
        assert await nl.addresses_of(index) == set(own)
        await nl.set_carrier(index)
        for address in own:
            await nl.add_address(index, address)
        await nl.add_connected(index, own[0])
        assert await nl.addresses_of(index, lasting=True) == set(own)
        assert Route(own[0].network) in await nl.routes_of(index)
        assert await nl.link_state(index) == link
        assert await nl.leaves_by("10.78.0.9") == index
        assert await nl.leaves_by("192.0.2.1") is await nl.leaves_by("2001:db8::1") is None
        one = [Rule(v, n, t) for v in (4, 6) for n in (0, 16) for t in (MAIN_TABLE, 51820)]
        two = [Rule(v, n, t) for v in (4, 6) for n in (0, 16) for t in (MAIN_TABLE, 51821)]
        assert [await nl.add_rule(r) for r in one] == [True] * 8
        assert [await nl.add_rule(r) for r in one] == [False] * 8  # as after a kill -9
        for rule in two:
            await nl.add_rule(rule)
        assert await nl.rules_of(4) == {r for r in one + two if r.version == 4}
        print("--", flush=True)
        os.system("ip rule; ip -6 rule")
        print("--", flush=True)
        for rule in reversed(one):
            await nl.remove_rule(rule)
        os.system("ip rule; ip -6 rule")
        print("--", flush=True)
        for rule in reversed(two + two):
            await nl.remove_rule(rule)
        os.system("ip rule; ip -6 rule; ip -6 addr show dev wsu0 scope link")
        for _ in range(2):
            await nl.remove_route(index, Route(net("10.78.0.0/16")))
            await nl.remove_address(index, face("10.77.0.1/24"))
        tun.close()
        while await nl.find_interface("wsu0") is not None:
            await asyncio.sleep(0.01)
        assert not await nl.is_tun(index) and await nl.link_state(index) is None
        await nl.remove_route(index, Route(net("fd78::/64")))
        assert os.listdir("/proc/self/task") == [str(os.getpid())]  # one thread

asyncio.run(asyncio.wait_for(main(), 30))
"""

WATCH = """
async def main():
    seen = asyncio.Queue()
    async with Netlink.open() as nl:
        ours, own = await device(nl, "wsu0")
        other, index = await device(nl, "wsu1")
        for i, text in ((own, "10.77.0.1/24"), (index, "192.0.2.1/24")):
            await nl.add_address(i, face(text))
            await nl.set_up(i, 1420)
        uplinks = Uplinks(("wsu1",))  # a TUN device of others is none unless it is named
        watch = asyncio.create_task(
            watch_addresses(nl, own, lambda: uplinks, lambda *both: seen.put_nowait(both))
        )

        async def expect(*ips):
            addresses, links = await seen.get()
            assert addresses == [
                LocalAddress(ip, index, False, 64 if ":" in ip else 24) for ip in ips
            ]
            assert [(k.ip, k.interface, k.prefix_length) for k in links] == [
                (a.ip, "wsu1", a.prefix_length) for a in addresses
            ]

        await expect("192.0.2.1")
        await nl.add_address(index, face("2001:db8::1/64"))
        await expect("192.0.2.1", "2001:db8::1")
        await nl.add_address(own, face("10.77.1.1/24"))  # the tunnel's own: nobody is told
        os.system("ip route add 203.0.113.0/24 dev wsu0")
        os.system("ip route add 198.51.100.0/24 via 192.0.2.9 dev wsu1")
        await expect("192.0.2.1", "2001:db8::1")  # one may be reached that was not
        await nl.remove_address(index, face("192.0.2.1/24"))
        await expect("2001:db8::1")
        os.system("ip link set lo up")
        other.close()
        await expect()
        watch.cancel()
        ours.close()

asyncio.run(asyncio.wait_for(main(), 30))
"""

PORTS = """
async def main():
    os.system(
        "ip link add br0 type bridge; ip link add v0 type veth peer name v1;"
        "ip link set v0 master br0; for i in br0 v0 v1; do ip link set $i up; done;"
        "ip addr add 192.0.2.1/24 dev br0; ip addr add 192.0.2.2/24 dev v0;"
        "ip addr add 192.0.2.3/24 dev v1"
    )
    async with Netlink.open() as nl:
        found = await nl.local_addresses(0)
        assert {a.ip for a in found} >= {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
        assert {k.interface for k in await nl.local_links(found, Uplinks())} == {"br0", "v1"}

asyncio.run(asyncio.wait_for(main(), 30))
"""

FAULT = """
async def main():
    seen = asyncio.Queue()
    calls = []

    def changed(addresses, links):
        calls.append(addresses)
        if len(calls) == 1:
            raise ValueError("a fault")
        seen.put_nowait(addresses)

    async with Netlink.open() as nl:
        other, index = await device(nl, "wsu1")
        await nl.add_address(index, face("192.0.2.1/24"))
        await nl.set_up(index, 1420)
        watch = asyncio.create_task(watch_addresses(nl, 0, Uplinks, changed))
        assert await seen.get() == calls[0] == calls[1]
        await nl.add_address(index, face("192.0.2.2/24"))
        assert len(await seen.get()) == 2
        watch.cancel()
        other.close()

asyncio.run(asyncio.wait_for(main(), 30))
"""


GONE = """
async def main():
    from whalescale.runtime import watcher
    watcher.SETTLE_S = 2.0
    seen = asyncio.Queue()
    os.system(
        "sysctl -qw net.ipv6.conf.default.disable_ipv6=1;"
        "for n in 1 2; do ip link add d$n type veth peer name e$n; ip link set e$n up;"
        "ip link set d$n up; ip addr add 192.0.2.$n/24 dev d$n; done"
    )
    async with Netlink.open() as nl:
        uplinks = Uplinks(("d1", "d2"))
        watch = asyncio.create_task(
            watch_addresses(nl, 0, lambda: uplinks, lambda *both: seen.put_nowait(both))
        )

        async def told(seconds):
            _, links = await asyncio.wait_for(seen.get(), seconds)
            return [k.interface for k in links]

        assert await told(10) == ["d1", "d2"]
        os.system("ip link set d1 down")
        assert await told(1.5) == ["d2"]  # at once
        await asyncio.sleep(2.5)
        # The only one that is left goes, and another comes: that is one change.
        os.system("ip link set d2 down; ip link set d1 up")
        assert await told(10) == ["d1"]
        watch.cancel()

asyncio.run(asyncio.wait_for(main(), 30))
"""


def run(script: str) -> str:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", PREAMBLE + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_addresses_routes_and_rules() -> None:
    mtu, both, one, none = run(ROUTES).split("--\n")
    assert mtu == "mtu 1380\n"
    # The longest match over both tables: routes of 16 bits before those of none.
    assert [line.replace("\t", " ") for line in both.splitlines()[1:5]] == [
        "32732: from all lookup main suppress_prefixlength 16",
        "32733: not from all fwmark 0xca6c lookup 51820 suppress_prefixlength 15",
        "32733: not from all fwmark 0xca6d lookup 51821 suppress_prefixlength 15",
        "32764: from all lookup main suppress_prefixlength 0",
    ]
    assert both.count("suppress_prefixlength 0") == 2
    assert both.count("not from all fwmark 0xca6c lookup 51820\n") == 2
    # Main's rules stay while the other tunnel needs them.
    assert one.count("suppress_prefixlength 0") == 2
    assert one.count("main suppress_prefixlength 16") == 2
    assert "51820" not in one
    assert one.count("51821") == 4
    assert "suppress" not in none
    assert "fwmark" not in none
    assert "fe80" not in none  # no link-local address of its own


def test_an_uplink_that_is_gone_is_told_of_at_once_where_there_is_another() -> None:
    run(GONE)


def test_addresses_are_watched() -> None:
    run(WATCH)


def test_ports_of_a_bridge_are_no_links_of_their_own() -> None:
    run(PORTS)


def test_a_fault_of_the_follower_does_not_end_the_watch() -> None:
    run(FAULT)
