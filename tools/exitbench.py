#!/usr/bin/env python3
"""What an exit costs: python -m tools.exitbench [--seconds N] [--rounds N] [--json]

    client ── veth ── exit ── veth ── web
       10.77.0.1 ══ tunnel ══ 10.77.0.2

In each round one TCP flow to the exit's own address in the tunnel, and one by the exit to the web,
masqueraded and guarded by the kill switch; the first of the two changes from round to round. All
share this machine's processors, so the second pays for a link and a forwarding more. Needs root.
Exit status 1: the exit carries less than 0.95 of the plain tunnel (median of the rounds).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.bench import load
from tools.netlab import Host, Lab, LabError, wait_until
from tools.peers import Peer, Whalescale, outside
from whalescale.bench.measure import Load, MeasureError

MUST = 0.95
PORT = 51820


@dataclass
class Flow:
    """As much of a pair as tools/bench/load.py needs: from a to b."""

    a: Host
    b: Host
    target: str


def _end(host: Host, number: int, more: str) -> Whalescale:
    name = f"wsx{os.getpid() % 100000}-{number}"
    extra = f'backend = "auto"\n\n{more}'
    return Whalescale(host, name, (f"10.77.0.{number}/24",), PORT + number, dataplane=extra)


def measured(seconds: float, rounds: int) -> list[dict[str, float]]:
    """Of each round "plain" and "exit", Gbit/s. LabError, MeasureError."""
    with Lab() as lab:
        client, exit_host, web = (lab.host(name) for name in ("client", "exit", "web"))
        link, behind = lab.link(client, exit_host), lab.link(exit_host, web)
        exit_host.sysctl("net.ipv4.ip_forward", 1)
        ends = (
            _end(client, 1, '[exit]\nuse = "peer0"'),
            _end(exit_host, 2, "[forward]\nexit = true"),
        )
        for end, other in (ends, ends[::-1]):
            at = outside(link.address(other.host), other.port)
            inside = (f"{other.inside()}/32",)
            end.start(Peer(other.public_key, inside, at, node_id=other.node_id))
        target = behind.address(web)

        def answers() -> bool:
            return client.run("ping", "-c1", "-W1", target, check=False).returncode == 0

        wait_until("the web by the exit", answers, 30)
        flows = {
            "plain": Flow(client, exit_host, ends[1].inside()),
            "exit": Flow(client, web, target),
        }
        for flow in flows.values():
            load.tcp(flow, Load(1.0))  # type: ignore[arg-type]
        found = []
        for number in range(rounds):
            order = list(flows) if number % 2 == 0 else list(flows)[::-1]
            told = {n: load.tcp(flows[n], Load(seconds))["gbps"] for n in order}  # type: ignore[arg-type]
            found.append(told)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description="What an exit costs.")
    parser.add_argument("--seconds", type=float, default=5, help="of each flow [5]")
    parser.add_argument("--rounds", type=int, default=7, help="the median counts [7]")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        print("exitbench: needs root (network namespaces)", file=sys.stderr)
        return 4
    try:
        found = measured(chosen.seconds, chosen.rounds)
    except (LabError, MeasureError) as error:
        print(f"exitbench: {error}", file=sys.stderr)
        return 2
    ratio = statistics.median(r["exit"] / r["plain"] for r in found)
    if chosen.json:
        print(json.dumps({"rounds": found, "ratio": ratio}))
    else:
        for told in found:
            share = told["exit"] / told["plain"]
            print(f"plain {told['plain']:6.2f}  exit {told['exit']:6.2f} Gbit/s  {share:.3f}")
        print(f"ratio, median of {len(found)} rounds: {ratio:.3f} (must {MUST})")
    return 0 if ratio >= MUST else 1


if __name__ == "__main__":
    sys.exit(main())
