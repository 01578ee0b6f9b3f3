"""A network over real sessions: the mesh as a guest of nodes, frames sealed, carried and lost."""

from __future__ import annotations

import itertools

from eventqueue import MS
from world import Link, World

from whalescale.identity import Identity
from whalescale.protocol.mesh import invite, present, records
from whalescale.protocol.mesh.directory import How
from whalescale.protocol.mesh.entry import key_of
from whalescale.protocol.mesh.guest import MeshGuest
from whalescale.protocol.mesh.network import (
    GuestAdmitted,
    MemberChanged,
    Mesh,
    MeshSettings,
    SendFrame,
    WantSession,
)
from whalescale.protocol.mesh.records import (
    AdminRecord,
    Kind,
    MemberRecord,
    NetworkRecord,
    Status,
)
from whalescale.protocol.parts import PARTS
from whalescale.protocol.places import Endpoint, LocalLink
from whalescale.protocol.types import PeerConfig

ROOT = Identity(b"R" * 32)
NET = records.network_id(ROOT.node_id)


class End:
    """A node with the network as its guest; what the agent does of it, done here."""

    def __init__(self, world, number, raws=()):
        self.world = world
        self.host = world.host(number, parts=(*PARTS, MeshGuest))
        self.identity = self.host.identity
        self.guest = self.host.node.guest(MeshGuest)
        self.peers = {}
        self.sessions_wanted = 0
        if raws:
            self.become(raws)

    def become(self, raws):
        now = self.world.now
        self.mesh = Mesh(
            self.identity,
            NET,
            random=self.world.rng.randbytes,
            now=now,
            settings=MeshSettings(neighbours=4),
        )
        self.mesh.restore(raws, now)
        self.guest.give(self.mesh, lambda: self.world.later(0, self.pump), now)
        at = self.host.at
        link = LocalLink(at.ip, 2, "eth0", 1500, prefix_length=24)
        self.host.node.set_locals([link], at.port, now)
        self.pump()

    def pump(self):
        while (event := self.mesh.poll_event()) is not None:
            if isinstance(event, SendFrame):
                self.guest.send(event.node_id, event.frame)
            elif isinstance(event, MemberChanged):
                self.follow(event.node_id)
            elif isinstance(event, GuestAdmitted):
                self.peers[event.node_id] = self.add(event.node_id, ())
            elif isinstance(event, WantSession) and event.node_id in self.peers:
                self.sessions_wanted += 1
                self.host.node.want_handshake(self.peers[event.node_id], self.world.now)
        self.host.drain()
        self.world.arm(self.host)

    def add(self, node_id, places):
        return self.host.add(node_id=node_id, endpoints=places, persistent_keepalive=25)

    def follow(self, node_id):
        if node_id == self.identity.node_id:
            return
        places = self.mesh.places(node_id, self.world.now)
        handle = self.peers.get(node_id)
        if self.mesh.membership.active(node_id) is None:
            if handle is not None:
                self.host.node.remove_peer(self.peers.pop(node_id), self.world.now)
        elif handle is None:
            self.peers[node_id] = self.add(node_id, places)
        else:
            config = PeerConfig(node_id=node_id, endpoints=places, persistent_keepalive=25)
            self.host.node.update_peer(handle, config, self.world.now)


def begin(world):
    """The first member."""
    world.control = True
    home = End(world, 1)
    node_id, seed = home.identity.node_id, home.identity.seed
    home.become(
        [
            records.encode(NetworkRecord(NET, ROOT.node_id, 1, "hearth", None), ROOT.seed),
            records.encode(AdminRecord(NET, node_id, 1, Status.ACTIVE), ROOT.seed),
            records.encode(MemberRecord(NET, node_id, node_id, 1, Status.ACTIVE, "home"), seed),
        ]
    )
    return home


def let_in(home, world, number, name):
    """As `ws join` does it: the ticket's key asks, the records become the new machine's."""
    made, secret = home.mesh.admission.invite(name, world.now)
    home.pump()
    new = End(world, number)
    ticket = invite.Ticket(NET, home.identity.node_id, secret, 0, (home.host.at,))
    join = invite.encode_join(new.identity.seed, new.identity.node_id, ticket)
    home.mesh.receive(made.one_time, join, world.now)
    keys = home.mesh.admission.welcome(new.identity.node_id)
    home.pump()
    new.become(keys)
    return new


def test_members_find_each_other_over_lossy_links():
    world = World(seed=3, link=Link(delay=(5 * MS, 60 * MS), loss=0.1))
    home = begin(world)
    others = []
    for number, name in ((2, "laptop"), (3, "phone"), (4, "board")):
        others.append(let_in(home, world, number, name))
        world.run(3)
    ends = [home, *others]
    world.run(40)
    names = {"home", "laptop", "phone", "board"}
    for end in ends:
        assert {m.name for m in end.mesh.membership.actives()} == names
    for a, b in itertools.permutations(ends, 2):
        assert b.identity.node_id in a.mesh.sessions
    assert len({e.mesh.table.root for e in ends}) == 1

    # One moves: what it says of itself reaches all, and all follow.
    phone = others[1]
    at = phone.host.at._replace(port=40_000)
    world.move(phone.host, at)
    link = LocalLink(at.ip, 2, "eth0", 1500, prefix_length=24)
    phone.host.node.set_locals([link], at.port, world.now)
    phone.pump()
    world.run(30)
    for end in ends:
        record = end.mesh.table.endpoints(phone.identity.node_id)
        assert [p.endpoint.port for p in record.places] == [40_000]

    # One is revoked: nobody has it as a peer, and it is told.
    home.mesh.admission.revoke("phone", world.now)
    home.pump()
    world.run(5)
    for end in (home, others[0], others[2]):
        assert phone.identity.node_id not in end.peers
        assert phone.identity.node_id not in end.mesh.sessions
    assert phone.mesh.membership.is_revoked(phone.identity.node_id)


def test_a_neighbour_that_is_silent_is_called_again_and_found():
    world = World(seed=4)
    home = begin(world)
    laptop = let_in(home, world, 2, "laptop")
    world.run(5)
    assert home.identity.node_id in laptop.mesh.sessions
    world.passes = lambda *_: False
    before = laptop.sessions_wanted
    handle = laptop.peers[home.identity.node_id]
    laptop.host.send(handle, b"a packet that nobody answers")
    # 15 s until an answer is missed, then three initiations.
    world.run(32)
    assert home.identity.node_id not in laptop.mesh.sessions
    world.run(60)
    assert 2 <= laptop.sessions_wanted - before <= 9
    world.passes = lambda *_: True
    laptop.mesh.host_changed(world.now)
    laptop.pump()
    world.run(7)
    assert home.identity.node_id in laptop.mesh.sessions


def test_two_on_one_link_whose_known_places_are_dead_meet_there():
    """Both came to another place, no anchor lives, nobody tells: what is heard there is enough."""
    world = World(seed=6)
    home = begin(world)
    world.passes = lambda *_: False
    laptop = let_in(home, world, 2, "laptop")
    ends = (home, laptop)
    for number, end in enumerate(ends, start=1):
        at = Endpoint(f"192.168.77.{number}", 51820)
        world.move(end.host, at)
        link = LocalLink(at.ip, 2, "eth0", 1500, prefix_length=24)
        end.host.node.set_locals([link], at.port, world.now)
        end.pump()
    world.run(8)
    world.passes = lambda *_: True
    world.run(4)
    for end, other in (ends, ends[::-1]):
        assert other.host.at not in end.mesh.places(other.identity.node_id, world.now)
        assert not end.mesh.sessions
    dead = Endpoint("192.168.77.9", 51820)
    begun = world.now
    for end, other in (ends, ends[::-1]):
        # One word is right, one is a stranger's or a liar's: a place to try, no more.
        end.mesh.set_near({other.identity.node_id: (dead, other.host.at)}, world.now)
        end.pump()
    while home.identity.node_id not in laptop.mesh.sessions:
        world.run(0.05)
        assert world.now - begun < 2000 * MS
    assert laptop.mesh.directory.places(home.identity.node_id, world.now)[0][1] is How.NEAR
    # A revoked one is near no more.
    home.mesh.admission.revoke("laptop", world.now)
    assert laptop.identity.node_id not in home.mesh.directory.near
    home.mesh.set_near({laptop.identity.node_id: (dead,)}, world.now)
    assert not home.mesh.directory.near


def test_after_a_suspend_the_neighbours_are_called_at_once():
    world = World(seed=5)
    home = begin(world)
    laptop = let_in(home, world, 2, "laptop")
    world.run(5)
    world.passes = lambda *_: False
    laptop.host.send(laptop.peers[home.identity.node_id], b"a packet that nobody answers")
    world.run(120)
    assert home.identity.node_id not in laptop.mesh.sessions
    assert laptop.mesh.recovery.deadline() > world.now + 2000 * MS
    before = laptop.sessions_wanted
    world.passes = lambda *_: True
    laptop.host.node.woke(world.now)
    laptop.host.drain()
    world.arm(laptop.host)
    world.run(0.5)
    assert laptop.sessions_wanted == before + 1
    world.run(6)
    assert home.identity.node_id in laptop.mesh.sessions


def test_frames_before_a_network_are_counted():
    world = World()
    home = begin(world)
    other = End(world, 2)
    handle = other.add(home.identity.node_id, (home.host.at,))
    home.peers[other.identity.node_id] = home.add(other.identity.node_id, ())
    other.host.node.want_handshake(handle, world.now)
    other.host.drain()
    world.arm(other.host)
    world.run(2)
    home.guest.send(other.identity.node_id, b"\x17\x01\x04\x00")
    home.host.drain()
    world.run(1)
    assert other.host.node.drops["mesh_none"] == 1
    # Nor is a peer by hand a member.
    other.guest.send(home.identity.node_id, b"\x17\x01\x04\x00")
    other.host.drain()
    world.run(1)
    assert home.mesh.drops["mesh_member"] == 1


def test_a_member_that_nobody_told_of_presents_itself():
    """Home has let the phone in and is gone: the laptop has not heard of it."""
    world = World(seed=6)
    home = begin(world)
    laptop = let_in(home, world, 2, "laptop")
    world.run(10)
    for end in (home, laptop):
        for node_id in list(end.mesh.sessions):
            end.mesh.session_down(node_id, world.now)
    world.passes = lambda *_: False
    phone = let_in(home, world, 3, "phone")
    assert laptop.mesh.membership.active(phone.identity.node_id) is None
    # It knows of the laptop, from its invitation.
    entry = home.mesh.table.get(key_of(Kind.MEMBER, laptop.identity.node_id))
    where = home.mesh.table.get(key_of(Kind.ENDPOINTS, laptop.identity.node_id))
    phone.mesh.restore([entry.raw, where.raw], world.now)
    phone.pump()
    away = home.host.at
    world.passes = lambda source, target, *_: away not in (source, target)
    sent = []
    carry = world.carry
    world.carry = lambda a, b, data: (sent.append((a, data)), carry(a, b, data))[-1]
    world.run(8)
    assert laptop.mesh.membership.active(phone.identity.node_id).name == "phone"
    assert phone.identity.node_id in laptop.mesh.sessions
    brought = [len(data) for at, data in sent if at == phone.host.at and data[0] == 0x59]
    assert brought.count(580) == len(brought) >= 1
    assert not any(data[0] == 0x59 for at, data in sent if at == laptop.host.at)
    # Who was met is not presented to again.
    before = len(brought)
    phone.host.node.begin_anew(world.now)
    phone.host.drain()
    world.arm(phone.host)
    world.run(5)
    assert sum(d[0] == 0x59 and at == phone.host.at for at, d in sent) == before


def test_what_is_presented_makes_nobody_a_member_that_no_admin_let_in():
    """Forged, revoked, of another kind; and more of them than are opened."""
    world = World(seed=7)
    home = begin(world)
    target = home.identity
    stranger = Identity(b"s" * 32)

    def show(*raws):
        return present.encode(raws, target.fingerprint, target.static_public, world.rng.randbytes)

    own = MemberRecord(NET, stranger.node_id, stranger.node_id, 1, Status.ACTIVE, "evil")
    forged = records.encode(own, stranger.seed)
    admin = AdminRecord(NET, stranger.node_id, 1, Status.ACTIVE)
    claimed = records._HEAD.pack(2, 1, NET) + records._body(admin) + bytes(64)
    network = home.mesh.table.get(key_of(Kind.NETWORK, b"")).raw
    count, remote = home.mesh.table.count, Endpoint("198.51.100.9", 9)
    for raws in ((forged,), (claimed, forged), (network[:-1] + b"x",)):
        home.host.node.receive_datagram(show(*raws), remote, home.host.at, world.now)
    assert home.mesh.table.count == count
    assert home.mesh.membership.active(stranger.node_id) is None
    assert home.mesh.drops["record_signature"] == 1
    assert home.mesh.drops["record_kind"] == 1
    drops = home.host.node.drops
    for _ in range(100):
        home.host.node.receive_datagram(show(forged), remote, home.host.at, world.now)
    assert drops["present_rate"] >= 70
    home.host.node.receive_datagram(bytes((0x59, 0, 0, 0)) + bytes(576), remote, None, world.now)
    assert drops["present_mac"] == 1
    assert home.host.node.poll_transmit() is None
