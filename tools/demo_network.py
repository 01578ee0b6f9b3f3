#!/usr/bin/env python3
"""`make demo-network`: five hosts on this machine, a network of them, and what goes wrong.

    home (admin, anchor) ──┐        ┌── wlan ── laptop
                           ├─ the ──┤── wwan ──   "
    cloud (anchor) ────────┤ inter- ├── desktop             network namespaces
                           └─ net ──┴── phone

The network is made with the `ws` command, as its owner would: one host creates it, invites, and the
others join. Then the cloud's machine dies, the laptop moves from one network to another, the phone
is lost and revoked while it downloads, and the cloud's machine comes back. Everything is gone
afterwards, whatever happens; the picture stays. The exit status is not 0 when any step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from tools import demo_network_plot
from tools.demo_network_plot import Traffic
from tools.demo_network_record import KNOWN, TALKS, UNKNOWN, Observer, Watch
from tools.demo_record import Counters, parse_pings
from tools.demo_run import run, show, show_picture, show_said
from tools.demo_watch import End
from tools.mpbench import judge
from tools.netlab import (
    Host,
    Lab,
    LabError,
    Link,
    Process,
    Shape,
    emulator,
    wait_until,
)
from tools.peers import ROOT, WS

NETWORK, ANCHORS, OTHERS = "hearth", ("home", "cloud"), ("laptop", "desktop", "phone")
#: 20 ms from host to host and back; the phone's is what its download fills
SHAPE, PHONE = Shape(50, 5), Shape(10, 5)
#: more than the demo takes
DOWNLOAD_BYTES = 400_000_000
#: a download that has so much runs
DOWNLOAD_RUNS_BYTES, DOWNLOAD_RUNS_MBPS = 1_000_000, 2.0
#: between what happens, so that the picture shows one thing at a time
PAUSE_S = 3.0
#: the longest that is waited for what must happen (the figures say how long it took)
LONGEST_S = 90.0
#: the download counts as cut when no more than this comes (keepalives, handshakes)
CUT_MBPS = 0.05
ASK = """
import sys, dns.message, dns.query
for name in sys.argv[2:]:
    reply = dns.query.udp(dns.message.make_query(name, "A"), sys.argv[1], timeout=5)
    print(name, *(r.address for rrset in reply.answer for r in rrset))
"""


class Member:
    """One host, run with the `ws` command alone."""

    def __init__(self, host: Host, number: int) -> None:
        self.host, self.name = host, host.name
        self.interface = f"ws{number}n{os.getpid()}"[:15]
        self.folder = host.lab.folder / host.name
        self.folder.mkdir()
        self.config = self.folder / f"{self.interface}.toml"
        self.runtime = str(self.folder / "run")
        state = str(self.folder / "state")
        self.env = {"WHALESCALE_RUNTIME_DIR": self.runtime, "WHALESCALE_STATE_DIR": state}
        host.lab.interfaces.add(self.interface)
        self.links: list[Link] = []
        self.address = ""

    def ws(self, *words: str, config: bool = False) -> str:
        """`config`: the command wants to know where the configuration is."""
        where = ["-i", self.interface]
        if config:
            where += ["--config", str(self.config)]
        return self.host.run(WS, *words, *where, env=self.env).stdout

    def up(self) -> None:
        self.host.run(WS, "up", "--config", self.config, env=self.env)

    def use(self, number: int, *, up: bool) -> None:
        """Take its end of a link up or down (its address stays)."""
        device = self.links[number].device(self.host)
        self.host.ip(f"link set {device} {'up' if up else 'down'}")

    def outside(self) -> str:
        """Its address on the link that it uses."""
        return self.links[0].address(self.host)

    def reaches(self, other: Member) -> bool:
        ping = ("ping", "-c1", "-W1", other.address)
        return self.host.run(*ping, check=False).returncode == 0


class Demo:
    """The steps, in order; `figures` is the summary's content."""

    def __init__(self, console: Console, lab: Lab, png: Path) -> None:
        self.console, self.lab, self.png = console, lab, png
        self.figures: list[tuple[str, str]] = []
        self.events: list[tuple[float, str]] = []
        self.members: dict[str, Member] = {}
        self.watch: Watch

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.console.print(f"  {name:<66} ok {time.monotonic() - began:5.1f} s")

    def happens(self, what: str) -> float:
        now = time.monotonic()
        self.events.append((now, what))
        return now

    def until(self, what: str, true: Callable[[], object]) -> None:
        wait_until(what, true, LONGEST_S)

    # the steps

    def run(self) -> None:
        with self.step("five hosts, the laptop with two networks to choose from"):
            self.hosts()
        ends = [End(m.name, m.interface, m.runtime) for m in self.members.values()]
        with Watch(ends) as self.watch, ExitStack() as stack:
            began = time.monotonic()
            self.create()
            for name in (*ANCHORS[1:], *OTHERS):
                self.join(name)
            self.settle()
            self.names()
            counters, ping = self.traffic(stack)
            time.sleep(PAUSE_S)
            died = self.die()
            time.sleep(PAUSE_S)
            self.move()
            time.sleep(PAUSE_S)
            revoked = self.revoke()
            self.noticed(died)
            self.come_back(revoked)
            time.sleep(1.0)
            ping.stop()
            ended = time.monotonic()
            cut = self.cut(counters, revoked)
            pings = parse_pings(ping.log(), time.monotonic() - time.time())
        self.judge_pings([at for at, _ in pings.answers])
        with self.step(f"the picture: {self.png}"):
            rates = judge.rates_mbps(counters.times, counters.counts[self.phone.interface])
            traffic = Traffic(list(zip(counters.times[1:], rates, strict=True)), pings.answers)
            moved = self.laptop.name, self.laptop.outside()
            observers = list(self.watch.observers.values())
            span = began, ended
            demo_network_plot.draw(observers, self.events, moved, traffic, span, self.png)
        self.figures.append(("the phone's download, after ws revoke ended", f"{1000 * cut:.0f} ms"))
        self.show()

    @property
    def home(self) -> Member:
        return self.members["home"]

    @property
    def cloud(self) -> Member:
        return self.members["cloud"]

    @property
    def laptop(self) -> Member:
        return self.members["laptop"]

    @property
    def desktop(self) -> Member:
        return self.members["desktop"]

    @property
    def phone(self) -> Member:
        return self.members["phone"]

    def observer(self, name: str) -> Observer:
        return self.watch.observers[name]

    def hosts(self) -> None:
        router = self.lab.host("internet")
        router.sysctl("net.ipv4.ip_forward", 1)
        for number, name in enumerate((*ANCHORS, *OTHERS)):
            member = Member(self.lab.host(name), number)
            self.members[name] = member
            for _ in range(2 if name == "laptop" else 1):
                shape = PHONE if name == "phone" else SHAPE
                link = self.lab.link(router, member.host, shape, backend=emulator())
                member.links.append(link)
                for host in (router, member.host):
                    # One family, so that there is one place and one path to follow for each.
                    host.sysctl(f"net.ipv6.conf.{link.device(host)}.disable_ipv6", 1)
            if name == "laptop":
                member.use(1, up=False)
            member.host.ip(f"route replace default via {member.links[0].address(router)}")

    def create(self) -> None:
        with self.step("home: ws init --anchor, ws network create, ws up"):
            self.happens("home")
            self.home.ws("init", "--anchor", config=True)
            words = ("network", "create", NETWORK, "--name", "home", "--json")
            self.home.address = json.loads(self.home.ws(*words, config=True))["address"]
            self.home.up()

    def join(self, name: str) -> None:
        """By a ticket of home's, until a ping comes back."""
        member, anchor = self.members[name], name in ANCHORS
        with self.step(f"{name}: ws invite at home, ws join TICKET, ws up, a ping home"):
            if anchor:
                member.ws("init", "--anchor", config=True)
            invite = ("invite", name, *(() if anchor else ("--no-anchor",)))
            ticket = self.home.ws(*invite).strip()
            began = self.happens(name)
            joined = json.loads(member.ws("join", ticket, "--json", config=True))
            if joined["name"] != name:
                raise LabError(f"{name} was told that it is {joined['name']}")
            member.address = joined["address"]
            member.up()
            self.until(f"a ping from {name} to home", lambda: member.reaches(self.home))
            took = time.monotonic() - began
        self.figures.append((f"{name}: ws join, ws up, first ping", f"{took:.1f} s"))

    def settle(self) -> None:
        everybody = set(self.members)

        def whole() -> bool:
            return all(
                {n for n in everybody if self.observer(o).now(n) != UNKNOWN} == everybody
                and self.observer(o).alive[-1:]
                and self.observer(o).alive[-1][1] == len(ANCHORS)
                for o in everybody
            )

        with self.step("everybody knows everybody, and both anchors"):
            self.until("every host to know all five members and two anchors", whole)
        joined = {what: at for at, what in self.events}
        last = "phone"
        took = self.latest(last, (KNOWN, TALKS), joined[last], everybody - {last})
        self.figures.append((f"{last} joins: known to all {len(everybody)}", f"{took:.2f} s"))

    def latest(self, member: str, words: Sequence[str], since: float, observers: set[str]) -> float:
        """Seconds from `since` until the last of these said one of the words of the member."""
        found = {o: self.observer(o).first(member, words, since) for o in observers}
        never = sorted(o for o, at in found.items() if at is None)
        if never:
            raise LabError(f"{', '.join(never)} never said {' or '.join(words)} of {member}")
        return max(at for at in found.values() if at is not None) - since

    def names(self) -> None:
        """Every host asks its own responder for everybody."""
        wanted = sorted(f"{m.name}.{NETWORK}.internal {m.address}" for m in self.members.values())
        names = [line.partition(" ")[0] for line in wanted]
        with self.step(f"names: NAME.{NETWORK}.internal, asked for on every host"):
            asked = [
                (m, m.host.spawn(sys.executable, "-c", ASK, m.address, *names))
                for m in self.members.values()
            ]
            for member, process in asked:
                said = sorted(process.finish().splitlines())
                if said != wanted:
                    raise LabError(f"{member.name} resolves {said}, not {wanted}")
            self.until("the laptop to reach the desktop", lambda: self.laptop.reaches(self.desktop))
        self.figures.append(("names resolved", f"{len(names)} on each of {len(asked)} hosts"))

    def traffic(self, stack: ExitStack) -> tuple[Counters, Process]:
        """The phone downloads from the desktop, and the laptop pings it."""
        with self.step("the phone downloads from the desktop, the laptop pings it"):
            folder = self.desktop.folder / "www"
            folder.mkdir()
            with (folder / "file").open("wb") as file:
                file.truncate(DOWNLOAD_BYTES)  # holes: what is in it is of no interest
            inside = self.desktop.address
            words = (sys.executable, "-m", "http.server", "8080", "--bind", inside)
            self.desktop.host.spawn(*words, "--directory", folder)
            self.desktop.host.wait_listening(8080)
            counters = Counters(self.phone.host.pids()[0], [self.phone.interface])
            stack.enter_context(counters)
            url = f"http://{inside}:8080/file"
            self.phone.host.spawn("curl", "-sS", "-m", "300", "-o", "/dev/null", url)
            ping = self.laptop.host.spawn("stdbuf", "-oL", "ping", "-nD", "-i0.1", inside)
            self.until("the download", lambda: self.received(counters) > DOWNLOAD_RUNS_BYTES)
        return counters, ping

    def received(self, counters: Counters) -> int:
        """Bytes since the counters began."""
        counts = counters.counts[self.phone.interface]
        return counts[-1] - counts[0] if counts else 0

    def die(self) -> float:
        """The power goes: no agent, no link."""
        with self.step("the cloud's machine dies"):
            at = self.happens("cloud dies")
            self.cloud.links[0].silence(True)
            for pid in self.cloud.host.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return at

    def move(self) -> None:
        laptop = self.laptop
        others = {"home", "desktop", "phone"}
        with self.step("the laptop moves to its other network"):
            at = self.happens("laptop moves")
            new = laptop.links[1]
            laptop.use(0, up=False)
            laptop.use(1, up=True)
            (router,) = (h for h in new.ends if h is not laptop.host)
            laptop.host.ip(f"route replace default via {new.address(router)}")
            laptop.links.reverse()
            key = laptop.name, laptop.outside()
            self.until("a ping from where the laptop is now", lambda: laptop.reaches(self.desktop))
            self.until(
                "all to hear where the laptop is now",
                lambda: all(key in self.observer(o).places for o in others),
            )
        heard = max(self.observer(o).places[key] for o in others) - at
        self.figures.append(("laptop moves: heard by all", f"{heard:.2f} s"))

    def revoke(self) -> float:
        with self.step("the phone is lost: ws revoke phone at home, in mid-download"):
            at = self.happens("phone revoked")
            self.home.ws("revoke", "phone")
            done = time.monotonic()
            others = {"home", "laptop", "desktop"}
            self.until(
                "all to cut the phone off",
                lambda: all(self.observer(o).now("phone") == UNKNOWN for o in others),
            )
        took = self.latest("phone", (UNKNOWN,), at, others)
        self.figures.append(("phone revoked: gone everywhere", f"{took:.2f} s with the command"))
        return done

    def noticed(self, died: float) -> None:
        """Who talked to the dead anchor has given it up, and says that there is but one left."""
        with self.step("the dead anchor is missed, and said so by ws network show"):
            self.until("one anchor alive", lambda: self.observer("home").alive[-1][1] == 1)
            said = self.home.ws("network", "show")
            if "1 alive; a second one" not in said:
                raise LabError(f"`ws network show` warns of nothing: {said}")
        at = self.observer("home").alive[-1][0]
        self.figures.append(("cloud dies: home says so after", f"{at - died:.1f} s"))

    def come_back(self, revoked: float) -> None:
        """It missed the revocation."""
        with self.step("the cloud's machine comes back: ws up"):
            at = self.happens("cloud back")
            self.cloud.links[0].silence(False)
            self.cloud.up()
            cloud = self.observer("cloud")
            self.until("cloud to talk to home", lambda: cloud.now("home") == TALKS)
            self.until("cloud to drop the phone", lambda: cloud.now("phone") == UNKNOWN)
            self.until("two anchors alive", lambda: self.observer("home").alive[-1][1] == 2)
            took = time.monotonic() - at
            if self.cloud.reaches(self.phone) or self.laptop.reaches(self.phone):
                raise LabError("the revoked phone still answers")
        self.figures.append(("cloud back, knows of the phone", f"{took:.1f} s with ws up"))

    # the end

    def cut(self, counters: Counters, revoked: float) -> float:
        """Seconds that the download went on after the command. LabError: it did not run, or on."""
        device = self.phone.interface
        before = counters.rate_mbps(device, revoked - 2.0, revoked - 1.0)
        if before < DOWNLOAD_RUNS_MBPS:
            raise LabError(f"the download had only {before:.2f} Mbit/s before the revocation")
        after = counters.rate_mbps(device, revoked + 2.0)
        if after > CUT_MBPS:
            raise LabError(f"the phone still gets {after:.2f} Mbit/s after the revocation")
        times, counts = counters.times, counters.counts[device]
        rates = judge.rates_mbps(times, counts)
        last = max(t for t, rate in zip(times[1:], rates, strict=True) if rate > CUT_MBPS)
        return max(last - revoked, 0.0)

    def judge_pings(self, answers: Sequence[float]) -> None:
        """The longest time without an answer around each event."""
        times = {what: at for at, what in self.events}
        for what, text in (
            ("cloud dies", "cloud dies: longest gap in the laptop's pings"),
            ("laptop moves", "laptop moves: longest gap in its pings"),
        ):
            near = [at for at in answers if times[what] - 1 < at < times[what] + 2 * PAUSE_S]
            gaps = [b - a for a, b in pairwise(near)]
            if not gaps:
                raise LabError(f"no pings came back around: {what}")
            self.figures.append((text, f"{max(gaps):.2f} s"))

    def show(self) -> None:
        show(self.console, "A network of five machines", self.figures)
        said = self.home.ws("members")
        said += "\n* others dialled it unasked, and got in" if "anchor*" in said else ""
        show_said(self.console, "ws members", "at home, at the end", said)
        show_picture(self.console, "who knew what when", self.png)


def main() -> int:
    """Run the demo of a network."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    place = ROOT / "build/demo-network.png"
    parser.add_argument("--png", type=Path, default=place, help=f"the picture [build/{place.name}]")
    options = parser.parse_args()

    def begin(console: Console, lab: Lab) -> None:
        Demo(console, lab, options.png).run()

    return run("demo-network", options.png, begin, {})


if __name__ == "__main__":
    sys.exit(main())
