"""WireGuard's UAPI: the text, the whole set before anything of it, what it does to the tunnel."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.runtime.fakes import Host
from whalescale.endpoints import HostPort, parse_endpoint
from whalescale.runtime.errors import AgentError
from whalescale.runtime.sockets import Sockets
from whalescale.runtime.tunnel import Change, Origin, PeerSpec
from whalescale.runtime.wg_device import WgDevice
from whalescale.runtime.wg_uapi import (
    SetRequest,
    UapiError,
    UapiServer,
    clamp,
    parse_set,
    same_private_key,
)

KEY = "ab" * 32
OTHER = "cd" * 32


def net(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


# the text


def parsed(lines: list[str]) -> SetRequest:
    request = SetRequest()
    parse_set(lines, request)
    return request


def test_a_whole_set() -> None:
    request = parsed(
        [
            f"private_key={OTHER}",
            "listen_port=51821",
            "fwmark=7",
            "replace_peers=true",
            f"public_key={KEY}",
            "update_only=true",
            f"preshared_key={OTHER}",
            "endpoint=[fe80::1%3]:51820",
            "persistent_keepalive_interval=25",
            "replace_allowed_ips=true",
            "allowed_ip=10.0.0.1/24",
            "allowed_ip=-10.1.0.0/16",
            "allowed_ip=fd00::/8",
            "protocol_version=1",
            f"public_key={OTHER}",
            "remove=true",
        ]
    )
    assert (request.listen_port, request.fwmark, request.replace_peers) == (51821, 7, True)
    first, second = request.peers
    assert (first.public_key.hex(), first.update_only, first.remove) == (KEY, True, False)
    assert first.endpoint is not None
    assert (first.endpoint.host, first.endpoint.port) == ("fe80::1%3", 51820)
    assert first.allowed_ips == [
        (True, net("10.0.0.0/24")),
        (False, net("10.1.0.0/16")),
        (True, net("fd00::/8")),
    ]
    assert (second.public_key.hex(), second.remove) == (OTHER, True)
    assert OTHER not in repr(request.peers[0])


@pytest.mark.parametrize(
    "line",
    [
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=",
        "listen_port=٣",
        "fwmark=4294967296",
        "fwmark=0x7",
        "replace_peers=false",
        "private_key=00",
        "private_key=" + "g" * 64,
        "private_key=" + "ab " * 21 + "ab",
        "endpoint=1.2.3.4:5",  # before any public_key
        "no_such_key=1",
        "public_key=" + "AB" * 31,
    ],
)
def test_wrong_device_lines(line: str) -> None:
    with pytest.raises(UapiError) as e:
        parsed([line])
    assert e.value.number == errno.EINVAL


@pytest.mark.parametrize(
    "line",
    [
        "endpoint=host.example:51820",
        "endpoint=1.2.3.4",
        "endpoint=1.2.3.4:65536",
        "endpoint=fd00::1:51820",
        "endpoint=0.0.0.0:51820",
        "endpoint=224.0.0.1:51820",
        "allowed_ip=10.0.0.0",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=10.0.0.0/255.0.0.0",
        "allowed_ip=nothing/8",
        "allowed_ip=",
        "persistent_keepalive_interval=65536",
        "remove=1",
        "update_only=yes",
        "replace_allowed_ips=",
        "preshared_key=xyz",
        "listen_port=51820",  # after a public_key
    ],
)
def test_wrong_peer_lines(line: str) -> None:
    with pytest.raises(UapiError) as e:
        parsed([f"public_key={KEY}", line])
    assert e.value.number == errno.EINVAL


def test_other_errors_have_numbers_of_their_own() -> None:
    with pytest.raises(UapiError) as e:
        parsed([f"public_key={KEY}", "protocol_version=2"])
    assert e.value.number == errno.EPROTONOSUPPORT
    with pytest.raises(UapiError) as e:
        parsed(["gibberish"])
    assert e.value.number == errno.EPROTO


def test_private_keys_are_compared_clamped() -> None:
    # RFC 7748 section 6.1, Alice's private key, as drawn and as clamped
    drawn = bytes.fromhex(
        "77076d0a7318a57d3c16c17251b26645df4c2f92ebc099ac6170b25fa8ba2c2a".zfill(64)
    )
    assert clamp(drawn)[0] & 7 == 0
    assert clamp(drawn)[31] >> 6 == 1
    assert same_private_key(drawn, clamp(drawn))
    assert not same_private_key(drawn, bytes(32))


# what it does


class Rig:
    """A host with its UAPI socket."""

    def __init__(self, folder: Path) -> None:
        self.host = Host(1, "192.0.2.1")
        self.other = Host(2, "192.0.2.2")
        self.host.start()
        self.sockets = Sockets(self.host.engine.as_engine())
        self.sockets.open(51820)
        self.held = 0
        self.device = WgDevice(
            self.host.identity,
            self.host.node,
            self.host.engine.as_engine(),
            self.host.tunnel,
            self.sockets,
            0,
            lambda: self.held,
            asyncio.Lock(),
        )
        self.server = UapiServer(folder / "wg" / "ws0.sock", self.device.view, self.device.change)

    async def ask(self, *lines: str) -> list[str]:
        reader, writer = await asyncio.open_unix_connection(self.server.path)
        writer.write("".join(f"{line}\n" for line in (*lines, "")).encode())
        answer = await reader.readuntil(b"\n\n")
        writer.close()
        return answer.decode().splitlines()[:-1]

    async def set(self, *lines: str) -> int:
        (answer,) = await self.ask("set=1", *lines)
        return int(answer.removeprefix("errno="))

    @property
    def specs(self) -> dict[str, PeerSpec]:
        return {p.spec.name: p.spec for p in self.host.tunnel.peers.values()}


def rig(folder: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    async def run() -> None:
        r = Rig(folder)
        await r.server.start()
        try:
            await asyncio.wait_for(test(r), 20)
        finally:
            await r.server.close()
            r.host.close()
            r.other.engine.close()

    asyncio.run(run())


def test_get_tells_all_that_wg_shows(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        r.host.tunnel.commit(
            Change(
                add=[
                    r.other.spec(
                        "b",
                        endpoints=(parse_endpoint("[2001:db8::7]:51820"),),
                        allowed_ips=(net("10.77.0.2/32"),),
                        preshared_key=b"\x05" * 32,
                        persistent_keepalive=25,
                    )
                ]
            )
        )
        # `wg` looks whether somebody answers before it asks.
        _, writer = await asyncio.open_unix_connection(r.server.path)
        writer.close()
        assert await r.ask("get=1") == [
            f"private_key={r.host.identity.static_private.hex()}",
            "listen_port=51820",
            f"public_key={r.other.identity.static_public.hex()}",
            f"preshared_key={'05' * 32}",
            "protocol_version=1",
            "endpoint=[2001:db8::7]:51820",
            "last_handshake_time_sec=0",
            "last_handshake_time_nsec=0",
            "tx_bytes=0",
            "rx_bytes=0",
            "persistent_keepalive_interval=25",
            "allowed_ip=10.77.0.2/32",
            f"allowed_ip={r.other.identity.overlay_address}/128",
            "errno=0",
        ]

    rig(tmp_path, test)


def test_a_peer_comes_changes_and_goes(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        key = r.other.identity.static_public.hex()
        name = f"wg-{key[:8]}"
        peer = f"public_key={key}"
        assert await r.set(peer, "update_only=true", "allowed_ip=10.0.0.0/8") == 0
        assert r.specs == {}
        assert await r.set(peer, "endpoint=192.0.2.2:51820", "allowed_ip=10.0.0.0/8") == 0
        assert r.specs[name].allowed_ips == (net("10.0.0.0/8"),)
        assert r.specs[name].origin is Origin.UAPI
        assert r.host.engine.networks[0 + 2] == (net("10.0.0.0/8"),)
        assert r.host.tunnel.networks() == set()  # `wg set` makes no routes
        assert await r.set(peer, "allowed_ip=10.1.0.0/16", "persistent_keepalive_interval=7") == 0
        assert r.specs[name].allowed_ips == (net("10.0.0.0/8"), net("10.1.0.0/16"))
        assert r.specs[name].persistent_keepalive == 7
        assert await r.set(peer, "allowed_ip=-10.0.0.0/8") == 0
        assert r.specs[name].allowed_ips == (net("10.1.0.0/16"),)
        assert await r.set(peer, "replace_allowed_ips=true", "allowed_ip=::/0") == 0
        assert r.specs[name].allowed_ips == (net("::/0"),)
        assert await r.set(peer, "remove=true") == 0
        assert r.specs == {}
        assert await r.set(peer, "remove=true") == 0  # nothing to remove is no fault

    rig(tmp_path, test)


def test_what_stands_before_a_faulty_line_is_done(tmp_path: Path) -> None:
    """As wireguard-go and the kernel do it, and scripts beside them expect."""

    async def test(r: Rig) -> None:
        key = r.other.identity.static_public.hex()
        peer, name = f"public_key={key}", f"wg-{key[:8]}"
        wrong = "persistent_keepalive_interval=65536"
        assert await r.set(peer, "endpoint=192.0.2.2:0", wrong, "allowed_ip=10.0.0.0/8") < 0
        (endpoint,) = r.specs[name].endpoints
        assert (endpoint.host, endpoint.port) == ("192.0.2.2", 0)
        assert r.specs[name].allowed_ips == ()
        assert await r.set("replace_peers=true", "nonsense=1") == -errno.EINVAL
        assert r.specs == {}

    rig(tmp_path, test)


def test_an_endpoint_that_is_set_again_brings_a_roamer_back(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        peer = f"public_key={r.other.identity.static_public.hex()}"
        assert await r.set(peer, "endpoint=192.0.2.2:51820") == 0
        (handle,) = r.host.tunnel.peers
        home = r.host.node.peer_status(handle).endpoint
        assert home is not None
        r.host.node.endpoint_observed(handle, home._replace(port=9), None, r.host.time)
        assert await r.set(peer, "endpoint=192.0.2.2:51820") == 0
        assert r.host.node.peer_status(handle).endpoint == home

    rig(tmp_path, test)


def test_a_network_moves_to_the_peer_that_was_given_it_last(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        third = Host(3, "192.0.2.3")
        keys = [h.identity.static_public.hex() for h in (r.other, third)]
        assert await r.set(f"public_key={keys[0]}", "allowed_ip=10.0.0.0/8") == 0
        assert await r.set(f"public_key={keys[1]}", "allowed_ip=10.0.0.0/8") == 0
        assert r.specs[f"wg-{keys[0][:8]}"].allowed_ips == ()
        assert r.specs[f"wg-{keys[1][:8]}"].allowed_ips == (net("10.0.0.0/8"),)
        assert sorted(r.host.engine.networks.values()) == [(), (net("10.0.0.0/8"),)]
        third.engine.close()

    rig(tmp_path, test)


def test_twenty_thousand_networks_are_set_in_a_moment(tmp_path: Path) -> None:
    """One peer's, then all of them moved to another: neither is quadratic."""

    async def test(r: Rig) -> None:
        lines = [f"allowed_ip=10.{n >> 8}.{n & 255}.0/24" for n in range(20_000)]
        began = time.process_time()
        for key in (OTHER, r.other.identity.static_public.hex()):
            assert await r.set(f"public_key={key}", *lines) == 0
        assert sorted(len(s.allowed_ips) for s in r.specs.values()) == [0, 20_000]
        assert time.process_time() - began < 8

    rig(tmp_path, test)


def test_a_link_local_endpoint_told_without_its_zone_keeps_it(tmp_path: Path) -> None:
    """`wg showconf` tells none, as of wireguard-go, and `wg setconf` of that breaks nothing."""

    async def test(r: Rig) -> None:
        assert await r.set(f"public_key={OTHER}", "endpoint=[fe80::1%lo]:51820") == 0
        assert "endpoint=[fe80::1]:51820" in await r.ask("get=1")
        (name,) = r.specs
        before = r.specs[name].endpoints
        assert await r.set(f"public_key={OTHER}", "endpoint=[fe80::1]:51820") == 0
        assert r.specs[name].endpoints == before
        assert await r.set(f"public_key={OTHER}", "endpoint=[fe80::1]:51821") == 0
        assert r.specs[name].endpoints == (HostPort("fe80::1", 51821, True),)

    rig(tmp_path, test)


def test_replace_peers_keeps_the_session_of_one_that_stays(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        third = Host(3, "192.0.2.3")
        r.host.tunnel.commit(Change(add=[r.other.spec("b"), third.spec("c")]))
        before = r.host.tunnel.by_key(r.other.identity.static_public)
        assert (
            await r.set("replace_peers=true", f"public_key={r.other.identity.static_public.hex()}")
            == 0
        )
        assert list(r.specs) == ["b"]
        assert r.host.tunnel.by_key(r.other.identity.static_public) is before
        third.engine.close()

    rig(tmp_path, test)


def test_a_set_that_the_core_refuses_changes_nothing(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        r.host.tunnel.commit(Change(add=[r.other.spec("b", allowed_ips=(net("10.0.0.0/8"),))]))
        before = r.specs
        third = Host(3, "192.0.2.3")
        number = await r.set(
            f"public_key={third.identity.static_public.hex()}",
            "allowed_ip=10.0.0.0/8",
            "public_key=" + "00" * 32,  # of low order: the core refuses it, last of all
        )
        assert number == -errno.EINVAL
        assert r.specs == before
        assert (net("10.0.0.0/8")) in next(iter(r.host.engine.networks.values()))
        third.engine.close()

    rig(tmp_path, test)


def test_the_private_key_can_only_be_said_again(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        assert await r.set(f"private_key={r.host.identity.static_private.hex()}") == 0
        assert await r.set(f"private_key={OTHER}") == -errno.EINVAL
        assert await r.set(f"private_key={'00' * 32}") == -errno.EINVAL

    rig(tmp_path, test)


def test_port_and_mark(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        assert await r.set("listen_port=51999", "fwmark=9") == 0
        assert {a.port for a, _ in r.host.engine.sockets.values()} == {51999}
        assert r.host.engine.fwmark == 9
        assert "fwmark=9" in await r.ask("get=1")
        r.host.engine.taken_ports = {52000}
        assert await r.set("listen_port=52000", "fwmark=10") == -errno.EADDRINUSE
        assert (r.sockets.port, r.host.engine.fwmark) == (51999, 9)
        r.held = 9  # the default route's rules go by it
        assert await r.set("fwmark=10") == -errno.EBUSY
        assert await r.set("fwmark=0") == 0
        assert r.host.engine.fwmark == 9

    rig(tmp_path, test)


@pytest.mark.parametrize(
    "wrong",
    [
        ("public_key=" + "00" * 32,),
        (f"public_key={OTHER}", "endpoint=[fe80::1%nosuch0]:51820"),
    ],
)
def test_a_set_that_fails_last_keeps_port_and_mark(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    async def test(r: Rig) -> None:
        assert await r.set("fwmark=7") == 0
        assert await r.set("listen_port=51999", "fwmark=9", *wrong) == -errno.EINVAL
        assert (r.sockets.port, r.device.fwmark, r.host.engine.fwmark) == (51820, 7, 7)
        assert {a.port for a, _ in r.host.engine.sockets.values()} == {51820}
        assert r.specs == {}

    rig(tmp_path, test)


def test_our_own_key_among_the_peers_is_passed_over(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        own = r.host.identity.static_public.hex()
        assert await r.set(f"public_key={own}", "allowed_ip=10.0.0.0/8") == 0
        assert r.specs == {}

    rig(tmp_path, test)


@pytest.mark.parametrize("line", ["put=1", "get=2", "", "\x00", "é"])
def test_unknown_operations_are_answered(tmp_path: Path, line: str) -> None:
    async def test(r: Rig) -> None:
        assert int((await r.ask(line))[0].removeprefix("errno=")) < 0

    rig(tmp_path, test)


def test_a_socket_that_somebody_serves_is_left_alone(tmp_path: Path) -> None:
    async def test(r: Rig) -> None:
        second = UapiServer(r.server.path, r.device.view, r.device.change)
        with pytest.raises(AgentError, match="another process serves"):
            await second.start()
        await second.close()
        assert (await r.ask("get=1"))[-1] == "errno=0"
        await r.server.close()
        assert not r.server.path.exists()

    rig(tmp_path, test)
