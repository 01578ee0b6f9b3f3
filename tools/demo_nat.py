#!/usr/bin/env python3
"""`make demo-nat`: two laptops behind the routers that people have, and what happens to them.

    cloud (anchor) ───┐        ┌── router ────────── wlan0 ── laptop
                      ├─ the ──┤── mobile carrier ── wwan0 ──   "
    office (anchor) ──┤ inter- │                                        network namespaces
                      └─ net ──┴── carrier ── router ──────── desk

Nobody outside can send to either of the two: their routers let in only who was sent to, desk's is
behind a carrier's NAT too, and the mobile carrier gives another port for each destination, so that
no hole can be punched there and an anchor relays. The network is made with the `ws` command.
While laptop downloads from desk its router gives it another port, it moves to the mobile carrier,
the anchor that relays dies, and it comes home again. Everything is gone afterwards, whatever
happens; the picture stays. The exit status is not 0 when any step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from tools import demo_nat_plot
from tools.demo_nat_record import DIRECT, Watch, Ways, by
from tools.demo_network import Member
from tools.demo_record import Counters, longest_stall_s, parse_pings
from tools.demo_run import run, show, show_picture, show_said
from tools.demo_view import Bar, PathsView, paths_view
from tools.demo_watch import LOOK_S, End
from tools.homes import Home, Internet, has_nft
from tools.netlab import Lab, LabError, Process, Shape, wait_until
from tools.peers import ROOT

NETWORK, ANCHORS = "hearth", ("cloud", "office")
#: of each machine's line, one way: 20 ms from anybody to anybody and back
LINE_MS = 5.0
WLAN, WWAN = Shape(40), Shape(20)
#: more than the demo takes
DOWNLOAD_BYTES = 1_000_000_000
DOWNLOAD_RUNS_BYTES, DOWNLOAD_RUNS_MBPS = 1_000_000, 1.0
#: between what happens, so that the picture shows one thing at a time
PAUSE_S = 6.0
#: the longest that is waited for what must happen (the figures say how long it took)
LONGEST_S = 60.0
#: a ping in flight is answered within this, or it is lost
FIRST_S = 10


@dataclass(frozen=True, slots=True)
class Download:
    """What the laptop gets from desk, and by which way desk sends it."""

    counters: Counters
    interface: str
    ways: Ways

    def comes(self, ways: Sequence[str], since: float) -> bool:
        """So much came since then, and went by one of these ways, that it runs."""
        times, counts = list(self.counters.times), self.counters.counts[self.interface]
        begin = next((c for t, c in zip(times, counts, strict=False) if t >= since), counts[-1])
        went = sum(self.ways.total(way, since, time.monotonic()) for way in ways)
        return min(counts[-1] - begin, went) > DOWNLOAD_RUNS_BYTES


class Demo:
    """The steps, in order; `figures` is the summary's content."""

    def __init__(self, console: Console, lab: Lab, png: Path) -> None:
        self.console, self.lab, self.png = console, lab, png
        self.figures: list[tuple[str, str]] = []
        self.events: list[tuple[float, str]] = []
        self.members: dict[str, Member] = {}
        self.world: Internet
        self.home: Home
        self.mobile: Home
        self.view: PathsView | None = None
        self.download: Download

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[], None]]:
        """One line for a step. Yields what is to be called now and then: in a terminal it shows
        the laptop's paths below a moving bar, once there are some."""
        began = time.monotonic()
        columns = (TextColumn("  {task.description}"), BarColumn(20), TimeElapsedColumn())
        live = self.console.is_terminal
        with Bar(*columns, console=self.console, transient=True, disable=not live) as bar:
            bar.add_task(name, total=None)
            yield lambda: self.view.look(bar) if live and self.view is not None else None
        self.console.print(f"  {name:<66} ok {time.monotonic() - began:5.1f} s")

    def happens(self, what: str) -> float:
        now = time.monotonic()
        self.events.append((now, what))
        return now

    @staticmethod
    def until(what: str, true: Callable[[], object], look: Callable[[], None]) -> None:
        def seen() -> object:
            look()
            return true()

        wait_until(what, seen, LONGEST_S)

    @staticmethod
    def pause(look: Callable[[], None]) -> None:
        end = time.monotonic() + PAUSE_S
        while time.monotonic() < end:
            look()
            time.sleep(0.05)

    @property
    def laptop(self) -> Member:
        return self.members["laptop"]

    @property
    def desk(self) -> Member:
        return self.members["desk"]

    # the steps

    def run(self) -> None:
        with self.step("two anchors outside, two laptops behind NATs"):
            addresses = self.hosts()
        self.create()
        for name in ("office", "laptop", "desk"):
            self.join(name)
        pair = (self.laptop, self.desk), (self.desk, self.laptop)
        looks = [(End(m.name, m.interface, m.runtime), other.name) for m, other in pair]
        title = "[bold]ws paths --watch[/] on the laptop"
        with Watch(looks, addresses) as watch, ExitStack() as stack:
            place = self.laptop.interface, self.laptop.runtime, title
            ways = watch.ways["desk"]
            self.ready()
            began = self.first(watch)
            self.view = stack.enter_context(paths_view(*place, names=("desk",)))
            counters, ping, curl = self.traffic(stack)
            self.download = Download(counters, self.laptop.interface, ways)
            self.rebind()
            self.move()
            self.die()
            self.come_home()
            ended = time.monotonic()
            if curl.poll() is not None:
                raise LabError(f"the download ended early: {curl.log()[-500:]}")
            self.view = None
            ping.stop()
            pings = parse_pings(ping.log(), time.monotonic() - time.time())
        self.judge(counters, ways, ended, [at for at, _ in pings.answers])
        with self.step(f"the picture: {self.png}"):
            samples, span = ways.samples, (began, ended)
            demo_nat_plot.draw(samples, pings.answers, self.events, span, self.png)
        self.show()

    def hosts(self) -> dict[str, str]:
        """The anchors' names by address."""
        self.world = Internet(self.lab, LINE_MS)
        addresses = {}
        for number, name in enumerate(ANCHORS):
            host, address = self.world.public(name)
            self.members[name] = Member(host, number)
            addresses[address] = name
        self.home = self.world.home("laptop", shape=WLAN, device="wlan0")
        laptop = self.home.host
        self.mobile = self.world.home(
            "mobile", "symmetric", host=laptop, shape=WWAN, device="wwan0"
        )
        self.uplink(self.mobile, self.home)
        carrier = self.world.home("carrier", host=self.lab.host("desk-router"))
        desk = self.world.home("desk", behind=carrier)
        for number, host in enumerate((laptop, desk.host), start=len(ANCHORS)):
            self.members[host.name] = Member(host, number)
        return addresses

    @staticmethod
    def uplink(old: Home, new: Home) -> None:
        """The host's one uplink from now on: the old one is taken away first, as by a person."""
        host = old.host
        host.ip(f"link set {old.link.device(host)} down")
        host.ip(f"link set {new.link.device(host)} up")
        host.ip(f"route replace default via {new.link.address(new.router)}")

    def create(self) -> None:
        cloud = self.members["cloud"]
        with self.step("cloud: ws init --anchor, ws network create, ws up"):
            cloud.ws("init", "--anchor", config=True)
            words = ("network", "create", NETWORK, "--name", "cloud", "--json")
            cloud.address = json.loads(cloud.ws(*words, config=True))["address"]
            cloud.up()

    def join(self, name: str) -> None:
        """By a ticket of cloud's, until a ping comes back."""
        member, cloud = self.members[name], self.members["cloud"]
        with self.step(f"{name}: ws invite on cloud, ws join TICKET, ws up, a ping") as look:
            anchor = name in ANCHORS
            if anchor:
                member.ws("init", "--anchor", config=True)
            else:
                # In a network of four everybody else would be called unasked.
                member.ws("init", config=True)
                with member.config.open("a") as config:
                    config.write('\n[network]\nrole = "leaf"\n')
            invite = ("invite", name, *(() if anchor else ("--no-anchor",)))
            ticket = cloud.ws(*invite).strip()
            joined = json.loads(member.ws("join", ticket, "--json", config=True))
            member.address = joined["address"]
            member.up()
            self.until(f"a ping from {name} to cloud", lambda: member.reaches(cloud), look)

    def ready(self) -> None:
        """Both laptops have a session with both anchors, and none with each other."""

        def talks(member: Member) -> set[str]:
            view = json.loads(member.ws("members", "--json"))
            return {m["name"] for m in view["members"] if m["session"]}

        def known(member: Member) -> set[str]:
            view = json.loads(member.ws("members", "--json"))
            return {m["name"] for m in view["members"]}

        with self.step("both talk to both anchors, and not to each other yet") as look:
            both = (self.laptop, self.desk)
            self.until(
                "sessions with both anchors",
                lambda: all(set(ANCHORS) == talks(m) for m in both),
                look,
            )
            self.until(
                "everybody known", lambda: all(set(self.members) <= known(m) for m in both), look
            )

    def first(self, watch: Watch) -> float:
        """The first ping, and the way that it makes. When it was sent."""
        with self.step("the first ping, and a hole through four NATs") as look:
            began = self.happens("first ping")
            words = ("ping", "-c1", f"-W{FIRST_S}", self.desk.address)
            said = self.laptop.host.run(*words, check=False).stdout
            found = re.search(r"time=([\d.]+) ms", said)
            if found is None:
                raise LabError(f"the first ping was not answered: {said.strip()}")

            def direct() -> bool:
                return all(ways.usable() == {DIRECT} for ways in watch.ways.values())

            self.until("a direct path", direct, look)
            times = [
                next(s.at for s in reversed(ways.samples) if s.usable != {DIRECT})
                for ways in watch.ways.values()
            ]
        self.figures.append(("first ping answered", f"{float(found[1]):.0f} ms"))
        took = max(max(times) + LOOK_S - began, 0.0)
        self.figures.append(("direct, both ways", f"{took:.1f} s"))
        return began

    def traffic(self, stack: ExitStack) -> tuple[Counters, Process, Process]:
        """The laptop downloads from desk and pings it."""
        with self.step("the laptop downloads from desk, and pings it") as look:
            folder = self.desk.folder / "www"
            folder.mkdir()
            with (folder / "file").open("wb") as file:
                file.truncate(DOWNLOAD_BYTES)  # holes: what is in it is of no interest
            inside = self.desk.address
            words = (sys.executable, "-m", "http.server", "8080", "--bind", inside)
            self.desk.host.spawn(*words, "--directory", folder)
            self.desk.host.wait_listening(8080)
            interface = self.laptop.interface
            counters = Counters(self.laptop.host.pids()[0], [interface])
            stack.enter_context(counters)
            url = f"http://{inside}:8080/file"
            self.happens("download")
            curl = self.laptop.host.spawn("curl", "-sS", "-m", "300", "-o", "/dev/null", url)
            ping = self.laptop.host.spawn("stdbuf", "-oL", "ping", "-nD", "-i0.1", inside)

            def runs() -> bool:
                counts = counters.counts[interface]
                return bool(counts) and counts[-1] - counts[0] > DOWNLOAD_RUNS_BYTES

            self.until("the download", runs, look)
            self.pause(look)
        return counters, ping, curl

    def carried(self, ways: Sequence[str], since: float, look: Callable[[], None]) -> None:
        """Until the download comes by one of these ways."""
        what = f"the download to come {' or '.join(ways)}"
        self.until(what, lambda: self.download.comes(ways, since), look)
        self.pause(look)

    def rebind(self) -> None:
        with self.step("the laptop's router gives it another port, the old one is shut") as look:
            self.happens("router rebinds")
            self.home.rebind()
            self.carried([DIRECT], time.monotonic() + 1.0, look)

    def move(self) -> None:
        with self.step("the laptop moves to the mobile carrier, where no hole is") as look:
            at = self.happens("mobile carrier")
            self.uplink(self.home, self.mobile)
            self.carried([by(name) for name in ANCHORS], at, look)

    def die(self) -> None:
        now = time.monotonic()
        ways = self.download.ways
        carries = max(ANCHORS, key=lambda name: ways.total(by(name), now - 2.0, now))
        (other,) = (name for name in ANCHORS if name != carries)
        with self.step(f"{carries}, which relays, dies: {other} takes over") as look:
            at = self.happens(f"{carries} dies")
            host = self.members[carries].host
            self.world.lines[host].silence(True)
            for pid in host.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.carried([by(other)], at, look)

    def come_home(self) -> None:
        with self.step("the laptop comes home: direct again") as look:
            at = self.happens("home again")
            self.uplink(self.mobile, self.home)
            self.carried([DIRECT], at, look)

    # the end

    def judge(self, counters: Counters, ways: Ways, ended: float, answers: list[float]) -> None:
        """The longest pause of the download and of the pings at each event. LabError: the download
        does not run at the end."""
        interface = self.laptop.interface
        times, counts = list(counters.times), counters.counts[interface]
        last = counters.rate_mbps(interface, ended - 3.0, ended)
        if last < DOWNLOAD_RUNS_MBPS:
            raise LabError(f"the download has but {last:.2f} Mbit/s at the end")
        marks = [*self.events, (ended, "")]
        for (at, what), (until, _) in pairwise(marks):
            if what in ("first ping", "download"):
                continue
            stall = longest_stall_s(times, counts[: len(times)], at, until)
            near = [t for t in answers if at - 0.2 < t < until]
            gap = max((b - a for a, b in pairwise(near)), default=until - at)
            text = f"{1000 * stall:.0f} ms; {1000 * gap:.0f} ms between two pings' answers"
            self.figures.append((f"{what}: longest pause of the download", text))
        start = next(at for at, what in self.events if what == "download")
        for way in sorted({way for s in ways.samples for way in s.went}):
            megabytes = ways.total(way, start, ended) / 1e6
            self.figures.append((f"the download {way}", f"{megabytes:.0f} MB"))

    def show(self) -> None:
        show(self.console, "Two laptops behind NATs", self.figures)
        said = self.laptop.ws("paths", "desk")
        show_said(self.console, "ws paths desk", "on the laptop, at the end", said)
        show_picture(self.console, "throughput by way over time, and ping", self.png)


def main() -> int:
    """Run the demo of NAT traversal."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    place = ROOT / "build/demo-nat.png"
    parser.add_argument("--png", type=Path, default=place, help=f"the picture [build/{place.name}]")
    options = parser.parse_args()

    def begin(console: Console, lab: Lab) -> None:
        Demo(console, lab, options.png).run()

    nft = "nft for the routers: apt-get install nftables"
    return run("demo-nat", options.png, begin, {nft: has_nft()})


if __name__ == "__main__":
    sys.exit(main())
