"""IPv4 addresses in IPv6 ones, as RFC 6052 and RFC 7050 have them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Network

import pytest

from whalescale.protocol.nat import nat64
from whalescale.protocol.places import Endpoint, LocalLink
from whalescale.runtime.nat64 import Nat64
from whalescale.runtime.part import Here

#: RFC 6052 section 2.4
TABLE = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
]


async def _silence(_: object) -> None:
    await asyncio.Event().wait()


SIX = LocalLink("2001:db8::7", 2, "eth0", 1500, prefix_length=64)
FOUR = LocalLink("192.168.1.7", 2, "eth0", 1500, prefix_length=24)


@pytest.mark.parametrize(("prefix", "address"), TABLE)
def test_every_length_of_the_table(prefix: str, address: str) -> None:
    network = IPv6Network(prefix)
    made = nat64.synthesize(network, IPv4Address("192.0.2.33"))
    assert made == IPv6Network(address).network_address
    name = nat64.synthesize(network, IPv4Address("192.0.0.170"))
    assert nat64.prefixes([str(name)]) == (network,)


def test_what_is_no_nat64s_gives_no_prefix() -> None:
    answers = ["192.0.0.170", "2001:db8::1", "64:ff9b::c000:221", "nonsense", "::"]
    assert nat64.prefixes(answers) == ()
    both = ["64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171"]
    assert nat64.prefixes(both) == (nat64.WELL_KNOWN,)


def test_places_of_a_site_do_not_go_by_the_well_known_prefix() -> None:
    told = (Endpoint("5.6.7.8", 1), Endpoint("192.168.1.2", 1), Endpoint("2001:db8::1", 1))
    assert nat64.with_synthesized(told, [nat64.WELL_KNOWN]) == (
        Endpoint("64:ff9b::506:708", 1),
        *told,
    )
    own = IPv6Network("2001:db8:64::/96")
    assert Endpoint("2001:db8:64::c0a8:102", 1) in nat64.with_synthesized(told, [own])


def test_asked_on_a_host_with_ipv6_alone() -> None:
    told: list[object] = []
    asked: list[str] = []

    async def lookup(name: str, port: int) -> list[Endpoint]:
        asked.append(name)
        return [Endpoint("64:ff9b::192.0.0.170", port), Endpoint("192.0.0.170", port)]

    async def run() -> None:
        part = Nat64(lookup, told.append, advertisements=_silence)
        part.follow(Here((), (SIX, FOUR), 1))
        await asyncio.sleep(0)
        assert not asked
        for _ in range(2):
            part.follow(Here((), (SIX,), 1))
            await asyncio.sleep(0.01)
        assert asked == [nat64.NAME]
        assert told == [(nat64.WELL_KNOWN,)]
        assert part.status() == {"prefixes": ["64:ff9b::/96"]}
        part.follow(Here((), (SIX, FOUR), 1))
        assert told[-1] == ()
        await part.close()

    asyncio.run(run())


def option(prefix: str, seconds: int, code: int | None = None) -> bytes:
    """RFC 8781 section 4."""
    network = IPv6Network(prefix)
    code = nat64.LENGTHS.index(network.prefixlen) if code is None else code
    head = bytes((38, 2)) + (seconds // 8 << 3 | code).to_bytes(2)
    return head + network.network_address.packed[:12]


#: a resolver's address (RFC 8106), as it stands beside
RDNSS = bytes.fromhex("1903000000000708") + bytes(16)


@pytest.mark.parametrize("length", nat64.LENGTHS)
def test_an_advertised_prefix_of_every_length(length: int) -> None:
    prefix = IPv6Network(("2001:db8:122:344::", length), strict=False)
    options = RDNSS + option(str(prefix), 1800)
    assert nat64.advertised(options) == [(prefix, 1800)]


@pytest.mark.parametrize(
    "options",
    [
        b"",
        b"\x26",
        b"\x26\x00" + bytes(14),  # no length: the end, not for ever
        option("64:ff9b::/96", 1800)[:15],
        option("64:ff9b::/96", 1800, 6),
        option("64:ff9b::/96", 1800, 7),
        option("ff02::/96", 1800),
        option("fe80::/64", 1800),
        option("::/96", 1800),
        b"\x26\x03" + bytes(22),
    ],
)
def test_advertised_nonsense_is_left_out(options: bytes) -> None:
    assert nat64.advertised(options) == []


def test_a_router_that_advertises_without_end_is_remembered_in_bounds() -> None:
    known = nat64.Advertised()
    for n in range(10_000):
        known.heard(n % 300, option(f"2001:db8:{n:x}::/96", 65528) * 40, n)
    assert len(known.good(range(300), 10_000)) == nat64.PREFIXES_MAX
    assert len(known._until) <= 8


def test_advertised_prefixes_come_first_and_end() -> None:
    """By their lifetime, by the router's word, and for another interface they are none."""
    told: list[Sequence[IPv6Network]] = []
    clock, hear = [0], []
    ours, other = "2001:db8:64::/96", "2001:db8:65::/96"

    async def lookup(name: str, port: int) -> list[Endpoint]:
        raise OSError("no resolver")

    async def advertisements(heard: Callable[[int, bytes], None]) -> None:
        hear.append(heard)
        await asyncio.Event().wait()

    async def run() -> None:
        part = Nat64(lookup, told.append, lambda: clock[0], advertisements)
        part.follow(Here((), (SIX,), 1))
        await asyncio.sleep(0.01)
        (heard,) = hear
        heard(SIX.ifindex + 1, option(other, 1800))
        assert told == []
        heard(SIX.ifindex, option(ours, 1800))
        assert told == [(IPv6Network(ours),)]
        heard(SIX.ifindex, option(ours, 0))
        assert told[-1] == ()
        heard(SIX.ifindex, option(ours, 8))
        assert told[-1] == (IPv6Network(ours),)
        clock[0] = 9 * 10**9
        part._settle()
        assert told[-1] == ()
        await part.close()

    asyncio.run(run())
