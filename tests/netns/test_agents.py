"""Two agents: packets, files, figures, an orderly end."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.netns.conftest import Two, make_two, places
from tests.params import long
from tools.netlab import UAPI_FOLDER, Lab, Shape, wait_until
from tools.peers import Whalescale, http_url

pytestmark = [pytest.mark.netns, pytest.mark.whole_start]

MIB = 1 << 20


@pytest.mark.parametrize("outer", [4, 6])
def test_packets_and_a_file(lab: Lab, outer: int) -> None:
    two = make_two(lab)
    two.start(outer)
    two.a.ping(two.b, 4, count=2)
    two.b.ping(two.a, 6, count=2)
    for size in (1, 333):
        two.a.run("ping", "-c1", "-w3", "-Mdo", "-s", str(size), two.b.inside(4))

    def exactly_the_mtu() -> bool:
        """1,420, or 1,412 where a path over IPv6 is in use, which may begin at any time."""
        mtu = json.loads(two.a.run("ip", "-j", "link", "show", two.a.interface).stdout)[0]["mtu"]
        assert mtu in (1412, 1420)
        fits, too_long = (
            two.a.run("ping", "-c1", "-w3", "-Mdo", f"-s{n}", two.b.inside(4), check=False)
            for n in (mtu - 28, mtu - 27)
        )
        return fits.returncode == 0 and too_long.returncode != 0

    wait_until("a packet of exactly the MTU", exactly_the_mtu, 10)
    name, digest = two.b.serve(12 * MIB)
    for inner in (4, 6):
        assert two.a.fetch(http_url(two.b, name, inner)) == digest


def test_the_address_derived_from_the_key_works(standing: Two) -> None:
    status = standing.b.status()
    address = status["agent"]["overlay_address"]
    standing.a.run("ping", "-c2", "-w5", address)


def test_status_tells_what_happened(two: Two) -> None:
    two.a.ping(two.b, count=5)
    told = f"{two.link.address(two.b.host)}:{two.b.port}"
    wait_until("its place", lambda: told in places(two.a.status()["peers"][0]), 10)
    status = two.a.status()
    (peer,) = status["peers"]
    assert peer["state"] == "up"
    assert peer["id"].replace("-", "") == two.b.node_id
    assert peer["tx_packets"] >= 5
    assert peer["rx_packets"] >= 5
    assert peer["last_handshake_s"] < 10
    assert not any(status["counters"]["drops"].values())
    drops = status["counters"]["handshake_drops"]
    # On a busy machine it asks whether the peer is there, and the session comes before the answer.
    assert not {reason for reason, n in drops.items() if n} - {"bootstrap_nonce"}


OFFLOADS = ("tun_tso", "tun_gro", "udp_gso", "tun_uso")


@pytest.mark.parametrize(
    "dataplane",
    ['cipher = "openssl"', 'cipher = "ipsec-mb"', "busy_poll_us = 200", "udp_gro = false"]
    # test_multipath.py has agents of either backend, and test_offloads.py each of the others
    # without an agent
    + [long(text) for text in ('backend = "mmsg"', 'backend = "io_uring"', "pin_cpus = true")]
    + [long(f"{name} = false") for name in OFFLOADS],
)
def test_each_part_of_the_data_plane(lab: Lab, dataplane: str) -> None:
    """The choice on one side; the other side stays with what it takes by itself."""
    two = make_two(lab)
    two.a.dataplane = dataplane
    two.start()
    two.a.ping(two.b, count=1)
    key, value = dataplane.split(" = ")
    agent = two.a.status()["agent"]
    told = {**agent, **agent["offloads"]}
    assert told[key] == json.loads(value)
    name, digest = two.b.serve(6 * MIB)
    assert two.a.fetch(http_url(two.b, name)) == digest
    name, digest = two.a.serve(6 * MIB)
    assert two.b.fetch(http_url(two.a, name, 6)) == digest


def test_pinned_workers(lab: Lab) -> None:
    """Each worker may run on one CPU, and with as many CPUs as workers no two on the same."""
    two = make_two(lab)
    two.a.dataplane = "workers = 2\npin_cpus = true"
    two.start()
    two.a.ping(two.b, count=1)
    assert two.a.process is not None
    allowed: dict[int, tuple[str, set[int]]] = {}
    for task in Path(f"/proc/{two.a.process.pid}/task").iterdir():
        # The kernel's own of io_uring come and go.
        with suppress(FileNotFoundError, ProcessLookupError):
            name = (task / "comm").read_text().strip()
            allowed[int(task.name)] = name, os.sched_getaffinity(int(task.name))
    workers = [cpus for name, cpus in allowed.values() if name == "ws-worker"]
    assert [len(cpus) for cpus in workers] == [1, 1]
    # The agent's own thread keeps the machine.
    everything = allowed[two.a.process.pid][1]
    assert everything == os.sched_getaffinity(0)
    assert len(set.union(*workers)) == min(2, len(everything))


def test_a_link_that_delays_and_loses(lab: Lab) -> None:
    two = make_two(lab, Shape(rate_mbit=50, delay_ms=10, jitter_ms=3, loss_percent=0.5))
    two.start()
    two.a.ping(two.b, count=1)
    name, digest = two.b.serve(4 * MIB)
    assert two.a.fetch(http_url(two.b, name), timeout=60) == digest


def test_an_orderly_end_leaves_nothing(two: Two) -> None:
    two.a.ping(two.b, count=1)
    devices = two.a.host.link_names()
    assert two.a.interface in devices
    two.a.ws("down", "-i", two.a.interface)
    assert two.a.process is not None
    assert two.a.process.wait(20) == 0
    assert two.a.host.link_names() == devices - {two.a.interface}
    routes = two.a.host.ip_json("route show table all") + two.a.host.ip_json("-6 route show")
    assert not [row for row in routes if row.get("dev") == two.a.interface]
    assert not (UAPI_FOLDER / f"{two.a.interface}.sock").exists()
    assert _sockets(two.a.runtime) == []
    assert two.a.port not in two.a.host.udp_ports()
    assert two.a.host.pids() == []


def _sockets(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_socket()]


def test_sigterm_ends_it_as_well(two: Two) -> None:
    assert two.a.process is not None
    assert two.a.process.stop(timeout=20) == 0
    assert two.a.interface not in two.a.host.link_names()
    assert not (UAPI_FOLDER / f"{two.a.interface}.sock").exists()


@pytest.mark.parametrize("outer", [4, 6])
def test_a_host_that_moves_in_silence_is_followed(lab: Lab, outer: int) -> None:
    """Only the other side speaks: the mover's agent must make itself known."""
    two = make_two(lab)
    for end in (two.a, two.b):
        # A path of the other family may be the quicker one, and what moved would be a mere spare.
        two.link.remove_address(end.host, 10 - outer)
    two.start(outer)
    two.b.ping(two.a, count=1)
    two.link.remove_address(two.a.host, outer)
    two.link.add_address(two.a.host, outer, 11)
    # Left to itself, b would begin a new session after 15 s of no answer.
    two.b.ping(two.a, count=1, seconds=12)

    def followed() -> bool:
        """By path 0, or by one found before it moved; data may go by link-local addresses."""
        (peer,) = two.b.status()["peers"]
        new = two.link.address(two.a.host, outer, 11)
        return any(new in place for place in places(peer))

    wait_until("its new address", followed, 10)


def test_two_nodes_speak_frames(standing: Two) -> None:
    for end in (standing.a, standing.b):

        def they_do(end: Whalescale = end) -> bool:
            return bool(end.status()["peers"][0]["extended"] is True)

        wait_until("frames", they_do, 10)


def test_two_nodes_have_post_quantum_keys(standing: Two) -> None:
    for end in (standing.a, standing.b):

        def they_do(end: Whalescale = end) -> bool:
            status = json.loads(end.ws("status", "-i", end.interface, "--json").stdout)
            return bool(status["peers"][0]["post_quantum"] == "yes")

        wait_until("an exchanged secret in the keys", they_do, 10)
    standing.a.ping(standing.b, count=3)


def test_an_endpoint_by_a_name_that_nobody_knows(lab: Lab) -> None:
    """The agent starts (its look-ups run beside it) and takes the other side's handshake."""
    two = make_two(lab)
    named = replace(two.peer_of(two.a), endpoint="nobody.invalid:51820")
    two.a.start(named)
    two.b.start(two.peer_of(two.b))
    two.b.ping(two.a, count=1)
