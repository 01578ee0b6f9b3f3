#!/usr/bin/env python3
"""`make demo`: two hosts on this machine, a tunnel between them, traffic, figures.

    alpha 10.201.1.1 ── link ── 10.201.1.2 beta        network namespaces
      ws: 10.77.0.1 ═════════ tunnel ═ 10.77.0.2

Everything is made with the `ws` command, as a user would, and is gone afterwards, whatever happens.
The exit status is not 0 when any step failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm
from rich.table import Table

from tools.netlab import Host, Lab, LabError, Process, terminate_as_exception
from tools.peers import WS, make_file

MB = 1_000_000
IPERF_SECONDS = 5
TOP_SECONDS = 120


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


class Demo:
    """The steps, in order; `figures` is the table's content."""

    def __init__(self, console: Console, lab: Lab, size: int) -> None:
        self.console = console
        self.lab = lab
        self.size = size
        self.figures: list[tuple[str, str]] = []

    @contextmanager
    def step(self, name: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        """One line for a step, with a moving bar in a terminal. Yields what takes the progress."""
        began = time.monotonic()
        columns = (TextColumn("  {task.description}"), BarColumn(30), TimeElapsedColumn())
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bar:
            task: TaskID = bar.add_task(name, total=total)
            yield lambda done: bar.update(task, completed=done)
        self.console.print(f"  {name:<58} ok {time.monotonic() - began:5.1f} s")

    def run(self) -> None:
        with self.step("two hosts, a link between them"):
            alpha, beta = Node(self.lab.host("alpha"), 1), Node(self.lab.host("beta"), 2)
            link = self.lab.link(alpha.host, beta.host)
        with self.step("both configurations: ws init, ws pubkey, ws peer add"):
            for node in (alpha, beta):
                node.init()
            alpha.add(beta, f"{link.address(beta.host)}:51820")
            beta.add(alpha, f"{link.address(alpha.host)}:51820")
        with self.step("two agents: ws up"):
            for node in (alpha, beta):
                node.ws("up", "--config", str(node.config))
        with self.step("ping through the tunnel"):
            self.ping(alpha, beta)
        self.http(alpha, beta)
        self.iperf("iperf3, the bare link", alpha, beta, link.address(beta.host))
        self.iperf("iperf3, through the tunnel", alpha, beta, beta.inside)
        status = alpha.ws("status", "-i", alpha.interface)
        self.table(alpha)
        self.console.print(f"[bold]ws status[/] on {alpha.host.name}\n")
        self.console.print(status, markup=False, highlight=False)
        if self.console.is_terminal and sys.stdin.isatty():
            self.offer_top(alpha, beta)
        with self.step("both agents down: ws down"):
            for node in (alpha, beta):
                node.ws("down", "-i", node.interface)
                if node.interface in node.host.link_names():
                    raise LabError(f"`ws down` left {node.interface} behind")

    def ping(self, alpha: Node, beta: Node) -> None:
        # The first one may wait for the handshake that the agents began at their start.
        first = alpha.host.run("ping", "-c1", "-w5", beta.inside).stdout
        rest = alpha.host.run("ping", "-c20", "-i0.05", "-q", beta.inside, timeout=20).stdout
        times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)/", rest)
        shake = re.search(r"time=([\d.]+)", first)
        if times is None or shake is None or " 0% packet loss" not in rest:
            raise LabError(f"ping lost packets: {rest.strip()}")
        self.figures.append(("first ping", f"{shake[1]} ms"))
        self.figures.append(("ping, 20 more", f"{times[2]} ms (at worst {times[3]} ms)"))

    def http(self, alpha: Node, beta: Node) -> None:
        name = f"{self.size // MB} MB by HTTP (curl) through the tunnel, SHA-256"
        folder = beta.folder / "www"
        folder.mkdir()
        with self.step(f"a file of {self.size // MB} MB of random bytes"):
            wanted = make_file(folder / "file", self.size)
        server = [sys.executable, "-m", "http.server", "8080", "--bind", beta.inside]
        beta.host.spawn(*server, "--directory", folder)
        beta.host.wait_listening(8080)
        target = alpha.folder / "fetched"
        with self.step(name, self.size) as progress:
            began = time.monotonic()
            url = f"http://{beta.inside}:8080/file"
            curl = alpha.host.spawn("curl", "-sS", "--fail", "-m", "300", "-o", target, url)
            while curl.poll() is None:
                progress(target.stat().st_size if target.exists() else 0)
                time.sleep(0.02)
            took = time.monotonic() - began
            curl.finish()
            with target.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != wanted:
            raise LabError(f"the file came over wrong: SHA-256 {got}, wanted {wanted}")
        self.figures.append((f"HTTP, {self.size // MB} MB", f"{self.size / MB / took:.0f} MB/s"))
        self.figures.append(("SHA-256 of what came", f"the same ({got[:16]}...)"))

    def iperf(self, name: str, alpha: Node, beta: Node, address: str) -> None:
        server = beta.host.spawn("iperf3", "-s", "-1", "-B", address)
        beta.host.wait_listening(5201)
        with self.step(name, IPERF_SECONDS) as progress:
            client = alpha.host.spawn("iperf3", "-J", "-c", address, "-t", str(IPERF_SECONDS))
            self.watch(client, progress)
            result = json.loads(client.finish())
        server.wait(10)
        bits = result["end"]["sum_received"]["bits_per_second"]
        self.figures.append((f"{name}, one flow", f"{bits / 1e9:.2f} Gbit/s"))

    @staticmethod
    def watch(process: Process, progress: Callable[[float], None]) -> None:
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < IPERF_SECONDS + 30:
            progress(time.monotonic() - began)
            time.sleep(0.1)

    def table(self, alpha: Node) -> None:
        agent = json.loads(alpha.ws("status", "--json", "-i", alpha.interface))["agent"]
        self.figures.append(("data plane", f"{agent['backend']}, {agent['cipher']}"))
        table = Table(title="Whalescale, two hosts on this machine", title_justify="left")
        table.add_column("what")
        table.add_column("figure", justify="right")
        for row in self.figures:
            table.add_row(*row)
        self.console.print()
        self.console.print(table)
        self.console.print()

    def offer_top(self, alpha: Node, beta: Node) -> None:
        question = "Watch it with `ws top` while traffic runs (q leaves it)?"
        if not Confirm.ask(question, console=self.console, default=False):
            return
        beta.host.spawn("iperf3", "-s", "-1", "-B", beta.inside)
        beta.host.wait_listening(5201)
        traffic = alpha.host.spawn("iperf3", "-c", beta.inside, "-t", str(TOP_SECONDS))
        words = [*alpha.host.prefix, str(WS), "top", "-i", alpha.interface]
        pid = os.posix_spawn(
            *("/usr/bin/env", ["env", *words]),
            {**os.environ, "WHALESCALE_RUNTIME_DIR": alpha.env["WHALESCALE_RUNTIME_DIR"]},
        )
        os.waitpid(pid, 0)
        traffic.stop()


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the file [200]")
    options = parser.parse_args()
    terminate_as_exception()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    if os.geteuid() != 0:
        console.print("demo: needs root (network namespaces): sudo make demo")
        return 4
    try:
        with Lab() as lab:
            Demo(console, lab, options.megabytes * MB).run()
    except KeyboardInterrupt:
        console.print("\ndemo: interrupted; everything is cleaned up")
        return 130
    except (LabError, OSError, ValueError, KeyError) as error:
        console.print(f"\ndemo: FAILED: {error}", markup=False)
        return 1
    console.print("  everything worked, and is cleaned up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
