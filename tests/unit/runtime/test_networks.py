"""Networks of a peer, packed: as a tuple of them in every respect."""

from __future__ import annotations

import sys
from ipaddress import ip_network

import pytest

from whalescale.runtime.networks import Networks

TEXTS = ("10.77.0.2/32", "0.0.0.0/0", "fd00::/8", "2001:db8::7/128", "::/0", "192.168.7.0/24")


@pytest.mark.parametrize("texts", [(), TEXTS[:1], TEXTS, TEXTS[::-1]])
def test_they_come_back_as_they_went_in(texts: tuple[str, ...]) -> None:
    networks = tuple(ip_network(t) for t in texts)
    packed = Networks(networks)
    assert tuple(packed) == networks
    assert packed == networks
    assert packed == Networks(iter(networks))
    assert hash(packed) == hash(networks)
    assert len(packed) == len(networks)
    assert packed[1:] == networks[1:]
    assert all(n in packed for n in networks)
    assert ip_network("10.77.0.3/32") not in packed
    assert packed != Networks([*networks, ip_network("10.1.0.0/16")])


def test_one_address_is_small() -> None:
    one = Networks([ip_network("10.77.0.2/32")])
    assert sys.getsizeof(one) + sys.getsizeof(one._packed) < 100
