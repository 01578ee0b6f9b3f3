"""Where no peer can be, and what the core makes of it."""

from __future__ import annotations

import ipaddress
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whalescale.identity import Identity
from whalescale.protocol.control import FrameType, frame_type
from whalescale.protocol.inside import Inside, Network, decide
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.node import Node, PeerConfig
from whalescale.protocol.paths import frames
from whalescale.protocol.paths.frames import Announce, Entry, EntryKind
from whalescale.protocol.paths.manager import PathManager
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import MultipathSettings, SendPathControl
from whalescale.protocol.places import Endpoint, LocalLink


def nets(*texts: str) -> list[Network]:
    return [ipaddress.ip_network(t) for t in texts]


def said(
    own: Sequence[str] = (),
    others: Iterable[Sequence[str]] = (),
    allowed: Iterable[Sequence[str]] = (),
    links: Sequence[str] = (),
    endpoints: Sequence[str] = (),
) -> Inside:
    return decide(
        nets(*own), [nets(*o) for o in others], [nets(*a) for a in allowed], nets(*links), endpoints
    )


def test_the_tunnels_networks_and_allowed_ips() -> None:
    found = said(
        own=["10.77.0.0/24", "fd77::/64"],
        others=[["10.78.0.0/24"]],
        allowed=[["192.168.7.0/24"], ["10.77.0.2/32", "2001:db8:7::/48"]],
    )
    for ip in ("10.77.0.1", "10.77.0.9", "fd77::2", "10.78.0.3", "192.168.7.7", "2001:db8:7::1"):
        assert found.holds(ip), ip
    assert found.holds("::ffff:10.77.0.9"), "IPv4-mapped"
    assert found.holds("fd77:6861:6c65::1"), "any node's overlay address"
    for ip in ("10.76.0.1", "192.168.8.1", "198.51.100.7", "2001:db8:8::1", "fe80::1", "no ip"):
        assert not found.holds(ip), ip


@pytest.mark.parametrize(
    "default",
    [
        ["0.0.0.0/0", "::/0"],
        ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"],
        # All but the private ones, as calculators of allowed IPs print it.
        [
            *("0.0.0.0/5", "8.0.0.0/7", "11.0.0.0/8", "12.0.0.0/6", "16.0.0.0/4", "32.0.0.0/3"),
            *("64.0.0.0/2", "128.0.0.0/3", "160.0.0.0/5", "168.0.0.0/6", "192.0.0.0/9", "2000::/3"),
        ],
    ],
)
@pytest.mark.parametrize("of", ["allowed", "others"])
def test_with_a_default_route_through_a_tunnel_peers_are_everywhere(
    default: list[str], of: str
) -> None:
    """They may roam as ever: our datagrams go round the tunnel, or by the other one."""
    found = said(own=["10.77.0.0/24"], **{of: [[*default, "192.168.7.0/24"]]})  # type: ignore[arg-type]
    for ip in ("198.51.100.7", "9.9.9.9", "193.0.0.1", "2001:db8::1", "192.168.8.1"):
        assert not found.holds(ip), ip
    for ip in ("10.77.0.1", "192.168.7.7"):
        assert found.holds(ip), ip


def test_the_longest_match_is_as_in_the_routing_table() -> None:
    """A company's 10.0.0.0/8 behind a peer, and this host in a subnet of it."""
    found = said(allowed=[["10.0.0.0/8"]], links=["10.1.2.0/24", "198.51.100.0/24"])
    assert not found.holds("10.1.2.9")
    assert found.holds("10.1.3.9")
    # Of two that are alike the tunnel's has the better metric.
    assert said(allowed=[["192.168.1.0/24"]], links=["192.168.1.0/24"]).holds("192.168.1.1")
    # A wider link is no reason against.
    assert said(allowed=[["10.1.2.0/24"]], links=["10.0.0.0/8"]).holds("10.1.2.9")
    deep = said(own=["10.0.0.0/8"], links=["10.1.0.0/16"], allowed=[["10.1.2.0/24"]])
    assert [deep.holds(f"10.{n}") for n in ("2.0.1", "1.9.1", "1.2.1")] == [True, False, True]


def test_what_the_user_names_goes() -> None:
    found = said(allowed=[["203.0.113.0/24", "10.9.9.9/32"]], endpoints=["203.0.113.7", "10.9.9.9"])
    assert not found.holds("203.0.113.7")
    assert not found.holds("10.9.9.9")
    assert found.holds("203.0.113.8")


ANY = st.builds(
    lambda number, length: ipaddress.ip_network((number << 20 | 0x0A000000, length), strict=False),
    st.integers(0, 15),
    st.sampled_from([8, 10, 11, 12, 31, 32]),
)


@given(
    st.lists(ANY, max_size=3),
    st.lists(st.lists(ANY, max_size=2), max_size=6),
    st.lists(ANY, max_size=3),
    st.lists(st.integers(0, 15), max_size=4),
)
def test_leaving_out_what_says_nothing_new_changes_no_answer(
    own: list[Network], allowed: list[list[Network]], links: list[Network], named: list[int]
) -> None:
    """Against the rule itself: the longest match over all that was given, outside last."""
    hosts = [str(ipaddress.ip_address(n << 20 | 0x0A000000)) for n in named]
    inside = {*own, *(n for networks in allowed for n in networks)}
    outside = {n for n in links if n not in inside} | {ipaddress.ip_network(h) for h in hosts}
    found = decide(own, (), allowed, links, hosts)
    for number in range(16):
        for last in (0, 1, 2):
            address = ipaddress.ip_address(number << 20 | 0x0A000000 | last)
            rules = [(n.prefixlen, n in outside) for n in inside | outside if address in n]
            assert found.holds(str(address)) == (not max(rules, default=(0, True))[1])


def test_what_is_said_already_is_not_said_again() -> None:
    """Both ways, and in a second or so for the most peers that there can be (each against each
    other would take minutes)."""
    found = said(own=["10.77.0.0/16"], allowed=[["10.77.1.1/32"], ["10.78.0.0/24"]])
    assert set(found.inside) == set(nets("10.77.0.0/16", "10.78.0.0/24", "fd77:6861:6c65::/48"))
    assert said(links=["198.51.100.0/24"], endpoints=["192.0.2.1"]).outside == ()
    allowed = [[ipaddress.IPv4Network((0x0A000000 + n, 32))] for n in range(65536)]
    began = time.process_time()
    many = decide(nets("10.77.0.0/24"), (), allowed, (), ())
    assert time.process_time() - began < 15
    assert many.holds("10.0.255.255")
    assert not many.holds("10.1.0.0")


# the core


ME, PEER = Identity(bytes([1]) * 32), Identity(bytes([2]) * 32)
HERE, THERE, WITHIN = (
    Endpoint("192.0.2.1", 51820),
    Endpoint("192.0.2.2", 51820),
    Endpoint("10.77.0.2", 51820),
)
NOW = 1000 * NS_PER_S
RULE = said(own=["10.77.0.0/24"], allowed=[["192.168.7.0/24"]])


def core(identity: Identity, other: Identity, *endpoints: Endpoint, **keys: bytes) -> Node:
    node = Node(identity, random=os.urandom, wall_clock=time.time_ns)
    node.add_peer(PeerConfig(**(keys or {"node_id": other.node_id}), endpoints=endpoints), NOW)  # type: ignore[arg-type]
    while node.poll_event() is not None:
        pass
    return node


def one(node: Node) -> bytes:
    transmit = node.poll_transmit()
    assert transmit is not None
    return transmit.data


def test_no_message_from_inside_is_looked_at() -> None:
    """Initiation, response, cookie reply, bootstrap request and reply."""
    me, peer = core(ME, PEER), core(PEER, ME, HERE)
    me.set_inside(RULE, NOW)
    peer.set_inside(RULE, NOW)
    peer.want_handshake(1, NOW)
    initiation = one(peer)
    me.receive_datagram(initiation, WITHIN, HERE, NOW)
    assert me.poll_transmit() is None
    assert me.peer_status(1).endpoint is None
    me.under_load = True
    me.receive_datagram(initiation, THERE, HERE, NOW)
    cookie_reply = one(me)
    me.under_load = False
    me.receive_datagram(initiation, THERE, HERE, NOW)
    response = one(me)
    for message in (cookie_reply, response):
        peer.receive_datagram(message, WITHIN, THERE, NOW)
    assert peer.peer_status(1).session_created is None
    assert peer.drops == Counter(inside=2)
    assert me.drops["inside"] == 1
    peer.receive_datagram(response, HERE, THERE, NOW)
    assert peer.peer_status(1).endpoint == HERE

    stranger = core(PEER, ME, HERE, fingerprint=ME.fingerprint)
    stranger.set_inside(RULE, NOW)
    stranger.want_handshake(1, NOW)
    request = one(stranger)
    me.receive_datagram(request, WITHIN, HERE, NOW)
    assert me.poll_transmit() is None
    me.receive_datagram(request, THERE, HERE, NOW)
    reply = one(me)
    stranger.receive_datagram(reply, WITHIN, THERE, NOW)
    assert stranger.poll_transmit() is None
    assert stranger.drops == Counter(inside=1)


def test_a_roam_to_inside_is_not_followed_and_what_the_user_says_is() -> None:
    me = core(ME, PEER, THERE)
    me.set_inside(RULE, NOW)
    me.endpoint_observed(1, WITHIN, HERE, NOW)
    assert me.peer_status(1).endpoint == THERE
    me.set_endpoint(1, WITHIN, NOW)
    assert me.peer_status(1).endpoint == WITHIN


def manager(rule: Inside, links: Sequence[LocalLink]) -> PathManager:
    made = PathManager(
        MultipathSettings(), os.urandom, HERE.port, tuner=PathTuner, inside=rule.holds
    )
    made.set_locals(links, NOW)
    made.primary(THERE, HERE, NOW)
    made.session_started(NOW)
    return made


def probed(made: PathManager) -> tuple[set[str], list[Announce]]:
    """Remote IPs that got a path within 20 s, and what was announced."""
    now, ips, said = NOW, set(), []
    while (due := made.deadline()) is not None and due < NOW + 20 * NS_PER_S:
        now = max(now, due)
        made.handle_timeout(now)
        ips |= {status.remote.ip for status in made.status()}
        while (action := made.poll_action()) is not None:
            if isinstance(action, SendPathControl):
                kind = frame_type(action.frame)
                if kind is FrameType.PATH_ANNOUNCE:
                    said.append(frames.decode_announce(action.frame)[0])
    return ips, said


def test_addresses_inside_are_neither_announced_nor_tried_nor_observed() -> None:
    links = [
        LocalLink(HERE.ip, 2, "eth0", 1500, prefix_length=24),
        LocalLink("192.168.7.9", 3, "tun7", 1400, prefix_length=24),
    ]
    outside, inside = Endpoint("198.51.100.2", 51820), Endpoint("192.168.7.2", 51820)
    announce = Announce(
        1, tuple(Entry(e, EntryKind.INTERFACE, n) for n, e in enumerate((outside, inside, WITHIN)))
    )
    for rule, expected in ((RULE, {THERE.ip, outside.ip}), (Inside(), None)):
        made = manager(rule, links)
        made.receive(frames.encode_announce(announce), 0, THERE, HERE, 200, NOW)
        for remote in (inside, WITHIN):
            made.path_moved(1, remote, HERE, NOW)
        ips, said = probed(made)
        announced = {entry.endpoint.ip for a in said for entry in a.entries}
        if expected is None:
            assert {inside.ip, WITHIN.ip} & ips, "the test sees them where nothing is said"
            assert "192.168.7.9" in announced
        else:
            assert ips == expected
            assert announced == {HERE.ip}
            assert made.drops["path_address"] == 2


def test_a_path_that_is_inside_from_now_on_is_left() -> None:
    rule = [Inside()]

    def inside(ip: str) -> bool:
        return rule[-1].holds(ip)

    made = PathManager(
        MultipathSettings(),
        os.urandom,
        HERE.port,
        tuner=PathTuner,
        inside=inside,
    )
    links = [LocalLink(HERE.ip, 2, "eth0", 1500, prefix_length=24)]
    made.set_locals(links, NOW)
    made.primary(THERE, HERE, NOW)
    made.session_started(NOW)
    made.path_moved(1, WITHIN, HERE, NOW)
    assert WITHIN in {s.remote for s in made.status()}
    rule.append(RULE)
    made.set_locals(links, NOW)
    assert {s.remote for s in made.status()} == {THERE}
