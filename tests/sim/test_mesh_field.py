"""What went wrong with others' networks, each case by its name, and hostile members."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mesh_world import S, World, make_base, place_of

from whalescale.identity import Identity
from whalescale.protocol.mesh import frames, records
from whalescale.protocol.mesh.directory import MET_MAX, SEQ_MAX, How
from whalescale.protocol.mesh.entry import key_of
from whalescale.protocol.mesh.network import (
    Mesh,
    MeshSettings,
    Notice,
    SendFrame,
    WantSession,
    Word,
)
from whalescale.protocol.mesh.records import (
    AdminRecord,
    EndpointRecord,
    Kind,
    MemberRecord,
    NetworkRecord,
    RecordError,
    Status,
)
from whalescale.protocol.places import Endpoint

#: the order of Ed25519's base point
ORDER = 2**252 + 27742317777372353535851937790883648493


def made(count: int, neighbours: int = 0, **more) -> World:
    settings = MeshSettings(neighbours=neighbours)
    world = World(make_base(count, **more), settings=settings, keep_events=True)
    for a in range(count):
        for b in range(a):
            world.connect(a, b)
    world.run(3)
    return world


def tell(world: World, to: int, sender: int, *raws: bytes) -> None:
    for frame in frames.update_frames(raws):
        world[to].receive(world[sender].node_id, frame, world.clock(to))
        world.drain(world.members[to])


def words(world: World, number: int) -> list[Word]:
    return [e.word for e in world.members[number].events if isinstance(e, Notice)]


# silence, restarts, clocks


def test_a_minutes_partition_makes_nobody_forget_anybody():
    """wesher#11: both sides dropped each other, and never met again."""
    world = made(6)
    world.group = [0, 0, 0, 1, 1, 1]
    for a in range(3):
        for b in range(3, 6):
            world.cut(a, b)
    world.run(86_400)
    for n in range(6):
        assert len(world[n].membership.actives()) == 6
        assert all(world[n].places(world[m].node_id, world.now) for m in range(6) if m != n)


def test_nothing_that_is_known_expires_on_one_side():
    """EasyTier#2597: metadata of a peer ended on one side while its session lived."""
    world = made(3)
    world.run(30 * 86_400 / 10)
    assert world.alike()
    assert all(world[n].table.count == world.base.table.count for n in range(3))


def test_a_restart_with_a_lower_number_is_told_all_the_same():
    """memberlist PR#345: a node that came back with a lower incarnation stayed dead."""
    world = made(4)
    for move in range(1, 9):
        world.move(3, move)
    world.run(5)
    world.restart(3, ([e.raw for e in world.base.table.entries()], 1))
    world[3].set_places([place_of(3, 99)], world.now)
    world.drain(world.members[3])
    for n in range(3):
        world.connect(n, 3)
    world.run(20)
    for n in range(3):
        record = world[n].table.endpoints(world[3].node_id)
        assert record.places == (place_of(3, 99),)
        assert record.seq >= 10


def test_an_admin_whose_disk_was_put_back_signs_above_what_it_had_signed():
    """Its own newer records outrank what it signs without knowing them, and an address that it has
    given goes to a second machine."""
    world = made(5)

    def let_in(seed: int, name: str) -> bytes:
        mesh, who = world[0], Identity(bytes([seed]) * 32).node_id
        new = MemberRecord(
            mesh.network_id, who, mesh.node_id, 1, Status.ACTIVE, name, True,
            mesh.membership.free_address(),
        )  # fmt: skip
        mesh.admission.issue(new, mesh.identity.seed, world.now)
        world.drain(world.members[0])
        return who

    disk = world.disk(0)
    phone = let_in(201, "phone")
    for name in ("a", "b"):
        world[0].admission.rename(
            world[0].membership.active(world[2].node_id).name, name, world.now
        )
    world.drain(world.members[0])
    world.run(5)
    assert world.alike()
    world.restart(0, disk)
    world[0].admission.rename("m2", "c", world.now)
    tablet = let_in(202, "tablet")
    clash = world[0].membership.active(tablet).address
    assert clash == world[1].membership.active(phone).address
    for n in range(1, 5):
        world.connect(0, n)
    world.run(30)
    assert world.alike()
    record = world[4].membership.active(world[2].node_id)
    assert (record.name, record.generation) == ("c", 4)
    members = {n: world[4].membership.active(n) for n in (phone, tablet)}
    assert members[phone].address == clash != members[tablet].address
    assert all(world[4].membership.address_of(m) for m in members.values())
    # Its person hears of it: once that the disk knew less, and of each that was signed again.
    told = [e for e in world.members[0].events if isinstance(e, Notice)]
    assert [e.word for e in told].count(Word.ADOPTED) == 1
    again = {e.name for e in told if e.word is Word.SIGNED_AGAIN}
    assert again == {"c", "tablet"}
    others = [e for m in world.members[1:] for e in m.events if isinstance(e, Notice)]
    assert not {Word.ADOPTED, Word.SIGNED_AGAIN} & {e.word for e in others}


def test_two_agents_of_an_admins_key_outdo_each_other_a_few_times():
    world = made(3)
    disk = world.disk(0)
    before = world[0].membership.active(world[2].node_id).generation
    world[0].admission.rename("m2", "a", world.now)
    world.restart(0, disk)
    for n in range(40):
        mesh = world[0]
        mine = mesh.membership.active(world[2].node_id)
        other = replace(mine, name=f"o{n}", generation=mine.generation + 1)
        if n == 0:
            mesh.admission.rename("m2", "mine", world.now)
            world.connect(0, 1)
        tell(world, 0, 1, records.encode(other, mesh.identity.seed))
    end = world[0].membership.active(world[2].node_id).generation
    assert end <= before + 1 + 40 + 3
    assert world[0].membership.named("mine") is None


def test_clocks_that_jump_decide_nothing():
    """nebula#797: no clock, or a wrong one: generations and seqs decide alone."""
    world = made(4)
    world.jump(1, 10 * 365 * 86_400)
    world.move(1, 1)
    world.jump(1, 1)
    world.move(2, 1)
    world[0].admission.rename("m3", "moved", world.now)
    world.drain(world.members[0])
    world.run(10)
    assert world.alike()
    assert world[1].membership.named("moved") is not None


def test_a_wan_address_that_changed_replaces_the_one_before():
    """nebula#515: the old address stayed in everybody's cache."""
    world = made(4)
    old = place_of(3).endpoint
    world.move(3, 7)
    world.run(5)
    for n in range(3):
        assert world[n].places(world[3].node_id, world.now) == (place_of(3, 7).endpoint,)
        # Where it was reached last stays first: it may have moved for others alone.
        world[n].met(world[3].node_id, old, How.DIALLED, world.now)
        assert world[n].places(world[3].node_id, world.now)[0] == old


def test_ephemeral_ports_do_not_fill_what_is_kept():
    """tinc PR#388: a NAT's ports took the place of the address that works."""
    world = made(2)
    other = world[1].node_id
    good = Endpoint("203.0.113.9", 51820)
    world[0].met(other, good, How.DIALLED, world.now)
    for n in range(200):
        world[0].met(other, Endpoint("203.0.113.9", 30_000 + n), How.SEEN, world.now + n)
    assert len(world[0].directory.met_places(other)) == MET_MAX
    assert world[0].places(other, world.now)[0] == good


def test_a_peer_that_restarted_is_called_at_once_when_something_changes():
    """tailscale#20268: who waited for its turn did so for a minute."""
    world = made(2, neighbours=4)
    world.group = [0, 1]
    world.cut(0, 1)
    world.run(600)
    assert world[0].recovery.deadline() > world.now + S
    world.members[0].events.clear()
    world[0].host_changed(world.now)
    world.drain(world.members[0])
    world.run(0.5)
    called = [e for e in world.members[0].events if isinstance(e, WantSession)]
    assert [e.node_id for e in called] == [world[1].node_id]


def test_anchors_that_all_die_are_called_until_one_is_back():
    world = made(4, neighbours=4)
    for n in (1, 2, 3):
        world.cut(0, n)
    world.members[0].events.clear()
    world.run(3_600)
    called = [e for e in world.members[0].events if isinstance(e, WantSession)]
    for n in (1, 2, 3):
        times = sum(e.node_id == world[n].node_id for e in called)
        assert 50 < times < 110  # a minute apart at last, give or take a quarter
    assert world[0].membership.active(world[1].node_id) is not None


# hostile members


def test_two_agents_of_one_key_are_both_told():
    """A clone of a disk: both sign, and outdo each other."""
    world = made(4)
    clone = World(world.base, seed=2, keep_events=True)
    twin, told = clone.members[3], []
    for place in range(1, 13):
        world.move(3, place)
        twin.mesh.set_places([place_of(9, place)], world.now)
        while (event := twin.mesh.poll_event()) is not None:
            if isinstance(event, Notice):
                told.append(event.word)
        own = twin.mesh.table.get(records_key(twin.mesh))
        tell(world, 3, 0, own.raw)
        mine = world[3].table.get(records_key(world[3]))
        for frame in frames.update_frames([mine.raw]):
            twin.mesh.receive(world[0].node_id, frame, world.now)
        world.run(1)
    assert Word.CLONED in words(world, 3)
    assert Word.CLONED in told


def records_key(mesh: Mesh) -> int:
    return key_of(Kind.ENDPOINTS, mesh.node_id)


def test_who_claims_anothers_seq_is_not_believed():
    """A hostile member says where another one is, with a seq that nobody can outdo."""
    world = made(4)
    victim, hostile = world[1], world[3]
    record = EndpointRecord(victim.network_id, victim.node_id, SEQ_MAX, (place_of(3),))
    raw = records.encode(record, hostile.identity.seed)
    tell(world, 0, 3, raw)
    assert world[0].drops["record_signature"] == 1
    assert world[0].table.endpoints(victim.node_id).seq == 1


def test_a_clone_that_used_up_the_seq_harms_its_own_key_alone():
    """The last seq there is, signed by our own key elsewhere: nothing fails, it is told."""
    world = made(3)
    last = EndpointRecord(world[2].network_id, world[2].node_id, SEQ_MAX, (place_of(9),))
    tell(world, 2, 0, records.encode(last, world[2].identity.seed))
    world.move(2, 5)
    world.run(5)
    assert world[2].table.endpoints(world[2].node_id).seq == SEQ_MAX
    assert Word.CLONED in words(world, 2)
    assert world.alike()


def test_invented_members_wait_in_a_bounded_place():
    """2,000 member records by an admin that nobody knows."""
    world = made(2)
    stranger = Identity(b"\x66" * 32)
    count = world[0].table.count
    for n in range(2_000 // 50):
        raws = []
        for m in range(50):
            who = (n * 50 + m).to_bytes(4, "big") * 8
            record = MemberRecord(
                world[0].network_id, Identity(who).node_id, stranger.node_id, 1,
                Status.ACTIVE, "x",
            )  # fmt: skip
            raws.append(records._HEAD.pack(3, 1, world[0].network_id) + records._body(record))
        for frame in frames.update_frames(raw + bytes(64) for raw in raws):
            world[0].receive(world[1].node_id, frame, world.now)
        world.run(0.5)
    assert world[0].table.count == count
    assert len(world[0].membership._waiting) <= 64
    assert world[0].drops["record_waiting"] > 0
    # Once its admin is known, what waits is looked at, and does not verify.
    admin = AdminRecord(world[0].network_id, stranger.node_id, 1, Status.ACTIVE)
    world.run(60)
    tell(world, 0, 1, records.encode(admin, b"R" * 32))
    assert world[0].table.count == count + 1


def test_a_hundred_thousand_records_of_one_member_cost_a_bounded_rate():
    """Each newer than the last, and signed: all are true. What is passed on is bounded."""
    world = made(3)
    hostile, sent, taken = world[2], 0, 0
    raws = []
    for seq in range(2, 402):
        places = (place_of(2, seq % 1_000),)
        record = EndpointRecord(hostile.network_id, hostile.node_id, seq, places)
        raws.append(records.encode(record, hostile.identity.seed))
    before = world.members[0].bytes
    for _ in range(4):
        for at in range(0, 400, 4):
            tell(world, 0, 2, *raws[at : at + 4])
        world.run(1)
    sent = world.members[0].bytes - before
    taken = world[0].table.endpoints(hostile.node_id).seq
    assert taken >= 400
    assert sent < 2 * 65_536
    assert world[0].table.count == world.base.table.count


def test_contradictory_records_of_one_seq_end_in_one_state():
    """A member signs two lists with one seq and tells each half of the others one of them."""
    world = made(6)
    hostile = world[5]
    for n in range(5):
        record = EndpointRecord(hostile.network_id, hostile.node_id, 9, (place_of(5, 1 + n % 2),))
        tell(world, n, 5, records.encode(record, hostile.identity.seed))
    world.cut(5, 0)
    world.run(30)
    seen = {world[n].table.endpoints(hostile.node_id).places for n in range(5)}
    assert len(seen) == 1


def test_ancient_records_are_answered_and_not_taken():
    world = made(2)
    old = world[1].table.get(records_key(world[1])).raw
    world.move(1, 4)
    world.run(3)
    sent = world.members[0].frames
    tell(world, 0, 1, old)
    world.run(1)
    assert world[0].table.endpoints(world[1].node_id).seq == 2
    assert world.members[0].frames > sent  # what is newer is told


@pytest.mark.parametrize("change", ["s + order", "low order", "flipped"])
def test_malleable_signatures_are_refused(change):
    """A second signature for one record would make two records of it."""
    base = make_base(2)
    raw = base.raws[3]
    signature = bytearray(raw[-64:])
    if change == "s + order":
        s = int.from_bytes(signature[32:], "little") + ORDER
        signature[32:] = s.to_bytes(32, "little")
    elif change == "low order":
        signature[:32] = bytes(31) + b"\x80"
    else:
        signature[0] ^= 1
    world = World(base)
    mesh = Mesh(base.identities[0], base.network_id, random=world.random.randbytes, now=0)
    mesh.restore(base.raws[:3], 0)
    with pytest.raises(RecordError, match="record_signature"):
        mesh._merge(raw[:-64] + bytes(signature), records.decode(raw), 0)


def test_another_networks_records_are_refused():
    world = made(2)
    other = Identity(b"\x55" * 32)
    net = records.network_id(other.node_id)
    foreign = [
        records.encode(NetworkRecord(net, other.node_id, 9, "evil", None), other.seed),
        records.encode(AdminRecord(net, world[1].node_id, 9, Status.ACTIVE), other.seed),
    ]
    tell(world, 0, 1, *foreign)
    assert world[0].drops["record_network"] == 2
    assert world[0].membership.network.name == "hearth"


def test_replayed_frames_change_nothing_and_cost_little():
    """All that a member ever said, said again a hundred times."""
    world = made(3)
    world.move(2, 1)
    world.run(3)
    root, before = world[0].table.root, world.members[0].bytes
    frames_said = list(frames.update_frames(e.raw for e in world[2].table.entries()))
    for _ in range(100):
        for frame in frames_said:
            world[0].receive(world[2].node_id, frame, world.now)
            world.drain(world.members[0])
        world.run(0.2)
    assert world[0].table.root == root
    assert world.members[0].bytes - before < 20_000


def test_a_revoked_member_that_stays_up_is_heard_by_nobody():
    """nebula#724: its tunnels lived on after its certificate was blocked."""
    world = made(4)
    world[0].admission.revoke("m3", world.now)
    world.drain(world.members[0])
    world.run(2)
    for n in range(3):
        assert world[3].node_id not in world[n].sessions
        before = world[n].drops["mesh_member"]
        tell(world, n, 3, world.base.raws[1])
        assert world[n].drops["mesh_member"] == before + 1
        assert not world[n].directory.is_dialable(world[3].node_id)
    assert Word.REVOKED_SELF in words(world, 3)


def test_a_member_that_is_reached_in_one_direction_only_ends_in_the_right_state():
    """What 2 says arrives, what is said to it does not: it catches up when that is over."""
    world = made(4)
    lost: list[SendFrame] = []
    carry = world._send

    def one_way(member, event):
        if event.node_id == world[2].node_id:
            lost.append(event)
        else:
            carry(member, event)

    world._send = one_way  # type: ignore[method-assign]
    world.move(2, 3)
    world.move(1, 8)
    world.run(120)
    assert world[0].table.endpoints(world[2].node_id).places == (place_of(2, 3),)
    assert world[2].table.endpoints(world[1].node_id).places == (place_of(1),)
    assert sum(len(e.frame) for e in lost) < 20_000
    world._send = carry  # type: ignore[method-assign]
    world.run(420, world.alike)
    assert world.alike()
