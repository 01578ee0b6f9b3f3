"""Which of two pairs over the same link is used: a queue of our own is no reason to leave."""

from __future__ import annotations

import pytest

from whalescale.protocol.candidates import Source
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.health import Path
from whalescale.protocol.paths.matching import choose, one_each
from whalescale.protocol.paths.types import PathState
from whalescale.protocol.places import Endpoint, LocalLink

LINK = LocalLink("10.0.0.1", 2, "eth0", 1500)


def path(number: int, ip: str, rtt_us: int) -> Path:
    made = Path(number, Endpoint(ip, 1), Endpoint(f"{ip[:-1]}2", 1), LINK, Source.ANNOUNCED, 0)
    made.state, made.validated, made.remote_link = PathState.HEALTHY, True, 1
    made.measured(rtt_us, 0)
    return made


def loaded(used: Path, rtt_us: int) -> None:
    """It carries data, and for two windows no probe is quicker than this."""
    used.used = True
    for second in range(1, 61):
        used.measured(rtt_us, second * NS_PER_S)


@pytest.mark.parametrize(
    ("idle_us", "busy_us", "spare_us", "stays"),
    [
        (300, 2_300, 1_000, True),  # two hosts on one switch, both busy
        (20_000, 150_000, 20_000, True),  # a modem's buffer
        (20_000, 150_000, 11_000, False),  # the other way is shorter, and was all along
        (20_000, 400_000, 20_000, False),  # no queue is so long: the way is another now
    ],
)
def test_of_the_same_link(idle_us: int, busy_us: int, spare_us: int, stays: bool) -> None:
    first, spare = path(0, "10.0.0.1", idle_us), path(1, "fd00::1", spare_us)
    loaded(first, busy_us)
    assert choose([first, spare]) == ({0} if stays else {1})


def test_the_next_pair_of_a_link_that_failed_must_answer_first() -> None:
    """Both of one link: the spare answered last when all was well."""
    first, spare = path(0, "10.0.0.1", 300), path(1, "fd00::1", 400)
    other = path(2, "10.0.1.1", 900)
    other.link, other.remote_link = LocalLink("10.0.1.1", 3, "eth1", 1500), 2
    for each in (first, spare, other):
        each.arrived(NS_PER_S)
    assert choose([first, spare, other]) == {0, 2}
    first.fail(2 * NS_PER_S)
    assert choose([first, spare, other]) == {2}
    assert choose([first, spare]) == {1}  # better than nothing
    spare.arrived(3 * NS_PER_S)
    assert choose([first, spare, other]) == {1, 2}
    # One that carries data is not left for it.
    spare.used = True
    first.fail(4 * NS_PER_S)
    assert choose([first, spare, other]) == {1, 2}


def test_one_answer_is_no_reason_to_leave() -> None:
    """Its first probe met a host that was busy just then."""
    first, spare = path(0, "10.0.0.1", 74_000), path(1, "fd00::1", 1_300)
    first.used = True
    assert choose([first, spare]) == {0}
    first.measured(70_000, NS_PER_S)
    assert choose([first, spare]) == {0}
    first.measured(72_000, NS_PER_S)
    assert choose([first, spare]) == {1}


def test_path_0_is_gone_back_to_once_it_is_as_good() -> None:
    """Alone it needs no queue, no rate and no order."""
    first, other = path(0, "10.0.0.1", 74_000), path(1, "fd00::1", 1_300)
    loaded(other, 1_300)
    assert choose([first, other]) == {1}
    first.measured(1_000, 60 * NS_PER_S)
    assert choose([first, other]) == {0}
    # And is not left again for a hair.
    first.used, other.used = True, False
    loaded(first, 1_200)
    assert choose([first, other]) == {0}


def crossed() -> list[Path]:
    """One in use and its spare, of eth0 and the peer's interface 1; then two of the other pairs."""
    paths = [path(0, "10.0.0.1", 20_000), path(1, "fd00::1", 19_000)]
    paths += [path(2, "10.0.1.1", 30_000), path(3, "10.1.0.1", 30_000)]
    paths[2].remote_link = 2
    paths[3].link = LocalLink("10.1.0.1", 3, "eth1", 1500)
    for each in paths:
        each.arrived(NS_PER_S)
    paths[0].used = True
    return paths


def test_a_full_link_is_not_left_for_its_other_address() -> None:
    """Over the spare nothing goes that could be lost."""
    first, spare, *_ = crossed()
    assert choose([first, spare]) == {0}
    first.state = PathState.DEGRADED
    assert choose([first, spare]) == {0}
    first.fail(2 * NS_PER_S)
    spare.arrived(3 * NS_PER_S)
    assert choose([first, spare]) == {1}


def test_another_link_goes_before_a_full_one() -> None:
    """Nor does its spare take that one's place."""
    paths = crossed()
    assert choose(paths) == {0, 2}
    paths[0].state = PathState.DEGRADED
    assert choose(paths) == {2, 3}
    assert choose([paths[0], *paths[2:]]) == {2, 3}
    # Of an interface of ours the better one: not the spare of the full link.
    assert one_each(paths, {0, 1, 2}) == {2}
