#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`make bench-nat`: who reaches whom through which routers, and how soon (docs/nat.md).

    python -m tools.natbench [--seed 1] [--only NAME ...] [--json FILE]
    python -m tools.natbench --only meetings [--meetings 10000] [--from N] [--minutes M]
    python -m tools.natbench --join RUN.json RUN.json... [--docs]

Parts that need no root are in virtual time: nodes with all their machines, routers and anchors as
models (tests/sim/homeworld.py), 20 ms from anybody to anybody one way, and no data plane: what that
rescues is not in the pauses. As root, `homes` starts agents behind the kernel's own NAT
(tools/homes.py), `cells` behind routers of all kinds, several pairs at a time (tools/natcells.py;
minutes), and the rows of tools/natbench_real.py have a flow through agents in which something
changes. --join puts parts of several runs into one table; the latest of a name counts, and of the
meetings all (--from N leaves out the first N of the same seed: they were run before). --docs writes
both tables into docs/nat.md, between its marks. What needs no root runs from the seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "sim"))

from eventqueue import MS, SECOND
from homeworld import HomeWorld
from natmodel import Depends, Nat
from natworld import (
    both_move,
    most_within,
    must_be_direct,
    new_destinations,
)

from tools.benchkit.page import Section
from tools.benchkit.rows import Row, Rows, lines_of
from tools.natkinds import HELPED, IPV6, KINDS, MAPPING, Cell, behind, modelled
from tools.netlab import LabError

ROOT = Path(__file__).resolve().parents[1]
SECTION = Section("natbench", docs="--docs")

#: how often a packet is sent where a pause is looked for
EACH = 10 * MS
#: cells that are run at a time: each is mostly waiting
AT_ONCE = 2


@dataclass
class Met:
    """Meetings of one run: those numbered from `begin` on."""

    begin: int
    count: int = 0
    #: how many of them theory has directly, and how many were so
    must: int = 0
    did: int = 0
    answered: int = 0
    #: nanoseconds to direct, of those
    took: list[int] = field(default_factory=list)


@dataclass
class Bench(Rows):
    """One run. What comes out is told at once."""

    meetings: int
    #: after these minutes the meetings end, and their row says of how many it is; 0: no limit
    minutes: float = 0
    #: the first meeting
    begin: int = 0
    met: list[Met] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    #: parts that came to no end
    failed: list[str] = field(default_factory=list)

    def cell(self, cell: Cell) -> None:
        self.cells.append(cell)
        print(f"{cell.where}: {' - '.join(cell.pair)}: {cell}", flush=True)


def table(bench: Bench) -> None:
    for pair in itertools.combinations_with_replacement(KINDS, 2):
        bench.cell(modelled(pair, bench.seed))


def first(bench: Bench) -> None:
    world = HomeWorld(bench.seed)
    a, b, _ = world.meet(behind("port-restricted", 1), behind("port-restricted", 2))
    met = world.ping(a, b)
    note = "20 ms from anybody to anybody"
    for what, value, must, aim in (
        ("first ping answered", met.first, 250, 120),
        ("direct", met.direct, 1500, 700),
    ):
        found = float("inf") if value is None else value / MS
        bench.say(f"port-restricted at both ends, {what}", found, "ms", must, aim, note=note)


def meetings(bench: Bench) -> None:
    """As tests/sim/test_punching.py, with everything that an agent has."""
    rng = random.Random(bench.seed)  # noqa: S311

    def one_of(number: int) -> Nat | None:
        kind = rng.choice(["public", *(["one"] * 8), "carrier"])

        def made(ip: str, outside: Nat | None = None) -> Nat:
            return Nat(
                ip,
                rng.choice([*([Depends.NOTHING] * 3), Depends.ADDRESS, Depends.PORT]),
                rng.choice([*Depends, Depends.PORT]),
                timeout=rng.choice([30, 60, 120]) * SECOND,
                hairpin=rng.random() < 0.3,
                inbound_refresh=rng.random() < 0.8,
                preserve=rng.random() < 0.5,
                outside=outside,
            )

        if kind == "public":
            return None
        if kind == "one":
            return made(f"5.7.{number}.1")
        return made(f"100.64.{number}.2", made(f"5.8.{number}.1"))

    met = Met(bench.begin)
    bench.met.append(met)
    end = time.monotonic() + bench.minutes * 60 if bench.minutes else float("inf")
    for n in range(bench.meetings):
        one, two = one_of(1), one_of(2)
        delay = rng.randrange(5, 60) * MS
        if n < bench.begin:
            continue
        if met.count and time.monotonic() > end:
            break
        met.count += 1
        world = HomeWorld(bench.seed * 100_000 + n, loss=0.02, delay=delay)
        a, b, _ = world.meet(one, two)
        due = must_be_direct(one, two)
        found = world.ping(a, b, 12 if due else 3)
        if found.direct is not None and not due and not both_move(one, two):
            print(f"meeting {n}: direct where theory has none")
        met.answered += found.first is not None
        met.must += due
        if due and found.direct is not None:
            met.did += 1
            met.took.append(found.direct)
        elif due:
            print(f"meeting {n}: not direct", flush=True)
        if n % 500 == 499:
            print(f"{n + 1} meetings: {met.did} of {met.must} direct", flush=True)
    tell_meetings(bench)


def tell_meetings(bench: Bench) -> None:
    """The rows of all meetings that the run has, or those that were joined into it."""
    must, did, answered, count = (
        sum(getattr(m, what) for m in bench.met) for what in ("must", "did", "answered", "count")
    )
    took = sorted(itertools.chain.from_iterable(m.took for m in bench.met))
    if not took:
        return
    note = f"{did} of {must}; median {took[len(took) // 2] / SECOND:.2f} s, "
    note += f"99 %: {took[len(took) * 99 // 100] / SECOND:.2f} s"
    share = 100 * did / must
    what = f"direct where theory allows it, {count} meetings, 2 % loss"
    bench.say(what, share, "%", 99, 99.9, least=True, note=note)
    note = "one packet and its answer, neither sent twice"
    bench.say("first packet answered there", 100 * answered / count, "%", note=note)


def pause(bench: Bench, what: str, change: Callable[..., None]) -> None:
    """The longest time without a packet at the other end, after `change`."""
    longest = 0.0
    for seed in range(bench.seed, bench.seed + 5):
        world = HomeWorld(seed)
        a, b, hub = world.meet(behind("port-restricted", 1), behind("port-restricted", 2))
        world.ping(a, b)
        to, back = world.handle(a, b), world.handle(b, a)

        def say() -> None:
            a.send(to, b"\x45x")  # noqa: B023
            b.send(back, b"\x45y")  # noqa: B023

        world.every(EACH, world.now + 20 * SECOND, say)
        world.run(5)
        begin = world.now
        a.received.clear()
        b.received.clear()
        change(world, a, b, hub)
        world.run(10)
        for host in (a, b):
            times = [begin, *(when for when, *_ in host.received), world.now]
            longest = max(longest, *(y - x for x, y in itertools.pairwise(times)))
    note = "either way, 5 seeds; path managers alone, without the data plane's rescue"
    bench.say(what, longest / MS, "ms", note=note)


def moves(bench: Bench) -> None:
    def rebind(world: HomeWorld, a: Any, *_: Any) -> None:
        nat = world.homes[a.at]
        assert nat is not None
        nat.forget()

    def readdress(world: HomeWorld, a: Any, *_: Any) -> None:
        world.rehome(a, behind("port-restricted", 7), "10.9.0.2")

    def direct_gone(world: HomeWorld, _a: Any, _b: Any, hub: Any) -> None:
        world.passes = lambda source, to, _: hub.at in (source, to)

    pause(bench, "router rebinds, longest pause", rebind)
    pause(bench, "new address, longest pause", readdress)
    pause(bench, "direct way gone, longest pause until the relay carries", direct_gone)


def idle(bench: Bench) -> None:
    world = HomeWorld(bench.seed)
    a, *_ = world.meet(behind("port-restricted", 1), None, anchors=2)
    world.doze(60)
    before = len(world.wire)
    world.doze(3600)
    sent = [data for _, source, _, data in world.wire[before:] if source == a.at]
    note = "without gossip"
    bench.say("idle, 2 anchors warm: datagrams sent an hour", len(sent), "", 320, 240, note=note)
    size = sum(map(len, sent)) / 1000
    bench.say("idle, 2 anchors warm: bytes sent an hour", size, "kB", 45, 30, note=note)


def destinations(bench: Bench) -> None:
    """Forty members are wanted at once, and 120 places are told where nobody is."""
    world = HomeWorld(bench.seed)
    a, _, hub = world.meet(behind("port-restricted", 1), behind("port-restricted", 2))
    others = world.crowd(a, hub, 40)
    before = len(world.wire)
    for other in others:
        a.send(world.handle(a, other), b"\x45x")
    world.run(180)
    times = new_destinations(world.wire[before:], a.at)
    note = (
        f"{len(times)} in 3 min; 40 members wanted at once, each told to be at three wrong places"
    )
    for name, span, must, aim in (("second", 1, 5, 2), ("minute", 60, 60, 60)):
        what = f"new destinations tried by one node, in any {name}"
        bench.say(what, most_within(times, span * SECOND), "", must, aim, note=note)


def cells(bench: Bench) -> None:
    """Every pair with agents and sockets, routers of all kinds, beside the model."""
    from tools.natcells import cells as with_agents

    pairs = list(itertools.combinations_with_replacement(KINDS, 2))
    wanted = [(p, "") for p in pairs] + [(p, h) for h in (MAPPING, IPV6) for p in HELPED]
    models = {one: modelled(one[0], bench.seed, one[1]) for one in wanted}
    for one in wanted:
        bench.cell(models[one])
    for found in with_agents(wanted, AT_ONCE):
        if isinstance(found, Cell):
            bench.cell(found)
        else:
            bench.failed.append("cells")
            print(f"cells: FAILED: {found}", flush=True)


def differing(cells: Sequence[Cell]) -> list[str]:
    """Cells that came out otherwise in namespaces than in the model."""
    by = {(c.where, frozenset(c.pair)): c for c in cells}
    said = []
    for cell in cells:
        place, comma, helped = cell.where.partition(",")
        model = by.get((f"model{comma}{helped}", frozenset(cell.pair)))
        if place != "model" and model is not None and model.way != cell.way:
            said.append(f"{' - '.join(cell.pair)} ({cell.where}): {cell}; in the model: {model}")
    return said


def homes(bench: Bench) -> None:
    from tools.natbench_hosts import KERNEL, meet

    for pair in itertools.combinations_with_replacement(KERNEL, 2):
        answered, direct = meet(*pair)
        theory = pair.count("symmetric") == 0 or "public" in pair
        bench.cell(Cell("kernel", pair, answered, direct, theory))


def real(name: str) -> Callable[[Bench], None]:
    """A row with agents, under a flow."""

    def part(bench: Bench) -> None:
        from tools.natbench_real import ROWS

        ROWS[name](bench.say)

    return part


#: of tools/natbench_real.py
REAL = (
    *("first-ping", "relay-direct", "direct-relay", "anchor-anchor", "rebind", "readdress"),
    *("gone", "asleep", "ipv6"),
)
PARTS: dict[str, Callable[[Bench], None]] = {
    "table": table,
    "first": first,
    "meetings": meetings,
    "moves": moves,
    "idle": idle,
    "destinations": destinations,
    "homes": homes,
    "cells": cells,
    **{name: real(name) for name in REAL},
}
#: those that make agents
HOSTS = ("homes", "cells", *REAL)


def grid(cells: Sequence[Cell]) -> list[str]:
    kinds = list(dict.fromkeys(kind for cell in cells for kind in cell.pair))
    by = {frozenset(cell.pair): cell for cell in cells}
    lines = ["| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for n, one in enumerate(kinds):
        found = [by.get(frozenset((one, other))) for other in kinds[n:]]
        lines.append(f"| {one} | {' | '.join([''] * n + [str(c or '') for c in found])} |")
    return lines


def helped(cells: Sequence[Cell]) -> list[str]:
    """Pairs that have no direct way by themselves, with what gives them one."""
    by = {(c.where, c.pair): c for c in cells}
    wheres = [f"{w}, {h}" for h in (MAPPING, IPV6) for w in ("boxes", "model")]
    if not any((where, pair) in by for where in wheres for pair in HELPED):
        return []
    names = [w.replace("boxes", "namespaces") for w in ("boxes", *wheres)]
    lines = ["", "With a port mapping, or IPv6:", "", f"| | {' | '.join(names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for pair in HELPED:
        alone = next((c for c in cells if c.where == "boxes" and set(c.pair) == set(pair)), "")
        found = [str(alone), *(str(by.get((where, pair), "")) for where in wheres)]
        lines.append(f"| {' - '.join(pair)} | {' | '.join(found)} |")
    return lines


def markdown(bench: Bench) -> str:
    lines = [f"`make bench-nat`, seed {bench.seed}: the first packet's answer, and direct since:"]
    for where, words in (
        ("model", "In the model"),
        ("boxes", "With agents in namespaces, behind routers of all kinds"),
        ("kernel", "Behind the kernel's own NAT"),
    ):
        cells = [c for c in bench.cells if c.where == where]
        if cells:
            lines += ["", f"{words}:", "", *grid(cells)]
    lines += helped(bench.cells)
    if any(c.where.startswith("boxes") for c in bench.cells):
        unlike = differing(bench.cells)
        word = "" if unlike else " none"
        lines += ["", f"Otherwise in namespaces than in the model:{word}", ""]
        lines += [f"- {line}" for line in unlike]
    if bench.rows:
        lines += ["", *lines_of(bench.rows)]
    return "\n".join(lines)


def save(bench: Bench, file: Path) -> None:
    file.write_text(json.dumps(asdict(bench), indent=1) + "\n")


def joined(files: Sequence[Path]) -> Bench:
    """Of each row and cell the latest. SystemExit: no run's file."""
    whole = Bench(0, 0)
    rows: dict[str, Row] = {}
    cells: dict[tuple[str, frozenset[str]], Cell] = {}
    met: dict[int, Met] = {}
    for file in files:
        try:
            said = json.loads(file.read_text())
            whole.seed, whole.meetings = said["seed"], said["meetings"]
            met |= {m["begin"]: Met(**m) for m in said.get("met", [])}
            rows |= {r["what"]: Row(**r) for r in said["rows"]}
            for c in said["cells"]:
                c["pair"] = tuple(c["pair"])
                cells[c["where"], frozenset(c["pair"])] = Cell(**c)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise SystemExit(f"{file}: no run of this bench ({e})") from None
    if len(met) > 1:
        rows = {what: row for what, row in rows.items() if "meetings" not in what}
        rows.pop("first packet answered there", None)
    whole.rows, whole.cells = list(rows.values()), list(cells.values())
    whole.met = [met[begin] for begin in sorted(met)]
    if len(met) > 1:
        tell_meetings(whole)
    return whole


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Who reaches whom through which routers.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--meetings", type=int, default=10_000)
    parser.add_argument("--from", type=int, default=0, metavar="N", dest="begin")
    parser.add_argument("--minutes", type=float, default=0, help="for the meetings [0: all]")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--join", nargs="+", type=Path, metavar="RUN.json")
    parser.add_argument("--docs", action="store_true")
    args = parser.parse_args(words)
    if not 1 <= args.meetings <= 100_000:
        parser.error("--meetings: from 1 to 100000")
    if not 0 <= args.begin < args.meetings:
        parser.error("--from: one of the meetings")
    if args.join:
        bench = joined(args.join)
        print(markdown(bench))
    else:
        bench = Bench(args.seed, args.meetings, args.minutes, args.begin)
        for name in args.only or PARTS:
            if name in HOSTS and os.geteuid() != 0:
                print(f"{name}: left out, it needs root (network namespaces)")
                continue
            try:
                PARTS[name](bench)
            except (LabError, OSError, ValueError) as e:
                bench.failed.append(name)
                print(f"{name}: FAILED: {e}", flush=True)
    if args.json:
        save(bench, args.json)
    if args.docs:
        SECTION.put_into(ROOT / "docs/nat.md", markdown(bench))
    for line in differing(bench.cells):
        print(f"not as in the model: {line}")
    wrong = [c for c in bench.cells if c.theory != (c.direct is not None)]
    for c in wrong:
        print(f"not as theory says: {' - '.join(c.pair)} ({c.where})")
    return int(bool(wrong or bench.failed) or any(r.verdict == "MISSED" for r in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
