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

import shutil
import time
from pathlib import Path

from tools import recordings
from tools.benchkit import contestants as kit
from tools.benchkit.contestants import INSIDE, PORT, introduce, toml_lines
from tools.benchkit.model import SkipError
from tools.mpbench.model import ALONE, BARE, MPTCP, PLAIN, WS, Scenario
from tools.mpbench.real import Recorded
from tools.netlab import LabError, Link, wait_until
from tools.peers import Peer, Whalescale, new_interface
from tools.twohosts import TwoHosts, two_hosts
from whalescale.config import Config

OTHER = "other"
#: the key of [multipath]
BBR = "bbr"


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


def _available(backend: str) -> None:
    """SkipError: links cannot be emulated so here."""
    needs = {"wirefilter": ("wirefilter", "vde_switch"), "linkemu": ("gcc",)}
    for program in needs.get(backend, ()):
        if shutil.which(program) is None:
            raise SkipError(f"{program} is not installed")


class _Node(Whalescale):
    """Whalescale with a [multipath] table."""

    multipath = ""

    def write_config(self, *peers: Peer) -> None:
        super().write_config(*peers)
        with self.config.open("a") as file:
            file.write(self.multipath)


class Stage(kit.Stage):
    """A lab with its contestant running in it."""

    def __init__(
        self,
        name: str,
        scenario: Scenario,
        seed: int,
        scripts: dict[str, Path],
        links: Path | None = None,
    ) -> None:
        """Bring it up; returns once packets come through. LabError, SkipError, ValueError.

        `links`: the folder of recordings.
        """
        _available(scenario.backend)
        self.recorded = Recorded(scenario, links, seed)
        self._scenario = scenario
        self._keys = settings(name)
        if self._keys and "multipath" not in Config.__struct_fields__:
            raise SkipError("this version has no [multipath] in its configuration")
        self._name, self._scripts = name, scripts
        self.numbers = links_of(name, scenario)
        self._shapes = [scenario.shapes[n - 1] for n in self.numbers]
        self._nodes: tuple[Whalescale, ...] = ()
        self._told = f"{BBR} = false"
        super().__init__(seed)

    def _bring_up(self) -> None:
        self.two: TwoHosts = two_hosts(self.lab, self._shapes, backend=self._scenario.backend)
        if self._scenario.policed_mbit:
            for number, link in zip(self.numbers, self.two.links, strict=True):
                link.linkemu.police(self._scenario.policed_mbit[number - 1])
        base, _, rest = self._name.partition(":")
        if base in (WS, ALONE, PLAIN):
            self._whalescale(base != PLAIN, multipath_toml({BBR: "false"} | self._keys))
        elif base == OTHER:
            self._other(self._scripts, rest)
        else:
            self._mptcp()
        if base not in (BARE, MPTCP):
            self.warm_up(INSIDE[1])

    def speak(self, congestion: str) -> None:
        """From now on it is what these hosts' TCPs are, and the agents know.

        A namespace may not be given every default, so that they could see for themselves.
        """
        told = f"{BBR} = {str(congestion == 'bbr').lower()}"
        for end in self._nodes:
            text = end.config.read_text()
            if (new := text.replace(self._told, told)) != text:
                end.config.write_text(new)
                end.ws("reload", "-i", end.interface)
        self._told = told

    @property
    def devices(self) -> list[str]:
        """The receiver's devices, a link each."""
        return [link.device(self.two.b) for link in self.two.links]

    def link(self, number: int) -> Link | None:
        """The scenario's link of this number, if it is here."""
        return self.two.links[self.numbers.index(number)] if number in self.numbers else None

    def play(self) -> float:
        """The recordings begin now, at their beginning. Returns CLOCK_MONOTONIC seconds."""
        found = []
        for number, link in zip(self.numbers, self.two.links, strict=True):
            both = (self.recorded.there[number - 1], self.recorded.back[number - 1])
            for back, recording in enumerate(both):
                if recording is not None:
                    path = self.lab.folder / f"link{number}-{back}.ms"
                    if not path.exists():
                        recordings.write(path, recording)
                    found.append((link, path, bool(back)))
        # Only now: writing takes some 30 ms each, and they are to run beside each other.
        began = time.monotonic()
        for link, path, is_back in found:
            link.linkemu.record(path, back=is_back)
        return began

    def capacity_mbps(self, from_s: float, seconds: float) -> float:
        """What the links that are here may carry in that time after `play`."""
        return sum(self.recorded.capacity_mbps(n, seconds, from_s) for n in self.numbers)

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
        self.reach(self.two.a, target, 3, f"to {target}")

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

    def _whalescale(self, extended: bool, multipath: str) -> None:
        one, two = (
            _Node(host, new_interface("wsm"), (f"{address}/24",), PORT)
            for host, address in zip((self.two.a, self.two.b), INSIDE, strict=True)
        )
        one.multipath = two.multipath = multipath
        self.ends = self._nodes = (one, two)
        introduce(
            *(one, two, self.two.links[0].address),
            lambda _, other: other.node_id if extended else None,
        )

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
