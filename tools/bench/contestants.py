"""The contestants: two namespaces joined by veth, and what carries packets between them.

    a 10.201.1.1 ── veth ── 10.201.1.2 b        outside (and fd00:201:1::1, ::2)
      10.77.0.1 ══ tunnel ══ 10.77.0.2          inside

Load always goes from a to b first. A variant of Whalescale is written "whalescale:key=value,...",
with the keys of [dataplane].
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.bench.targets import BARE, FROM_WS, NEW, OLD, TO_WS, WS
from tools.benchkit.contestants import PORT, Stage, introduce, toml_lines
from tools.benchkit.model import SkipError
from tools.netlab import Host, Link
from tools.peers import (
    HostEnd,
    Whalescale,
    WireGuardGo,
    debian_wireguard_go,
    new_interface,
    newest_wireguard_go,
)
from whalescale.config import DataplaneConfig

MAIN = (BARE, OLD, NEW, WS, FROM_WS, TO_WS)
OFFLOADS = ("tun_tso", "tun_gro", "udp_gso", "udp_gro", "tun_uso")
_SETTINGS = (
    "backend=io_uring",
    "backend=mmsg",
    "cipher=ipsec-mb",
    "cipher=openssl",
    *(f"{o}=false" for o in OFFLOADS),
    ",".join(f"{o}=false" for o in OFFLOADS),
    "workers=2",
    "workers=2,bpf=false",
    "workers=2,pin_cpus=true",
    "busy_poll_us=50",
    "bpf=true",
    "bpf=false",
)
VARIANTS = tuple(f"{WS}:{setting}" for setting in _SETTINGS)
#: of the distance to the limit
SUM = "sum"
LABELS = {
    BARE: "no tunnel",
    OLD: "wireguard-go, Debian's",
    NEW: "wireguard-go, newest",
    WS: "whalescale",
    FROM_WS: "whalescale -> wireguard-go",
    TO_WS: "wireguard-go -> whalescale",
    f"{WS}:{','.join(f'{o}=false' for o in OFFLOADS)}": "whalescale, no offloads",
    # of tools/bench/limit.py
    "aead-seal": "AEAD alone: seal",
    "aead-open": "AEAD alone: open",
    "tun-read": "copy alone: read from the TUN device",
    "udp-send": "copy alone: send to the UDP socket",
    "udp-receive": "copy alone: receive from the UDP socket",
    "tun-write": "copy alone: write to the TUN device",
    "slice": "slicing alone",
    "merge": "merging alone",
    SUM: "no tunnel and every part: the limit",
}


def label(name: str) -> str:
    """For people: "whalescale, backend mmsg"."""
    if name in LABELS:
        return LABELS[name]
    base, _, settings = name.partition(":")
    return f"{base}, {settings.replace('=', ' ')}" if settings else base


def settings(name: str) -> dict[str, str]:
    """The [dataplane] keys of a variant."""
    text = name.partition(":")[2]
    return dict(pair.split("=", 1) for pair in text.split(",")) if text else {}


def dataplane_toml(name: str) -> str:
    """The lines under [dataplane] that a variant means."""
    return "\n".join(toml_lines(settings(name)))


def check(name: str) -> None:
    """SkipError: this machine, or this version of Whalescale, cannot run the contestant."""
    if name in (NEW, FROM_WS, TO_WS) and newest_wireguard_go() is None:
        raise SkipError("the newest wireguard-go needs Go 1.23 or newer to be built")
    if name == OLD and debian_wireguard_go() is None:
        raise SkipError("wireguard-go is not installed: apt-get install wireguard-go")
    for key in settings(name):
        if key not in DataplaneConfig.__struct_fields__:
            raise SkipError(f"this version has no [dataplane] {key}")


class Pair(Stage):
    """A running contestant."""

    def __init__(self, name: str, family: int = 4) -> None:
        """Bring it up; returns once packets come through. LabError, SkipError."""
        check(name)
        self.name = name
        self._family = family
        super().__init__()

    def _bring_up(self) -> None:
        self.a: Host = self.lab.host("a")
        self.b: Host = self.lab.host("b")
        self.link: Link = self.lab.link(self.a, self.b)
        self._start()
        ends = self.ends
        self.target = ends[1].inside() if ends else self._outside(self.b)
        self.source = ends[0].inside() if ends else self._outside(self.a)
        self.warm_up()

    @property
    def agents(self) -> dict[str, int]:
        """Process IDs of the two sides; empty without a tunnel."""
        return {e.host.name: e.process.pid for e in self.ends if e.process is not None}

    def warm_up(self) -> None:
        """A session stands and packets pass. LabError: none do."""
        self.reach(self.a, self.target, 2, f"through {label(self.name)}")

    def alive(self) -> bool:
        return all(e.process is not None and e.process.poll() is None for e in self.ends)

    def _outside(self, host: Host) -> str:
        return self.link.address(host, self._family)

    def _start(self) -> None:
        base = self.name.partition(":")[0]
        kinds = {
            BARE: (),
            WS: (self._whalescale, self._whalescale),
            NEW: (self._newest, self._newest),
            OLD: (self._debian, self._debian),
            FROM_WS: (self._whalescale, self._newest),
            TO_WS: (self._newest, self._whalescale),
        }[base]
        if not kinds:
            return
        one, two = make_end(self.a, 1, kinds[0]), make_end(self.b, 2, kinds[1])
        self.ends = (one, two)
        # Between Whalescale and WireGuard there is the X25519 key only.
        introduce(
            *(one, two, self._outside),
            lambda end, other: other.node_id if isinstance(end, Whalescale) else None,
        )
        for end in self.ends:
            if isinstance(end, Whalescale):
                confirm(end, settings(self.name))

    def _whalescale(self, host: Host, name: str, addresses: tuple[str, ...]) -> HostEnd:
        return Whalescale(host, name, addresses, PORT, dataplane=dataplane_toml(self.name))

    def _newest(self, host: Host, name: str, addresses: tuple[str, ...]) -> HostEnd:
        return _wireguard_go(host, name, addresses, newest_wireguard_go())

    def _debian(self, host: Host, name: str, addresses: tuple[str, ...]) -> HostEnd:
        return _wireguard_go(host, name, addresses, debian_wireguard_go())


def make_end(
    host: Host, number: int, kind: Callable[[Host, str, tuple[str, ...]], HostEnd]
) -> HostEnd:
    """An end with the address 10.77.0.N."""
    return kind(host, new_interface("wsb"), (f"10.77.0.{number}/24",))


def _wireguard_go(
    host: Host, name: str, addresses: tuple[str, ...], binary: Path | None
) -> HostEnd:
    if binary is None:
        raise SkipError("this wireguard-go is not there")
    return WireGuardGo(host, name, addresses, PORT, binary)


def confirm(end: Whalescale, wanted: dict[str, str]) -> None:
    """The agent runs what was asked for and did not fall back. SkipError: it did."""
    if not wanted:
        return
    status = json.loads(end.ws("status", "-i", end.interface, "--json").stdout)
    refused = disagreement(status, wanted)
    if refused:
        raise SkipError(refused)


def disagreement(status: dict[str, Any], wanted: dict[str, str]) -> str:
    """Where a status differs from what was asked for; "" where it does not (or does not say)."""
    agent = status.get("agent", {})
    told = {**agent, **agent.get("offloads", {})}
    bpf = status.get("bpf", {})
    if "state" in bpf:
        told["bpf"] = bpf["state"] == "on"
    for key, value in wanted.items():
        got = told.get(key)
        if got is not None and str(got).lower() != value:
            why = f": {bpf['reason']}" if key == "bpf" and bpf.get("reason") else ""
            return f"asked for {key} {value}, the agent runs {str(got).lower()}{why}"
    return ""
