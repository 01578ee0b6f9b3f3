"""Two members that cannot reach each other, and an anchor between them that relays.

laptop ── veth ── home, the anchor ── veth ── phone

At first home's host forwards, so that the two get a session; then it does not, and nothing but the
relay is left.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import pytest

from tests.netns.test_network import end_of, join, members, reaches, up, ws
from tools.netlab import Lab, wait_until
from tools.peers import Whalescale, http_url

pytestmark = pytest.mark.netns

#: prints "OUT ECN PAYLOAD" of each transport message that comes or goes
TAP = """
import socket, struct, sys
port = int(sys.argv[1])
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
tap.settimeout(0.2)
print("ready", flush=True)
while True:
    try:
        data, where = tap.recvfrom(65535)
    except TimeoutError:
        continue
    if where[1] == 0x0800 and data[9] == 17:
        ecn, udp = data[1] & 3, data[(data[0] & 15) * 4 :]
    elif where[1] == 0x86DD and data[6] == 17:
        ecn, udp = data[1] >> 4 & 3, data[40:]
    else:
        continue
    length = struct.unpack_from("!H", udp, 4)[0]
    payload = udp[8:length]
    if payload[:4] == bytes((4, 0, 0, 0)):
        out = int(where[2] == socket.PACKET_OUTGOING)
        print(out, ecn, payload.hex(), flush=True)
"""


def peer(end: Whalescale, name: str) -> dict[str, Any]:
    status: Any = end.status()
    return next((p for p in status["peers"] if p["name"] == name), {})


def pairs(anchor: Whalescale) -> dict[tuple[str, str], dict[str, Any]]:
    status: Any = anchor.status()
    return {(p["sender"], p["receiver"]): p for p in status["relay"]["pairs"]}


@pytest.mark.long
@pytest.mark.parametrize(("kernel", "back"), [(False, False), (True, True)])
def test_what_no_path_joins_goes_over_the_anchor(lab: Lab, kernel: bool, back: bool) -> None:
    """`kernel`: bpf/relay.bpf.c relays, or the workers. `back`: to the direct path as well, before
    all ends."""
    hub, *others = (lab.host(name) for name in ("home", "laptop", "phone"))
    links = [lab.link(hub, other) for other in others]
    hub.sysctl("net.ipv4.ip_forward", 1)
    for link, other in zip(links, others, strict=True):
        other.ip(f"route add default via {link.address(hub)}")
    home, laptop, phone = (end_of(h, n) for n, h in enumerate((hub, *others), start=1))
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(
        f"{text}\n[network]\nanchor = true\n[relay]\nkernel = {str(kernel).lower()}\n"
    )
    ws(home, "network", "create", "hearth", "--name", "home", "--prefix", "10.99.0.0/24")
    up(home)
    join(laptop, home, "laptop")
    join(phone, home, "phone")
    wait_until("they talk", lambda: reaches(laptop, "10.99.0.3"), 60)
    for one, other in ((laptop, "phone"), (phone, "laptop")):
        wait_until("it is bound", lambda e=one, o=other: peer(e, o).get("relays") == ["home"], 60)
    assert pairs(home).keys() == {("laptop", "phone"), ("phone", "laptop")}
    wait_until("direct", lambda: peer(laptop, "phone")["relayed_by"] == "", 60)
    for told in (peer(laptop, "phone"), members(laptop)["phone"]):
        assert told["endpoint"].startswith(f"{links[1].address(others[1])}:")

    hub.sysctl("net.ipv4.ip_forward", 0)
    wait_until("over the anchor", lambda: reaches(laptop, "10.99.0.3"), 60)
    wait_until("it is known", lambda: peer(laptop, "phone")["relayed_by"] == "home", 20)
    assert members(laptop)["phone"]["relayed_by"] == "home"

    # Byte for byte, with the ECN bits that came.
    tap = hub.spawn(sys.executable, "-c", TAP, str(home.port))
    wait_until("the tap", lambda: "ready" in tap.log(), 10)
    before = pairs(home)["laptop", "phone"]["datagrams"]
    laptop.run("ping", "-c20", "-i0.05", "-w10", "-Q1", "10.99.0.3")
    told = pairs(home)["laptop", "phone"]
    assert told["datagrams"] - before >= 20
    assert (told["kernel_datagrams"] > 0) == kernel
    status: Any = home.status()
    assert status["relay"]["kernel"]["state"] == ("on" if kernel else "off")
    assert (status["relay"]["kernel"]["bindings"] >= 2) == kernel
    assert told["elsewhere"] == told["over"] == 0

    def seen() -> list[tuple[str, str]]:
        lines = [line.split() for line in tap.log().splitlines()[1:]]
        own = Counter(payload for _, _, payload in (x for x in lines if len(x) == 3))
        # What goes through comes once and leaves once.
        return [("both" if n == 2 else "one", p) for p, n in own.items()]

    wait_until("the tap has them", lambda: [w for w, _ in seen()].count("both") >= 40, 10)
    tap.stop()
    lines = [line.split() for line in tap.log().splitlines()[1:]]
    through = [line for line in lines if len(line) == 3]
    came = Counter((ecn, p) for out, ecn, p in through if out == "0")
    left = Counter((ecn, p) for out, ecn, p in through if out == "1")
    assert sum((came & left).values()) >= 40
    relayed = {p for _, p in came} & {p for _, p in left}
    assert {ecn for ecn, p in came if p in relayed} == {ecn for ecn, p in left if p in relayed}

    # A TCP flow.
    name, digest = phone.serve(8 << 20)
    phone.addresses = ("10.99.0.3/32",)
    assert laptop.fetch(http_url(phone, name)) == digest
    told = pairs(home)["phone", "laptop"]
    assert told["bytes"] > 8 << 20

    def by_the_kernel() -> bool:
        before = pairs(home)["phone", "laptop"]["kernel_bytes"]
        assert laptop.fetch(http_url(phone, name)) == digest
        return int(pairs(home)["phone", "laptop"]["kernel_bytes"]) - before > 8 << 20

    if kernel:
        # An agent that gets no turn on a busy machine leaves it to its workers for a while.
        wait_until("the kernel carries it all", by_the_kernel, 90)
    else:
        assert told["kernel_bytes"] == 0
    counters: Any = home.status()["counters"]
    assert (counters["relayed_kernel"] > 0) == kernel
    assert counters["relayed_kernel"] <= counters["relayed"]

    if back:
        hub.sysctl("net.ipv4.ip_forward", 1)
        wait_until("direct again", lambda: peer(laptop, "phone")["relayed_by"] == "", 60)
        hub.sysctl("net.ipv4.ip_forward", 0)
        wait_until("over the anchor", lambda: reaches(laptop, "10.99.0.3"), 60)
    # A revocation while the relay is all there is.
    ws(home, "revoke", "phone")
    status = home.status()
    assert status["relay"]["bindings"] == 0
    assert status["relay"]["kernel"]["bindings"] == 0
    assert not reaches(laptop, "10.99.0.3")
    assert json.loads(laptop.ws("status", "-i", laptop.interface, "--json").stdout)["relay"]
