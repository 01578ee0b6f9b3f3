"""The C data plane carries traffic intact: every backend, cipher, offload, size and shape.

    10.77.N.1 ══ ws0  engine  10.201.1.1 ── veth ── 10.201.1.2  engine  ws0 ══ 10.77.N.2

Engines with fixed keys, no agent and no handshake; every byte and every counter is checked.
"""

from __future__ import annotations

import itertools

import pytest

from tests.netns.dataplane_run import run_scenario
from tools.netlab import Lab

pytestmark = pytest.mark.netns

BACKENDS = ("MMSG", "URING")
CIPHERS = ("IPSEC_MB", "OPENSSL")
OFFLOADS = ("TUN_TSO", "TUN_GRO", "UDP_GSO", "UDP_GRO", "TUN_USO")
SWITCHED_OFF: list[list[str]] = [[], *([name] for name in OFFLOADS), list(OFFLOADS)]
EVERY_OFF = [
    list(off) for n in range(len(OFFLOADS) + 1) for off in itertools.combinations(OFFLOADS, n)
]
MIB = 1 << 20

#: Each pair of backend, cipher, offloads and mode at least once, without the whole product.
PAIRWISE = [
    pytest.param(
        backend,
        CIPHERS[(b + n) % 2],
        off,
        n % 3 == 1 - b,
        id=f"{backend}-{CIPHERS[(b + n) % 2]}-{'frames' if n % 3 == 1 - b else 'plain'}-"
        + (f"no-{off[0] if len(off) == 1 else 'offload'}" if off else "all"),
    )
    for b, backend in enumerate(BACKENDS)
    for n, off in enumerate(SWITCHED_OFF)
]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("backend", "cipher", "off", "frames"), PAIRWISE)
def test_transfers(lab: Lab, backend: str, cipher: str, off: list[str], frames: bool) -> None:
    run_scenario(
        *(lab, "tcp"), backend=backend, cipher=cipher, off=off, frames=frames, size=30 * MIB
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("frames", [False, True], ids=["plain", "frames"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_size(lab: Lab, backend: str, frames: bool, outer: int) -> None:
    run_scenario(lab, "sizes", backend=backend, frames=frames, outer=outer)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("frames", [False, True], ids=["plain", "frames"])
def test_small_runs(lab: Lab, frames: bool, outer: int) -> None:
    run_scenario(lab, "small_runs", frames=frames, outer=outer)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("off", [*SWITCHED_OFF[1:]], ids=[*OFFLOADS, "all"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_many_sizes_without(lab: Lab, backend: str, off: list[str]) -> None:
    run_scenario(lab, "sizes", backend=backend, off=off, step=5)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("frames", [False, True], ids=["plain", "frames"])
@pytest.mark.parametrize("off", [[], ["UDP_GSO", "TUN_GRO"]], ids=["all", "some"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_under_sanitizers(lab: Lab, backend: str, off: list[str], frames: bool) -> None:
    run_scenario(lab, "sizes", backend=backend, off=off, frames=frames, step=5, sanitize=True)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("frames", [False, True], ids=["plain", "frames"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_super_packets_stay_whole(lab: Lab, backend: str, frames: bool, outer: int) -> None:
    run_scenario(lab, "every_tcp_size", backend=backend, frames=frames, outer=outer)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sanitize", [False, True], ids=["", "sanitized"])
@pytest.mark.parametrize("frames", [False, True], ids=["plain", "frames"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scenario", ["every_tcp_size", "every_udp_size"])
def test_every_size_there_is(
    lab: Lab, scenario: str, backend: str, frames: bool, sanitize: bool
) -> None:
    """1 to 65,535 bytes through TSO, to 65,507 through USO; the tests above take samples."""
    run_scenario(
        *(lab, scenario), backend=backend, frames=frames, sanitize=sanitize, step=1, timeout=800
    )


@pytest.mark.parametrize(("backend", "cipher", "off", "frames"), PAIRWISE)
def test_transfers_under_sanitizers(
    lab: Lab, backend: str, cipher: str, off: list[str], frames: bool
) -> None:
    """The pairs; the test below has the whole product."""
    run_scenario(
        *(lab, "tcp"),
        **{"backend": backend, "cipher": cipher, "off": off, "frames": frames},
        size=2 * MIB,
        sanitize=True,
    )


@pytest.mark.long
@pytest.mark.parametrize("frames", [False, True], ids=["plain", "frames"])
@pytest.mark.parametrize("off", EVERY_OFF, ids=lambda off: "-".join(off) or "none")
@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_combination_under_sanitizers(
    lab: Lab, backend: str, cipher: str, off: list[str], frames: bool
) -> None:
    run_scenario(
        *(lab, "tcp"),
        **{"backend": backend, "cipher": cipher, "off": off, "frames": frames},
        size=2 * MIB,
        sanitize=True,
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("sanitize", [False, True], ids=["", "sanitized"])
@pytest.mark.parametrize("frames", [False, True], ids=["plain", "frames"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tcp_of_odd_shapes(lab: Lab, backend: str, frames: bool, sanitize: bool) -> None:
    run_scenario(lab, "tcp_shapes", backend=backend, frames=frames, size=300_000, sanitize=sanitize)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ecn(lab: Lab, backend: str, outer: int) -> None:
    run_scenario(lab, "ecn", backend=backend, outer=outer)


@pytest.mark.parametrize("backend", BACKENDS)
def test_figures_add_up(lab: Lab, backend: str) -> None:
    run_scenario(lab, "statistics", backend=backend)
