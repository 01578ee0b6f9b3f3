"""Anchors: proved by dialling back, watched by each other, missed when they die."""

from __future__ import annotations

import pytest
from mesh_world import S, World, make_base, place_of, seed_of

from whalescale.identity import Identity
from whalescale.protocol.mesh import anchors, dialback, duties, frames
from whalescale.protocol.mesh.anchors import Advice, Tenure
from whalescale.protocol.mesh.dialback import Proof
from whalescale.protocol.mesh.directory import How
from whalescale.protocol.mesh.frames import By, DialBack, Dialled, Outcome
from whalescale.protocol.mesh.network import (
    Anchoring,
    DialPlace,
    HeldStored,
    MappedDialled,
    MeshSettings,
    Notice,
    SendFrame,
    Word,
)
from whalescale.protocol.mesh.records import Place, PlaceKind
from whalescale.protocol.mesh.recovery import closeness
from whalescale.protocol.places import Endpoint

YES = MeshSettings(neighbours=4, anchor=Anchoring.YES)
#: with one neighbour of its choice, so that there is somebody whom it never sent to
ALONE = MeshSettings(neighbours=1, anchor=Anchoring.YES)
AUTO = MeshSettings(neighbours=1, anchor=Anchoring.AUTO)


def begin(count: int, pairs=None, **settings: MeshSettings) -> World:
    """`pairs` with sessions; None: all. `m0=YES` and so on: settings of single members."""
    # In a chain nobody calls anybody, but who is to be an anchor.
    neighbours = MeshSettings(neighbours=0 if pairs is CHAIN else 4)
    world = World(make_base(count), settings=neighbours, keep_events=True)
    for a in range(count):
        world[a].set_places([place_of(a)], world.now)
    for name, own in settings.items():
        world[int(name[1:])].configure(own, world.now)
    for member in world.members:
        world.drain(member)
    for a in range(count):
        for b in range(a):
            if pairs is None or (b, a) in pairs or (a, b) in pairs:
                world.connect(a, b)
    return world


def events(world: World, number: int, kind: type) -> list:
    return [e for e in world.members[number].events if isinstance(e, kind)]


def proof(world: World, number: int) -> Proof:
    return world[number].duties.prover.proof_of(place_of(number).endpoint)


_FIRST, _ONE, _TWO = (Identity(seed_of(n)).node_id for n in (1, 2, 3))
NEAR, FAR = (1, 2) if closeness(_FIRST, _ONE) < closeness(_FIRST, _TWO) else (2, 1)
#: 0 chooses NEAR and never sends to FAR
CHAIN = {(0, NEAR), (NEAR, FAR)}


@pytest.mark.parametrize(
    ("lets", "expected"),
    [("open", Proof.ANYBODY), ("address", Proof.PORTS), ("port", Proof.NONE)],
)
def test_an_anchor_is_proved_by_who_it_never_sent_to(lets, expected):
    """FAR dials; if that fails, NEAR does from another port. A public address that a firewall
    guards ("port"), where inside and outside ports are the same, is not reached by anybody.
    """
    world = begin(3, CHAIN, m0=ALONE)
    world.filters[0] = lets
    world.run(20)
    assert proof(world, 0) is expected
    assert {n for n, _, _ in world.dialled} == ({FAR} if lets == "open" else {NEAR, FAR})
    record = world[FAR].table.endpoints(world[0].node_id)
    assert (record.anchor, record.proved) == (True, expected is not Proof.NONE)
    # A filter that is opened later is noticed, and a proof tried again within the hour.
    world.filters[0] = "open"
    world.run(5_000)
    assert proof(world, 0) is Proof.ANYBODY
    assert len(world.dialled) < 16


def test_where_all_are_neighbours_another_port_is_what_can_be_tried():
    world = begin(3, None, m0=YES)
    world.filters[0] = "address"
    world.run(30)
    assert proof(world, 0) is Proof.PORTS


def test_a_proof_that_fails_three_times_is_none_any_more():
    world = begin(3, CHAIN, m0=ALONE)
    world.run(20)
    assert proof(world, 0) is Proof.ANYBODY
    world.filters[0] = "port"
    standing = world[0].duties.prover.standings[place_of(0).endpoint]
    world.run(6_000, lambda: standing.fails == 1)
    assert proof(world, 0) is Proof.ANYBODY
    world.run(600, lambda: standing.fails == dialback.FAILS)
    assert proof(world, 0) is Proof.NONE
    world.run(5)
    assert not world[1].table.endpoints(world[0].node_id).proved


def test_nobody_is_dialled_for_who_does_not_want_to_be_an_anchor():
    world = begin(3, CHAIN)
    world.run(600)
    assert world.dialled == []


@pytest.mark.parametrize(("lets", "outside"), [("open", True), ("port", True), ("port", False)])
def test_a_mapped_place_is_dialled_back_and_counts_or_is_given_up(lets, outside):
    """Of who is no anchor, too. Who dials in vain from behind the same router says nothing."""
    world = begin(3)
    mapped = Place(place_of(0).endpoint, PlaceKind.MAPPED)
    world.filters[0] = lets
    for n in (1, 2):
        met = place_of(n).endpoint if outside else Endpoint(mapped.endpoint.ip, n)
        world[0].directory.met(world[n].node_id, met, How.SEEN, world.now)
    world[0].set_places([mapped], world.now)
    world.drain(world.members[0])
    world.run(20)
    said = [(e.place, e.reached) for e in events(world, 0, MappedDialled)]
    assert said == ([(mapped.endpoint, True)] if lets == "open" else [])
    world.run(300)
    said = [(e.place, e.reached) for e in events(world, 0, MappedDialled)]
    assert said == ([(mapped.endpoint, lets == "open")] if outside else [])
    assert len(world.dialled) < 20


def answers(world: World, number: int, sender: int, frame: DialBack, remote=None) -> list:
    """What that member answers, and dials, to a frame of another's."""
    member = world.members[number]
    member.mesh.receive(world[sender].node_id, frames.encode(frame), world.now, remote)
    found = []
    while (event := member.mesh.poll_event()) is not None:
        if isinstance(event, DialPlace):
            found.append(event.place)
        elif isinstance(event, SendFrame):
            said = frames.decode(event.frame)
            if isinstance(said, Dialled):
                found.append(said.outcome)
    world.drain(member)
    return found


def test_nothing_is_dialled_at_a_third_party():
    world = begin(4, None)
    world.run(5)
    victim, own = Place(Endpoint("192.0.2.66", 53)), place_of(0)
    elsewhere = Endpoint("198.51.100.7", 4_000)
    me, third = world[0].node_id, world[3].node_id
    token = bytes(8)
    for by in By:
        assert answers(world, 1, 0, DialBack(by, token, me, victim)) == [Outcome.NOT_YOURS]
        world.run(60)
    # Another member's place is none of its own either, whoever names it, and by whatever name.
    for node_id in (me, third):
        wanted = DialBack(By.YOU, token, node_id, place_of(3))
        assert answers(world, 1, 0, wanted) == [Outcome.NOT_YOURS]
    # Where its frame came from it may be dialled; not by others, who cannot know.
    wanted = DialBack(By.YOU, token, me, Place(elsewhere))
    assert answers(world, 1, 0, wanted, elsewhere) == [elsewhere]
    wanted = DialBack(By.ANOTHER, token, me, Place(elsewhere))
    assert answers(world, 1, 0, wanted, elsewhere) == [Outcome.NOT_YOURS]
    assert answers(world, 1, 0, DialBack(By.YOU, token, me, own)) == [own.endpoint]
    # Inside the tunnel is nowhere.
    inside = Place(Endpoint("10.64.0.2", 51820))
    assert answers(world, 1, 0, DialBack(By.YOU, token, me, inside)) == [Outcome.NOT_YOURS]


def test_dialling_for_others_is_bounded():
    """A member that asks without end; then all of them at once."""
    world = begin(12, None)
    world.run(5)
    done = 0
    for n in range(600):
        world.run(0.1)
        wanted = DialBack(By.YOU, n.to_bytes(8, "big"), world[0].node_id, place_of(0))
        found = answers(world, 1, 0, wanted)
        done += found != [Outcome.BUSY]
    assert 6 <= done <= 10  # three, and one each 10 s
    assert world[1].drops["mesh_dial"] > 500
    world.run(60)
    found = []
    for n in range(2, 12):
        wanted = DialBack(By.YOU, bytes(8), world[n].node_id, place_of(n))
        found += answers(world, 1, n, wanted)
    assert sum(isinstance(f, Endpoint) for f in found) == dialback.AT_ONCE
    # One member is not dialled for many others at a time.
    third, first = world[2], world[0]
    for n in (3, 4):
        world.cut(2, n)
    third.duties._contacts.clear()
    for n in range(12):
        if n != 2:
            world.cut(2, n)
    third.duties._contacts.clear()
    for n in (3, 4):
        world.connect(2, n)
    passed = DialBack(By.PASSED, bytes(8), first.node_id, place_of(0))
    assert [answers(world, 2, n, passed)[-1] for n in (3, 4)] == [
        place_of(0).endpoint,
        Outcome.BUSY,
    ]


def test_a_leaf_does_nothing_for_others():
    leaf = MeshSettings(neighbours=4, leaf=True)
    world = begin(5, {(0, 1), (0, 4), (4, 1), (4, 2), (2, 3)}, m4=leaf, m0=YES, m1=YES)
    world.run(5)
    assert len(world[4].chosen) == 2
    assert world[4].chosen == {world[0].node_id, world[1].node_id}
    wanted = DialBack(By.YOU, bytes(8), world[0].node_id, place_of(0))
    assert answers(world, 4, 0, wanted) == [Outcome.BUSY]
    # It passes no rumour on, but what it is asked for, and revocations.
    sent = world.members[4].bytes
    world.move(0, 7)
    world.run(3)
    assert world.members[4].bytes - sent < 200
    world[0].admission.revoke("m3", world.now)
    world.drain(world.members[0])
    world.run(1)
    assert world[2].membership.is_revoked(world[3].node_id)


# by itself


def test_auto_becomes_an_anchor_after_a_day_at_one_place_and_is_none_when_it_moves():
    world = begin(3, CHAIN, m0=AUTO)
    day = anchors.STABLE // S
    world.run(day - 600)
    assert not world[1].table.endpoints(world[0].node_id).anchor
    world.run(1_200)
    record = world[1].table.endpoints(world[0].node_id)
    assert (record.anchor, record.proved) == (True, True)
    assert [n.word for n in events(world, 0, Notice) if n.word is Word.ANCHOR] == [Word.ANCHOR]
    held = events(world, 0, HeldStored)
    assert held[-1].place == place_of(0).endpoint
    assert day - 1_300 < held[-1].seconds < day + 1_300
    world.move(0, 5)
    world.run(60)
    assert not world[1].table.endpoints(world[0].node_id).anchor
    assert events(world, 0, Notice)[-1].word is Word.ANCHOR_NOT


def test_auto_needs_a_public_place():
    """192.168.1.2 may be reached by the whole site, and is no use to anybody else."""
    world = begin(3, CHAIN)
    world[0].configure(AUTO, world.now)
    private = Place(Endpoint("192.168.1.2", 51820))
    world[0].set_places([private], world.now)
    prover = world[0].duties.prover
    world.drain(world.members[0])
    prover.standings[private.endpoint].proof = Proof.ANYBODY
    world.run(anchors.STABLE / S + 3_600)
    assert not world[0].duties.is_one


def test_tenure_goes_on_after_a_short_absence_and_a_restart():
    here, there = Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 1)
    tenure = Tenure(now=0)
    tenure.follow({here}, 0)
    tenure.follow({here}, 3_600 * S)
    assert tenure.seconds == 3_600
    tenure.follow(set(), 3_700 * S)
    tenure.follow({there}, 3_800 * S)  # not yet: it may come back
    tenure.follow({here}, 3_900 * S)
    assert (tenure.place, tenure.seconds) == (here, 3_700)
    tenure = Tenure(here, 3_700, 0)  # kept on the disk
    assert not tenure.is_stable
    tenure.follow({here}, 60 * S)
    tenure.follow({here}, 120 * S)
    assert tenure.seconds == 3_760
    tenure.follow(set(), 130 * S)
    tenure.follow({there}, 130 * S + anchors.AWAY)
    assert (tenure.place, tenure.seconds) == (there, 0)


# watched


def test_an_anchor_that_dies_is_missed_within_ten_seconds_by_all():
    world = begin(8, None, m0=YES, m1=YES)
    world.run(40)
    dead = world[1].node_id
    assert all(len(world[n].anchors().alive) == 2 for n in range(8))
    world.group[1] = 1  # nothing of it gets through any more; sessions are not told
    others = [n for n in range(8) if n != 1]
    seconds = world.run(30, lambda: all(dead not in world[n].sessions for n in others))
    assert seconds < 13
    assert all(world[n].anchors().advice is Advice.LAST for n in others)
    world.run(10)
    said = [e.name for e in events(world, 3, Notice) if e.word is Word.ANCHORS]
    assert said[-1] == Advice.LAST.value
    # It is back: who talks to it again first has the others call it.
    world.group[1] = 0
    world.run(30)
    for n in others:
        world.connect(n, 1)
    world.run(10)
    assert all(len(world[n].anchors().alive) == 2 for n in range(8))
    said = [e.name for e in events(world, 3, Notice) if e.word is Word.ANCHORS]
    assert said[-1] != Advice.LAST.value


def test_what_one_anchor_says_of_another_is_looked_at_and_not_believed():
    world = begin(4, None, m0=YES, m1=YES)
    world.run(5)
    lie = frames.encode(frames.AnchorState(world[1].node_id, alive=False))
    for _ in range(100):
        world[3].receive(world[0].node_id, lie, world.now)
        world.drain(world.members[3])
        world.run(0.2)
    assert world[1].node_id in world[3].sessions
    before = world[3].drops["mesh_claim"]
    for about in (2, 3):  # no anchors
        said = frames.encode(frames.AnchorState(world[about].node_id, alive=False))
        world[3].receive(world[0].node_id, said, world.now)
    world[3].receive(world[2].node_id, lie, world.now)  # nor is the sender one
    assert world[3].drops["mesh_claim"] == before + 3
    # A lie a fifth of a second costs a question in 5 s.
    asked = world.members[3].frames
    for _ in range(50):
        world[3].receive(world[0].node_id, lie, world.now)
        world.drain(world.members[3])
        world.run(0.2)
    assert world.members[3].frames - asked < 20


def test_watching_costs_two_anchors_a_kilobyte_a_minute():
    world = begin(2, None, m0=YES, m1=YES)
    world.run(60)
    before = world.members[0].bytes
    world.run(600)
    assert (world.members[0].bytes - before) / 10 < 1_100


def test_no_anchor_at_all_is_said_once():
    world = begin(3, None)
    world.run(300)
    said = [e.name for e in events(world, 0, Notice) if e.word is Word.ANCHORS]
    assert said == [Advice.NONE.value]


def test_the_only_anchor_that_dies_is_missed_and_said_within_ten_seconds():
    """No other anchor watches it, so its members do; a leaf, which may be a telephone, does not."""
    world = begin(6, None, m0=YES, m5=MeshSettings(leaf=True))
    world.run(40)

    def said(number: int) -> str:
        found = [e.name for e in events(world, number, Notice) if e.word is Word.ANCHORS]
        return found[-1] if found else ""

    assert said(1) == Advice.LAST.value
    world.group[0] = 1  # sessions are not told
    seconds = world.run(30, lambda: all(said(n) == Advice.NONE.value for n in range(1, 5)))
    assert seconds < 10.1
    assert world[0].node_id in world[5].sessions  # its own timers say so later
    # It is back, and missed no more.
    world.group[0] = 0
    for n in range(1, 5):
        world.connect(n, 0)
    world.run(10)
    assert all(said(n) == Advice.LAST.value for n in range(1, 5))


def test_the_only_anchor_of_many_is_watched_by_some_of_them(monkeypatch):
    monkeypatch.setattr(duties, "LONE_WATCHERS", 8)
    world = begin(60, [(0, n) for n in range(1, 60)], m0=YES)
    world.run(10)
    watchers = [n for n in range(1, 60) if world[n].duties.watch.deadline() is not None]
    assert 2 <= len(watchers) <= 20
