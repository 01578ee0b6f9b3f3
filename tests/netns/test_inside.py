"""What comes out of the tunnel at our own port: a peer, or a host behind one, sends a message of
ours as an inner packet. Taken, it would make the tunnel carry itself."""

from __future__ import annotations

import pytest

from tests.netns.dataplane_run import run_scenario
from tools.netlab import Lab

pytestmark = pytest.mark.netns

backends = pytest.mark.parametrize("backend", ["MMSG", "URING"])
shapes = pytest.mark.parametrize(
    ("workers", "sanitize"), [(1, True), (3, False)], ids=["1-sanitized", "3"]
)
outers = pytest.mark.parametrize("outer", [4, 6])


@backends
@shapes
@outers
def test_nothing_is_taken_that_came_by_the_tunnels_device(
    lab: Lab, backend: str, workers: int, sanitize: bool, outer: int
) -> None:
    options = {"backend": backend, "workers": workers, "sanitize": sanitize}
    run_scenario(lab, "inside", **options, outer=outer)


@backends
@shapes
@outers
def test_nothing_is_taken_from_an_address_inside_a_tunnel(
    lab: Lab, backend: str, workers: int, sanitize: bool, outer: int
) -> None:
    options = {"backend": backend, "workers": workers, "sanitize": sanitize}
    run_scenario(lab, "inside_networks", **options, outer=outer)


@backends
@shapes
@outers
def test_an_endpoint_inside_the_tunnel_makes_no_loop(
    lab: Lab, backend: str, workers: int, sanitize: bool, outer: int
) -> None:
    options = {"backend": backend, "workers": workers, "sanitize": sanitize}
    run_scenario(lab, "loop", **options, outer=outer)
