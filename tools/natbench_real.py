"""The rows of `make bench-nat` in which something changes under a flow of agents.

    anchors ───┐        ┌── router ────────── uplink0 ── a
               ├─ core ─┤── another router ── uplink1 ── "
               │        └── router ──────────────────── b        (all port-restricted)

20 ms from anybody to anybody one way; 50 Mbit/s of numbered datagrams from b to a.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.demo_record import parse_pings
from tools.homes import Home, Internet, has_nft
from tools.natbench_flow import Judged, judge, read
from tools.natbench_hosts import LINE_MS, members
from tools.netbench_hosts import end_of
from tools.netlab import Lab, LabError, Shape, run, wait_until
from tools.peers import ROOT, Peer, Whalescale, outside

ANCHORS = ("anchor", "second")
MBIT, PORT = 50.0, 7001
SETTLE_S, LONGEST_S = 60.0, 60.0
#: of a flow before what happens
BEFORE_S = 2.0
#: a place that did not answer is called again so long after (docs/nat.md, Punching)
AGAIN_S = 35.0
SLEPT_S = 600
ROUNDS = 3
CLOCK = ROOT / "tools" / "natclock.c"
_BLOCK = """
table ip block
delete table ip block
table ip block {{
  chain forward {{
    type filter hook forward priority filter;
    ip saddr {one} ip daddr {two} drop
    ip saddr {two} ip daddr {one} drop
  }}
}}
"""
_DEAD = """
table ip6 dead {
  chain input { type filter hook input priority filter; meta l4proto udp drop; }
}
"""


class Scene:
    """A network with nothing said yet between a and b."""

    def __init__(self, lab: Lab, env: dict[str, str] | None = None) -> None:
        """`env`: of a's agent, which then has no eBPF (whose clock is the kernel's own)."""
        self.lab, self.world = lab, Internet(lab, LINE_MS)
        self.anchors = {name: self._anchor(name, n) for n, name in enumerate(ANCHORS, 1)}
        self.home = self.world.home("a", device="uplink0")
        self.other = self.world.home("c", host=self.home.host, device="uplink1")
        self.use(self.home, down=self.other)
        self.far = self.world.home("b")
        self.a, self.b = end_of(self.home.host, 3), end_of(self.far.host, 4)
        if env:
            self.a.env.update(env)
            self.a.dataplane = "bpf = false"
        self._network()
        self.addresses = {n: str(m["address"]) for n, m in members(self.a).items()}

    def _anchor(self, name: str, number: int) -> Whalescale:
        host, _ = self.world.public(name)
        return end_of(host, number)

    def _network(self) -> None:
        first, second = self.anchors.values()
        for end in (first, second, self.a, self.b):
            end.write_config()
            with end.config.open("a") as config:
                # A leaf calls nobody unasked but anchors.
                own = "anchor = true" if end in (first, second) else 'role = "leaf"'
                config.write(f"\n[network]\n{own}\n")
        where = ("-i", first.interface, "--config", str(first.config))
        first.ws("network", "create", "hearth", "--name", ANCHORS[0], *where)
        first.launch()
        first.wait_for_uapi()
        for end, name in ((second, ANCHORS[1]), (self.a, "a"), (self.b, "b")):
            ticket = first.ws("invite", name, "-i", first.interface).stdout.strip()
            end.ws("join", ticket, "-i", end.interface, "--config", str(end.config))
            end.launch()
            end.wait_for_uapi()

        def ready(end: Whalescale, other: str) -> bool:
            known = members(end)
            return other in known and all(known.get(n, {}).get("session") for n in ANCHORS)

        both = ((self.a, "b"), (self.b, "a"))
        wait_until("sessions", lambda: all(ready(*pair) for pair in both), SETTLE_S, 0.3)

    @staticmethod
    def use(new: Home, down: Home) -> None:
        """The host's only uplink from now on."""
        host = new.host
        host.ip(f"link set {down.link.device(host)} down")
        host.ip(f"link set {new.link.device(host)} up")
        host.ip(f"route replace default via {new.link.address(new.router)}")

    def both(self) -> None:
        """a has two uplinks at a time; the first is preferred."""
        host = self.home.host
        host.ip(f"link set {self.other.link.device(host)} up")
        host.ip(f"route replace default via {self.other.link.address(self.other.router)} metric 50")

    def block(self) -> None:
        """Nothing passes directly between the two homes."""
        text = _BLOCK.format(one=self.home.wan, two=self.far.wan)
        self.world.core.run("nft", "-f", "-", stdin=text)

    def unblock(self) -> None:
        self.world.core.run("nft", "delete table ip block")

    # looking

    def paths(self, end: Whalescale) -> list[dict[str, Any]]:
        """Those in use from this end to the other one."""
        status: Any = end.status()
        name = "b" if end is self.a else "a"
        found = [p for p in status["peers"] if p["name"] == name]
        paths = (found[0].get("multipath") or {}).get("paths", []) if found else []
        return [p for p in paths if p["usable"]]

    def direct(self) -> bool:
        ways = [self.paths(end) for end in (self.a, self.b)]
        return all(w and not any(p["relayed"] for p in w) for w in ways)

    def relayed(self) -> bool:
        return all(
            self.paths(e) and all(p["relayed"] for p in self.paths(e)) for e in (self.a, self.b)
        )

    def relays(self) -> set[str]:
        """Names of the anchors that both are relayed by."""
        status: Any = self.b.status()
        return {r for p in status["peers"] if p["name"] == "a" for r in p["relays"]}

    def carrier(self) -> str:
        """The anchor that b's packets go over."""
        status: Any = self.b.status()
        return str(next(p["relayed_by"] for p in status["peers"] if p["name"] == "a"))

    def ping(self) -> float | None:
        """Seconds to the answer of one ping from a."""
        words = ("ping", "-c1", "-W10", self.addresses["b"])
        said = self.a.host.run(*words, check=False).stdout
        found = re.search(r"time=([\d.]+) ms", said)
        return float(found[1]) / 1000 if found else None

    def pinged(self) -> None:
        """Pings of a, one each 50 ms, until one is answered."""
        words = ("ping", "-i0.05", f"-w{LONGEST_S:.0f}", self.addresses["b"])
        ping = self.a.host.spawn("stdbuf", "-oL", *words)
        wait_until("an answer", lambda: "time=" in ping.log(), LONGEST_S, 0.01)
        ping.stop()

    def settle(self, *, relay: bool = False) -> None:
        """A session, and the ways as they shall be: direct or not, with both anchors bound."""
        if self.ping() is None:
            raise LabError("the first ping was not answered")
        want = self.relayed if relay else self.direct
        wait_until("the way", want, SETTLE_S, 0.2)
        wait_until("both anchors bound", lambda: self.relays() == set(ANCHORS), SETTLE_S, 0.2)
        time.sleep(1)

    def flow(self, seconds: float, change: Callable[[], object]) -> Judged:
        """What came of b's stream to a from the change on. LabError: nothing came before it."""
        file = self.lab.folder / f"flow{time.monotonic_ns()}"
        program = (sys.executable, "-m", "tools.natbench_flow")
        place = (self.addresses["a"], str(PORT))
        env = {"PYTHONPATH": str(ROOT)}
        whole = str(BEFORE_S + seconds + LONGEST_S)
        receiver = self.a.host.spawn(*program, "receive", *place, whole, file, env=env)
        sender = self.b.host.spawn(
            *program, "send", *place, str(BEFORE_S + seconds), str(MBIT), env=env
        )
        wait_until("the flow", lambda: all("ready" in p.log() for p in (receiver, sender)), 20)
        sender.stdin.write(b"\n")
        sender.stdin.flush()
        time.sleep(BEFORE_S)
        at = time.monotonic_ns()
        change()
        sender.finish(seconds + 20)
        ended = time.monotonic_ns()
        receiver.stdin.write(b"\n")
        receiver.stdin.flush()
        receiver.finish(20)
        rows = read(file)
        before = judge(rows, at - 10**9, at)
        if before.came < 100:
            raise LabError(f"{before.came} datagrams came before the change")
        return judge(rows, at, ended)


@contextmanager
def scene(env: dict[str, str] | None = None) -> Iterator[Scene]:
    """LabError: no nftables, or the network did not come about."""
    if not has_nft():
        raise LabError("no nft: apt-get install nftables")
    with Lab() as lab:
        yield Scene(lab, env)


Say = Callable[..., None]


def _moved(say: Say, what: str, found: Judged) -> None:
    """A move between relay and direct: nothing may be lost or come in another order."""
    note = f"{found.came} came; sender's longest gap {1000 * found.sender_s:.0f} ms"
    wrong = found.lost + found.reordered + found.again
    parts = f"{found.lost} lost, {found.reordered} reordered, {found.again} twice of {found.came}"
    say(f"{what}, {MBIT:g} Mbit/s: packets lost or reordered", wrong, "", 0, 0, note=parts)
    say(f"{what}, {MBIT:g} Mbit/s: longest pause", 1000 * found.pause_s, "ms", 300, 100, note=note)


def relay_direct(say: Say) -> None:
    with scene() as s:
        s.block()
        called = time.monotonic()
        s.settle(relay=True)
        time.sleep(max(called + AGAIN_S - 4.0 - BEFORE_S - time.monotonic(), 0))
        found = s.flow(12.0, s.unblock)
        if not s.direct():
            raise LabError("no direct path came")
    _moved(say, "relay to direct", found)


def direct_relay(say: Say) -> None:
    with scene() as s:
        s.settle()
        found = s.flow(6.0, s.block)
        if not s.relayed():
            raise LabError("the relay does not carry")
    _moved(say, "direct to relay, the direct way goes silent", found)


def anchor_anchor(say: Say) -> None:
    with scene() as s:
        s.block()
        s.settle(relay=True)
        name = s.carrier()
        dying = s.anchors[name]

        def die() -> None:
            s.world.lines[dying.host].silence(True)
            dying.kill()

        found = s.flow(6.0, die)
    _moved(say, "anchor to anchor, the first dies", found)


def _paused(
    say: Say,
    what: str,
    bars: tuple[float, float],
    change: Callable[[Scene], object],
    *,
    both: bool = False,
) -> None:
    with scene() as s:
        if both:
            s.both()
        s.settle()
        found = s.flow(8.0, lambda: change(s))
    note = f"{found.lost} lost, {found.reordered} reordered of {found.came}"
    longest = 1000 * found.pause_s
    say(f"{what}, {MBIT:g} Mbit/s: longest pause", longest, "ms", *bars, note=note)


def rebind(say: Say) -> None:
    _paused(say, "router rebinds", (1500, 500), lambda s: s.home.rebind())


def readdress(say: Say) -> None:
    _paused(
        say, "new address by another router", (1000, 400), lambda s: s.use(s.other, down=s.home)
    )


def gone(say: Say) -> None:
    def down(s: Scene) -> None:
        s.home.host.ip(f"link set {s.home.link.device(s.home.host)} down")

    _paused(say, "interface gone, another there", (400, 150), down, both=True)


def clock_library(folder: Path) -> Path:
    """tools/natclock.c, compiled. LabError: no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise LabError("a jumped clock needs a C compiler: apt-get install gcc")
    made = folder / "natclock.so"
    run(
        compiler,
        "-std=c11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        made,
        CLOCK,
    )
    return made


def asleep(say: Say) -> None:
    """a's agent is stopped; when it goes on, its clock says that ten minutes went by."""
    with Lab() as lab:
        library, page = clock_library(lab.folder), lab.folder / "ahead"
        page.write_bytes(bytes(8))
        s = Scene(lab, {"LD_PRELOAD": str(library), "WS_NATCLOCK": str(page)})
        s.settle()
        assert s.a.process is not None
        pid = s.a.process.pid
        took: list[float] = []
        for number in range(1, ROUNDS + 1):
            os.kill(pid, signal.SIGSTOP)
            # The routers have forgotten it, as after ten minutes.
            s.home.rebind()
            time.sleep(2)
            page.write_bytes((SLEPT_S * number * 10**9).to_bytes(8, "little"))
            began = time.monotonic()
            os.kill(pid, signal.SIGCONT)
            s.pinged()
            took.append(time.monotonic() - began)
            wait_until("direct again", s.direct, LONGEST_S, 0.2)
            time.sleep(3)
    times = ", ".join(f"{t:.2f}" for t in took)
    note = f"SIGSTOP, clocks {SLEPT_S} s ahead, the router has forgotten; {times} s"
    say("suspended for 10 min: first ping answered", max(took), "s", 2, 0.7, note=note)


def first_ping(say: Say) -> None:
    with scene() as s:
        began = time.monotonic()
        answered = s.ping()
        wait_until("direct", s.direct, LONGEST_S, 0.02)
        direct = time.monotonic() - began
    what = "agents, port-restricted at both ends: "
    note = "20 ms from anybody to anybody"
    value = float("inf") if answered is None else 1000 * answered
    say(f"{what}first ping answered", value, "ms", 250, 120, note=note)
    say(f"{what}direct", 1000 * direct, "ms", 1500, 700, note=note)


def _six(dead: bool) -> float:
    """Seconds from a peer's addresses of both families to its first answer."""
    with Lab() as lab:
        one, two = lab.host("a"), lab.host("b")
        link = lab.link(one, two, Shape(delay_ms=2 * LINE_MS))
        a, b = (end_of(h, n, (f"10.77.0.{n}/24",)) for n, h in enumerate((one, two), 1))
        if dead:
            two.run("nft", "-f", "-", stdin=_DEAD)
        places = [outside(link.address(two, family), b.port) for family in (6, 4)]
        networks = ("10.77.0.2/32",)
        a.write_config(Peer(b.public_key, networks, None, node_id=b.node_id))
        b.write_config(Peer(a.public_key, ("10.77.0.1/32",), None, node_id=a.node_id))
        for end in (a, b):
            end.launch()
            end.wait_for_uapi()
        ping = one.spawn("stdbuf", "-oL", "ping", "-nD", "-i0.01", "-w20", "10.77.0.2")
        a.write_config(Peer(b.public_key, networks, places[0], node_id=b.node_id))
        text = a.config.read_text().replace(f'["{places[0]}"]', f'["{places[0]}", "{places[1]}"]')
        a.config.write_text(text)
        began = time.monotonic()
        a.call("reload")
        wait_until("an answer", lambda: "time=" in ping.log(), LONGEST_S)
        offset = time.monotonic() - time.time()
        return parse_pings(ping.log(), offset).answers[0][0] - began


def ipv6(say: Say) -> None:
    if not has_nft():
        raise LabError("no nft: apt-get install nftables")
    fine, dead = (statistics.median(_six(d) for _ in range(ROUNDS)) for d in (False, True))
    times = f"{1000 * fine:.0f} ms with IPv6, {1000 * dead:.0f} ms where it is dropped"
    note = f"{times}; medians of {ROUNDS}"
    say(
        "IPv6 dead, IPv4 fine: added to the first answer",
        1000 * (dead - fine),
        "ms",
        300,
        250,
        note=note,
    )


ROWS: dict[str, Callable[[Say], None]] = {
    "first-ping": first_ping,
    "relay-direct": relay_direct,
    "direct-relay": direct_relay,
    "anchor-anchor": anchor_anchor,
    "rebind": rebind,
    "readdress": readdress,
    "gone": gone,
    "asleep": asleep,
    "ipv6": ipv6,
}
