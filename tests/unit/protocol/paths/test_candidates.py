"""Which pairs of addresses are worth a probe."""

from __future__ import annotations

import pytest

from whalescale.protocol.candidates import (
    MAX_CANDIDATES,
    NO_LINK,
    Remote,
    Source,
    candidates,
    reachable,
)
from whalescale.protocol.paths.frames import Entry
from whalescale.protocol.paths.probing import MAX_OBSERVED, PROBE_DATAGRAM, Book
from whalescale.protocol.places import Endpoint, LocalLink

PORT = 51820


def local(ip, ifindex=2, interface="eth0"):
    return LocalLink(ip, ifindex, interface, 1500, ip.startswith("fe80"))


def announced(ip, link=0):
    return Remote(Endpoint(ip, PORT), Source.ANNOUNCED, link)


def found(links, remotes):
    return [(c.local.ip, c.remote.ip) for c in candidates(links, PORT, remotes)]


NOBODYS = (
    "0.0.0.0 127.0.0.1 224.0.0.1 255.255.255.255 240.0.0.1 0.1.2.3 "
    ":: ::1 ff02::1 ::ffff:10.0.0.1 fec0::1 x"
)


@pytest.mark.parametrize("ip", NOBODYS.split())
def test_addresses_that_no_other_host_has(ip):
    assert not reachable(Endpoint(ip, PORT))
    assert found([local("10.0.0.1"), local("2001:db8::1")], [announced(ip)]) == []


def test_ports():
    assert reachable(Endpoint("192.0.2.1", 1))
    assert not reachable(Endpoint("192.0.2.1", 0))
    assert not reachable(Endpoint("192.0.2.1", 65536))


def test_only_one_family_makes_a_pair():
    links = [local("10.0.0.1"), local("2001:db8::1")]
    remotes = [announced("10.0.0.2"), announced("2001:db8::2")]
    pairs = [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")]
    assert sorted(found(links, remotes)) == pairs


def test_link_local_addresses_stay_on_their_link():
    links = [local("fe80::1", 2, "eth0"), local("fe80::9", 3, "eth1"), local("2001:db8::1")]
    pairs = candidates(links, PORT, [announced("fe80::2")])
    assert {(c.local, c.remote) for c in pairs} == {
        (Endpoint("fe80::1", PORT, 2), Endpoint("fe80::2", PORT, 2)),
        (Endpoint("fe80::9", PORT, 3), Endpoint("fe80::2", PORT, 3)),
    }
    zoned = Remote(Endpoint("fe80::2", PORT, 3), Source.CONFIGURED)
    assert [c.local.ip for c in candidates(links, PORT, [zoned])] == ["fe80::9"]


def test_our_own_address_is_no_peer():
    assert found([local("10.0.0.1"), local("10.1.0.1", 3)], [announced("10.1.0.1")]) == []


def test_same_subnet_first_then_ipv6_then_ipv4_then_private_networks_elsewhere():
    links = [local("192.168.1.5"), local("2600::5")]
    remotes = [
        announced("10.0.0.7", 1),
        announced("8.8.4.4", 2),
        announced("2601::7", 3),
        announced("192.168.1.7", 4),
    ]
    assert [remote for _, remote in found(links, remotes)] == [
        "192.168.1.7",
        "2601::7",
        "8.8.4.4",
        "10.0.0.7",
    ]


def test_each_pair_of_interfaces_has_its_first_before_any_has_its_second():
    links = [local(f"10.0.0.{k}", 2, "eth0") for k in range(1, 4)] + [local("10.1.0.1", 3, "eth1")]
    remotes = [announced("10.0.0.9", 0), announced("10.1.0.9", 1)]
    first = candidates(links, PORT, remotes)[:4]
    assert {(c.link.interface, c.remote_link) for c in first} == {
        (i, n) for i in ("eth0", "eth1") for n in (0, 1)
    }


def test_at_most_sixty_four():
    links = [local(f"10.{k}.0.1", k + 2, f"eth{k}") for k in range(20)]
    remotes = [announced(f"10.{k}.0.2", k % 15) for k in range(16)]
    assert len(candidates(links, PORT, remotes)) == MAX_CANDIDATES


def test_those_in_use_are_not_cut():
    links = [local(f"10.{k}.0.1", k + 2, f"eth{k}") for k in range(20)]
    remotes = [announced(f"10.{k}.0.2", k % 15) for k in range(16)]
    everything = [("10.19.0.1", Endpoint(f"10.{k}.0.2", PORT)) for k in range(16)]
    first = {c.pair for c in candidates(links, PORT, remotes)}
    keep = [pair for pair in everything if pair not in first]
    assert keep
    kept = candidates(links, PORT, remotes, keep)
    assert len(kept) == MAX_CANDIDATES
    assert {c.pair for c in kept} >= set(keep)
    assert kept[0].pair == candidates(links, PORT, remotes)[0].pair


def test_announced_link_local_addresses_come_last():
    links = [local("fe80::1"), local("2600::5"), local("192.168.1.5")]
    remotes = [
        announced("fe80::7", 1),
        announced("10.0.0.7", 1),  # the second best of this interface goes before it too
        announced("2601::7", 1),
        Remote(Endpoint("fe80::8", PORT, 2), Source.OBSERVED, 2, "fe80::1"),
    ]
    assert [remote for _, remote in found(links, remotes)] == [
        "fe80::8",
        "2601::7",
        "10.0.0.7",
        "fe80::7",
    ]


def test_another_link_of_a_known_pair_is_noted_and_no_more(monkeypatch):
    book = Book(links=(local("10.0.0.1"), local("10.0.0.3", 3, "eth1")), port=PORT)
    pair = ("10.0.0.1", Endpoint("10.0.0.2", 999))
    memory = book.observe(pair, 3, 0)
    assert memory.candidate.remote_link == 3
    monkeypatch.setattr(Book, "refresh", lambda *_: pytest.fail("all candidates anew"))
    for link in (4, 5, NO_LINK):
        assert book.observe(pair, link, 1) is memory
    assert memory.candidate.remote_link == 5
    monkeypatch.undo()
    book.refresh(2)
    assert book.entries[pair].candidate.remote_link == 5


@pytest.mark.parametrize("named", [True, False])
def test_a_pair_that_both_ends_spent_their_bytes_on_is_tried_again(named):
    """Its link was dead meanwhile. Where the peer announced it too, a round is paid for, as of a
    pair that was never heard of; else only what comes from there pays."""
    book = Book(links=(local("10.0.0.1"),), port=PORT)
    there = Endpoint("10.0.0.2", PORT)
    if named:
        book.announced = (Entry(there),)
    memory = book.observe(("10.0.0.1", there), 1, 0)
    memory.heard(100, 0)
    memory.begin()
    assert not memory.unasked
    for _ in range(300 // PROBE_DATAGRAM):
        assert memory.spend(PROBE_DATAGRAM)
    assert not memory.spend(PROBE_DATAGRAM)
    assert memory.unasked
    memory.begin()
    assert [memory.spend(PROBE_DATAGRAM) for _ in range(6)] == [named] * 5 + [False]


def test_an_announced_link_local_pair_is_asked():
    """Its zone is ours, not the announcement's."""
    book = Book(links=(local("fe80::1", 2, "eth0"),), port=PORT)
    book.announced = (Entry(Endpoint("fe80::2", PORT)),)
    book.refresh(0)
    (memory,) = book.entries.values()
    memory.begin()
    assert memory.spend(PROBE_DATAGRAM)


def test_observed_pairs_that_are_paths_stay():
    keep = ("10.0.0.1", Endpoint("10.0.0.2", 1))
    book = Book(links=(local("10.0.0.1"),), port=PORT, in_use=lambda: {keep})
    for port in range(1, 100):
        book.observe(("10.0.0.1", Endpoint("10.0.0.2", port)), NO_LINK, port)
    assert len(book.observed) == MAX_OBSERVED
    assert keep in book.entries
    assert book.entries[keep].candidate.source is Source.OBSERVED


def test_an_observed_pair_is_of_the_address_that_it_was_seen_at():
    links = [local("10.0.0.1"), local("10.1.0.1", 3, "eth1")]
    seen = Remote(Endpoint("203.0.113.5", 999), Source.OBSERVED, 2, "10.1.0.1")
    assert found(links, [seen]) == [("10.1.0.1", "203.0.113.5")]


def test_one_address_on_two_interfaces_makes_two_pairs():
    """Two modems of one make give the host the same address."""
    links = [local("192.168.8.100", 4, "usb0"), local("192.168.8.100", 7, "usb1")]
    pairs = candidates(links, PORT, [announced("192.0.2.1")])
    assert [c.local for c in pairs] == [Endpoint("192.168.8.100", PORT, n) for n in (4, 7)]
    assert len({c.pair for c in pairs}) == 2
    (alone,) = candidates(links[:1], PORT, [announced("192.0.2.1")])
    assert alone.local == Endpoint("192.168.8.100", PORT)
