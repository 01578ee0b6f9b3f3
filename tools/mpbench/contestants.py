"""The contestants: two namespaces joined by the scenario's links, and what carries packets there.

    bare:N            no tunnel, link N
    alone:N           Whalescale, and link N is the only one there is
    plain             Whalescale as a plain WireGuard: no extended mode
    mptcp             the kernel's MPTCP over all links, no tunnel
    whalescale        over all links; the endpoint that it is told is on link 1
    whalescale:K=V    the same with these keys of [multipath]
    other:NAME        a tunnel made by a script of the user's (see `Other`)

No rate of any link is told to any of them but `other`.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Self

from tools.bench.contestants import last_words, toml_lines
from tools.bench.model import SkipError
from tools.mpbench.model import ALONE, BARE, MPTCP, PLAIN, WS, Scenario
from tools.netlab import Lab, LabError, Link, wait_until
from tools.peers import Peer, Whalescale, outside
from tools.twohosts import TwoHosts, two_hosts
from whalescale.config import Config

PORT = 51820
INSIDE = ("10.77.0.1", "10.77.0.2")
OTHER = "other"
_numbers = itertools.count()


def label(name: str, shapes: tuple[object, ...] = ()) -> str:
    """For people."""
    base, _, rest = name.partition(":")
    several = len(shapes) != 1
    return {
        BARE: f"link {rest}, bare" if several else "no tunnel",
        ALONE: f"link {rest} alone, tunnel",
        PLAIN: "whalescale, plain mode",
        MPTCP: "MPTCP, no tunnel",
        WS: f"whalescale, {rest.replace('=', ' ')}" if rest else "whalescale",
        OTHER: rest,
    }.get(base, name)


def settings(name: str) -> dict[str, str]:
    """The [multipath] keys of a variant. ValueError: not of the form key=value."""
    base, _, text = name.partition(":")
    if base != WS or not text:
        return {}
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(k and eq and v for k, eq, v in pairs):
        raise ValueError(f"{name}: a variant is written {WS}:key=value,key=value")
    return {k: v for k, _, v in pairs}


def multipath_toml(keys: dict[str, str]) -> str:
    """The [multipath] table with these keys; "" without any."""
    return "\n".join(["", "[multipath]", *toml_lines(keys), ""]) if keys else ""


def links_of(name: str, scenario: Scenario) -> list[int]:
    """The numbers (from 1) of the links that are there for this contestant."""
    base, _, rest = name.partition(":")
    return [int(rest)] if base == ALONE else list(range(1, len(scenario.shapes) + 1))


def lab_of(name: str) -> str:
    """Contestants with the same one share a lab: they leave nothing running in it."""
    base = name.partition(":")[0]
    return BARE if base in (BARE, MPTCP) else name


class _Node(Whalescale):
    """Whalescale with a [multipath] table."""

    multipath = ""

    def write_config(self, *peers: Peer) -> None:
        super().write_config(*peers)
        with self.config.open("a") as file:
            file.write(self.multipath)


class Stage:
    """A lab with its contestant running in it. A context manager that leaves nothing behind."""

    def __init__(self, name: str, scenario: Scenario, seed: int, scripts: dict[str, Path]) -> None:
        """Bring it up; returns once packets come through. LabError, SkipError, ValueError."""
        keys = settings(name)
        if keys and "multipath" not in Config.__struct_fields__:
            raise SkipError("this version has no [multipath] in its configuration")
        self.lab = Lab(seed)
        self._script: Path | None = None
        try:
            self.numbers = links_of(name, scenario)
            shapes = [scenario.shapes[n - 1] for n in self.numbers]
            self.two: TwoHosts = two_hosts(self.lab, shapes)
            base, _, rest = name.partition(":")
            self.ends: tuple[_Node, ...] = ()
            if base in (WS, ALONE, PLAIN):
                self.ends = self._whalescale(base != PLAIN, multipath_toml(keys))
            elif base == OTHER:
                self._other(scripts, rest)
            else:
                self._mptcp()
            if base not in (BARE, MPTCP):
                self.warm_up(INSIDE[1])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.lab.close()

    @property
    def devices(self) -> list[str]:
        """The receiver's devices, a link each."""
        return [link.device(self.two.b) for link in self.two.links]

    def link(self, number: int) -> Link | None:
        """The scenario's link of this number, if it is here."""
        return self.two.links[self.numbers.index(number)] if number in self.numbers else None

    def target(self, name: str) -> str:
        """Where the contestant's flows go."""
        base, _, rest = name.partition(":")
        if base == BARE:
            return self.two.links[int(rest) - 1].address(self.two.b)
        return self.two.links[0].address(self.two.b) if base == MPTCP else INSIDE[1]

    def ping_target(self, name: str, scenario: Scenario) -> str:
        """Where its pings go: MPTCP carries none, so there they go over the fastest link."""
        if name == MPTCP:
            fastest = min(self.numbers, key=lambda n: scenario.shapes[n - 1].delay_ms)
            return self.target(f"{BARE}:{fastest}")
        return self.target(name)

    def warm_up(self, target: str) -> None:
        """Packets pass. LabError: none do."""
        done = self.two.a.run("ping", "-n", "-c3", "-i0.2", "-w12", target, check=False)
        if done.returncode != 0:
            raise LabError(f"no ping to {target}{last_words(self.ends)}")

    def _mptcp(self) -> None:
        """Each further address of the receiver is announced; the sender opens a subflow to it."""
        for host in (self.two.a, self.two.b):
            limits = ("subflows", "8", "add_addr_accepted", "8")
            done = host.run("ip", "mptcp", "limits", "set", *limits, check=False)
            if done.returncode != 0:
                return  # a kernel without MPTCP: the flow itself will say so
        for link in self.two.links[1:]:
            at = (link.address(self.two.b), "dev", link.device(self.two.b))
            self.two.b.run("ip", "mptcp", "endpoint", "add", *at, "signal")

    def _whalescale(self, extended: bool, multipath: str) -> tuple[_Node, ...]:
        ends = []
        for host, address in zip((self.two.a, self.two.b), INSIDE, strict=True):
            # The UAPI sockets of all namespaces share a folder.
            interface = f"wsm{os.getpid() % 100000}-{next(_numbers)}"
            end = _Node(host, interface, (f"{address}/24",), PORT)
            end.multipath = multipath
            ends.append(end)
        one, two = ends
        for end, other in ((one, two), (two, one)):
            at = outside(self.two.links[0].address(other.host), PORT)
            node_id = other.node_id if extended else None
            end.start(Peer(other.public_key, (f"{other.inside()}/32",), at, node_id=node_id))
        return one, two

    def _other(self, scripts: dict[str, Path], name: str) -> None:
        """Run `SCRIPT NETNS_A NETNS_B RATE,DELAY,ADDRESS_A,ADDRESS_B...` (Mbit/s, ms): it starts a
        tunnel with the addresses 10.77.0.1/24 and .2/24 in the namespaces and stays until SIGTERM.
        """
        if name not in scripts:
            raise SkipError(f"no script for it was given (--other {name}=SCRIPT)")
        links = [
            f"{k.shape.rate_mbit:g},{k.shape.delay_ms:g},"
            f"{k.address(self.two.a)},{k.address(self.two.b)}"
            for k in self.two.links
        ]
        hosts = (self.two.a.netns, self.two.b.netns)
        process = self.lab._spawn_outside(scripts[name], *hosts, *links)
        target = INSIDE[1]

        def answers() -> bool:
            if process.poll() is not None:
                raise LabError(f"{scripts[name].name} ended: {process.log()[-300:]}")
            return self.two.a.run("ping", "-c1", "-W1", target, check=False).returncode == 0

        wait_until(f"{name}'s tunnel", answers, timeout=20)
