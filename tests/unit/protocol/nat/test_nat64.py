"""IPv4 addresses in IPv6 ones, as RFC 6052 and RFC 7050 have them."""

from __future__ import annotations

import asyncio
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
        part = Nat64(lookup, told.append)
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
