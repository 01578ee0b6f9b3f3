"""The shield and the path counters on a veth: every hook, both families, aggregates, limits."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.netns.conftest import make_two
from tools.netlab import Host, Lab, Link, Process, run, wait_until
from tools.peers import ROOT, WS, http_url

pytestmark = pytest.mark.netns

FOLDER = Path(__file__).parent
PYTHON = ROOT / ".venv/bin/python"
PORT = 5555
MIB = 1 << 20
NO_LIMITS = (0, 0, 0, 0)
HOOKS = ("TC", "TC_LEGACY", "XDP", "XDP_GENERIC")


def message(kind: int, size: int) -> str:
    return (bytes([kind, 0, 0, 0]) + bytes(size - 4)).hex()


TRANSPORT = message(4, 1200)
INITIATION = message(1, 148)
#: what passes
GOOD = {
    "transport": [message(4, 32), message(4, 33), message(4, 1452)],
    "handshake": [
        INITIATION,
        message(2, 92),
        message(3, 64),
        message(0x57, 128),
        message(0x59, 580),
    ],
}
#: what does not, by the counter that it goes to
BAD = {
    "short": ["", "04", message(4, 31), message(1, 20)],
    "type": [
        message(0, 40),
        message(5, 148),
        message(0x5A, 128),
        "04000100" + "00" * 40,
        "00" * 1400,
        "01010000" + "00" * 144,
    ],
    "length": [
        message(1, 147),
        message(1, 149),
        message(2, 93),
        message(3, 65),
        message(0x57, 127),
        message(0x58, 129),
        message(0x59, 579),
    ],
}


@dataclass
class Node:
    """tests/netns/bpf_node.py in host a of a link; host b sends."""

    lab: Lab
    hook: str = "TC"
    rates: tuple[int, int, int, int] = NO_LIMITS
    known: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    locals: tuple[str, ...] | None = None
    broadcasts: tuple[str, ...] = ()
    ladder: bool = False
    #: None: answers are handshake messages as others
    expected: tuple[int, ...] | None = None
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self.a, self.b = self.lab.host("a"), self.lab.host("b")
        self.link: Link = self.lab.link(self.a, self.b)
        self._plans = itertools.count()
        self._answers = 1

    def start(self) -> Node:
        addresses = [self.link.address(self.a, f) for f in (4, 6)]
        setup = {
            "devices": [self.link.device(self.a), *self.extra],
            "hook": self.hook,
            "locals": addresses if self.locals is None else list(self.locals),
            "broadcasts": list(self.broadcasts),
            "known": list(self.known),
            "ladder": self.ladder,
            "expected": self.expected,
            "port": PORT,
            "rates": list(self.rates),
        }
        self.process = self.a.spawn(
            PYTHON, FOLDER / "bpf_node.py", json.dumps(setup), env={"PYTHONPATH": str(ROOT)}
        )
        wait_until("the programs", lambda: "\n" in self.process.log() or self.process.poll())
        assert self.process.log() == "ready\n"
        return self

    def send(
        self, *datagrams: str, count: int = 1, gso: int = 0, spoof: int = 0, to: str = ""
    ) -> int:
        plan = self.lab.folder / f"plan{next(self._plans)}.json"
        target = to or self.link.address(self.a)
        entries = [[d, count] for d in datagrams]
        plan.write_text(
            json.dumps({"to": [target, PORT], "datagrams": entries, "gso": gso, "spoof": spoof})
        )
        return int(self.b.run(sys.executable, FOLDER / "bpf_send.py", plan).stdout)

    def ask(self, what: str = "") -> Any:
        """Its answer; the one to "" comes when nothing is under way any more."""
        told = self._ask(what)
        while not what and told != (told := self._ask()):
            pass
        return told

    def _ask(self, what: str = "") -> Any:
        self.process.stdin.write(f"{what}\n".encode())
        self.process.stdin.flush()
        self._answers += 1
        n = self._answers
        lines = wait_until(
            "an answer", lambda: (t := self.process.log().split("\n"))[n:] and t, interval=0.01
        )
        return json.loads(lines[n - 1])

    def shield(self) -> dict[str, int]:
        return {name: count for name, count in self.ask()["shield"].items() if count}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
def test_junk_is_dropped_and_counted_by_reason(lab: Lab, hook: str, family: int) -> None:
    node = Node(lab, hook).start()
    target = node.link.address(node.a, family)
    for datagrams in (*GOOD.values(), *BAD.values()):
        node.send(*datagrams, count=3, to=target)
    told = node.ask()
    assert told["hooks"] == {node.link.device(node.a): hook}
    expected = {name: 3 * len(d) for name, d in (GOOD | BAD).items()}
    assert {n: c for n, c in told["shield"].items() if c} == expected
    lengths = {str(len(d) // 2): 3 for datagrams in GOOD.values() for d in datagrams}
    assert told["got"] == lengths


@pytest.mark.parametrize("hook", HOOKS)
def test_what_is_not_for_us_is_left_alone(lab: Lab, hook: str) -> None:
    """Another address (a router forwards them) or another port: whatever it is, it passes."""
    node = Node(lab, hook, locals=("192.0.2.77",)).start()
    node.send(*BAD["type"], *BAD["length"], message(4, 31))
    told = node.ask()
    assert not any(told["shield"].values())
    assert sum(told["got"].values()) == len(BAD["type"]) + len(BAD["length"]) + 1


@pytest.mark.parametrize("hook", HOOKS)
def test_aggregates_pass_whole(lab: Lab, hook: str) -> None:
    """What one send of 40 datagrams makes is one buffer on a veth."""
    node = Node(lab, hook).start()
    node.send(TRANSPORT * 40, count=5, gso=1200)
    node.send(TRANSPORT * 7 + message(4, 100), gso=1200)
    for family in (4, 6):
        node.send(INITIATION * 3, gso=148, to=node.link.address(node.a, family))
    told = node.ask()
    assert told["got"] == {"1200": 207, "100": 1, "148": 6}
    shield = told["shield"]
    assert shield["handshake"] == 6
    # XDP is given an aggregate as one long datagram (generic) or its parts (native).
    assert shield["transport"] == 208 if hook.startswith("TC") else 6 <= shield["transport"] <= 208
    assert not any(shield[name] for name in (*BAD, "source_limit", "global_limit"))


@pytest.mark.parametrize("hook", ["TC", "TC_LEGACY"])
def test_initiations_cannot_hide_in_an_aggregate(lab: Lab, hook: str) -> None:
    node = Node(lab, hook, rates=(1, 10, 0, 0)).start()
    disguise = message(4, 148)
    node.send(disguise + INITIATION * 5, gso=148)
    node.send(disguise + INITIATION * 20, count=2, gso=148)
    node.send(TRANSPORT * 3 + INITIATION, count=10, gso=1200)
    told = node.ask()
    shield = told["shield"]
    # 5 of the first send, and what is left of the ten tokens one by one: each costs its aggregate.
    assert shield["source_limit"] == 42 + 4 * (10 - shield["transport"] // 4 + 1)
    assert 5 <= told["got"]["148"] - 1 <= 11


def test_limit_of_a_source(lab: Lab) -> None:
    node = Node(lab, rates=(10, 20, 0, 0)).start()
    node.send(INITIATION, count=500)
    first = node.shield()
    assert sum(first.values()) == 500
    # The bucket, and what came in while they were sent.
    assert 20 <= first["handshake"] <= 40
    # Another source has a bucket of its own; transport messages need none.
    node.b.ip(f"addr add 10.201.{node.link.number}.9/24 dev {node.link.device(node.b)}")
    node.send(INITIATION, to=node.link.address(node.a, 6))
    node.send(TRANSPORT, count=100)
    after = node.shield()
    assert after["handshake"] == first["handshake"] + 1
    assert after["transport"] == 100


def test_an_ipv6_host_cannot_change_addresses_within_its_network(lab: Lab) -> None:
    node = Node(lab, rates=(1, 5, 0, 0)).start()
    device, target = node.link.device(node.b), node.link.address(node.a, 6)
    for n in range(20):
        source = f"fd00:201:{node.link.number}::1:{n:x}"
        node.b.ip(f"addr add {source}/64 dev {device} nodad preferred_lft forever")
    script = (
        "import socket,sys\n"
        "for n in range(20):\n"
        "    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        f"    s.bind(('fd00:201:{node.link.number}::1:%x' % n, 0))\n"
        f"    s.sendto(bytes.fromhex('{INITIATION}'), ('{target}', {PORT}))\n"
    )
    node.b.run(sys.executable, "-c", script)
    told = node.shield()
    assert told["handshake"] + told["source_limit"] == 20
    assert 5 <= told["handshake"] <= 8


def test_limit_of_all_strangers_and_the_known_peer(lab: Lab) -> None:
    """20,000 initiations from 20,000 sources; a peer that is known is heard all the same."""
    node = Node(lab, rates=(1000, 1000, 50, 100))
    node.known = (node.link.address(node.b),)
    node.start()
    start = time.monotonic()
    count = node.send(INITIATION, count=20_000, spoof=20_000)
    flood = node.shield()
    assert sum(flood.values()) == count
    assert 100 <= flood["handshake"] <= 150 + 50 * (time.monotonic() - start)
    assert flood["global_limit"] == count - flood["handshake"]
    node.send(INITIATION, count=200)
    after = node.shield()
    assert after["handshake"] == flood["handshake"] + 200
    assert after["global_limit"] == flood["global_limit"]


def test_a_peer_among_many_is_known_until_it_is_forgotten(lab: Lab) -> None:
    """Known addresses are counted in cells that several share."""
    node = Node(lab, rates=(1000, 1000, 1, 5))
    others = tuple(f"192.0.{n >> 8}.{n & 255}" for n in range(1000))
    ours = node.link.address(node.b)
    node.known = (*others, ours, ours)
    node.start()
    for other in others[:3]:
        node.ask(f"forget {other}")
    node.send(INITIATION, count=200)
    assert node.shield() == {"handshake": 200}
    node.ask(f"forget {ours}")
    node.send(INITIATION, count=200)
    assert 5 <= node.shield()["handshake"] - 200 <= 50


def test_a_quiet_network_is_heard_in_a_flood(lab: Lab) -> None:
    """20,000 initiations from all over 11/8 are refused but for some; one from elsewhere passes,
    with a mac2 as well, and so do bootstrap requests."""
    node = Node(lab, rates=(1000, 1000, 50, 100), ladder=True).start()
    start = time.monotonic()
    count = node.send(INITIATION, count=20_000, spoof=20_000)
    took = time.monotonic() - start
    flood = node.shield()
    # The common bucket, and one for each of the ladder's four widths.
    assert 100 <= flood["handshake"] <= 100 + 50 * took + 1510 * (1 + took)
    assert flood["global_limit"] == count - flood["handshake"]
    node.send(INITIATION, INITIATION[:-2] + "01", message(0x57, 128))
    assert node.shield()["handshake"] == flood["handshake"] + 3


def test_answers_pass_only_where_they_were_asked_for(lab: Lab) -> None:
    node = Node(lab, rates=(1, 1, 1, 1), expected=(0x11223344,)).start()
    ours, others = "44332211", "45332211"
    for index in (ours, others):
        node.send(
            f"02000000{'00' * 4}{index}{'00' * 80}",
            f"03000000{index}{'00' * 56}",
            f"58000000{index}{'00' * 120}",
            count=50,
        )
    assert node.shield() == {"handshake": 150, "unasked": 150}


def test_a_flood_of_cookie_replies_leaves_initiations_their_share(lab: Lab) -> None:
    node = Node(lab, rates=(1000, 1000, 50, 100)).start()
    start = time.monotonic()
    node.send(message(3, 64), message(0x57, 128), count=5000, spoof=5000)
    took = time.monotonic() - start
    # Of either kind a bucket of 100, and 50 a second; the flood is 10,000.
    assert node.shield()["handshake"] <= 200 + 100 * took
    before = node.shield()["handshake"]
    node.send(INITIATION, count=50)
    assert node.shield()["handshake"] == before + 50


def test_a_vlan_is_judged_once(lab: Lab) -> None:
    node = Node(lab, extra=("v5",), locals=("10.5.0.1",))
    for host, last in ((node.a, 1), (node.b, 2)):
        if not host.ip(f"link add link {node.link.device(host)} name v5 type vlan id 5", False):
            pytest.skip("this kernel has no VLAN devices")
        host.ip(f"addr add 10.5.0.{last}/24 dev v5")
        host.ip("link set v5 up")
    node.start()
    node.send(*BAD["type"], INITIATION, to="10.5.0.1")
    assert node.shield() == {"type": len(BAD["type"]), "handshake": 1}


@pytest.mark.parametrize("family", [4, 6])
def test_paths_are_what_we_send_to(lab: Lab, family: int) -> None:
    node = Node(lab).start()
    target = node.link.address(node.a, family)
    node.send(TRANSPORT, INITIATION, to=target)
    told = node.ask("answer")
    assert told["strangers"]["packets"] == 2
    assert told["strangers"]["bytes"] == 1348
    told = node.ask()
    (path,) = told["paths"]
    assert path["local"][:2] == [target, PORT]
    assert path["remote"][0] == node.link.address(node.b, family)
    assert path["tx"] == {"packets": 2, "bytes": 1348, "types": [0, 1, 0, 0, 1, 0]}
    assert path["rx"]["packets"] == 0


def bpf_of(end: Any) -> dict[str, Any]:
    status = end.status()
    return dict(status["bpf"])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("dataplane", ["", "xdp = true"])
def test_a_tunnel_behind_the_shield(lab: Lab, outer: int, dataplane: str) -> None:
    two = make_two(lab)
    two.a.dataplane = dataplane
    two.start(outer)
    two.a.ping(two.b, count=2)
    for server, client in ((two.b, two.a), (two.a, two.b)):
        name, digest = server.serve(16 * MIB)
        assert client.fetch(http_url(server, name)) == digest
    told = bpf_of(two.a)
    assert told["state"] == "on"
    assert told["reason"] == ""
    assert told["hooks"] == {two.link.device(two.a.host): "xdp" if dataplane else "tc"}
    shield = told["shield"]
    assert shield["transport"] > 1000
    assert shield["handshake"] >= 1
    assert not any(n for k, n in shield.items() if k not in {"transport", "handshake"})
    # Others are probed, and on a busy machine a file goes over several of this one link.
    path = max(told["paths"], key=lambda p: p["rx"]["bytes"])
    # Two link-local addresses are wider than a narrow terminal.
    wide = {**two.a.env, "COLUMNS": "160"}
    words = ("top", "--once", "-n", "0.1", "-i", two.a.interface)
    seen = two.a.host.run(WS, *words, env=wide).stdout
    assert f"{path['local']} → {path['remote']}" in seen
    assert re.search(r"received +[\d,]+ datagrams, .*: transport [\d,]+", seen)
    assert f"shield on {two.link.device(two.a.host)} (" in seen
    for way in ("rx", "tx"):
        assert sum(p[way]["bytes"] for p in told["paths"]) > 16 * MIB
    assert path["tx"]["types"].get("other", 0) == 0


def test_the_shield_follows_a_change_of_the_port(lab: Lab) -> None:
    two = make_two(lab)
    two.start()
    two.a.ping(two.b, count=1)
    two.a.run("wg", "set", two.a.interface, "listen-port", "4321")
    target = f"/dev/udp/{two.link.address(two.a.host)}"
    for port in (4321, two.a.port):
        two.b.run("bash", "-c", f"for i in 1 2 3; do printf xxxx >{target}/{port}; done")
    wait_until("the three to be dropped", lambda: bpf_of(two.a)["shield"]["short"] >= 3)
    assert bpf_of(two.a)["shield"]["short"] == 3
    two.a.ping(two.b, count=1)


def programs_of(pid: int) -> set[int]:
    found = set()
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # the agent goes on opening and closing
            for line in file.read_text().splitlines():
                if line.startswith("prog_id:"):
                    found.add(int(line.split()[1]))
    return found


def test_kill_9_leaves_no_program_behind(lab: Lab) -> None:
    two = make_two(lab)
    two.start()
    two.a.ping(two.b, count=1)
    assert two.a.process is not None
    ids = programs_of(two.a.process.pid)
    assert ids
    two.a.process.kill()

    def gone() -> bool:
        return all(
            run("bpftool", "prog", "show", "id", str(i), check=False).returncode for i in ids
        )

    wait_until("the programs' end", gone)


@pytest.mark.parametrize(
    ("caps", "dataplane", "why"),
    [
        ("-sys_admin,-bpf,-perfmon", "", "CAP_BPF"),
        ("+net_admin", "bpf = false", "bpf = false"),
    ],
)
def test_without_the_programs(lab: Lab, caps: str, dataplane: str, why: str) -> None:
    """It says so, and the tunnel works."""
    two = make_two(lab)
    two.a.dataplane = dataplane
    before = two.a.host.prefix
    two.a.host.prefix = [*before, "setpriv", f"--bounding-set={caps}"]
    two.start()
    two.a.host.prefix = before
    two.a.ping(two.b, count=1)
    told = bpf_of(two.a)
    assert told["state"] == "off"
    assert why in told["reason"]
    shown = two.a.ws("status", "-i", two.a.interface).stdout
    assert "off, because" in shown
    seen = two.a.ws("top", "--once", "-n", "0.1", "-i", two.a.interface).stdout
    assert "shield and path counters off, because" in seen
    name, digest = two.b.serve(4 * MIB)
    assert two.a.fetch(http_url(two.b, name)) == digest


def test_objects_that_are_missing(lab: Lab, tmp_path: Path) -> None:
    host: Host = lab.host("a")
    script = (
        "import sys; from pathlib import Path\n"
        "from whalescale.dataplane.programs import Program, Programs\n"
        "try: Programs.load(Program.SHIELD, 1, Path(sys.argv[1]))\n"
        "except OSError as e: print(e)\n"
    )
    said = host.run(PYTHON, "-c", script, tmp_path, env={"PYTHONPATH": str(ROOT)}).stdout
    assert f"{tmp_path}/shield.bpf.o is missing" in said
    (tmp_path / "shield.bpf.o").write_bytes(b"no object")
    said = host.run(PYTHON, "-c", script, tmp_path, env={"PYTHONPATH": str(ROOT)}).stdout
    assert "shield.bpf.o" in said
