#!/usr/bin/env python3
"""`make demo`: two hosts on this machine, two links between them, one tunnel, one download.

                 ┌── 5G    100 Mbit/s 20 ms  10.201.1.0/24 ──┐
    laptop ══════╡                                           ╞══════ server     network namespaces
                 └── WiFi   50 Mbit/s  5 ms  10.201.2.0/24 ──┘
      ws: 10.77.0.1 ════════════════ tunnel ════════════════ 10.77.0.2

No rate is configured, and of the server's addresses only the one on the 5G link. The 5G link goes
silent in the middle of the download and comes back. Everything is made with the `ws` command, as a
user would, and is gone afterwards, whatever happens; the picture stays. The exit status is not 0
when any step failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm

from tools import demo_plot
from tools.demo_record import Counters, Record, parse_pings
from tools.demo_run import run, show, show_picture, show_said
from tools.demo_view import Bar, paths_view
from tools.netlab import (
    Host,
    Lab,
    LabError,
    Link,
    Shape,
    wait_until,
)
from tools.peers import ROOT, WS, make_file
from tools.twohosts import two_hosts

MB = 1_000_000
#: what is cut, and when: late enough for a look at the full rate, early enough to see it again
LEAST_MB = 60
CUT_AT = 0.4
CUT_S = 3.0
#: each link alone: so long, of which the first part is TCP's own start
ALONE_S = 3.5
START_S = 1.0
#: both links: the last part before the cut
BOTH_S = 3.0
#: what is still in the queues of the last flow drains in that time
SETTLE_S = 0.3
TOP_SECONDS = 120
TOP_CUT_S, TOP_BACK_S = 10.0, 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of link, as the laptop has them."""

    name: str
    device: str
    shape: Shape


KINDS = (
    Kind("5G", "wwan0", Shape(100, 20, jitter_ms=1, loss_percent=0.02)),
    Kind("WiFi", "wlan0", Shape(50, 5)),
)


class Node:
    """One host with its configuration, run with the `ws` command alone."""

    def __init__(self, host: Host, number: int) -> None:
        self.host = host
        self.inside = f"10.77.0.{number}"
        self.interface = f"ws{number - 1}d{os.getpid()}"[:15]
        self.folder = host.lab.folder / host.name
        self.folder.mkdir()
        self.config = self.folder / f"{self.interface}.toml"
        self.env = {"WHALESCALE_RUNTIME_DIR": str(self.folder / "run"), "COLUMNS": "100"}
        host.lab.interfaces.add(self.interface)
        self.node_id = ""

    def ws(self, *words: str, stdin: str | None = None) -> str:
        return self.host.run(WS, *words, env=self.env, stdin=stdin).stdout

    def init(self) -> None:
        words = ("-i", self.interface, "--config", str(self.config))
        self.ws("init", *words, "--address", f"{self.inside}/24", "--listen-port", "51820")
        key = self.config.with_suffix(".key").read_text()
        self.node_id = self.ws("pubkey", stdin=key).strip()

    def add(self, peer: Node, endpoint: str) -> None:
        words = ("--id", peer.node_id, "--endpoint", endpoint, "--allowed-ip", f"{peer.inside}/32")
        self.ws("peer", "add", peer.host.name, *words, "--config", str(self.config))


def prepare(link: Link, device: str) -> None:
    """Give both ends of a link another name than eth0, eth1, and IPv4 alone.

    Whalescale would find a path for each family, and one more between the link-local addresses;
    two links are easier to follow with a path each.
    """
    link.set_up(False)
    for host, old in link.ends.items():
        host.ip(f"link set {old} name {device}")
        link.ends[host] = device
    link.set_up(True)
    for host in link.ends:
        host.sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 1)


class Demo:
    """The steps, in order; `figures` is the table's content."""

    def __init__(self, console: Console, lab: Lab, size: int, png: Path) -> None:
        self.console = console
        self.lab = lab
        self.size = size
        self.png = png
        self.figures: list[tuple[str, str]] = []
        self.links: tuple[Link, ...] = ()

    @contextmanager
    def step(self, name: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        """One line for a step, with a moving bar in a terminal. Yields what takes the progress."""
        with self.bar(name, total) as (bar, task):
            yield lambda done: bar.update(task, completed=done)

    @contextmanager
    def bar(self, name: str, total: float | None = None) -> Iterator[tuple[Bar, TaskID]]:
        """The same; yields the bar itself, which can show more below."""
        began = time.monotonic()
        columns = (TextColumn("  {task.description}"), BarColumn(30), TimeElapsedColumn())
        with Bar(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bar:
            yield bar, bar.add_task(name, total=total)
        self.console.print(f"  {name:<58} ok {time.monotonic() - began:5.1f} s")

    def run(self) -> None:
        with self.step("two hosts, a 5G and a WiFi link between them"):
            names = ("laptop", "server")
            two = two_hosts(self.lab, [kind.shape for kind in KINDS], names)
            self.links = two.links
            for link, kind in zip(two.links, KINDS, strict=True):
                prepare(link, kind.device)
            for host in (two.a, two.b):
                # Where this kernel lacks BBR, the default carries the download too.
                host.sysctl("net.ipv4.tcp_congestion_control", "bbr", check=False)
            laptop, server = Node(two.a, 1), Node(two.b, 2)
        with self.step("both configurations: ws init, ws pubkey, ws peer add"):
            for node in (laptop, server):
                node.init()
            laptop.add(server, f"{two.links[0].address(server.host)}:51820")
            server.add(laptop, f"{two.links[0].address(laptop.host)}:51820")
        with self.step("two agents: ws up"):
            for node in (laptop, server):
                node.ws("up", "--config", str(node.config))
        with self.step("ping through the tunnel"):
            self.ping(laptop, server)
        with self.step("both paths found and in use"):
            self.until_used(laptop, server, {kind.device for kind in KINDS})
        devices = tuple(kind.device for kind in KINDS)
        record = Record(tuple(kind.name for kind in KINDS), laptop.interface, devices)
        with Counters(laptop.host.pids()[0], [laptop.interface, *devices]) as counters:
            url, digest = self.serve(server)
            for kind in KINDS:
                record.alone_mbps.append(self.alone(laptop, server, kind, url, counters))
            seen = self.download(laptop, server, url, digest, record)
            record.take(counters)
        self.judge(record)
        with self.step(f"the picture: {self.png}"):
            demo_plot.draw(record, self.png)
        self.show(laptop, server, seen)
        if self.console.is_terminal and sys.stdin.isatty():
            self.offer_top(laptop, server)
        with self.step("both agents down: ws down"):
            for node in (laptop, server):
                node.ws("down", "-i", node.interface)
                if node.interface in node.host.link_names():
                    raise LabError(f"`ws down` left {node.interface} behind")

    def ping(self, laptop: Node, server: Node) -> None:
        # The first one may wait for the handshake that the agents began at their start.
        first = laptop.host.run("ping", "-c1", "-w5", server.inside).stdout
        rest = laptop.host.run("ping", "-c20", "-i0.05", "-q", server.inside, timeout=20).stdout
        times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)/", rest)
        shake = re.search(r"time=([\d.]+)", first)
        if times is None or shake is None:
            raise LabError(f"no ping came back: {rest.strip()}")
        self.figures.append(("first ping", f"{shake[1]} ms"))
        self.figures.append(("ping, 20 more, nothing else going on", f"{float(times[2]):.1f} ms"))

    @staticmethod
    def until_used(laptop: Node, server: Node, wanted: set[str]) -> None:
        """Until both hosts use these devices and no other."""

        def used(node: Node) -> set[str]:
            (peer,) = json.loads(node.ws("paths", "--json", "-i", node.interface))["peers"]
            multipath: dict[str, Any] = peer["multipath"] or {"paths": []}
            return {p["interface"] for p in multipath["paths"] if p["usable"]}

        what = f"{' and '.join(sorted(wanted))} to be in use at both ends"
        wait_until(what, lambda: used(laptop) == used(server) == wanted, interval=0.1)

    def serve(self, server: Node) -> tuple[str, str]:
        """The download's URL and SHA-256."""
        folder = server.folder / "www"
        folder.mkdir()
        with self.step(f"a file of {self.size // MB} MB of random bytes"):
            digest = make_file(folder / "file", self.size)
        words = [sys.executable, "-m", "http.server", "8080", "--bind", server.inside]
        server.host.spawn(*words, "--directory", folder)
        server.host.wait_listening(8080)
        return f"http://{server.inside}:8080/file", digest

    def alone(self, laptop: Node, server: Node, kind: Kind, url: str, counters: Counters) -> float:
        """Mbit/s through the tunnel with one link alone: the other one is disabled meanwhile."""
        (other,) = (k.device for k in KINDS if k is not kind)

        def pin(*words: str) -> None:
            for node, peer in ((laptop, server), (server, laptop)):
                node.ws("paths", peer.host.name, "--set", other, *words, "-i", node.interface)

        with self.step(f"{kind.name} alone: ws paths --set {other} --disable", ALONE_S) as progress:
            pin("--disable")
            self.until_used(laptop, server, {kind.device})
            began = time.monotonic()
            curl = laptop.host.spawn("curl", "-sS", "--fail", "-m", "60", "-o", "/dev/null", url)
            while (took := time.monotonic() - began) < ALONE_S and curl.poll() is None:
                progress(took)
                time.sleep(0.05)
            ended = time.monotonic()
            if curl.poll() is not None:
                curl.finish()  # a machine so fast that all came already is no failure
            curl.stop()
            pin("--reset")
            self.until_used(laptop, server, {k.device for k in KINDS})
            time.sleep(SETTLE_S)
        rate = counters.rate_mbps(laptop.interface, min(began + START_S, ended - 1.0), ended)
        shape = kind.shape
        about = f"{kind.name} alone ({shape.rate_mbit:g} Mbit/s, {shape.delay_ms:g} ms)"
        self.figures.append((about, f"{rate:.1f} Mbit/s"))
        return rate

    def download(self, laptop: Node, server: Node, url: str, wanted: str, record: Record) -> str:
        """Fetch the file with a cut in the middle; what `ws paths` said during that."""
        target = laptop.folder / "fetched"
        name = f"{self.size // MB} MB over both, {KINDS[0].name} cut for {CUT_S:g} s, SHA-256"
        seen = ""
        runtime_dir = server.env["WHALESCALE_RUNTIME_DIR"]
        title = f"[bold]ws paths --watch[/] on the {server.host.name}"
        with (
            paths_view(server.interface, runtime_dir, title) as view,
            self.bar(name, self.size) as (bar, task),
        ):
            ping = laptop.host.spawn("stdbuf", "-oL", "ping", "-nD", "-i0.1", server.inside)
            record.began = time.monotonic()
            curl = laptop.host.spawn("curl", "-sS", "--fail", "-m", "120", "-o", target, url)
            while curl.poll() is None:
                size = target.stat().st_size if target.exists() else 0
                bar.update(task, completed=size)
                if self.console.is_terminal:
                    view.look(bar)
                now = time.monotonic()
                if not record.cut and size >= CUT_AT * self.size:
                    self.links[0].silence(True)
                    record.cut = now
                elif record.cut and not seen and now - record.cut > CUT_S / 2:
                    seen = server.ws("paths", "-i", server.interface)
                elif record.cut and not record.back and now - record.cut > CUT_S:
                    self.links[0].silence(False)
                    record.back = now
                time.sleep(0.02)
            record.ended = time.monotonic()
            curl.finish()
            ping.stop()
            with target.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != wanted:
            raise LabError(f"the file came over wrong: SHA-256 {got}, wanted {wanted}")
        if not record.back:
            raise LabError("the download was over before the link was back; try --megabytes 400")
        record.pings = parse_pings(ping.log(), time.monotonic() - time.time())
        took = record.ended - record.began
        rate = f"{self.size * 8 / took / 1e6:.1f} Mbit/s, {took:.1f} s"
        self.figures.append((f"{self.size // MB} MB over both, with the cut", rate))
        self.figures.append(("SHA-256 of what came", f"the same ({got[:16]}...)"))
        return seen

    def judge(self, record: Record) -> None:
        """The download's figures. LabError: a link did not do its part."""
        tunnel, first = record.tunnel, record.names[0]
        total, other = sum(record.alone_mbps), record.alone_mbps[1]
        for name, device in zip(record.names, record.devices, strict=True):
            if record.mbps(device, record.began, record.cut) < 0.05 * total:
                raise LabError(f"the download hardly used the {name} link before the cut")
        # TCP's start and the paths' ramp are not in it, as far as the file is long enough.
        steady = min(BOTH_S, (record.cut - record.began) / 2)
        both = record.mbps(tunnel, record.cut - steady, record.cut)
        of = f"{100 * both / total:.0f} % of the sum" if total else "nothing alone"
        cut = record.mbps(tunnel, record.cut + 0.5, record.back)
        left = f"{100 * cut / other:.0f} % of it alone" if other else "nothing alone"
        stall = record.stall_s(record.cut, min(record.back + 1.0, record.ended))
        again = record.used_again_s(0, KINDS[0].shape.rate_mbit)
        self.figures += [
            (f"both links, the last {steady:.0f} s before the cut", f"{both:.1f} Mbit/s, {of}"),
            (f"{first} cut: {record.names[1]} carries on", f"{cut:.1f} Mbit/s, {left}"),
            ("longest time without a byte at the cut", f"{1000 * stall:.0f} ms"),
            (f"{first} back and used", "too late to see" if again is None else f"{again:.2f} s"),
        ]
        pings = record.pings
        if not pings.answers:
            raise LabError("no ping came back beside the download")
        middle, worst = pings.percentile_ms(0.5), pings.percentile_ms(1.0)
        text = f"{middle:.1f} ms, at worst {worst:.0f} ms, {pings.lost} lost"
        self.figures.append(("ping beside the download, cut and all", text))

    def show(self, laptop: Node, server: Node, seen: str) -> None:
        agent = json.loads(server.ws("status", "--json", "-i", server.interface))["agent"]
        self.figures.append(("data plane", f"{agent['backend']}, {agent['cipher']}"))
        show(self.console, "Whalescale, one tunnel over two links", self.figures)
        again = server.ws("paths", "-i", server.interface)
        when = f"while the {KINDS[0].name} link is cut"
        for about, text in ((when, seen), ("after the download", again)):
            show_said(self.console, "ws paths", f"on the {server.host.name}, {about}", text)
        status = laptop.ws("status", "-i", laptop.interface)
        show_said(self.console, "ws status", f"on the {laptop.host.name}", status)
        show_picture(self.console, "throughput of each path over time, and ping", self.png)

    def offer_top(self, laptop: Node, server: Node) -> None:
        first = KINDS[0].name
        question = f"Watch `ws top` while {first} comes and goes under a download (q leaves it)?"
        try:
            wanted = Confirm.ask(question, console=self.console, default=False)
        except EOFError:  # Ctrl-D
            wanted = False
        if not wanted:
            return
        server.host.spawn("iperf3", "-s", "-1", "-B", server.inside)
        server.host.wait_listening(5201)
        words = ("-R", "-c", server.inside, "-t", str(TOP_SECONDS))
        traffic = laptop.host.spawn("iperf3", *words)
        with self.comes_and_goes(self.links[0]):
            top = [*laptop.host.prefix, str(WS), "top", "-i", laptop.interface]
            pid = os.posix_spawn(
                *("/usr/bin/env", ["env", *top]),
                {**os.environ, "WHALESCALE_RUNTIME_DIR": laptop.env["WHALESCALE_RUNTIME_DIR"]},
            )
            os.waitpid(pid, 0)
        traffic.stop()

    @staticmethod
    @contextmanager
    def comes_and_goes(link: Link) -> Iterator[None]:
        """The link goes silent again and again; it is there at the end."""
        done = threading.Event()

        def cut() -> None:
            # A link that cannot be cut any more is no reason to disturb the view.
            with suppress(LabError):
                while not done.wait(TOP_CUT_S):
                    link.silence(True)
                    done.wait(TOP_BACK_S)
                    link.silence(False)

        thread = threading.Thread(target=cut, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(TOP_BACK_S)


def megabytes(text: str) -> int:
    number = int(text)
    if number < LEAST_MB:
        raise argparse.ArgumentTypeError(
            f"{number} is over before the link is back; {LEAST_MB} or more"
        )
    return number


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--megabytes", type=megabytes, default=200, help="size of the file [200]")
    place = ROOT / "build/demo.png"
    parser.add_argument("--png", type=Path, default=place, help="the picture [build/demo.png]")
    options = parser.parse_args()

    def begin(console: Console, lab: Lab) -> None:
        Demo(console, lab, options.megabytes * MB, options.png).run()

    return run("demo", options.png, begin, {})


if __name__ == "__main__":
    sys.exit(main())
