"""What becomes of a peer's paths, limits and budgets when something else begins or ends."""

from __future__ import annotations

import pytest
from eventqueue import SECOND
from pathworld import MTU, PORT, PathWorld, link

from whalescale.protocol.paths.frames import Announce, Entry, EntryKind, encode_announce
from whalescale.protocol.paths.pmtu import PmtuSearch
from whalescale.protocol.paths.probing import NEW_PAIRS_BURST, NEW_PAIRS_PER_S
from whalescale.protocol.paths.supply import LEAST_PACKET
from whalescale.protocol.paths.types import MultipathSettings, PathSample, PathState, SetPaths
from whalescale.protocol.places import Endpoint


def subnets(count, **way):
    world = PathWorld(1, count, count)
    for k in range(count):
        world.join(f"10.{k}.0.1", f"10.{k}.0.2", **(way if k == count - 1 else {}))
    world.a.busy = world.b.busy = True
    world.begin()
    return world


def actions(side):
    """What the manager wants now; the world is told as well."""
    wanted = list(side.manager._actions)
    side.drain()
    return wanted


def test_the_tunnel_never_takes_less_than_ipv6_needs():
    world = subnets(1, mtu=1300)
    world.run(10)
    (status,) = world.a.manager.status()
    assert status.max_packet < LEAST_PACKET
    assert world.a.limit == LEAST_PACKET


@pytest.mark.parametrize("mtu", [1500, 1300])
def test_a_path_that_was_dead_carries_at_once_what_it_did(mtu):
    """No search before it takes full packets again; one that carries less by now is found."""
    world = subnets(2)
    way = world.find("10.1.0.1", "10.1.0.2")
    world.run(10)
    way.up = False
    world.run(5)
    assert world.a.manager.status()[1].state is PathState.FAILED
    way.up, way.mtu = True, mtu
    for _ in range(100):
        if world.a.manager.status()[1].state is PathState.HEALTHY:
            break
        world.run(0.01)
    assert world.a.manager.status()[1].max_packet == MTU
    world.run(5)
    (_, second) = world.a.manager.status()
    assert second.max_packet == MTU if mtu == 1500 else 1200 < second.max_packet < 1300


@pytest.mark.parametrize("several", [True, False])
def test_a_path_that_was_silent_for_a_second(several):
    """Of one among several the data plane asked, ten times a second: the short ones were lost too.
    Of the only one that was in use nobody knows: it may be its long ones that are."""
    if several:
        world = subnets(2)
        world.run(10)
    else:
        world, _ = beside_ipv6(1)
    way = world.find("10.0.0.1", "10.0.0.2")
    way.up = False
    world.run(0.9)
    assert world.a.manager.status()[0].state is PathState.FAILED
    assert world.a.manager.status()[0].max_packet == MTU
    way.up = True
    for _ in range(100):
        if world.a.manager.status()[0].state is PathState.HEALTHY:
            break
        world.run(0.01)
    base = PmtuSearch(MTU, assumed=False).max_packet
    assert world.a.manager.status()[0].max_packet == (MTU if several else base)


def test_one_path_over_ipv6_takes_what_wireguard_does():
    """1,420 and 32 and 48 make 1,500: longer packets than 1,412 go without a data frame."""
    world = PathWorld(1, 2, 2)
    for side, host in ((world.a, 1), (world.b, 2)):
        side.links = [k._replace(ip=f"fd0{n}::{host}") for n, k in enumerate(side.links)]
    world.join("fd00::1", "fd00::2")
    second = world.join("fd01::1", "fd01::2", up=False)
    world.a.busy = world.b.busy = True
    world.begin("fd00::1", "fd00::2")
    world.run(5)
    assert world.a.manager.status()[0].max_packet == MTU - 8
    assert world.a.limit == MTU
    second.up = True
    world.run(60)
    assert len(world.a.used) == 2
    assert world.a.limit == MTU - 8


def beside_ipv6(count, mtu=1500):
    """Over each interface an IPv4 path; a spare over IPv6 beside the first one's."""
    world = PathWorld(1, count, count)
    for k in range(count):
        world.join(f"10.{k}.0.1", f"10.{k}.0.2")
    for side, host in ((world.a, 1), (world.b, 2)):
        side.links.append(side.links[0]._replace(ip=f"fd00::{host}"))
    spare = world.join("fd00::1", "fd00::2", mtu=mtu, delay=30_000_000)
    world.a.busy = world.b.busy = True
    world.begin()
    world.run(10)
    assert world.a.used == {(f"10.{k}.0.1", f"10.{k}.0.2") for k in range(count)}
    return world, spare


def spare_of(world):
    (found,) = (s for s in world.a.manager.status() if not s.usable)
    assert ":" in found.remote.ip
    return found


def test_what_waits_fits_the_spare_that_has_the_longer_ip_header():
    """It takes over in the middle of a stream; also where it has failed for now."""
    world, spare = beside_ipv6(2)
    assert spare_of(world).max_packet == MTU - 8
    assert world.a.limit == MTU - 8
    spare.up = False
    world.run(60)
    assert spare_of(world).state is PathState.FAILED
    assert world.a.limit == MTU - 8


@pytest.mark.parametrize(("count", "mtu"), [(2, 1370), (1, 1500)])
def test_a_spare_that_takes_far_less_limits_nothing_nor_does_one_beside_a_lone_path(count, mtu):
    """Few links are so narrow, and over IPv6 the only path takes what is longer without a frame."""
    world, _ = beside_ipv6(count, mtu)
    limit = mtu - 28 - 40 if mtu < 1500 else MTU - 8
    assert limit - 16 <= spare_of(world).max_packet <= limit
    assert world.a.limit == MTU


def test_a_limit_ends_with_the_paths_and_comes_back_with_them():
    world = subnets(2, mtu=1400)
    world.run(10)
    found = world.a.limit
    assert found < MTU
    world.a.manager.session_ended(world.now)
    world.a.drain()
    assert world.a.limit == MTU
    world.a.manager.session_started(world.now)
    world.a.drain()
    world.run(10)
    assert world.a.limit == found


def test_a_limit_ends_when_paths_are_switched_off():
    world = subnets(2, mtu=1400)
    world.run(10)
    assert world.a.limit < MTU
    world.a.manager.set_settings(MultipathSettings(enabled=False), world.now)
    world.a.drain()
    assert world.a.limit == MTU


def test_path_0_waits_for_its_local_address():
    world = subnets(2)
    world.run(2)
    links = world.a.links
    world.a.links = links[1:]
    world.a.manager.set_locals(world.a.links, world.now)
    world.a.drain()
    # The data plane leaves the source to the routing table; the manager knows it still.
    assert world.a.specs[0].local is None
    assert world.a.manager.status()[0].local == Endpoint("10.0.0.1", PORT)
    world.run(5)
    world.a.links = links
    world.a.manager.set_locals(links, world.now)
    world.a.drain()
    world.run(2)
    assert world.a.specs[0].local == Endpoint("10.0.0.1", PORT)
    assert [s.state for s in world.a.manager.status()] == [PathState.HEALTHY] * 2
    assert len(world.a.used) == 2


def test_path_0_moves_to_another_path_with_what_is_known_of_it():
    world = subnets(2, mtu=1400)
    world.run(10)
    manager = world.a.manager
    known = manager.status()[1]
    assert known.max_packet < 1400
    manager.primary(known.remote, known.local, world.now)
    wanted = [a for a in actions(world.a) if isinstance(a, SetPaths)]
    # Gone in between: what is counted and in flight under number 0 is the old path's.
    assert [p.id for p in wanted[0].paths] == [1]
    assert wanted[0].schedule
    assert wanted[-1].paths[0].id == 0
    assert wanted[-1].paths[0].remote == known.remote
    first = manager.status()[0]
    assert (first.state, first.max_packet) == (PathState.HEALTHY, known.max_packet)
    assert manager._table.paths[0].mtu.searching
    out = [token for path in manager._table for token in path.out]
    assert set(manager._tokens) <= set(out)


def test_probes_of_a_first_path_that_moved_are_forgotten():
    world = subnets(1)
    world.run(0.005)
    assert world.a.manager._tokens
    for k in range(100):
        world.a.manager.primary(Endpoint("10.0.0.9", 1000 + k), None, world.now)
    out = [token for path in world.a.manager._table for token in path.out]
    assert set(world.a.manager._tokens) == set(out)


def test_new_pairs_are_taken_at_a_rate():
    world = subnets(1)
    world.run(2)
    manager, here = world.a.manager, Endpoint("10.0.0.1", PORT)
    refreshes = 0
    refresh = manager._book.__class__.refresh

    def counted(book, now, *, anew=False):
        nonlocal refreshes
        refreshes += book is manager._book
        refresh(book, now, anew=anew)

    manager._book.__class__.refresh = counted
    try:
        for k in range(1000):
            manager.path_moved(3, Endpoint("10.0.0.2", 1000 + k), here, world.now)
            if k % 100 == 99:
                world.now += SECOND
    finally:
        manager._book.__class__.refresh = refresh
    most = NEW_PAIRS_BURST + 10 * NEW_PAIRS_PER_S
    assert manager.drops["path_rate"] >= 1000 - most
    assert refreshes <= most
    world.a.drain()
    world.run(5)
    assert len(world.a.used) == 1


def test_paths_in_use_are_not_crowded_out_by_announced_addresses():
    world = subnets(2)
    for k in range(2, 9):  # many links here and addresses there
        world.a.links.append(link(f"10.{k}.0.1", k, f"eth{k}"))
    world.a.manager.set_locals(world.a.links, world.now)
    world.a.drain()
    world.run(2)
    before = world.a.used
    assert len(before) == 2
    places = [(f"10.1.0.{100 + k}", 1) for k in range(14)] + [("10.1.0.2", 1), ("10.0.0.2", 0)]
    entries = (Entry(Endpoint(ip, PORT), EntryKind.INTERFACE, number) for ip, number in places)
    frame = encode_announce(Announce(100, tuple(entries)))
    at = Endpoint("10.0.0.2", PORT), Endpoint("10.0.0.1", PORT)
    world.a.manager.receive(frame, 0, *at, 400, world.now)
    world.a.drain()
    assert len(world.a.manager._book.entries) == 64
    assert world.a.used == before


def test_a_link_that_is_widened_at_one_end_is_found_by_both():
    """Its own host hears of it; the other end sees the long probe come, and does not wait for its
    next search."""
    world = PathWorld(1, 2, 2)
    ways = [world.join(f"10.{k}.0.1", f"10.{k}.0.2", mtu=1380) for k in range(2)]
    world.b.links = [k._replace(mtu=1380) for k in world.b.links]
    world.a.busy = world.b.busy = True
    world.begin()
    world.run(15)
    assert world.a.limit < MTU
    assert world.b.limit < MTU
    for way in ways:
        way.mtu = 1500
    world.b.links = [k._replace(mtu=1500) for k in world.b.links]
    world.b.manager.set_locals(world.b.links, world.now)
    world.b.drain()
    world.run(5)
    assert (world.a.limit, world.b.limit) == (MTU, MTU)


def test_probes_of_a_peer_begin_a_search_every_ten_seconds_at_most():
    search = PmtuSearch(1460, assumed=False)
    search.start(0)
    begun = 0
    for n in range(600):  # a minute of long probes, and none of ours arrives
        now = n * SECOND // 10
        search.seen(9000, now)
        begun += search.searching and search.due_at == now and search.size == search.target
        while search.searching:
            search.timeout(now)
            search.sent(now, 0)
    assert begun <= 7


def test_a_burst_of_losses_makes_a_path_narrow_for_seconds_only():
    """Long probes are lost while a link is full; nobody waits ten minutes for the next search."""
    world = subnets(1, mtu=1380)
    ways = list(world.ways.values())
    world.run(8)
    assert world.a.limit < MTU
    for way in ways:
        way.mtu = 1500  # no end hears of it
    world.run(25)
    assert (world.a.limit, world.b.limit) == (MTU, MTU)


def test_what_came_is_shown_at_the_path_that_it_came_by():
    """Each end numbers by itself: what has the peer's number 1 may come by our path 0."""
    world = subnets(2)
    world.run(10)
    manager = world.a.manager
    one, two = manager.status()
    assert (one.theirs, two.theirs) == ((0,), (1,))
    manager.path_moved(1, one.remote, one.local, world.now)
    manager.path_moved(0, two.remote, two.local, world.now)
    samples = {0: PathSample(rx_bytes=5), 1: PathSample(rx_bytes=1000)}
    manager.sample(samples, world.now)
    found = {s.id: (s.theirs, s.rx_bytes) for s in manager.status()}
    assert found == {0: ((1,), 1000), 1: ((0,), 5)}


def test_a_path_that_comes_up_has_the_others_asked():
    """The peer may have moved there, and no data shows that what was used before is dead. It was
    the only one, and so had no heartbeats."""
    world = PathWorld(1, 1, 3)
    first, second, third = (
        world.join("10.0.0.1", f"10.{k}.0.2", up=up) for k, up in enumerate((True, True, False))
    )
    world.a.busy = world.b.busy = True
    world.begin()
    world.run(5)
    first.up = False
    world.run(5)
    world.a.busy = world.b.busy = False
    world.run(30)
    assert world.a.used == {("10.0.0.1", "10.1.0.2")}
    second.up, third.up = False, True
    world.a.manager.punch([Endpoint("10.2.0.2", PORT)], world.now)
    world.a.drain()
    world.run(2)
    assert world.a.used == {("10.0.0.1", "10.2.0.2")}


def test_an_interface_that_the_peer_says_is_gone_is_left_at_once():
    """Others may say still that the peer is there (its records, whoever called it), so the pair
    stays; data is not to wait for its silence."""
    world = PathWorld(1, 1, 2)
    for k in range(2):
        world.join("10.0.0.1", f"10.{k}.0.2")
    world.a.manager.set_remotes([Endpoint(f"10.{k}.0.2", PORT) for k in range(2)], world.now)
    world.a.busy = world.b.busy = True
    world.begin()
    world.run(10.5)
    assert len(world.a.used) == 2
    world.b.links = world.b.links[1:]
    world.b.manager.set_locals(world.b.links, world.now)
    world.b.drain()
    world.run(0.03)
    assert world.a.used == {("10.0.0.1", "10.1.0.2")}
    assert world.a.rescued
    assert world.a.rescued[-1][0] >= world.now - 0.03 * SECOND
