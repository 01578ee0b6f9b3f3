"""Which advertised networks lead through the tunnel (whalescale/runtime/accepting.py)."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from whalescale.config import Accept
from whalescale.runtime.accepting import NOWHERE, Accepting, connected
from whalescale.runtime.netlink import LocalAddress


def address(ip: str, length: int, link_local: bool = False) -> LocalAddress:
    return LocalAddress(ip, 2, link_local, length)


CAFE = connected([address("192.168.1.23", 24), address("fd00:1::9", 64), address("10.9.9.9", 32)])


@pytest.mark.parametrize(
    ("network", "taken"),
    [
        ("192.168.7.0/24", True),
        ("192.168.1.0/24", False),  # the cafe's own
        ("192.168.1.128/25", False),  # a part of it
        ("192.168.0.0/16", True),  # the cafe's route is more specific
        ("10.9.9.9/32", True),  # an address by itself is no subnet
        ("fd00:1::/64", False),
        ("fd00:2::/64", True),
        ("203.0.113.0/24", False),
        ("2001:db8::/32", False),
        ("169.254.0.0/16", False),
        ("127.0.0.0/8", False),
        ("0.0.0.0/1", False),  # a default route in pieces
        ("128.0.0.0/1", False),
        ("8000::/1", False),
        ("0.0.0.0/0", False),
        ("::/0", False),
    ],
)
def test_private_networks_elsewhere_are_taken(network: str, taken: bool) -> None:
    assert (Accepting(Accept(), CAFE).refusal(ip_network(network)) == "") is taken


def test_what_is_named_is_taken_where_this_host_is_in_it_too() -> None:
    rule = Accepting(Accept("none", (ip_network("192.168.0.0/16"),)), CAFE)
    wanted = [ip_network(n) for n in ("192.168.1.0/24", "192.168.0.0/16", "10.1.0.0/16", "::/0")]
    assert [str(n) for n in rule.taken(wanted)] == ["192.168.1.0/24", "192.168.0.0/16"]


@pytest.mark.parametrize("text", ["127.0.0.0/8", "169.254.169.254/32", "224.0.0.0/4", "fe80::/64"])
def test_no_word_makes_a_network_without_hosts_one_to_route_to(text: str) -> None:
    network = ip_network(text)
    assert Accepting(Accept("all")).refusal(network) == NOWHERE
    assert Accepting(Accept("none", (network,))).refusal(network) == NOWHERE


def test_all_is_all_but_exits_and_own_networks() -> None:
    rule = Accepting(Accept("all"), CAFE)
    wanted = [ip_network(n) for n in ("0.0.0.0/1", "203.0.113.0/24", "192.168.1.0/24", "0.0.0.0/0")]
    assert [str(n) for n in rule.taken(wanted)] == ["0.0.0.0/1", "203.0.113.0/24"]


def test_each_refusal_says_what_to_do() -> None:
    rule = Accepting(Accept(), CAFE)
    assert "ws route accept 203.0.113.0/24" in rule.refusal(ip_network("203.0.113.0/24"))
    assert "ws exit-node use" in rule.refusal(ip_network("::/0"))
    assert "in it itself" in rule.refusal(ip_network("192.168.1.0/24"))


def test_link_local_subnets_are_nobodys() -> None:
    assert connected([address("fe80::1", 64, link_local=True)]) == ()
