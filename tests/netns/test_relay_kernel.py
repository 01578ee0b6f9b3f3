"""The relay in the kernel on real devices: what the far host's socket takes is what was sent.

a ── veth ── anchor ── veth ── b

Devices of a lab leave checksums to each other; where the anchor's may not, the kernel finishes what
the program has left, and the far socket looks at it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

import pytest

from tools.netlab import Lab, wait_until
from tools.relaybench import PORT, Anchor

pytestmark = pytest.mark.netns

#: by families of sender and receiver
PAIRS = list(itertools.product((4, 6), (4, 6)))
HOW_MANY = 20

#: reads "[[ip, port], own port, index, size, count, run]"; sends them
SEND = """
import json, os, socket, struct, sys
to, own, index, size, count, run = json.loads(sys.argv[1])
family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if family == socket.AF_INET6:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x29)
else:
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x29)
s.bind(("", own))
every = [struct.pack("<II", 4, index) + os.urandom(size - 8) for _ in range(count)]
if run:
    s.sendmsg([b"".join(every)], [(socket.IPPROTO_UDP, 103, struct.pack("H", size))], 0, tuple(to))
else:
    for one in every:
        s.sendto(one, tuple(to))
print(json.dumps([one.hex() for one in every]))
"""

#: as `ethtool -K DEVICE tx off`
NO_CHECKSUMS = """
import array, fcntl, socket, struct, sys
ETHTOOL_STXCSUM, SIOCETHTOOL = 0x17, 0x8946
value = array.array("I", [ETHTOOL_STXCSUM, 0])
request = struct.pack("16sP16x", sys.argv[1].encode(), value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), SIOCETHTOOL, request)
"""

#: prints "TOS PORT PAYLOAD" of what comes
HEAR = """
import socket, sys
port = int(sys.argv[1])
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
s.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
s.bind(("::", port))
print("ready", flush=True)
while True:
    data, told, _, sender = s.recvmsg(9000, 512)
    tos = [int.from_bytes(d[:1], "little") for _, kind, d in told if kind in (1, 67)]
    print(tos[0] if tos else 0, sender[1], data.hex(), flush=True)
"""


@pytest.mark.parametrize(("hook", "offload"), [("TC", False), ("TC_LEGACY", True)])
def test_the_far_socket_takes_what_was_sent(lab: Lab, hook: str, offload: bool) -> None:
    hub, a, b = (lab.host(name) for name in ("anchor", "a", "b"))
    links = one, two = lab.link(hub, a), lab.link(hub, b)
    if not offload:
        hub.run(sys.executable, "-c", NO_CHECKSUMS, two.device(hub))
    own, far = 4001, 4002
    bindings: list[Any] = [
        (100 + n, (one.address(a, v), own), (two.address(b, w), far))
        for n, (v, w) in enumerate(PAIRS)
    ]
    anchor = Anchor(hub, [*links], bindings, hook)
    ear = b.spawn(sys.executable, "-c", HEAR, str(far))
    wait_until("the ear", lambda: "ready" in ear.log(), 20)
    sent: list[str] = []
    for (index, _, _), (family, _) in zip(bindings, PAIRS, strict=True):
        for size, run in ((64, False), (1200, False), (1200, True), (100, True)):
            plan = [[one.address(hub, family), PORT], own, index, size, HOW_MANY, run]
            sent += json.loads(a.run(sys.executable, "-c", SEND, json.dumps(plan)).stdout)

    def heard() -> list[list[str]]:
        return [line.split() for line in ear.log().splitlines()[1:] if line.count(" ") == 2]

    wait_until("all of it", lambda: len(heard()) >= len(sent), 20)
    assert [payload for _, _, payload in heard()] == sent
    assert {(tos, port) for tos, port, _ in heard()} == {(str(0x29), str(PORT))}
    told = anchor.ask()
    assert told["datagrams"] == len(sent)
    assert told["bytes"] == sum(len(s) // 2 for s in sent)
    assert told["up"] == told["lost"] == told["hops"] == 0

    # Killed, it sends nothing on: at once, or where the filter stays, when its time is over.
    anchor.process.kill()
    anchor.process.wait(10)

    def silent() -> bool:
        before = len(heard())
        plan = [[one.address(hub), PORT], own, 100, 64, 1, False]
        a.run(sys.executable, "-c", SEND, json.dumps(plan), check=False)
        time.sleep(0.5)  # what is under way comes
        return len(heard()) == before

    if hook == "TC":
        assert silent()
    else:
        wait_until("its end", silent, 60, interval=0.5)
