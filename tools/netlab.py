#!/usr/bin/env python3
"""Hosts as network namespaces, joined by links with a rate, a delay and a loss.

Everything a `Lab` makes is gone when it is closed: processes, namespaces, devices, folders. What a
killed run left behind is swept up by the next one. Needs root.

    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        link = lab.link(a, b, Shape(rate_mbit=100, delay_ms=20))
        a.run("ping", "-c1", link.address(b))

Shaped links use netem where the kernel has it, else TBF for a bare rate and `linkemu.c` for the
rest, or vde's `wirefilter` where there is no C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.processes import (
    LabError,
    Process,
    lock,
    run,
    signals_held,
    terminate_as_exception,
    wait_until,
)

if TYPE_CHECKING:
    from tools.linkemu import LinkEmu
    from tools.nursery import Nursery

#: what a test of a lab needs, wherever it is from
__all__ = [
    "UAPI_FOLDER",
    "WHOLE_MBIT",
    "Host",
    "Lab",
    "LabError",
    "Link",
    "Process",
    "Shape",
    "emulator",
    "has_netem",
    "lock",
    "run",
    "signals_held",
    "sweep",
    "terminate_as_exception",
    "wait_until",
]

#: links from this rate on pass super-packets whole, as network cards would (linkemu.c)
WHOLE_MBIT = 300
#: Where WireGuard implementations keep their UAPI sockets, shared by all namespaces.
UAPI_FOLDER = Path("/var/run/wireguard")
_NAME = re.compile(r"^ws(\d+)-\d+-")
_lab_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Shape:
    """One direction's properties, the same both ways. Delay is one-way."""

    rate_mbit: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    #: Queue behind the rate; 0: 50 ms of the rate, at least 64 KiB.
    buffer_bytes: int = 0

    @property
    def queue_bytes(self) -> int:
        return self.buffer_bytes or max(int(self.rate_mbit * 1e6 / 8 * 0.05), 65536)

    @property
    def only_rate(self) -> bool:
        return not (self.delay_ms or self.jitter_ms or self.loss_percent)


@functools.cache
def has_netem() -> bool:
    """Whether this kernel has the netem queueing discipline."""
    with Lab() as lab:
        return lab.host("probe").tc("qdisc add dev lo root netem delay 1ms", check=False)


def emulator() -> str:
    """The backend that can do everything a `Shape` says: "netem", "linkemu" or "wirefilter"."""
    if has_netem():
        return "netem"
    from tools.linkemu import program

    return "linkemu" if program() is not None else "wirefilter"


class Host:
    """A network namespace."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.netns = f"{lab.prefix}{name}"
        self.prefix = ["ip", "netns", "exec", self.netns]
        self.devices = itertools.count()
        self.env: dict[str, str] = {}
        self._logs = itertools.count()
        run("ip", "netns", "add", self.netns)
        self.ip("link set lo up")

    def run(
        self,
        *command: str | Path,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 60.0,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host and wait for it."""
        return run(
            *self.prefix,
            *command,
            check=check,
            stdin=stdin,
            timeout=timeout,
            env={**self.env, **(env or {})},
        )

    def spawn(
        self,
        *command: str | Path,
        env: dict[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> Process:
        """Start a command in the host; the lab ends it at the latest.

        `nursery`: by that one, unless the host has a prefix or files in /etc of its own.
        """
        usual = ["ip", "netns", "exec", self.netns]
        if self.prefix != usual or Path("/etc/netns", self.netns).exists():
            nursery = None
        words = [str(w) for w in command]
        log = self.lab.folder / f"{self.name}-{next(self._logs)}-{Path(words[0]).name}.log"
        process = Process(self, words, log, {**self.env, **(env or {})}, nursery)
        self.lab.processes.append(process)
        return process

    def sysctl(self, name: str, value: object, check: bool = True) -> bool:
        """Write a value below /proc/sys ("net.ipv4.ip_forward") as the host sees it.

        Written here: `sysctl` is a package of its own that a small system lacks. True: it was set.
        """
        path = Path("/proc/sys", *name.split("."))
        return self.run("tee", path, stdin=f"{value}\n", check=check).returncode == 0

    def ip(self, line: str, check: bool = True) -> bool:
        """`ip` with these arguments in the host. Returns whether it succeeded."""
        return run("ip", "-n", self.netns, *line.split(), check=check).returncode == 0

    def tc(self, line: str, check: bool = True) -> bool:
        return run("tc", "-n", self.netns, *line.split(), check=check).returncode == 0

    def ip_json(self, line: str) -> list[dict[str, Any]]:
        out = run("ip", "-n", self.netns, "-j", *line.split()).stdout
        return list(json.loads(out)) if out.strip() else []

    def link_names(self) -> set[str]:
        return {row["ifname"] for row in self.ip_json("link show")}

    def udp_ports(self) -> set[int]:
        """Local ports of the UDP sockets in the host."""
        rows = self.run("ss", "-Hnulp").stdout.splitlines()
        return {int(row.split()[3].rsplit(":", 1)[1]) for row in rows}

    def wait_listening(self, port: int, timeout: float = 10.0) -> None:
        """Until something listens on this TCP port."""

        def listening() -> str:
            return self.run("ss", "-Hntl", f"sport = :{port}").stdout.strip()

        wait_until(f"a listener on port {port} in {self.name}", listening, timeout)

    def pids(self) -> list[int]:
        found = run("ip", "netns", "pids", self.netns, check=False).stdout
        return [int(word) for word in found.split()]


@dataclass
class Link:
    """Two devices joined. Addresses: 10.201.N.1 and .2, fd00:201:N::1 and ::2."""

    lab: Lab
    number: int
    ends: dict[Host, str]
    backend: str
    shape: Shape
    _management: list[Path] = field(default_factory=list)
    _linkemu: LinkEmu | None = None
    _silent: bool = False

    def device(self, host: Host) -> str:
        return self.ends[host]

    def address(self, host: Host, family: int = 4, host_part: int = 0) -> str:
        """The host's address on this link. `host_part`: another number than the usual 1 or 2."""
        part = host_part or list(self.ends).index(host) + 1
        return f"10.201.{self.number}.{part}" if family == 4 else f"fd00:201:{self.number}::{part}"

    def add_address(self, host: Host, family: int = 4, host_part: int = 0) -> None:
        bits = "24" if family == 4 else "64 nodad"
        self.lab.ip_of(host, f"addr add {self.address(host, family, host_part)}/{bits}", self)

    def remove_address(self, host: Host, family: int = 4, host_part: int = 0) -> None:
        bits = "24" if family == 4 else "64"
        self.lab.ip_of(host, f"addr del {self.address(host, family, host_part)}/{bits}", self)

    def set_up(self, up: bool) -> None:
        """Take the link down at both ends, or up again (IPv6 addresses are put back)."""
        for host, device in self.ends.items():
            host.ip(f"link set {device} {'up' if up else 'down'}")
            if up:
                host.ip(f"addr replace {self.address(host, 6)}/64 dev {device} nodad")

    def reshape(self, **changes: float) -> None:
        """Change fields of the shape while the link runs."""
        self.shape = replace(self.shape, **changes)  # type: ignore[arg-type]
        self.apply()

    def silence(self, silent: bool) -> None:
        """From now on everything is lost, or no longer; the devices stay up."""
        if self.backend == "tbf":
            raise LabError("this link cannot go silent: make it with backend=emulator()")
        self._silent = silent
        self.apply()

    @property
    def linkemu(self) -> LinkEmu:
        """For what a shape does not say: recordings, a policer. LabError: of another backend."""
        if self._linkemu is None:
            raise LabError(f'{self.backend} has no recordings: make it with backend="linkemu"')
        return self._linkemu

    def apply(self) -> None:
        s = replace(self.shape, loss_percent=100.0) if self._silent else self.shape
        if self._linkemu is not None:
            self._linkemu.set(s)
            return
        if self.backend == "wirefilter":
            for path in self._management:
                _wirefilter_set(path, s)
            return
        for host, device in self.ends.items():
            host.tc(f"qdisc del dev {device} root", check=False)
            if self.backend == "netem":
                words = [f"qdisc add dev {device} root netem"]
                if s.delay_ms:
                    words.append(f"delay {s.delay_ms:g}ms {s.jitter_ms:g}ms")
                if s.loss_percent:
                    words.append(f"loss {s.loss_percent:g}%")
                if s.rate_mbit:
                    words.append(f"rate {s.rate_mbit:g}mbit")
                held = s.queue_bytes + s.rate_mbit * 125 * (s.delay_ms + s.jitter_ms)
                words.append(f"limit {max(int(held / 1500), 100)}")
                host.tc(" ".join(words))
            elif s.rate_mbit:
                burst = max(int(s.rate_mbit * 125 * 2), 3200)
                host.tc(
                    f"qdisc add dev {device} root tbf rate {s.rate_mbit:g}mbit "
                    f"burst {burst} limit {s.queue_bytes + burst}"
                )


def _wirefilter_set(management: Path, shape: Shape) -> None:
    """Give a running wirefilter the shape, over its management socket."""
    # The queue holds the delay line too.
    held = shape.queue_bytes + int(shape.rate_mbit * 125 * (shape.delay_ms + shape.jitter_ms))
    commands = [
        f"delay {shape.delay_ms:g}" + (f"+{shape.jitter_ms:g}" if shape.jitter_ms else ""),
        f"loss {shape.loss_percent:g}",
        f"bandwidth {int(shape.rate_mbit * 125_000)}",
        f"chanbufsize {held if shape.rate_mbit else 0}",
    ]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(management))
        _read_prompt(sock)
        for command in commands:
            sock.sendall(command.encode() + b"\n")
            answer = _read_prompt(sock)
            if "1000" not in answer:
                raise LabError(f"wirefilter refused `{command}`: {answer.strip()}")


def _read_prompt(sock: socket.socket) -> str:
    got = b""
    while not got.rstrip().endswith(b"$"):
        data = sock.recv(4096)
        if not data:
            break
        got += data
    return got.decode(errors="replace")


class Lab:
    """Owner of hosts, links and processes; a context manager that leaves nothing behind."""

    def __init__(self, seed: int = 1) -> None:
        """`seed`: of the losses and jitters of links, where the backend takes one."""
        if os.geteuid() != 0:
            raise LabError("network namespaces need root: run this with sudo")
        sweep()
        self.seed = seed
        self.prefix = f"ws{os.getpid()}-{next(_lab_numbers)}-"
        self.hosts: list[Host] = []
        self.processes: list[Process] = []
        self.interfaces: set[str] = set()
        self._links = itertools.count(1)
        self.folder = Path(tempfile.mkdtemp(prefix=self.prefix))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def host(self, name: str) -> Host:
        with signals_held():
            host = Host(self, name)
            self.hosts.append(host)
        return host

    def ip_of(self, host: Host, line: str, link: Link) -> None:
        words = line.split(" nodad")
        host.ip(f"{words[0]} dev {link.device(host)}{' nodad' if len(words) > 1 else ''}")

    def link(
        self, a: Host, b: Host, shape: Shape | None = None, mtu: int = 1500, backend: str = ""
    ) -> Link:
        """Join two hosts; both ends get an IPv4 and an IPv6 address and are up.

        `backend`: "tbf", "netem", "linkemu" or "wirefilter"; "": the cheapest that does it.
        """
        shape = shape or Shape()
        number = next(self._links)
        if not backend:
            tbf = shape == Shape() or (shape.only_rate and not has_netem())
            backend = "tbf" if tbf else emulator()
        ends = {host: f"eth{next(host.devices)}" for host in (a, b)}
        link = Link(self, number, ends, backend, shape)
        if backend == "wirefilter":
            self._wirefilter(link)
        elif backend == "linkemu":
            self._start_linkemu(link)
        else:
            run(
                *f"ip link add {ends[a]} netns {a.netns} type veth".split(),
                *f"peer name {ends[b]} netns {b.netns}".split(),
            )
        for host, device in ends.items():
            host.ip(f"link set {device} mtu {mtu} up")
            link.add_address(host, 4)
            link.add_address(host, 6)
        link.apply()
        return link

    def _start_linkemu(self, link: Link) -> None:
        from tools.linkemu import LinkEmu, program

        binary = program()
        if binary is None:
            raise LabError("linkemu needs a C compiler: apt-get install gcc")
        taps = [self._tap(link, side) for side in range(2)]
        seed = str(self.seed * 1000 + link.number)
        s = link.shape
        whole = s.rate_mbit >= WHOLE_MBIT and not (s.loss_percent or s.jitter_ms)
        words = (*taps, seed, *(["whole"] if whole else []))
        link._linkemu = LinkEmu(self._spawn_outside(binary, *words))
        for tap, (host, device) in zip(taps, link.ends.items(), strict=True):
            # Room for what a sender bursts before the emulator has had the processor.
            run(
                *("ip", "link", "set", tap, "txqueuelen", "5000"),
                *("netns", host.netns, "name", device),
            )

    def _wirefilter(self, link: Link) -> None:
        switches = []
        for side, (host, device) in enumerate(link.ends.items()):
            tap = self._tap(link, side)
            switch = self.folder / f"switch{link.number}-{side}"
            switches.append(switch)
            self._spawn_outside("vde_switch", "-tap", tap, "-s", switch)
            wait_until(f"vde_switch's device {tap}", Path(f"/sys/class/net/{tap}").exists)
            wait_until("vde_switch's socket", (switch / "ctl").exists)
            run("ip", "link", "set", tap, "netns", host.netns, "name", device)
        management = self.folder / f"wirefilter{link.number}"
        held = str(1 << 20)
        self._spawn_outside(
            *("wirefilter", "-v", f"{switches[0]}:{switches[1]}", "-M", management, "-c", held)
        )
        wait_until("wirefilter's management socket", management.exists)
        link._management.append(management)

    @staticmethod
    def _tap(link: Link, side: int) -> str:
        """A name that no other process has, nor a link with other digits: here all are one host's,
        until they are moved into their own. At most IFNAMSIZ - 1 characters."""
        return f"wst{os.getpid():x}.{link.number % 256:x}.{side}"

    def _spawn_outside(self, *command: str | Path) -> Process:
        """A process in the namespace that we stand in ourselves."""
        host = object.__new__(Host)
        host.prefix, host.name = [], "outside"
        words = [str(w) for w in command]
        log = self.folder / f"outside-{len(self.processes)}-{Path(words[0]).name}.log"
        process = Process(host, words, log, {})
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End the processes, delete the namespaces and the folder. Idempotent; never raises."""
        with signals_held():
            for process in reversed(self.processes):
                with contextlib.suppress(OSError):
                    process.stop(timeout=3.0)
            self.processes.clear()
            for host in self.hosts:
                _delete_namespace(host.netns)
            self.hosts.clear()
            for name in self.interfaces:
                (UAPI_FOLDER / f"{name}.sock").unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)


def _delete_namespace(netns: str) -> None:
    """Kill what still runs in the namespace (it can only be ours), then delete it."""
    for word in run("ip", "netns", "pids", netns, check=False).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(word), signal.SIGKILL)
    run("ip", "netns", "del", netns, check=False)


def sweep() -> None:
    """Delete namespaces and folders of labs whose process is gone (killed before it could)."""
    folder = Path("/run/netns")
    names = os.listdir(folder) if folder.is_dir() else []
    for name in names:
        found = _NAME.match(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _delete_namespace(name)
    for path in Path(tempfile.gettempdir()).glob("ws*-*-*"):
        found = _NAME.match(path.name)
        if found and path.is_dir() and not Path(f"/proc/{found[1]}").exists():
            shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """Two hosts and a link, and a shell (or a command) in the first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rate", type=float, default=0, help="Mbit/s")
    parser.add_argument("--delay", type=float, default=0, help="ms, one way")
    parser.add_argument("--jitter", type=float, default=0, help="ms")
    parser.add_argument("--loss", type=float, default=0, help="per cent")
    parser.add_argument("--links", type=int, default=1, help="how many such links")
    parser.add_argument("command", nargs="*", default=[os.environ.get("SHELL", "/bin/sh")])
    options = parser.parse_args()
    terminate_as_exception()
    try:
        with Lab() as lab:
            a, b = lab.host("a"), lab.host("b")
            shape = Shape(options.rate, options.delay, options.jitter, options.loss)
            for _ in range(options.links):
                link = lab.link(a, b, shape)
                print(f"{link.backend}: {link.address(a)} {link.address(a, 6)} (here) <->", end=" ")
                print(f"{link.address(b)} {link.address(b, 6)} (ip netns exec {b.netns} ...)")
            sys.stdout.flush()
            return subprocess.run([*a.prefix, *options.command], check=False).returncode
    except LabError as error:
        print(f"netlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
