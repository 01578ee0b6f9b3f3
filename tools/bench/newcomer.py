#!/usr/bin/env python3
"""What forged initiations cost a running flow, and how long they keep a new peer out.

    python -m tools.bench.newcomer [--rounds 5] [--seconds 10] [--rate 200000] [--no-bpf]

The bars: to 200,000 forged initiations a second a flow loses at most 8 % more than where a filter
of one compare drops them (the median of the rounds: what the kernel needs to bring them to the
first program is its own), and a peer that begins under them gets its first packet through within
5 s (the worst). Two agents in network namespaces; the flood, with sources that nobody has,
comes from the new peer's host. Needs root and a quiet machine: the generator runs on its cores.
Exit status: 0 both bars are reached, 1 one is not, 4 no root.
"""

from __future__ import annotations

import argparse
import base64
import os
import statistics
import sys
import time
from collections.abc import Sequence

from tools.bench import crowds, load
from tools.bench.contestants import Pair
from tools.bench.model import Options
from tools.netlab import Lab, terminate_as_exception, wait_until
from tools.peers import Peer, Whalescale, outside
from whalescale.bench.measure import MeasureError
from whalescale.protocol.messages import INITIATION_BYTES

COST_PERCENT = 8.0
NEWCOMER_S = 5.0
#: a newcomer that is not in by then never will be
PATIENCE_S = 30.0
PORTS = (51820, 51821)


def cost(rounds: int, seconds: float) -> list[tuple[float, float]]:
    """Percent of a TCP flow, each round, by the flood to us and by one that a filter drops: against
    the same flood sent to nowhere."""
    options = Options(1, seconds)
    with Pair("whalescale") as pair:
        return [
            (
                float(crowds.flood_mac1(pair, options)["cost_percent"]),
                crowds.floor(pair, options),
            )
            for _ in range(rounds)
        ]


def newcomer(rate: int, dataplane: str) -> float:
    """Seconds from the start of an agent under the flood to its first ping."""
    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        link = lab.link(a, b)
        name = f"wsb{os.getpid() % 100000}"
        here, there = (
            Whalescale(host, f"{name}-{n}", (f"10.77.0.{n}/24",), PORTS[n - 1])
            for n, host in ((1, a), (2, b))
        )
        here.dataplane = dataplane
        here.start(Peer(there.public_key, ("10.77.0.2/32",), node_id=there.node_id))
        records = lab.folder / "flood.bin"
        records.write_bytes(crowds.forged_initiations(base64.b64decode(here.public_key)))
        a.ip(f"route add {crowds.FORGED} via {link.address(b)}")
        flood = b.spawn(
            *("nice", "-n", "-15", load.udpblast(), "flood"),
            *("--to", link.address(a), "--port", str(here.port), "--device", link.device(b)),
            *("--mac", load.mac_of(a, link.device(a)), "--size", str(INITIATION_BYTES)),
            *("--rate", str(rate), "--seconds", f"{PATIENCE_S + 30:g}", "--records", records),
        )
        try:
            time.sleep(3)  # its beginning is let through, to some extent
            began = time.monotonic()
            at = outside(link.address(a), here.port)
            there.start(Peer(here.public_key, ("10.77.0.1/32",), at, node_id=here.node_id))
            wait_until(
                "the newcomer",
                lambda: (
                    there.run(*["ping", "-c1", "-W0.5", "-q", "10.77.0.1"], check=False).returncode
                    == 0
                ),
                PATIENCE_S,
                0.05,
            )
            took = time.monotonic() - began
        finally:
            status = flood.stop(timeout=5)
        if status != 0:
            raise MeasureError(f"the flood failed ({status}): {flood.log().strip()[-200:]}")
        sent = load.last_json(flood.log())
        if sent["sent"] < 0.9 * rate * sent["seconds"]:
            print(f"  only {sent['sent'] / sent['seconds']:,.0f} a second were sent", flush=True)
        return took


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one flow")
    parser.add_argument("--rate", type=int, default=crowds.FLOOD_PPS, help="of the second part")
    parser.add_argument("--no-bpf", action="store_true", help="the second part without a shield")
    asked = parser.parse_args(words)
    if os.geteuid() != 0:
        print("needs root: network namespaces", file=sys.stderr)
        return 4
    terminate_as_exception()
    costs = cost(asked.rounds, asked.seconds)
    median = statistics.median(ours - floor for ours, floor in costs)
    each, floors = (", ".join(f"{c:.1f}" for c in column) for column in zip(*costs, strict=True))
    print(f"a flow beside the flood loses, in %: {each}")
    print(f"where a filter of one compare drops the flood: {floors}")
    print(f"so to us {median:.1f} points (median of the rounds; bar {COST_PERCENT:g})")
    times = [
        newcomer(asked.rate, "bpf = false" if asked.no_bpf else "") for _ in range(asked.rounds)
    ]
    worst = max(times)
    each = ", ".join(f"{t:.1f}" for t in times)
    print(f"a new peer is in after {worst:.1f} s at worst (rounds: {each}; bar {NEWCOMER_S:g})")
    return 0 if median <= COST_PERCENT and worst <= NEWCOMER_S else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
