"""Every scenario: the rows of the table, the grid of link pairs, and the variants for research."""

from __future__ import annotations

import itertools
from dataclasses import replace

from tools.benchkit.model import by_name
from tools.mpbench.model import ALONE, BARE, MPTCP, PLAIN, WS, Scenario
from tools.mpbench.real import ROWS as REAL
from tools.netlab import Shape

CLEAN = (Shape(100, 20), Shape(50, 5))
LOSSY = (Shape(80, 30, 10, 0.5), Shape(40, 5, 3, 0.2))
UNEVEN = (Shape(200, 10), Shape(20, 80))
FAST = (Shape(400, 8), Shape(300, 12))
THREE = (Shape(60, 15), Shape(40, 30), Shape(20, 60))
LAN = (Shape(),)
LAN_ROUNDS, LAN_WARM_S, LAN_S = 27, 1.0, 2.0

#: one table key set apart from the defaults at a time
_SETTINGS = (
    *(f"scheduler={s}" for s in ("edf", "wrr", "minrtt", "redundant", "backup")),
    *(f"reorder_depth={d}" for d in ("128", "512", "adaptive")),
    *(f"late={p}" for p in ("drop", "deliver")),
    *(f"repair={r}" for r in ("false", "true")),
    "align=false",
)
VARIANTS = tuple(f"{WS}:{setting}" for setting in _SETTINGS)

#: the grid: this link beside each of rates x delays x losses
GRID_FIRST = Shape(80, 20)
GRID_RATES = (80.0, 40.0, 20.0, 5.0)
GRID_DELAYS = (5.0, 20.0, 80.0)
GRID_LOSSES = (0.0, 1.0)


def each(kind: str, shapes: tuple[Shape, ...]) -> tuple[str, ...]:
    """ "alone:1", "alone:2", ... for these links."""
    return tuple(f"{kind}:{i}" for i in range(1, len(shapes) + 1))


def _goodput(name: str, title: str, shapes: tuple[Shape, ...]) -> Scenario:
    contestants = (*each(BARE, shapes), *each(ALONE, shapes), MPTCP, WS)
    return Scenario(name, title, "goodput", shapes, contestants)


def _silent(victim: int) -> Scenario:
    survivor = CLEAN[2 - victim]
    title = f"the {CLEAN[victim - 1].rate_mbit:g} Mbit/s link goes silent for 5 s"
    contestants = (f"{BARE}:{3 - victim}", f"{ALONE}:{3 - victim}", MPTCP, WS)
    assert survivor is not CLEAN[victim - 1]
    return Scenario(f"silent-{victim}", title, "silent", CLEAN, contestants, victim)


def _variants(base: Scenario) -> Scenario:
    keep = tuple(c for c in base.contestants if c.startswith(ALONE) or c in (MPTCP, WS))
    return Scenario(
        *(f"variants-{base.name}", f"{base.title}, by setting", base.kind, base.shapes),
        *((*keep, *VARIANTS), base.victim),
        usual=False,
    )


_ROWS = (
    _goodput("clean", "100 Mbit/s 20 ms + 50 Mbit/s 5 ms, clean", CLEAN),
    _goodput("lossy", "80 Mbit/s 30±10 ms 0.5 % + 40 Mbit/s 5±3 ms 0.2 %", LOSSY),
    # No row of the table: BBR keeps its SYN's round trip, which is the quick link's, for 10 s.
    replace(_goodput("lossy-later", "the same links, from 12 s on", LOSSY),
            own_warm_s=12, usual=False),
    _goodput("uneven", "200 Mbit/s 10 ms + 20 Mbit/s 80 ms", UNEVEN),
    _goodput("fast", "400 Mbit/s 8 ms + 300 Mbit/s 12 ms", FAST),
    _goodput("three", "60 + 40 + 20 Mbit/s, 15 + 30 + 60 ms", THREE),
    _silent(1),
    _silent(2),
    Scenario("tenth", "the 100 Mbit/s link falls to 10 Mbit/s", "tenth", CLEAN,
             (*each(BARE, CLEAN), *each(ALONE, CLEAN), MPTCP, WS), victim=1),
    Scenario("ping", "ping while a flow fills both links (100/20, 50/5)", "ping", CLEAN,
             (*each(BARE, CLEAN), *each(ALONE, CLEAN), MPTCP, WS)),
    # As fast as the machine, which is a fifth slower for some seconds and then as fast as before,
    # whoever runs: what is compared has to stand close together, and often.
    Scenario("lan", "same LAN, one path only", "lan", LAN, (f"{BARE}:1", PLAIN, WS),
             rounds=LAN_ROUNDS, own_warm_s=LAN_WARM_S, own_s=LAN_S),
)  # fmt: skip


def grid_name(rate: float, delay: float, loss: float) -> str:
    return f"grid-{rate:g}M-{delay:g}ms-{loss:g}%"


def _grid() -> tuple[Scenario, ...]:
    made = []
    for loss, delay, rate in itertools.product(GRID_LOSSES, GRID_DELAYS, GRID_RATES):
        shapes = (GRID_FIRST, Shape(rate, delay, 0.0, loss))
        title = f"80 Mbit/s 20 ms beside {rate:g} Mbit/s {delay:g} ms {loss:g} %"
        name = grid_name(rate, delay, loss)
        contestants = (*each(ALONE, shapes), MPTCP, WS)
        made.append(Scenario(name, title, "grid", shapes, contestants, rounds=1))
    return tuple(made)


SCENARIOS = (
    *_ROWS,
    *REAL,
    *_grid(),
    *(_variants(s) for s in _ROWS if s.name not in ("lossy-later", "silent-1", "lan")),
)


def named(name: str) -> list[Scenario]:
    """The scenario of this name, or all whose name begins with it. ValueError: none does."""
    return by_name(SCENARIOS, name, [*(s.name for s in SCENARIOS if s.kind != "grid"), "grid"])
