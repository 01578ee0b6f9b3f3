"""The routers of docs/nat.md's table, and each of its cells in virtual time."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "sim"))

from eventqueue import SECOND
from homeworld import HomeWorld
from natmodel import Depends, Nat
from natworld import must_be_direct

KINDS: dict[str, dict[str, Any] | None] = {
    "public": None,
    "full cone": {"filters": Depends.NOTHING},
    "restricted": {"filters": Depends.ADDRESS},
    "port-restricted": {},
    "symmetric": {"maps": Depends.PORT},
    "carrier's behind home's": {},
    "UDP blocked": {"blocked": True},
}
#: what the two have beside their routers' NAT
ALONE, MAPPING, IPV6 = "", "a port mapping", "IPv6"
#: pairs that have no direct way without such help
HELPED = tuple(
    ("symmetric", k) for k in ("port-restricted", "symmetric", "carrier's behind home's")
)


@dataclass
class Cell:
    """A pair of the table. Seconds; None: never."""

    where: str
    pair: tuple[str, str]
    first: float | None
    direct: float | None
    theory: bool

    def __str__(self) -> str:
        if self.first is None:
            return "nothing"
        first = f"{self.first * 1000:.0f} ms"
        if self.direct is None:
            return f"**relay**, {first}"
        return f"{first}, direct {self.direct * 1000:.0f} ms"

    @property
    def way(self) -> str:
        """In a word."""
        if self.first is None and self.direct is None:
            return "nothing"
        return "relay" if self.direct is None else "direct"


def carrier(kind: str) -> bool:
    return kind.startswith("carrier")


def blocked(kind: str) -> bool:
    return bool((KINDS[kind] or {}).get("blocked"))


def words(kind: str) -> tuple[str, str]:
    """What its mappings depend on, and whom they let in, as tools/natbox.py is told."""
    known = KINDS[kind] or {}
    maps, filters = known.get("maps", Depends.NOTHING), known.get("filters", Depends.PORT)
    return maps.name.lower(), filters.name.lower()


def behind(kind: str, number: int) -> Nat | None:
    """The routers of one home."""
    known = KINDS[kind]
    if known is None:
        return None
    if carrier(kind):
        return Nat(f"100.64.{number}.2", outside=Nat(f"5.8.{number}.1"))
    return Nat(f"5.7.{number}.1", **known)


def due(pair: tuple[str, str], helped: str = ALONE) -> bool:
    """Whether theory has a direct way."""
    return bool(helped) or must_be_direct(*(behind(k, n + 1) for n, k in enumerate(pair)))


def seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / SECOND


def modelled(pair: tuple[str, str], seed: int = 1, helped: str = ALONE) -> Cell:
    """The cell in virtual time. `helped`: each end whose router could has a port mapped, but not
    behind a carrier's; or all have IPv6, and the homes a firewall instead of their routers."""
    world = HomeWorld(seed)
    if helped == IPV6:
        walls = [Nat(f"2600:{n}::1", preserve=True) for n in (1, 2)]
        a, b, _ = world.meet(walls[0], walls[1], firewalled=True)
    else:
        one, two = (behind(kind, n + 1) for n, kind in enumerate(pair))
        a, b, _ = world.meet(one, two)
        for host, nat in ((a, one), (b, two)):
            if helped == MAPPING and nat is not None and nat.outside is None:
                host.node.set_mapped([("eth0", nat.forward(host.at))], world.now)
                host.drain()
    met = world.ping(a, b, 6)
    where = f"model, {helped}" if helped else "model"
    return Cell(where, pair, seconds(met.first), seconds(met.direct), due(pair, helped))
