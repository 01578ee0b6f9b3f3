"""The agent's network: what it reads back of tickets and places after a restart."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.unit.runtime.fakes import Host
from whalescale.config import NetworkConfig
from whalescale.endpoints import HostPort
from whalescale.identity import Identity
from whalescale.protocol import bootstrap
from whalescale.protocol.mesh.directory import How, Met
from whalescale.protocol.mesh.network import Anchoring
from whalescale.protocol.peer import Peer as Session
from whalescale.protocol.places import Endpoint
from whalescale.runtime import network_store
from whalescale.runtime.dialling import dial
from whalescale.runtime.network import NetworkKeeper, settings_of
from whalescale.runtime.notices import NetworksChanged, Notices
from whalescale.runtime.store import KeptTicket, Store, Timestamps
from whalescale.runtime.tunnel import Change, Origin, PeerSpec

S = 1_000_000_000
TICKET = KeptTicket(b"k" * 32, "laptop", 1, "10.0.0.0/8", 5_000 * S, "boot", 3_600, 1_000, None)


@pytest.fixture
def keeper(tmp_path):
    found = NetworkKeeper("ws0", Identity(b"i" * 32), NetworkConfig(), Notices())
    found._store = Store(tmp_path / "ws0.db")
    yield found
    found._store.close()


@pytest.mark.parametrize(
    ("boot", "clock", "left"),
    [
        ("boot", 9_999, 4_000),  # the boot clock alone counts
        ("another", 1_600, 3_000),
        ("another", 9_999, 0),
        ("another", 7, 3_600),  # a clock set back makes nothing longer than it was
    ],
)
def test_how_long_a_ticket_is_good_yet(keeper, monkeypatch, boot, clock, left):
    keeper._store.put_ticket(TICKET)
    monkeypatch.setattr(network_store.time, "time", lambda: float(clock))
    (found,) = network_store.invites(keeper._store, boot, 1_000 * S)
    assert found.until == 1_000 * S + left * S
    assert found.routes == (ipaddress.ip_network("10.0.0.0/8"),)
    assert (found.name, found.may_anchor, found.used_by) == ("laptop", True, None)


@pytest.mark.parametrize("ip", ["192.0.2.7", "2001:db8::7"])
def test_the_place_that_it_was_reached_at_is_read_back(keeper, ip):
    packed = ipaddress.ip_address(ip)
    head = network_store._HELD.pack(7_200, 51_820, packed.version)
    keeper._store.set_meta(network_store.HELD, head + packed.packed)
    tenure = network_store.tenure(keeper._store, 0)
    assert (tenure.place, tenure.seconds) == (Endpoint(ip, 51_820), 7_200)
    for junk in (b"", head, head + b"123", b"x" * 300):
        keeper._store.set_meta(network_store.HELD, junk)
        assert network_store.tenure(keeper._store, 0) is None


def test_what_a_person_is_warned_of(keeper, monkeypatch):
    """A board without a clock begins in 1970, and a disk is full."""
    assert keeper.warnings() == []
    clock = [1_700_000_000 * S]
    Timestamps(keeper._store, lambda: clock[0])()
    clock[0] = 0
    keeper._wall_clock = Timestamps(keeper._store, lambda: clock[0])
    assert keeper.wall_clock() >= 1_700_000_000 * S
    monkeypatch.setattr(keeper._store, "trouble", "disk full")
    clock_said, disk_said = keeper.warnings()
    assert "behind what it was before: set it" in clock_said
    assert disk_said.endswith("disk full")


class Commits:
    """A tunnel that takes no peer called bad."""

    def __init__(self):
        self.peers = {}
        self.taken: list[list[str]] = []

    def commit(self, change, *, more=False):
        names = [spec.name for spec in change.add]
        if "bad" in names:
            raise ValueError("that cannot be")
        self.taken.append(names)


def test_members_that_changed_together_are_committed_together(keeper, monkeypatch):
    """A start with ten thousand would else look at all peers for each of them."""
    mesh = SimpleNamespace(node_id=b"self", belongs=True)
    known = {b"a": Change(add=[PeerSpec("a")]), b"b": Change(add=[PeerSpec("b")])}
    known |= {b"old": Change(), b"bad": Change(add=[PeerSpec("bad")])}
    monkeypatch.setattr(keeper, "_change", lambda mesh, tunnel, node_id: known[node_id])
    tunnel = Commits()
    keeper._follow_all(mesh, tunnel, [b"a", b"self", b"old", b"b", b"a"])
    assert tunnel.taken == [["a", "b"]]
    keeper._follow_all(mesh, tunnel, [b"old"])
    keeper._follow_all(mesh, tunnel, [])
    assert len(tunnel.taken) == 1
    keeper._follow_all(mesh, tunnel, [b"a", b"bad", b"b"])
    assert tunnel.taken[1:] == [["a"], ["b"]]


def test_settings():
    assert settings_of(NetworkConfig()).anchor is Anchoring.NO
    assert settings_of(NetworkConfig(anchor=True)).anchor is Anchoring.YES
    assert settings_of(NetworkConfig(anchor="auto")).anchor is Anchoring.AUTO
    assert settings_of(NetworkConfig(role="leaf", neighbours=9)).leaf


def test_a_place_is_dialled_from_a_port_of_its_own_and_the_answer_checked():
    """Loopback: a member that answers, one that is another, and nobody."""
    identity, other = Identity(b"1" * 32), Identity(b"2" * 32)
    nonce = b"n" * 32

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            place = Endpoint(*sock.getsockname())

            async def answer() -> None:
                key = bootstrap.mac_key(identity.fingerprint)
                while True:
                    data, where = await loop.sock_recvfrom(sock, 2_048)
                    assert where[1] != place.port
                    await loop.sock_sendto(sock, b"junk", where)
                    remote = Endpoint(*where)
                    try:
                        reply = bootstrap.answer_request(data, key, identity.node_id, remote)
                    except bootstrap.MessageError:
                        continue
                    await loop.sock_sendto(sock, reply, where)

            task = loop.create_task(answer())
            assert await asyncio.wait_for(dial(place, identity.node_id, nonce), 10)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(dial(place, other.node_id, nonce), 0.2)
            task.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dial(place, identity.node_id, nonce), 0.2)

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 30


def test_where_members_were_met_is_kept_while_the_agent_runs(keeper):
    """A power cut took all that it had met since its start."""
    identity = Identity(b"i" * 32)
    met = {b"m" * 32: [Met(Endpoint("192.0.2.7", 7), How.DIALLED, 5 * S)], b"x" * 32: []}
    met[b"gone" * 8] = [Met(Endpoint("192.0.2.9", 9), How.SEEN, 5 * S)]
    keeper.mesh = SimpleNamespace(
        node_id=identity.node_id,
        directory=SimpleNamespace(all_met=lambda: iter(met.items())),
        membership=SimpleNamespace(is_active=lambda n: n != b"gone" * 8),
    )
    now = [40 * S]
    keeper._driver = SimpleNamespace(now=lambda: now[0])
    keeper._write()
    assert [(m.ip, m.how) for m in keeper._store.met_places()] == [("192.0.2.7", How.DIALLED)]
    met[b"x" * 32] = [Met(Endpoint("2001:db8::8", 8), How.SEEN, 41 * S)]
    now[0] = 60 * S
    keeper._write()
    assert len(keeper._store.met_places()) == 1  # so often at most
    now[0] = 75 * S
    keeper._write()
    assert {m.ip for m in keeper._store.met_places()} == {"192.0.2.7", "2001:db8::8"}
    keeper.mesh = None


def test_routes_are_looked_at_when_a_network_changed(keeper):
    looks = []
    keeper._notices.on(NetworksChanged, looks.append)
    tunnel = SimpleNamespace(changes=1)
    for changes in (1, 1, 2):
        tunnel.changes = changes
        keeper._follow_networks(tunnel)
    assert len(looks) == 2


def test_only_other_networks_move_routes():
    """A member that is elsewhere is no reason to look at the routes of ten thousand."""

    async def test() -> None:
        host = Host(1, "192.0.2.1")
        try:
            tunnel = host.tunnel
            spec = PeerSpec("m", node_id=Identity(b"m" * 32).node_id, origin=Origin.MESH)
            tunnel.commit(Change(add=[spec]))
            (peer,) = tunnel.peers.values()
            seen = [tunnel.changes]
            moved = replace(spec, endpoints=(HostPort("192.0.2.9", 7, True),))
            behind = replace(moved, allowed_ips=(ipaddress.ip_network("10.9.0.0/16"),))
            for other in (moved, behind):
                tunnel.commit(Change(update=[(peer, other)]))
                seen.append(tunnel.changes)
            tunnel.commit(Change(remove=[peer]))
            assert [*seen, tunnel.changes] == [1, 1, 2, 3]
        finally:
            host.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("origin", "paths", "moves"),
    [(Origin.MESH, True, False), (Origin.MESH, False, True), (Origin.FILE, True, True)],
)
def test_a_record_does_not_move_what_its_paths_have_found(origin, paths, moves, monkeypatch):
    """A hole that was punched, or an anchor, stands in no record; a person's word is another."""

    async def test() -> None:
        host = Host(1, "192.0.2.1")
        try:
            first, there = (HostPort(f"192.0.2.{n}", 7, True) for n in (8, 9))
            spec = PeerSpec("m", node_id=Identity(b"m" * 32).node_id, origin=origin)
            host.tunnel.commit(Change(add=[replace(spec, endpoints=(first,))]))
            (peer,) = host.tunnel.peers.values()
            found = Endpoint("198.51.100.1", 7)
            host.driver.set_endpoint(peer.handle, found)
            monkeypatch.setattr(host.driver.paths, "has_paths", lambda _: paths)
            monkeypatch.setattr(Session, "has_usable_session", lambda *_: True)
            host.tunnel.commit(Change(update=[(peer, replace(peer.spec, endpoints=(there,)))]))
            at = host.node.peer_status(peer.handle).endpoint
            assert at == (Endpoint("192.0.2.9", 7) if moves else found)
        finally:
            host.close()

    asyncio.run(test())
