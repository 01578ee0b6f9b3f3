"""Which of our addresses others are told, in which order, and what others' words say of a NAT."""

from __future__ import annotations

from ipaddress import ip_network
from types import SimpleNamespace

import pytest

from whalescale.protocol.fresh import Fresh
from whalescale.protocol.guest import Observation
from whalescale.protocol.inside import Inside
from whalescale.protocol.mesh.guest import _places
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.mapping import MappingKind, mappings
from whalescale.protocol.nat.punching import Budget, Round
from whalescale.protocol.paths.announce import Announcer
from whalescale.protocol.places import Endpoint, LocalLink, Standing
from whalescale.runtime.netlink import standing_of

S = 1_000_000_000
NOW = 10**12


def link(ip, standing=Standing.STABLE):
    return LocalLink(ip, 2, "eth0", 1500, prefix_length=64, standing=standing)


LINKS = (
    link("2a00::bad", Standing.DEPRECATED),
    link("2a00::7e", Standing.TEMPORARY),
    link("2a00::1"),
    link("192.168.1.2"),
)


def test_temporary_addresses_are_named_last_and_deprecated_ones_never():
    """tailscale-rs#417."""
    named = [place.endpoint.ip for place in _places(LINKS, 51820)]
    assert named == ["2a00::1", "2a00::7e", "192.168.1.2"]
    announcer = Announcer()
    announcer.begin(NOW)
    announcer.update(LINKS, 51820, (), NOW)
    said = announcer.next(NOW)
    assert said is not None
    assert [entry.endpoint.ip for entry in said.entries] == named


@pytest.mark.parametrize(
    ("version", "flags", "standing"),
    [
        (6, 0x80, Standing.STABLE),
        (6, 0x01, Standing.TEMPORARY),
        (6, 0x21, Standing.DEPRECATED),
        (6, 0x20, Standing.DEPRECATED),
        (4, 0x01, Standing.STABLE),  # a second address of its subnet
    ],
)
def test_what_the_kernel_says_of_an_address(version, flags, standing):
    assert standing_of(version, flags) is standing


def seen(by, at, local="192.168.1.2", peer=1):
    ip, port = at.split(":")
    return Observation(peer, local, Endpoint(by, 51820), Endpoint(ip, int(port)))


@pytest.mark.parametrize(
    ("said", "kind", "observers"),
    [
        ([seen("5.6.0.1", "5.7.0.1:7"), seen("5.6.0.2", "5.7.0.1:7")], MappingKind.SAME, 2),
        ([seen("5.6.0.1", "5.7.0.1:7"), seen("5.6.0.2", "5.7.0.1:8")], MappingKind.OTHER, 2),
        ([seen("5.6.0.1", "5.7.0.1:7"), seen("5.6.0.2", "5.7.0.2:7")], MappingKind.SEVERAL, 2),
        ([seen("5.6.0.1", "5.7.0.1:7"), seen("5.6.0.1", "5.7.0.1:8")], MappingKind.UNKNOWN, 1),
        # One on our LAN and one behind our own address say nothing.
        ([seen("5.6.0.1", "5.7.0.1:7"), seen("192.168.1.9", "192.168.1.2:7")], "unknown", 1),
        ([seen("5.6.0.1", "5.7.0.1:7"), seen("5.7.0.1", "5.7.0.1:9")], "unknown", 1),
        ([seen("5.6.0.1", "5.7.0.1:7", "5.7.0.1")], MappingKind.NONE, 1),
    ],
)
def test_how_ports_are_mapped(said, kind, observers):
    [found] = mappings(said)
    assert (found.kind, found.observers) == (MappingKind(kind), observers)


def test_an_observer_that_lies_says_nothing():
    lies = ("127.0.0.1:7", "224.0.0.1:7", "10.0.0.1:7", "0.0.0.0:7")
    assert mappings([seen("5.6.0.1", at) for at in lies]) == ()


LIES = (
    *("127.0.0.1:7", "224.0.0.1:7", "0.0.0.0:7", "255.255.255.255:7", "240.0.0.1:7", "5.7.0.1:0"),
    *("169.254.1.1:7", "10.99.0.2:7", "::1:7", "ff02::1:7", "fe80::1:7", "fd77:6861::2:7", ":::7"),
)


def test_where_observers_cannot_have_seen_us_is_told_to_nobody():
    """Loopback, multicast, the overlay: not in PATH_ANNOUNCE, nor in a call."""
    inside = Inside([ip_network("10.99.0.0/24"), ip_network("fd77:6861::/48")])
    claims = tuple(Endpoint(ip, int(port)) for ip, _, port in (at.rpartition(":") for at in LIES))
    announcer = Announcer(inside.holds)
    announcer.begin(NOW)
    announcer.update(LINKS[3:], 51820, tuple(("eth0", claim) for claim in claims), NOW)
    said = announcer.next(NOW)
    assert [entry.endpoint.ip for entry in said.entries] == ["192.168.1.2"]

    host = SimpleNamespace(observations=lambda: [Observation(1, "", claims[0], c) for c in claims])
    signalling = Signalling(host)
    signalling.inside_changed(inside, NOW)
    signalling.locals_changed(LINKS[3:], 51820, NOW)
    assert [place.endpoint.ip for place in signalling.places()] == ["192.168.1.2"]
    assert mappings(host.observations()) == ()


def test_the_budget_of_a_node():
    fresh, sent = Fresh(), []
    for n in range(4000):
        at = NOW + n * S // 20
        if fresh.allow(Endpoint(f"9.9.{n // 250}.{n % 250}", 9), at, punch=n % 2 == 0):
            sent.append(at)
    assert 100 < len(sent) < 140
    assert all(late - early >= S for early, late in zip(sent, sent[5:], strict=False))
    assert all(late - early >= 60 * S for early, late in zip(sent, sent[60:], strict=False))
    assert fresh.allowed == len(sent)
    assert fresh.refused == 4000 - len(sent)


def test_a_round_is_short_and_what_was_missed_is_not_made_up_for():
    places = ((Endpoint("9.9.9.9", 9), True), (Endpoint("8.8.8.8", 8), False))
    run, budget = Round(places, NOW), Budget(Fresh().allow)
    vouched = unvouched = 0
    while run.due_at is not None:
        sent = run.take(budget, run.due_at)
        vouched += places[0] in sent
        unvouched += places[1] in sent
    assert (vouched, unvouched) == (11, 2)
    late = Round(places, NOW)
    assert len(late.take(Budget(Fresh().allow), NOW + 3 * S)) == 2
    assert late.due_at == NOW + 7 * S // 2
