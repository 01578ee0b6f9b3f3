"""One session over two links between two agents: both carry, each may go, order stays.

a 10.201.1.1 ── 30 Mbit/s 10 ms ── 10.201.1.2 b
  10.201.2.1 ── 20 Mbit/s  3 ms ── 10.201.2.2
  10.77.0.1 ═════════ tunnel ═════ 10.77.0.2
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.netns.conftest import Two, make_end, multipath, used
from tests.params import long
from tools.linkemu import LinkEmu
from tools.netlab import Lab, Link, Shape, wait_until
from tools.peers import Whalescale, http_url
from tools.recordings import fading, write
from tools.twohosts import two_hosts

pytestmark = pytest.mark.netns
SLOWER, QUICKER = Shape(30, 10), Shape(20, 3)
SIZE = 6_000_000


class Pair:
    """Two agents over two links, with sessions up and both paths found."""

    def __init__(self, lab: Lab, dataplane: str = "", **options: object) -> None:
        self.hosts = two_hosts(lab, [SLOWER, QUICKER])
        self.links = self.hosts.links
        self.a, self.b = (
            make_end(host, number, dataplane=dataplane, **options)
            for number, host in ((1, self.hosts.a), (2, self.hosts.b))
        )
        two = Two(lab, self.links[0], self.a, self.b)
        for end in (self.a, self.b):
            end.start(two.peer_of(end))
        self.a.ping(self.b)
        self.wait_for_paths(2)

    def wait_for_paths(self, count: int) -> None:
        for end in (self.a, self.b):
            wait_until(
                f"{count} paths in use at {end.host.name}",
                lambda end=end: len(used(end)) == count,
                timeout=20,
            )

    def close(self) -> None:
        self.a.close()
        self.b.close()


def carried(end: Whalescale) -> dict[str, int]:
    """Bytes sent, by interface."""
    sums: dict[str, int] = {}
    for path in multipath(end)["paths"]:
        sums[path["interface"]] = sums.get(path["interface"], 0) + path["tx_bytes"]
    return sums


def backends(*names: object) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", names, indirect=True)


MMSG_LONG, URING_LONG = long("mmsg"), long("io_uring")


@pytest.fixture
def pair(lab: Lab, request: pytest.FixtureRequest) -> Any:
    pair = Pair(lab, f'backend = "{request.param}"')
    yield pair
    pair.close()


def fetch(pair: Pair, meanwhile: Callable[[], None] = lambda: None) -> float:
    """b fetches SIZE bytes from a, intact; seconds that it took."""
    path, digest = pair.a.serve(SIZE)
    began = time.monotonic()
    download = pair.b.curl(http_url(pair.a, path))
    meanwhile()
    assert pair.b.curl_digest(download, timeout=60) == digest
    return time.monotonic() - began


@pytest.mark.alone
@backends("mmsg", URING_LONG)
def test_both_paths_carry_one_flow_in_order(pair: Pair) -> None:
    took = fetch(pair)
    assert min(carried(pair.a).values()) > SIZE * 0.15
    # The better link alone takes 1.7 s at the very least.
    assert took < 4
    order = multipath(pair.b)["reordering"]
    assert order["delivered"] > SIZE / 1500
    assert order["held"] > 0
    assert order["skipped"] <= order["delivered"] * 0.02
    assert multipath(pair.a)["ack_refused"] == 0


def test_links_that_fade(lab: Lab, tmp_path: Path) -> None:
    """10 and 6 Mbit/s in the mean, from nothing to twice that, as a cell's: one flow in order."""
    pair = Pair(lab, 'backend = "mmsg"')
    try:
        for number, (link, mbps) in enumerate(zip(pair.links, (10, 6), strict=True)):
            link.reshape(buffer_bytes=400_000)
            assert isinstance(link._linkemu, LinkEmu)
            made = fading(mbps, 30, 1 + number, lump_ms=5)
            link._linkemu.record(write(tmp_path / f"{number}.ms", made))
        path, digest = pair.a.serve(2_500_000)
        began = time.monotonic()
        assert pair.b.curl_digest(pair.b.curl(http_url(pair.a, path)), timeout=60) == digest
        took = time.monotonic() - began
        # Who accepted the connection is told by its window how much may wait.
        assert multipath(pair.a)["queue"]["narrowed"] > 0
        assert took < 30
        # Both are used; how much by which is for the links and the machine to say.
        assert min(carried(pair.a).values()) > 100_000
        assert multipath(pair.a)["ack_refused"] == 0
    finally:
        pair.close()


@backends(MMSG_LONG, "io_uring")
def test_a_link_goes_silent_and_comes_back(pair: Pair) -> None:
    def cut() -> None:
        time.sleep(0.5)
        pair.links[1].silence(True)
        wait_until("one path is left", lambda: len(used(pair.a)) == 1, timeout=15)

    assert fetch(pair, cut) < 20
    pair.links[1].silence(False)
    pair.wait_for_paths(2)
    before = carried(pair.a)
    fetch(pair)
    after = carried(pair.a)
    assert min(after[name] - before.get(name, 0) for name in after) > SIZE * 0.05


@backends("mmsg", URING_LONG)
def test_an_interface_goes_away_and_another_comes(pair: Pair) -> None:
    """First the one that the session began on."""

    def down() -> None:
        time.sleep(0.5)
        pair.links[0].set_up(False)

    assert fetch(pair, down) < 20

    def in_use(*links: Link) -> bool:
        return {p["interface"] for p in used(pair.a)} == {x.device(pair.hosts.a) for x in links}

    wait_until("the other one alone", lambda: in_use(pair.links[1]), 20)
    third = pair.hosts.lab.link(pair.hosts.a, pair.hosts.b, Shape(20, 5))
    wait_until("the third one, too", lambda: in_use(pair.links[1], third), 20)
    pair.wait_for_paths(2)
    fetch(pair)


@backends(MMSG_LONG, "io_uring")
def test_a_pinned_path_takes_no_data(pair: Pair) -> None:
    device = pair.links[1].device(pair.hosts.a)
    pair.a.ws("paths", "peer0", "-i", pair.a.interface, "--set", device, "--disable")
    wait_until("one path is left", lambda: len(used(pair.a)) == 1)
    before = carried(pair.a)
    fetch(pair)
    assert carried(pair.a)[device] - before[device] < SIZE * 0.02
    pair.a.ws("paths", "peer0", "-i", pair.a.interface, "--set", device, "--enable")
    wait_until("both are used", lambda: len(used(pair.a)) == 2, timeout=20)


@pytest.mark.alone
def test_sessions_change_in_mid_flow(lab: Lab) -> None:
    """A new keypair every two seconds: one sequence of data goes on over all of them."""
    pair = Pair(lab, limits_ms={"rekey_after_time": 2000, "rekey_timeout": 1000})
    try:
        seen = set()
        end = time.monotonic() + 30
        while len(seen) < 3:
            assert time.monotonic() < end, f"handshakes at {sorted(seen)}"
            fetch(pair)
            seen.add(pair.b.latest_handshake())
        assert min(carried(pair.a).values()) > SIZE * 0.3
        order = multipath(pair.b)["reordering"]
        assert order["refused"] == 0
        assert order["skipped"] <= order["delivered"] * 0.02
        for end in (pair.a, pair.b):
            drops = end.status()["counters"]["drops"]
            assert (drops["auth"], drops["replay"], drops["path"]) == (0, 0, 0)
    finally:
        pair.close()


@pytest.mark.alone
def test_two_workers_and_two_paths(lab: Lab) -> None:
    """Whatever path a datagram comes by, it is steered to the worker that owns the session."""
    pair = Pair(lab, "workers = 2\nbpf = true")
    try:
        assert fetch(pair) < 4
        assert min(carried(pair.a).values()) > SIZE * 0.15
        for end in (pair.a, pair.b):
            status = end.status()
            assert status["agent"]["workers"] == 2
            assert status["bpf"]["state"] == "on"
            counters = status["counters"]
            assert counters["foreign_rx"] + counters["foreign_tx"] == 0
    finally:
        pair.close()
