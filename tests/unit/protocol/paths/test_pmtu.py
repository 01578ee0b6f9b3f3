"""The search for the longest datagram (RFC 8899)."""

from __future__ import annotations

import pytest

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.pmtu import (
    BASE,
    GRAIN,
    LOOKS,
    RAISE_INTERVAL,
    TRIES,
    PmtuSearch,
)

S = 1_000_000_000


def drive(search, carries, now=0):
    """Send what it asks for; datagrams up to `carries` arrive. Returns (now, probes)."""
    probes = 0
    while search.searching:
        now = max(now, search.due_at)
        if not search.timeout(now):
            break
        probes += 1
        size = search.size
        search.sent(now, S)
        if size <= carries:
            search.answered(size, now + S // 10)
        assert probes < 100
    return now, probes


def test_one_answer_is_enough_where_everything_fits():
    search = PmtuSearch(1460, assumed=False)
    assert search.confirmed == BASE
    search.start(0)
    now, probes = drive(search, 1500)
    assert (search.confirmed, probes) == (1460, 1)
    assert search.max_packet == 1420
    assert search.due_at >= now + RAISE_INTERVAL


@pytest.mark.parametrize("carries", [1200, 1201, 1300, 1332, 1372, 1400, 1444, 1459])
def test_it_finds_the_size(carries):
    search = PmtuSearch(1460, assumed=False)
    search.start(0)
    _, probes = drive(search, carries)
    assert carries - GRAIN < search.confirmed <= carries
    assert probes <= TRIES * 6


def test_what_was_assumed_is_held_until_three_probes_say_else():
    search = PmtuSearch(1460, assumed=True)
    search.start(0)
    for n in range(TRIES):
        assert search.confirmed == 1460
        assert search.timeout(n * S)
        search.sent(n * S, S)
    search.timeout(TRIES * S)
    assert search.confirmed == BASE
    drive(search, 1350, TRIES * S)
    assert 1350 - GRAIN < search.confirmed <= 1350


def test_it_looks_again_and_follows_both_ways():
    search = PmtuSearch(1460, assumed=False)
    search.start(0)
    now, _ = drive(search, 1300)
    for _ in LOOKS:
        now, _ = look(search, now, 1300)
    assert search.timeout(search.due_at)  # starts over
    now, _ = drive(search, 1500, search.due_at)
    assert search.confirmed == 1460
    search.suspect(now)
    assert search.confirmed == BASE
    drive(search, 1300, now)
    assert 1300 - GRAIN < search.confirmed <= 1300


def test_a_target_below_the_base_needs_no_search():
    search = PmtuSearch(1100, assumed=False)
    search.start(0)
    assert (search.confirmed, search.due_at) == (1100, None)


def test_another_target():
    search = PmtuSearch(1460, assumed=False)
    search.start(0)
    drive(search, 1500)
    search.retarget(1340, S)
    assert search.confirmed == 1340
    search.retarget(1460, 2 * S)
    assert search.confirmed == 1340
    drive(search, 1500, 2 * S)
    assert search.confirmed == 1460


def test_with_traffic_the_size_is_confirmed_each_minute() -> None:
    """Datagrams go without DF: a path that takes less than it did loses nothing that would tell."""
    search = PmtuSearch(1460, assumed=True)
    search.start(0)
    assert search.timeout(0)
    search.sent(0, 1)
    search.answered(1460, 1)
    assert not search.due(59 * NS_PER_S, busy=True)
    assert not search.due(61 * NS_PER_S, busy=False)
    now = 61 * NS_PER_S
    assert search.due(now, busy=True)
    while search.searching or now == 61 * NS_PER_S:  # nothing above 1,400 comes through now
        assert search.due(now, busy=True)
        if search.timeout(now):
            search.sent(now, NS_PER_S)
            if search.size <= 1400:
                search.answered(search.size, now)
            else:
                now += NS_PER_S
    assert 1400 - GRAIN < search.confirmed <= 1400


def look(search, now, carries):
    """When it asks next, and whether that was a look at the top alone."""
    now = search.due_at
    assert search.due(now, busy=False)
    assert search.timeout(now)
    alone = not search.searching
    assert search.size == search.target
    search.sent(now, S)
    if search.size <= carries:
        search.answered(search.size, now + S // 10)
    return now, alone


def test_what_was_lost_by_chance_is_found_within_seconds() -> None:
    """Three probes of the right size got lost: it is looked at again after 5, 10 and 20 s."""
    for late in range(len(LOOKS)):
        search = PmtuSearch(1460, assumed=False)
        search.start(0)
        now, _ = drive(search, 1300)
        assert search.narrow
        ended = now
        for n in range(late + 1):
            before = now
            now, alone = look(search, now, 1500 if n == late else 1300)
            assert alone
            assert now - before <= LOOKS[n] + S
        assert (search.confirmed, search.narrow) == (1460, 0)
        assert search.due_at >= ended + RAISE_INTERVAL
        assert not search.due(now + 15 * S, busy=True)


def test_a_narrow_path_is_looked_at_three_times_and_then_by_searches_alone() -> None:
    search = PmtuSearch(1460, assumed=False)
    search.start(0)
    now, probes = drive(search, 1300)
    looks = 0
    while now < 3700 * S:  # an hour
        now, alone = look(search, now, 1300)
        if alone:
            looks += 1
        else:
            now, more = drive(search, 1300, now)
            probes += more + 1
    assert looks == len(LOOKS)
    assert probes <= TRIES * 6 * (3700 * S // RAISE_INTERVAL + 1)
    # It became narrower: that may be chance again.
    now, alone = look(search, now, 1250)
    assert not alone
    now, _ = drive(search, 1250, now)
    assert look(search, now, 1250)[1]
