"""A million bad datagrams during a transfer: all accounted for, nothing lost, nothing logged."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.netns.conftest import Two, make_two
from tests.params import first
from tools.netlab import Lab, wait_until
from tools.peers import Whalescale, http_url

pytestmark = pytest.mark.netns

MIB = 1 << 20
COUNT = 1_000_000
#: handshakes of the two agents themselves, and losses of the kernel's, are few beside the others
GENUINE = 100
FLOOD = Path(__file__).parent / "flood.py"
PINGS = 200
#: Reads UDP payloads off a device until its stdin has something and nothing is left: device, port.
CAPTURE = """
import json, select, socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
sock.bind((sys.argv[1], 3))
print("[", flush=True)
got = []
while sock in select.select([sys.stdin, sock], [], [])[0]:
    data = sock.recv(65536)
    # Pings take the path over IPv6 as soon as that is found.
    header, protocol = ((data[0] & 15) * 4, data[9]) if data[0] >> 4 == 4 else (40, data[6])
    payload = data[header + 8 :]
    if protocol == 17 and int.from_bytes(data[header + 2 : header + 4], "big") == int(sys.argv[2]):
        got.append(payload.hex())
print(json.dumps(got)[1:])
"""


def counters(end: Whalescale) -> dict[str, Any]:
    status = end.status()
    return dict(status["counters"])


def udp_errors(end: Whalescale) -> int:
    """Datagrams that the kernel threw away before the socket gave them out."""
    lines = end.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["InErrors"])


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    found = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in found.items() if count}


def genuine(two: Two) -> list[str]:
    """Start b, and return datagrams from it that a has taken: its handshake and some pings."""
    device = two.link.device(two.a.host)
    capture = two.a.host.spawn(sys.executable, "-c", CAPTURE, device, str(two.a.port))
    wait_until("the capture", capture.log)
    # Else a worker that had to wait for a processor sends a run of pings as one super-packet.
    two.b.dataplane = "udp_gso = false"
    two.b.start(two.peer_of(two.b))
    two.b.run("ping", f"-c{PINGS}", "-i0.005", "-q", "-s64", two.a.inside(4))
    capture.stdin.write(b"\n")
    capture.stdin.flush()
    found: list[str] = json.loads(capture.finish(10))
    assert sum(text.startswith("04") for text in found) >= PINGS
    assert any(text.startswith("01") for text in found)
    return found


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("count", first(1, [COUNT // 8, COUNT]))
def test_a_million_bad_datagrams(lab: Lab, count: int) -> None:
    flooded(lab, "", count, sources=1)


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("backend", ["mmsg", "io_uring"])
def test_bad_datagrams_and_several_workers(lab: Lab, backend: str, workers: int) -> None:
    """They come to whichever worker the kernel chooses, and are handed to the session's owner."""
    two = flooded(lab, f'backend = "{backend}"\nworkers = {workers}', COUNT // 20, sources=16)
    after = counters(two.a)
    assert after["foreign_rx"] > 0, "all came to the worker that owns the session"


def flooded(lab: Lab, dataplane: str, count: int, sources: int) -> Two:
    """Two agents after a transfer beside so many bad datagrams, from so many ports."""
    two = make_two(lab)
    # The shield would drop most of it before the workers see it; test_bpf.py is about that.
    two.a.dataplane = f"bpf = false\n{dataplane}"
    two.a.start(two.peer_of(two.a, endpoint=False))
    plan = {
        "to": [two.link.address(two.a.host), two.a.port],
        "count": count,
        "sources": sources,
        "public_key": base64.b64decode(two.a.public_key).hex(),
        "genuine": genuine(two),
    }
    plan_file = lab.folder / "plan.json"
    plan_file.write_text(json.dumps(plan))
    name, digest = two.b.serve(8 * MIB)
    assert two.a.process is not None
    log_before = len(two.a.process.log())
    errors, before = udp_errors(two.a), counters(two.a)
    flood = two.b.host.spawn(sys.executable, FLOOD, plan_file)
    # One file after the other, for as long as the flood takes on this machine.
    while True:
        assert two.a.fetch(http_url(two.b, name), rate_bytes=4 * MIB, timeout=240) == digest
        if flood.poll() is not None:
            break
    sent = json.loads(flood.finish(1))

    def settled() -> bool:
        """Python has counted what was still in its queue."""
        now = counters(two.a)
        refused = difference(now["handshake_drops"], before["handshake_drops"])
        return sum(refused.values()) >= now["handshake_rx"] - before["handshake_rx"] - GENUINE

    wait_until("what came to Python to be refused", settled, timeout=20, interval=0.5)
    after, lost = counters(two.a), udp_errors(two.a) - errors
    dropped = difference(after["drops"], before["drops"])
    refused = difference(after["handshake_drops"], before["handshake_drops"])
    to_python = after["handshake_rx"] - before["handshake_rx"]
    total = sum(sent.values())
    assert total >= count * 0.99
    # Frames of the real peer, which a crowded queue keeps out.
    own = dropped.pop("control_rate", 0)
    accounted = sum(dropped.values()) + to_python
    told = f"sent {sent}, dropped {dropped} ({own}), refused {refused}, in the kernel {lost}"
    assert accounted <= total + GENUINE, told
    assert accounted + lost >= total, told
    for reason in ("short", "type", "length", "mac1", "no_key", "auth", "replay"):
        assert dropped.get(reason, 0) > 0, f"nothing counted as {reason}: {told}"
    assert len(refused) >= 2, told
    assert len(two.a.process.log()) - log_before < 10_000
    two.a.ping(two.b, count=3)
    return two


def test_a_packet_from_an_address_that_is_not_the_peers(two: Two) -> None:
    two.b.ping(two.a, count=1)
    two.b.host.ip(f"addr add 10.99.0.9/32 dev {two.b.interface}")
    before = counters(two.a)
    words = ("ping", "-i0.1", "-w1", "-I", "10.99.0.9", two.a.inside(4))
    said = two.b.run(*words, check=False).stdout
    sent = int(said.partition(" packets transmitted, 0 received")[0].rsplit("\n", 1)[1])
    assert sent > 0

    def dropped() -> dict[str, int]:
        return difference(counters(two.a)["drops"], before["drops"])

    wait_until("them to be dropped", lambda: dropped().get("source", 0) >= sent)
    after = counters(two.a)
    # Once each: that it came is acknowledged, so that nobody sends it again.
    assert difference(after["drops"], before["drops"]) == {"source": sent}
    assert after["rx_packets"] == before["rx_packets"]


def test_noise_on_the_port_before_any_peer_speaks(two: Two) -> None:
    """Nothing answers a stranger: no datagram goes back but to who knows our key."""
    stranger = two.link.address(two.b.host)
    script = (
        "import os,socket,sys; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.settimeout(0.5); s.connect((sys.argv[1], int(sys.argv[2])));"
        "[s.send(os.urandom(n)) for n in (1, 31, 32, 92, 148, 1400)];"
        "[s.send(bytes([k, 0, 0, 0]) + os.urandom(n)) for k, n in ((1, 144), (2, 88), (3, 60))]\n"
        "try: s.recv(2048); print('answered')\n"
        "except socket.timeout: print('silent')"
    )
    target = two.link.address(two.a.host)
    out = two.b.run(sys.executable, "-c", script, target, str(two.a.port)).stdout
    assert out.strip() == "silent", stranger
    two.a.ping(two.b, count=1)
