#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`make bench-network`: what the network of one's own machines reaches, in one table.

    python -m tools.netbench [--members 10000] [--seed 1] [--only NAME ...] [--json FILE] [--docs]
    python -m tools.netbench --join FILE ... [--docs]

Rows come from virtual time (frames before encryption, 5 to 40 ms one way; one member in twenty can
be dialled, the others have sessions with four of these), from the store on this disk, and, as root,
from agents in network namespaces. What a busy machine cannot change (virtual time, counts) runs
first, two rows at a time; then what measures this machine, one by one. --docs writes the table into
docs/mesh.md, between its marks; --join takes the rows of earlier runs instead of running any.
Everything runs from the seed; times of the store and of agents are of this machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "sim"))

from mesh_world import MS, S, World, make_base, place_of, share_records

from tools import netbench_hosts
from tools.benchkit.page import Section
from tools.benchkit.rows import Row, Rows, lines_of
from tools.netlab import LabError
from whalescale.protocol.mesh.gossip import ROUND
from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.mesh.records import EndpointRecord, encode
from whalescale.runtime.network_store import seal_key
from whalescale.runtime.store import Store

ROOT = Path(__file__).resolve().parents[1]
#: of a thousand members, those that can be dialled
HUBS = 50
SECTION = Section("netbench", docs="--docs")


@dataclass
class Bench(Rows):
    """One run."""

    members: int

    def world(self, count: int) -> World:
        world = World(make_base(count), seed=self.seed)
        for a, b in world.graph(4, max(5, HUBS * count // 1000)):
            world.connect(a, b)
        world.run(30)
        return world

    # virtual time

    def gossip(self) -> None:
        """A change, then nothing, in the largest network; one world, for it takes long to make."""
        count = self.members
        world = self.world(count)
        node_id = world[count - 1].node_id
        world.move(count - 1, 1)

        def known() -> bool:
            found = (m.mesh.table.endpoints(node_id) for m in world.members)
            return sum(r is not None and r.seq == 2 for r in found) >= 0.999 * count

        seconds = world.run(60, known)
        rounds = seconds * S / ROUND
        self.say(f"{count} members: a change known to 99.9 %", rounds, "rounds", 15, 12,
                 note=f"{seconds:.2f} s")  # fmt: skip
        world.run(60, world.alike)
        world.run(60)
        before = world.sent()
        world.run(300)
        each = (world.sent() - before) / count / 5
        self.say(f"{count} members: nothing changes, each and minute", each, "B", 2_000, 1_000)

    def difference(self) -> None:
        base = make_base(self.members // 2)
        world = World(base, seed=self.seed, delay=lambda _: 50 * MS)
        who = base.identities[len(base.identities) // 2]
        record = EndpointRecord(base.network_id, who.node_id, 2, (place_of(1, 9),))
        world[0].restore([encode(record, who.seed)], world.now)
        start = world.now
        world.connect(0, 1)
        while world[0].table.root != world[1].table.root and world.now < start + 20 * S:
            world.run(0.01)
        trips = (world.now - start) / S / 0.1
        total = world.members[0].bytes + world.members[1].bytes
        what = f"one difference in {world[0].table.count} records"
        self.say(f"{what}: bytes", total, "B", 2_000, 800)
        self.say(f"{what}: round trips", trips, "", 5, 4)

    def partition(self) -> None:
        """A third for an hour, a hundred changes each side."""
        count = self.members
        # Millions of objects live to the end, and the collector walks over all of them.
        gc.disable()
        share_records()
        world = self.world(count)
        cut = range(0, count, 3)
        for n in cut:
            world.group[n] = 1
        broken = [
            (m.number, world.numbers[s])
            for m in world.members
            for s in m.mesh.sessions
            if world.group[m.number] < world.group[world.numbers[s]]
        ]
        for a, b in broken:
            world.cut(a, b)
        others = [n for n in range(count) if n % 3]
        for n in range(min(100, count // 20)):
            world.move(cut[n], 1_000 + n)
            world.move(others[n], 1_000 + n)
        world.run(3_600)
        world.group = [0] * count
        before = world.sent()
        for a, b in broken:
            world.connect(a, b)
        seconds = world.run(120, world.alike)
        each = (world.sent() - before) / count
        value = seconds if world.alike() else float("inf")
        self.say(f"{count} members: a third apart for an hour, alike again", value, "s", 60, 20,
                 note=f"{each:.0f} B each")  # fmt: skip

    def revocation(self) -> None:
        world = self.world(1_000)
        victim = world[5].node_id
        world[0].admission.revoke("m5", world.now)
        world.drain(world.members[0])
        members = [m.mesh for m in world.members if m.mesh.node_id != victim]

        def done() -> bool:
            return all(m.membership.active(victim) is None for m in members)

        seconds = world.run(20, done)
        value = seconds if done() else float("inf")
        self.say("1000 members: a revocation known and acted on by all", value, "s", 10, 3)

    def moved(self) -> None:
        """All places of a member are others; one anchor alone has a session with it."""
        world = self.world(200)
        mover, anchor = 199, 0
        for m in world.members:
            if m.number not in (mover, anchor) and world[mover].node_id in m.mesh.sessions:
                world.cut(m.number, mover)
        if world[anchor].node_id not in world[mover].sessions:
            world.connect(anchor, mover)
            world.run(5)
        talking = 150
        world.move(mover, 77)
        new = place_of(mover, 77).endpoint

        def found() -> bool:
            return new in world[talking].places(world[mover].node_id, world.now)

        seconds = world.run(30, found)
        value = seconds if found() else float("inf")
        self.say("all places of a member are others: known to who talks to it", value, "s", 5, 2)

    # this machine

    def held(self) -> None:
        """What an agent holds of a member: the difference of a thousand and ten thousand."""
        each = netbench_hosts.held_each(1_000, 10_000)
        self.say("memory of a member without a session, of an agent", each, "B", 6_000, 4_000)

    def memory(self) -> None:
        count = 2_000
        base = make_base(count)
        raws = [bytes(bytearray(raw)) for raw in base.raws]
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        mesh = Mesh(base.identities[0], base.network_id, random=random.randbytes, now=0)
        mesh.restore(raws, 0)
        each = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        self.say("of that its records", each, "B")

    def start(self) -> None:
        """The store with 10,000 members is opened, read and checked."""
        base = make_base(10_000)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "ws0.db")
            store.seal_key = seal_key(base.identities[0])
            for entry in base.table.entries():
                store.put(entry.key, entry.raw)
            store.close()
            began = time.monotonic()
            store = Store(Path(folder) / "ws0.db")
            store.seal_key = seal_key(base.identities[0])
            mesh = Mesh(base.identities[0], base.network_id, random=os.urandom, now=0)
            taken = mesh.restore((), 0, checked=[k.raw for k in store.records() if k.sealed])
            took = time.monotonic() - began
            store.close()
        if taken != base.table.count:
            raise SystemExit(f"{taken} of {base.table.count} records were taken")
        self.say("start with 10000 members stored", took, "s", 5, 2)

    def agent(self) -> None:
        took, plain = netbench_hosts.agent_start(10_000)
        self.say("an agent with 10000 members: up and a member of it called", took, "s", 5, 2,
                 note=f"without a network {plain:.1f} s")  # fmt: skip

    def kills(self) -> None:
        test = "tests/unit/runtime/test_store.py::test_killed_in_the_middle_of_writes[1000]"
        words = (sys.executable, "-m", "pytest", "-q", "-m", "long", "--timeout=0", test)
        began = time.monotonic()
        done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
        note = f"{time.monotonic() - began:.0f} s"
        if done.returncode:
            note = done.stdout[-300:]
        self.say("kill -9 in mid-write, 1000 times: lost or rolled back",
                 0 if not done.returncode else float("inf"), "", 0, 0, note=note)  # fmt: skip

    def join(self) -> None:
        took = netbench_hosts.join_to_ping()
        self.say("ws join to the first ping by name, 20 ms round trip", took, "s", 3, 1.5)

    def traffic(self) -> None:
        ratio, idle, rest, note = netbench_hosts.on_against_off()
        self.say("one flow, a network of 1000 on against off", ratio, "", 0.98, 1.0, least=True,
                 note=note)  # fmt: skip
        self.say("idle CPU of it, % of a core more than off", idle, "%", 0.5, 0.1)
        self.say("from its first ping until its agents are at rest", rest, "s")


PARTS: dict[str, Callable[[Bench], None]] = {
    "join": Bench.join,
    "gossip": Bench.gossip,
    "difference": Bench.difference,
    "partition": Bench.partition,
    "revocation": Bench.revocation,
    "moved": Bench.moved,
    "held": Bench.held,
    "memory": Bench.memory,
    "start": Bench.start,
    "agent": Bench.agent,
    "kills": Bench.kills,
    "traffic": Bench.traffic,
}
#: those that make agents
HOSTS = ("join", "held", "agent", "traffic")
#: those whose figures are the same however busy the machine is, the longest first
COUNTED = ("partition", "kills", "gossip", "difference", "revocation", "moved", "memory")
#: of those at a time: each has one thread
TOGETHER = 2


def together(bench: Bench, names: Sequence[str]) -> dict[str, list[Row]]:
    """Rows that do not measure this machine, each in a process of its own."""

    def one(name: str) -> list[Row]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.json"
            words = ("--only", name, "--members", str(bench.members), "--seed", str(bench.seed))
            subprocess.run(
                [sys.executable, "-m", "tools.netbench", *words, "--json", str(file)],
                cwd=ROOT,
                check=False,  # a row that missed its bar
            )
            if not file.exists():
                raise SystemExit(f"{name}: ended without a row")
            return [Row(**row) for row in json.loads(file.read_text())]

    with ThreadPoolExecutor(TOGETHER) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def run(bench: Bench, names: Sequence[str]) -> None:
    """The rows in the order of PARTS, whatever the order in which they come."""
    wanted = [name for name in PARTS if name in names]
    if os.geteuid() != 0:
        for name in [n for n in wanted if n in HOSTS]:
            print(f"{name}: left out, it needs root (network namespaces)")
            wanted.remove(name)
    apart = [name for name in COUNTED if name in wanted] if len(wanted) > 1 else []
    found = together(bench, apart)
    for name in wanted:
        if name not in found:
            try:
                PARTS[name](bench)
            except (LabError, OSError, ValueError) as e:
                # The others are still wanted.
                bench.say(name, float("inf"), "", 0, 0, note=str(e)[:200].replace("\n", " "))
            found[name] = bench.rows
            bench.rows = []
    bench.rows = [row for name in wanted for row in found[name]]


def markdown(rows: Sequence[Row], seed: int) -> str:
    return "\n".join([f"`make bench-network`, seed {seed}:", "", *lines_of(rows)])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What the network reaches.")
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--join", nargs="+", type=Path, metavar="FILE", help="rows of --json")
    args = parser.parse_args(words)
    if not 40 <= args.members <= 20_000:
        parser.error("--members: from 40 to 20000")
    bench = Bench(args.seed, args.members)
    if args.join:
        bench.rows = [Row(**row) for file in args.join for row in json.loads(file.read_text())]
    else:
        run(bench, args.only or list(PARTS))
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in bench.rows], indent=1) + "\n")
    if args.docs:
        SECTION.put_into(ROOT / "docs/mesh.md", markdown(bench.rows, args.seed))
    return int(any(r.verdict == "MISSED" for r in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
