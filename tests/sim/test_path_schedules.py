"""Path managers over random link schedules: what must hold whatever the links do."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from eventqueue import MS, SECOND
from pathworld import PORT, PathWorld, link

from tests.params import first
from whalescale.protocol.paths.frames import (
    Announce,
    Entry,
    EntryKind,
    Probe,
    encode_announce,
    encode_probe,
)
from whalescale.protocol.paths.probing import PROBE_DATAGRAM
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import PathState, Pin
from whalescale.protocol.places import Endpoint


def subnets(count, **settings):
    """Hosts joined by `count` networks that no router joins."""
    world = PathWorld(1, count, count, **settings)
    for k in range(count):
        world.join(f"10.{k}.0.1", f"10.{k}.0.2")
    world.a.busy = world.b.busy = True
    world.begin()
    return world


def pairs(side):
    return sorted(side.used)


def works(world, side):
    """Pairs over which this side's datagrams arrive."""
    return {
        (one.ip, other.ip)
        for one in side.links
        for other in (world.b if side is world.a else world.a).links
        if (way := world.find(one.ip, other.ip)) is not None and way.up
    }


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_separate_subnets_make_as_many_paths(count):
    world = subnets(count)
    world.run(0.1)
    assert pairs(world.a) == [(f"10.{k}.0.1", f"10.{k}.0.2") for k in range(count)]
    assert pairs(world.b) == [(f"10.{k}.0.2", f"10.{k}.0.1") for k in range(count)]
    world.run(120)
    assert len(world.a.used) == len(world.b.used) == count
    assert not world.a.manager.drops
    assert not world.b.manager.drops
    assert not [e for _, e in world.a.events if e.state is PathState.FAILED]


def test_a_router_between_the_subnets_makes_no_more_paths():
    world = PathWorld(1, 3, 3)
    for one in range(3):
        for other in range(3):
            world.join(f"10.{one}.0.1", f"10.{other}.0.2", delay=(10 + (one != other)) * MS)
    world.a.busy = world.b.busy = True
    world.begin()
    for _ in range(60):
        world.run(1)
        for side in (world.a, world.b):
            locals_, remotes = zip(*side.used, strict=True)
            assert len(side.used) == len(set(locals_)) == len(set(remotes)) == 3
    assert pairs(world.a) == [(f"10.{k}.0.1", f"10.{k}.0.2") for k in range(3)]


@pytest.mark.parametrize(("near", "far"), [(2, 1), (1, 2), (3, 1), (1, 4)])
def test_a_host_with_one_link_uses_every_link_of_the_other(near, far):
    world = PathWorld(1, near, far)
    for one in range(near):
        for other in range(far):
            world.join(f"10.{one}.0.1", f"10.{other}.0.2", delay=(5 + 7 * one + 5 * other) * MS)
    world.a.busy = world.b.busy = True
    world.begin()
    world.run(2)
    assert len(world.a.used) == len(world.b.used) == max(near, far)


def test_two_addresses_of_an_interface_are_one_path():
    world = PathWorld(1, 1, 1)
    for side, host in ((world.a, 1), (world.b, 2)):
        first = side.links[0]
        side.links.append(first._replace(ip=f"fd00::{host}"))
    world.join("10.0.0.1", "10.0.0.2", delay=10 * MS)
    world.join("fd00::1", "fd00::2", delay=12 * MS)
    world.begin()
    world.run(5)
    assert pairs(world.a) == [("10.0.0.1", "10.0.0.2")]
    world.find("fd00::1", "fd00::2").delay = 2 * MS  # clearly better than 10
    world.a.busy = world.b.busy = True
    world.run(90)
    assert pairs(world.a) == [("fd00::1", "fd00::2")]


def test_a_silent_path_is_left_and_used_again():
    world = subnets(2)
    world.run(2)
    way = world.find("10.0.0.1", "10.0.0.2")
    way.up = False
    cut = world.now
    world.run(0.5)
    assert pairs(world.a) == [("10.1.0.1", "10.1.0.2")]
    assert world.a.rescued
    assert world.a.rescued[0][0] - cut <= 400 * MS
    world.run(4.5)
    way.up = True
    world.run(1)
    assert len(world.a.used) == len(world.b.used) == 2
    assert world.a.tuners[-1].restarts[0] == 1


def test_without_traffic_a_dead_path_is_left_within_a_heartbeat():
    world = subnets(2)
    world.a.busy = world.b.busy = False
    world.run(60)
    world.find("10.0.0.1", "10.0.0.2").up = False
    world.run(27)
    assert pairs(world.a) == [("10.1.0.1", "10.1.0.2")]


def test_the_last_path_is_not_left_for_a_silence():
    world = subnets(1)
    world.run(2)
    world.find("10.0.0.1", "10.0.0.2").up = False
    world.run(10)
    assert pairs(world.a) == [("10.0.0.1", "10.0.0.2")]
    assert world.a.manager.status()[0].state is PathState.FAILED
    world.find("10.0.0.1", "10.0.0.2").up = True
    world.run(2)
    assert world.a.manager.status()[0].state is PathState.HEALTHY


def test_an_address_that_goes_takes_its_path_along_at_once():
    world = subnets(3)
    world.run(2)
    world.a.links = world.a.links[:2]
    world.a.manager.set_locals(world.a.links, world.now)
    world.a.drain()
    assert pairs(world.a) == [(f"10.{k}.0.1", f"10.{k}.0.2") for k in range(2)]
    world.run(0.1)
    assert pairs(world.b) == [(f"10.{k}.0.2", f"10.{k}.0.1") for k in range(2)]


def test_a_new_address_becomes_a_path_while_the_session_runs():
    world = subnets(2)
    world.run(10)
    world.a.links.append(link("10.7.0.1", 7, "wwan0"))
    world.b.links.append(link("10.7.0.2", 7, "wwan0"))
    world.join("10.7.0.1", "10.7.0.2", delay=30 * MS)
    for side in (world.a, world.b):
        side.manager.set_locals(side.links, world.now)
        side.drain()
    world.run(1.5)
    assert ("10.7.0.1", "10.7.0.2") in world.a.used
    assert ("10.7.0.2", "10.7.0.1") in world.b.used


def test_the_first_path_may_be_the_one_that_goes():
    world = subnets(2)
    world.run(2)
    world.a.links = world.a.links[1:]
    world.a.manager.set_locals(world.a.links, world.now)
    world.a.drain()
    assert pairs(world.a) == [("10.1.0.1", "10.1.0.2")]
    assert world.a.manager.routes()[0] == (Endpoint("10.1.0.2", PORT), Endpoint("10.1.0.1", PORT))
    world.run(30)
    assert pairs(world.a) == [("10.1.0.1", "10.1.0.2")]


def test_the_idle_session_of_one_path_is_silent():
    world = subnets(1)
    world.run(2)
    world.a.busy = world.b.busy = False
    world.run(20)
    before = world.datagrams
    world.run(59)
    assert world.datagrams - before <= 2  # the announcements


def test_long_datagrams_find_their_length_and_the_tunnel_follows():
    world = PathWorld(1, 2, 2)
    world.join("10.0.0.1", "10.0.0.2")
    narrow = world.join("10.1.0.1", "10.1.0.2", mtu=1400)
    world.a.busy = world.b.busy = True
    world.begin()
    world.run(10)
    limit = 1400 - 28 - 40
    assert limit - 16 <= world.a.limit <= limit
    assert [s.max_packet for s in world.a.manager.status()] == [1420, world.a.limit]
    narrow.mtu = 1500
    world.run(620)
    assert world.a.limit == 1420


def test_a_path_that_turns_narrow_is_searched_again():
    world = subnets(2)
    world.run(2)
    world.find("10.1.0.1", "10.1.0.2").mtu = 1400
    world.a.tuners[-1].losses[1] = 0.9  # the short probes are answered all the while
    world.run(0.3)
    world.a.tuners[-1].losses.clear()
    world.run(10)
    limit = 1400 - 28 - 40
    assert limit - 16 <= world.a.limit <= limit


def test_a_lossy_path_is_degraded_and_comes_back():
    world = subnets(2)
    world.run(2)
    tuner = world.a.tuners[-1]
    tuner.losses[1] = 0.08
    world.run(0.9)
    assert not tuner.limits[1][0]
    world.run(0.5)
    assert tuner.limits[1][0]
    tuner.losses[1] = 0.03  # not yet below half
    world.run(5)
    assert tuner.limits[1][0]
    tuner.losses[1] = 0.01
    world.run(2.5)
    assert not tuner.limits[1][0]


def test_pins_disable_a_path_and_give_it_back():
    world = subnets(2)
    world.run(2)
    world.a.manager.pin(Pin(disabled=True), world.now, interface="eth1")
    world.a.drain()
    assert pairs(world.a) == [("10.0.0.1", "10.0.0.2")]
    world.run(60)
    assert pairs(world.a) == [("10.0.0.1", "10.0.0.2")]
    world.a.manager.pin(Pin(), world.now, interface="eth1")
    world.a.drain()
    world.run(2)
    assert len(world.a.used) == 2


def test_a_peer_that_restarts_is_found_anew():
    world = subnets(3)
    world.run(10)
    for side in (world.a, world.b):
        side.manager.peer_restarted(world.now)
        side.drain()
    assert len(world.a.set.paths) == 1
    world.run(2.5)
    assert len(world.a.used) == len(world.b.used) == 3


# random schedules


def random_world(seed, **settings):
    rng = random.Random(seed)  # noqa: S311
    world = PathWorld(seed, rng.randint(1, 4), rng.randint(1, 4), **settings)
    routed = rng.random() < 0.3
    for one in world.a.links:
        for other in world.b.links:
            if routed or one.ip.split(".")[1] == other.ip.split(".")[1] or rng.random() < 0.1:
                loss = rng.choice([0, 0, 0, 0.01, 0.05])
                delay = rng.randint(1, 80) * MS
                world.join(one.ip, other.ip, delay=delay, loss=loss, up=rng.random() < 0.8)
    world.find("10.0.0.1", "10.0.0.2").up = True
    world.a.busy, world.b.busy = rng.random() < 0.8, rng.random() < 0.8
    world.begin()
    return rng, world


def check_shape(side):
    """Every path in use has an interface to itself, at one of its ends."""
    locals_, remotes = Counter(p[0] for p in side.used), Counter(p[1] for p in side.used)
    for local, remote in side.used:
        assert locals_[local] == 1 or remotes[remote] == 1 or len(side.used) == 1
    assert len(side.used) <= 7


def check_healthy_use(world, side, steady_for):
    """Once links are steady for long enough, what is used works if anything does."""
    if steady_for < 3 * SECOND or not side.busy:
        return
    good = works(world, side)
    if good & {(p.local.ip, p.remote.ip) for p in side.specs.values() if p.local}:
        assert side.used & good, (side.name, side.used, good)
    if steady_for > 4 * SECOND and side.used & good:
        lossless = all(w.loss == 0 for w in world.ways.values())
        assert not lossless or side.used <= good, (side.name, side.used, good)


def run_schedule(seed, **settings):
    rng, world = random_world(seed, **settings)
    changed = world.now
    for _ in range(12):
        world.run(rng.choice([0.05, 0.3, 1, 3, 6]))
        for side in (world.a, world.b):
            check_shape(side)
            check_healthy_use(world, side, world.now - changed)
            assert len(side.set.paths) <= 8
        kind = rng.random()
        if kind < 0.6 and world.ways:
            way = rng.choice(list(world.ways.values()))
            way.up = not way.up
            changed = world.now
        elif kind < 0.75:
            side = rng.choice([world.a, world.b])
            if len(side.links) > 1:
                side.links = side.links[:-1]
                side.manager.set_locals(side.links, world.now)
                side.drain()
                changed = world.now
        elif kind < 0.85:
            side = rng.choice([world.a, world.b])
            side.busy = not side.busy
            changed = world.now
    return world


@pytest.mark.parametrize("batch", first(1, range(10)))
def test_random_link_schedules(batch):
    for seed in range(batch * 40, batch * 40 + 40):
        try:
            run_schedule(seed)
        except AssertionError as e:
            raise AssertionError(f"seed {seed}: {e}") from e


@pytest.mark.parametrize("batch", first(1, range(4)))
def test_random_link_schedules_with_the_real_tuner(batch):
    for seed in range(3000 + batch * 10, 3010 + batch * 10):
        world = run_schedule(seed, tuner=PathTuner)
        for side in (world.a, world.b):
            for status in side.manager.status():
                assert 0 <= status.weight <= 1
                assert status.rate_bps >= 0


def test_a_working_pair_is_found_within_two_seconds():
    for seed in range(200):
        rng = random.Random(seed)  # noqa: S311
        near, far = rng.randint(1, 3), rng.randint(1, 3)
        world = PathWorld(seed, near, far)
        world.join("10.0.0.1", "10.0.0.2", delay=rng.randint(1, 60) * MS)
        one, other = rng.randrange(near), rng.randrange(far)
        if (one, other) != (0, 0):
            at = f"10.{one}.0.1", f"10.{other}.0.2"
            world.join(*at, delay=rng.randint(1, 60) * MS)
            world.busy = True
        world.begin()
        world.run(2)
        for side in (world.a, world.b):
            found = {(p.local.ip, p.remote.ip) for p in side.manager.status() if p.rtt_us}
            assert works(world, side) <= found, (seed, side.name)


# hostile peers


def test_nobody_is_sent_more_than_three_times_what_came_from_there():
    """An authentic peer announces a stranger's addresses, or its datagrams come from there."""
    world = subnets(2)
    world.run(5)
    victim = "203.0.113.9"
    at = world.now
    entries = tuple(
        Entry(Endpoint(victim, 1000 + k), EntryKind.INTERFACE, k % 15) for k in range(16)
    )
    for serial in range(100, 160):
        frame = encode_announce(Announce(serial, entries))
        here = Endpoint("10.0.0.1", PORT)
        world.a.manager.receive(frame, 0, Endpoint("10.0.0.2", PORT), here, 400, world.now)
        world.a.drain()
        world.run(1)
    sent = sum(n for (name, to), n in world.sent.items() if name == "a" and to.ip == victim)
    # 4 rounds a second are begun at most, and 7 numbers hold 4 probes a second each
    assert sent <= (64 + 4 * (world.now - at) // SECOND) * 5 * PROBE_DATAGRAM
    assert sent <= 7 * 4 * PROBE_DATAGRAM * (1 + (world.now - at) // SECOND)
    assert len(world.a.used) == 2

    came = 0
    spoofed = Endpoint("203.0.113.77", 4000)
    for k in range(400):
        frame = encode_probe(Probe(5, bytes([k % 256] * 8), 0, 100))
        world.a.manager.receive(frame, 5, spoofed, Endpoint("10.0.0.1", PORT), 100, world.now)
        came += 100
        world.a.drain()
        world.run(0.01)
        assert world.sent["a", spoofed] <= 3 * came
    world.run(60)
    assert world.sent["a", spoofed] <= 3 * came


def test_hostile_frames_cost_bounded_work():
    for seed in range(8):
        rng = random.Random(seed)  # noqa: S311
        world = subnets(2)
        world.run(1)
        side, before = world.a, world.a.actions
        for _ in range(500):
            kind = rng.randint(0x0F, 0x18)
            frame = bytes([kind, 1]) + rng.randbytes(rng.randint(0, 400))
            if rng.random() < 0.5:
                frame = frame[:3] + bytes(rng.randint(0, 60))
            ip = rng.choice(["10.0.0.2", "127.0.0.1", "224.0.0.1", "8.8.8.8", "0.0.0.0", "x"])  # noqa: S104
            remote = Endpoint(ip, rng.randint(0, 65535))
            local = rng.choice([None, Endpoint("10.0.0.1", PORT), Endpoint("10.9.9.9", PORT)])
            size = rng.randint(0, 65535)
            side.manager.receive(frame, rng.randint(0, 255), remote, local, size, world.now)
            side.drain()
        assert len(side.manager._book.entries) <= 64
        assert len(side.manager._book.observed) <= 16
        assert len(side.manager._tokens) <= 8 * 32
        assert side.actions - before < 500 * 6
        world.run(40)
        assert len(side.used) == 2


def test_a_flood_of_probes_is_answered_fifty_times_a_second():
    world = subnets(1)
    world.run(5)
    side = world.a
    for k in range(1000):
        frame = encode_probe(Probe(0, k.to_bytes(8, "little"), 0, 200))
        at = Endpoint("10.0.0.2", PORT), Endpoint("10.0.0.1", PORT)
        side.manager.receive(frame, 0, *at, 200, world.now)
    before = world.datagrams
    side.drain()
    assert world.datagrams - before <= 50
    assert side.manager.drops["probe_rate"] == 950
