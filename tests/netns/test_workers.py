"""Workers of the data plane: sessions handed over between them, changes and faults under traffic.

A hub with four peers (two each on two engines of the other host), engines made and freed, devices
and sockets that vanish. Every scenario also runs under ASan and UBSan ("sanitized").
"""

from __future__ import annotations

import pytest

from tests.netns.dataplane_run import run_scenario
from tests.params import long
from tools.netlab import Lab
from whalescale.dataplane.selftest import uring_parts

pytestmark = [pytest.mark.netns, pytest.mark.parametrize("backend", ["MMSG", "URING"])]

MIB = 1 << 20
several = pytest.mark.parametrize(
    ("workers", "sanitize"),
    [(2, False), (3, False), (3, True)],
    ids=["2", "3", "3-sanitized"],
)
one_and_more = pytest.mark.parametrize(
    ("workers", "sanitize"),
    [(1, True), (2, False), (2, True)],
    ids=["1-sanitized", "2", "2-sanitized"],
)


@pytest.mark.sampled(1)
@several
def test_four_peers_at_once(lab: Lab, backend: str, sanitize: bool, workers: int) -> None:
    """Without steering programs: what comes to the wrong worker is handed over, nothing is lost."""
    run_scenario(lab, "workers", backend=backend, workers=workers, sanitize=sanitize, size=4 * MIB)


@pytest.mark.sampled(1)
@several
@pytest.mark.parametrize("frames", [False, True], ids=["plain", "frames"])
def test_bursts_across_workers(
    lab: Lab, backend: str, sanitize: bool, workers: int, frames: bool
) -> None:
    options = {"backend": backend, "workers": workers, "frames": frames}
    run_scenario(lab, "bursts", **options, sanitize=sanitize, step=6 if sanitize else 2)


@pytest.mark.sampled(1)
@one_and_more
def test_new_keypairs_lose_nothing(lab: Lab, backend: str, sanitize: bool, workers: int) -> None:
    run_scenario(lab, "rotation", backend=backend, workers=workers, sanitize=sanitize, rounds=10)


@pytest.mark.sampled(1)
@one_and_more
def test_peers_come_and_go(lab: Lab, backend: str, sanitize: bool, workers: int) -> None:
    run_scenario(
        lab, "peers_come_and_go", backend=backend, workers=workers, sanitize=sanitize, rounds=30
    )


@pytest.mark.sampled(1)
@one_and_more
def test_sockets_come_and_go(lab: Lab, backend: str, sanitize: bool, workers: int) -> None:
    run_scenario(
        lab, "sockets_come_and_go", backend=backend, workers=workers, sanitize=sanitize, rounds=20
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_no_other_user_gets_the_port(lab: Lab, backend: str, workers: int) -> None:
    if backend != "MMSG":
        pytest.skip("sockets are bound before a backend sees them")
    run_scenario(lab, "port_stays_ours", backend=backend, workers=workers, rounds=100)


@pytest.mark.sampled(1)
@pytest.mark.alone
@one_and_more
def test_commands_are_answered(lab: Lab, backend: str, sanitize: bool, workers: int) -> None:
    run_scenario(lab, "commands", backend=backend, workers=workers, sanitize=sanitize)


@pytest.mark.sampled(1)
@one_and_more
def test_the_device_vanishes(lab: Lab, backend: str, sanitize: bool, workers: int) -> None:
    run_scenario(lab, "device_deleted", backend=backend, workers=workers, sanitize=sanitize)


@pytest.mark.sampled(1)
@one_and_more
def test_the_device_vanishes_unheard(lab: Lab, backend: str, sanitize: bool, workers: int) -> None:
    if backend != "URING" or uring_parts()[1].multishot_read:
        pytest.skip("epoll and single reads look at the device themselves")
    run_scenario(lab, "device_gone_unheard", backend=backend, workers=workers, sanitize=sanitize)


@pytest.mark.sampled(1)
@one_and_more
def test_close_under_load(lab: Lab, backend: str, sanitize: bool, workers: int) -> None:
    run_scenario(
        lab, "close_under_load", backend=backend, workers=workers, sanitize=sanitize, rounds=3
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("sanitize", [False, True], ids=["", "sanitized"])
def test_nothing_is_left_open(lab: Lab, backend: str, sanitize: bool) -> None:
    """50 engines made, started and freed, on the same port and interface name."""
    run_scenario(lab, "cycles", backend=backend, sanitize=sanitize, rounds=10 if sanitize else 51)


def test_freed_without_a_start(lab: Lab, backend: str) -> None:
    run_scenario(lab, "never_started", backend=backend, workers=2, sanitize=True)


@pytest.mark.alone
@pytest.mark.sampled(1)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("busy_poll_us", [0, 1_000_000], ids=["off", "on"])
def test_busy_polling(lab: Lab, backend: str, busy_poll_us: int, workers: int) -> None:
    run_scenario(lab, "busy_poll", backend=backend, workers=workers, busy_poll_us=busy_poll_us)


@pytest.mark.alone
def test_busy_polling_under_sanitizers(lab: Lab, backend: str) -> None:
    run_scenario(
        *(lab, "busy_poll"), backend=backend, workers=2, busy_poll_us=1_000_000, sanitize=True
    )


def test_the_source_address_goes(lab: Lab, backend: str) -> None:
    run_scenario(lab, "source_address_gone", backend=backend)


def test_a_peer_that_becomes_busy_is_told(lab: Lab, backend: str) -> None:
    run_scenario(lab, "busy_peer", backend=backend, frames=True)


@pytest.mark.parametrize("several", [False, True], ids=["plain", "paths"])
def test_keys_that_hold_packets_back(lab: Lab, backend: str, several: bool) -> None:
    run_scenario(lab, "held_back", backend=backend, frames=several, several=several)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("sanitize", [False, True, long("tsan")], ids=["", "asan", "tsan"])
def test_everything_at_once(lab: Lab, backend: str, sanitize: bool | str) -> None:
    """Traffic, hostile datagrams and every call of the controlling thread, by three workers."""
    run_scenario(
        *(lab, "everything"),
        backend=backend,
        workers=3,
        frames=True,
        sanitize=sanitize,
        rounds=4 if sanitize else 10,
        timeout=250,
    )
