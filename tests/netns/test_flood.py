"""Forged initiations in numbers, of which each would cost Python a Diffie-Hellman."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.netns.conftest import Two, make_two
from tools.bench import load
from tools.bench.crowds import FORGED, forged_initiations
from tools.netlab import Lab, wait_until
from tools.peers import (
    HostEnd,
    Peer,
    Whalescale,
    WireGuardGo,
    debian_wireguard_go,
    newest_wireguard_go,
    outside,
)

pytestmark = pytest.mark.netns

#: The machine has to do more than this; the bench has 200,000 (tools/bench/crowds.py).
PER_SECOND = 30_000
SECONDS = 60
#: What a flood may cost at its start, and what it goes on to cost, in Diffie-Hellmans
AT_ONCE, EACH_SECOND = 700, 50


def counters(end: Whalescale) -> dict[str, Any]:
    return dict(end.status()["counters"])  # type: ignore[call-overload]


@contextmanager
def flood(two: Two, target: Whalescale, per_second: int = PER_SECOND) -> Iterator[None]:
    """From b's host, with sources that nobody has; the target is under load within the body."""
    records = two.lab.folder / "flood.bin"
    records.write_bytes(forged_initiations(base64.b64decode(target.public_key)))
    # Replies to forged sources go back to who forged them.
    target.host.ip(f"route add {FORGED} via {two.link.address(two.b.host)}")
    process = two.b.host.spawn(
        *(load.udpblast(), "flood", "--to", two.link.address(target.host)),
        *("--port", str(target.port), "--device", two.link.device(two.b.host)),
        *("--mac", load.mac_of(target.host, two.link.device(target.host))),
        *("--size", "148", "--rate", str(per_second), "--seconds", str(SECONDS)),
        *("--records", records),
    )
    try:
        wait_until("a load", lambda: counters(target)["drops"].get("asked", 0) > 0, 20)
        yield
    finally:
        status = process.stop(timeout=5)
    assert status == 0, process.log()


def wait_for_ping(end: HostEnd, other: HostEnd, seconds: float) -> float:
    start = time.monotonic()
    wait_until(
        "the tunnel",
        lambda: end.run("ping", "-c1", "-W0.5", "-q", other.inside(4), check=False).returncode == 0,
        seconds,
        0.05,
    )
    return time.monotonic() - start


@pytest.mark.alone
@pytest.mark.sampled(1)
@pytest.mark.parametrize("dataplane", ["bpf = false", ""], ids=["no-bpf", "bpf"])
@pytest.mark.parametrize("kind", ["whalescale", "wireguard-go"])
def test_a_new_peer_gets_in(lab: Lab, dataplane: str, kind: str) -> None:
    two = make_two(lab)
    two.a.dataplane = dataplane
    newcomer: HostEnd = two.b
    if kind == "wireguard-go":
        binary = newest_wireguard_go(build=False) or debian_wireguard_go()
        if binary is None:
            pytest.skip("no wireguard-go")
        newcomer = WireGuardGo(
            two.b.host, f"g{two.b.interface}"[:15], two.b.addresses, two.b.port, binary
        )
        allowed = (f"{two.b.inside(4)}/32",)
        two.a.start(Peer(newcomer.public_key, allowed))
    else:
        two.a.start(two.peer_of(two.a, endpoint=False))
    to_a = Peer(
        two.a.public_key,
        (f"{two.a.inside(4)}/32",),
        outside(two.link.address(two.a.host), two.a.port),
        node_id=two.a.node_id if kind == "whalescale" else "",
    )
    started = time.monotonic()
    with flood(two, two.a):
        newcomer.start(to_a)
        took = wait_for_ping(newcomer, two.a, 15)
        lasted = time.monotonic() - started
        after = counters(two.a)
    if kind == "wireguard-go":
        newcomer.close()
    assert took < 5, f"{took:.1f} s"
    assert after["cookies_tx"] > 0
    refused = after["handshake_drops"].get("handshake", 0)
    assert refused <= AT_ONCE + EACH_SECOND * lasted, f"{refused} in {lasted:.0f} s"


@pytest.mark.alone
def test_a_peer_beside_junk_that_no_key_is_needed_for(lab: Lab) -> None:
    """Cookie replies, responses and bootstrap messages: none reaches Python."""
    two = make_two(lab)
    two.a.dataplane = "bpf = false"
    two.start()
    two.a.ping(two.b, count=1)
    before = counters(two.a)
    target = (two.link.address(two.a.host), two.a.port)
    script = (
        "import os,socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.connect({target!r})\n"
        "for _ in range(5000):\n"
        "    for kind, size in ((2, 92), (3, 64), (0x57, 128), (0x58, 128)):\n"
        "        s.send(bytes([kind, 0, 0, 0]) + os.urandom(size - 4))\n"
    )
    two.b.run("python3", "-c", script)
    two.a.ping(two.b, count=1)
    after = counters(two.a)
    drops = {n: after["drops"].get(n, 0) - before["drops"].get(n, 0) for n in after["drops"]}
    assert drops["unasked"] >= 14_000
    assert drops["bootstrap"] >= 4_500
    assert after["handshake_rx"] - before["handshake_rx"] < 20


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_sent_to_many_is_nobodys(lab: Lab, family: int) -> None:
    two = make_two(lab)
    two.a.dataplane = "bpf = false"
    two.a.start(two.peer_of(two.a, endpoint=False))
    message = forged_initiations(base64.b64decode(two.a.public_key))[:148].hex()
    network = two.link.address(two.a.host).rpartition(".")[0]
    zone = f"socket.if_nametoindex({two.link.device(two.b.host)!r})"
    to = (
        f"('{network}.255', {two.a.port})"
        if family == 4
        else f"('ff02::1', {two.a.port}, 0, {zone})"
    )
    script = (
        "import socket\n"
        f"s = socket.socket(socket.AF_INET{'6' if family == 6 else ''}, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n"
        f"for _ in range(100): s.sendto(bytes.fromhex('{message}'), {to})\n"
    )
    two.b.run("python3", "-c", script)
    wait_until("the drops", lambda: counters(two.a)["drops"].get("destination", 0) == 100)
    assert counters(two.a)["handshake_rx"] == 0
