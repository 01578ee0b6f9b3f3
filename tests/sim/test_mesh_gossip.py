"""How fast a network of a thousand members learns, and what it costs (docs/mesh.md section 11).

Time and bytes are virtual: frames as they are before encryption, 5 to 40 ms each way. With -s the
tests print the figures; `-m long` has ten thousand members.
"""

from __future__ import annotations

import time

import pytest
from mesh_world import MS, S, World, make_base, place_of

from whalescale.protocol.mesh.gossip import ROUND
from whalescale.protocol.mesh.records import EndpointRecord, encode

#: members that can be dialled, of a thousand: the others choose their neighbours among them
HUBS = 50


@pytest.fixture(
    scope="module",
    params=[1_000, pytest.param(10_000, marks=pytest.mark.long)],
    ids=["thousand", "ten thousand"],
)
def world(request):
    return made(request.param)


def made(count):
    world = World(make_base(count))
    for a, b in world.graph(4, HUBS * count // 1000):
        world.connect(a, b)
    world.run(30)
    return world


def say(what: str, **figures: float) -> None:
    print(f"\n{what}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))


def test_a_change_is_known_to_all_but_one_in_a_thousand(world):
    count, before = len(world.members), world.sent()
    mover = count - 1
    node_id = world[mover].node_id
    world.move(mover, 1)

    def known() -> bool:
        knowing = sum(m.mesh.table.endpoints(node_id).seq == 2 for m in world.members)
        return knowing >= 0.999 * count

    seconds = world.run(30, known)
    assert known()
    rounds = seconds * S / ROUND
    world.run(30, world.alike)
    assert world.alike()
    say("a change", rounds=rounds, seconds=seconds, bytes_a_member=(world.sent() - before) / count)
    assert rounds <= 15


def test_nothing_changes(world):
    world.run(60)
    neighbours = (n for m in world.members for n in m.mesh.gossip.neighbours.values())
    assert not any(n.knows for n in neighbours)  # who has what is kept while it is passed on
    before = world.sent()
    world.run(600)
    each = (world.sent() - before) / len(world.members) / 10
    say("nothing changes", bytes_a_member_and_minute=each)
    assert each <= 2_000


def test_a_revocation_reaches_all(world):
    before = world.sent()
    victim = world[5].node_id
    world[0].admission.revoke("m5", world.now)
    world.drain(world.members[0])
    members = [m.mesh for m in world.members if m.mesh.node_id != victim]

    def done() -> bool:
        return all(m.membership.active(victim) is None for m in members)

    seconds = world.run(10, done)
    assert done()
    assert not any(victim in m.sessions for m in members)
    say("a revocation", seconds=seconds, bytes_a_member=(world.sent() - before) / len(members))
    assert seconds <= 10


@pytest.mark.parametrize(
    "count", [200, *(pytest.param(n, marks=pytest.mark.long) for n in (1_000, 10_000))]
)
def test_a_partition_heals(count):
    """A third cut off for an hour, a hundred changes each side (of ten thousand members)."""
    world = made(count)
    changes = min(100, count // 20)
    cut = range(0, count, 3)
    for n in cut:
        world.group[n] = 1
    broken = [
        (m.number, world.numbers[s])
        for m in world.members
        for s in m.mesh.sessions
        if world.group[m.number] < world.group[world.numbers[s]]
    ]
    for a, b in broken:
        world.cut(a, b)
    others = [n for n in range(count) if n % 3]
    for n in range(changes):
        world.move(cut[n], 1_000 + n)
        world.move(others[n], 1_000 + n)
    world.run(3_600)
    assert not world.alike()
    before = world.sent()
    world.group = [0] * count
    for a, b in broken:
        world.connect(a, b)
    seconds = world.run(60, world.alike)
    say("a partition", seconds=seconds, bytes_a_member=(world.sent() - before) / count)
    assert world.alike()


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_one_difference(count):
    """Two members, so many records each, one of them another: found and mended."""
    base = make_base(count // 2)
    world = World(base, delay=lambda _: 50 * MS)
    identity = base.identities[400]
    record = EndpointRecord(base.network_id, identity.node_id, 2, (place_of(400, 9),))
    raw = encode(record, identity.seed)
    world[0].restore([raw], world.now)
    assert world[0].table.root != world[1].table.root
    start = world.now
    world.connect(0, 1)
    while world[0].table.root != world[1].table.root and world.now < start + 5 * S:
        world.run(0.01)
    trips = (world.now - start) / S / 0.1
    total = world.members[0].bytes + world.members[1].bytes
    say("one difference", records=world[0].table.count, bytes=total, round_trips=trips)
    assert world[0].table.root == world[1].table.root
    assert trips <= 5
    assert total <= 2_000


def test_a_new_member_is_told_all():
    """Who knows nothing is told everything, at a bounded rate."""
    base = make_base(400)
    world = World(base)
    world.restart(1, (base.raws[:4], 0))
    assert world[1].table.count == 4
    world.connect(0, 1)
    seconds = world.run(60, lambda: world[0].table.root == world[1].table.root)
    sent = world.members[0].bytes
    say("a new member", seconds=seconds, bytes=sent, records=world[0].table.count)
    assert world[0].table.root == world[1].table.root
    assert sent < 1.3 * sum(map(len, base.raws))


def test_members_without_sessions_cost_little():
    """Python's own memory for a member that is only known."""
    import tracemalloc

    count = 1_000
    raws = list(make_base(count).raws)
    world = World(make_base(2))
    tracemalloc.start()
    start = time.perf_counter()
    before = tracemalloc.get_traced_memory()[0]
    mesh = world[0]
    mesh.restore((), world.now, checked=(bytes(r) + b"" for r in map(bytearray, raws)))
    each = (tracemalloc.get_traced_memory()[0] - before) / (count - 2)
    tracemalloc.stop()
    say("memory", bytes_a_member=each, seconds=time.perf_counter() - start)
    assert mesh.table.count == len(raws)
    assert each <= 1_300  # the last 512 records stay decoded
