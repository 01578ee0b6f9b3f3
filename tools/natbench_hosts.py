"""The rows of `make bench-nat` that take agents: homes behind the kernel's own NAT."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tools.homes import Home, Internet, has_nft
from tools.netbench_hosts import end_of
from tools.netlab import Host, Lab, LabError, wait_until
from tools.peers import Whalescale

#: what nftables makes; of the filters it has one
KERNEL = ("public", "port-restricted", "symmetric")
#: of each machine's line, one way: 20 ms from anybody to anybody
LINE_MS = 10.0
SETTLE_S, DIRECT_S = 60.0, 8.0


def members(end: Whalescale) -> dict[str, dict[str, Any]]:
    view = json.loads(end.ws("members", "-i", end.interface, "--json").stdout)
    return {m["name"]: m for m in view["members"]}


def _ways(end: Whalescale, name: str) -> list[str]:
    peers: Any = end.status()["peers"]
    found = [p for p in peers if p["name"] == name]
    paths = (found[0].get("multipath") or {}).get("paths", []) if found else []
    return [p["remote"] for p in paths if p["usable"]] or [found[0]["endpoint"] or ""]


def _home(world: Internet, name: str, kind: str) -> tuple[Host, str]:
    """The machine, and its address as seen from outside."""
    if kind == "public":
        return world.public(name)
    home: Home = world.home(name, kind)
    return home.host, home.wan


class Meeting(NamedTuple):
    """Seconds from the first ping on; None: never. Without an answer nothing is direct."""

    first: float | None
    direct: float | None


def meet(one: str, two: str) -> Meeting:
    """Two homes behind the kernel's own NAT. LabError: no nftables, or no network came about."""
    if not has_nft():
        raise LabError("no nft: apt-get install nftables")
    with Lab() as lab:
        world = Internet(lab, LINE_MS)
        hub, _ = world.public("anchor")
        places = [_home(world, name, kind) for name, kind in (("a", one), ("b", two))]
        return meet_at(hub, places)


def _nothing(*_: Whalescale) -> None:
    pass


def meet_at(
    hub: Host,
    places: Sequence[tuple[Host, str]],
    ready: Callable[[Whalescale, Whalescale], None] = _nothing,
    patience_s: float = DIRECT_S,
) -> Meeting:
    """The two machines there, which know the anchor alone. `places`: each with its address outside.

    `ready`: called with both when they know of each other, before the ping.
    `patience_s`: of the answer, and of the direct way.
    """
    anchor, a, b = (end_of(h, n) for n, h in enumerate([hub, *(h for h, _ in places)], 1))
    for end in (anchor, a, b):
        end.write_config()
        with end.config.open("a") as config:
            # A leaf calls nobody unasked but anchors.
            own = "anchor = true" if end is anchor else 'role = "leaf"'
            config.write(f"\n[network]\n{own}\n")
    where = ("-i", anchor.interface, "--config", str(anchor.config))
    anchor.ws("network", "create", "hearth", "--name", "anchor", *where)
    anchor.launch()
    anchor.wait_for_uapi()
    for end, name in ((a, "a"), (b, "b")):
        ticket = anchor.ws("invite", name, "-i", anchor.interface).stdout.strip()
        end.ws("join", ticket, "-i", end.interface, "--config", str(end.config))
        end.launch()
        end.wait_for_uapi()
    wait_until("both known", lambda: "b" in members(a) and "a" in members(b), SETTLE_S, 0.3)
    address = members(b)["b"]["address"]
    ready(a, b)
    begin = time.monotonic()
    said = a.host.run("ping", "-c1", f"-W{patience_s:.0f}", address, check=False).stdout
    found = re.search(r"time=([\d.]+) ms", said)
    answered = float(found[1]) / 1000 if found else None
    while answered is not None and time.monotonic() - begin < patience_s:
        there = (_ways(a, "b"), places[1][1]), (_ways(b, "a"), places[0][1])
        if all(way.startswith(_start(out)) for ways, out in there for way in ways):
            return Meeting(answered, time.monotonic() - begin)
        time.sleep(0.05)
    return Meeting(answered, None)


def _start(address: str) -> str:
    """Of an endpoint there; of IPv6 any of the subnet."""
    return f"[{address}" if ":" in address else f"{address}:"
