#!/usr/bin/env python3
"""What an exit costs: python -m tools.exitbench [--seconds N] [--rounds N] [--json]

    client ── veth ── exit ── veth ── web
       10.77.0.1 ══ tunnel ══ 10.77.0.2

In each round one TCP flow by the exit to the web, masqueraded and guarded by the kill switch, and
the same by a second row of three hosts that is the plain tunnel: the web is in its allowed_ips,
and the kernel forwards without a firewall. Who begins changes from round to round. A third flow
ends at that second exit: all hosts share this machine's processors, so what the link behind costs,
which on a host of its own would be nobody's, shows in the difference. Needs root.
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


def _row(lab: Lab, number: int, *, exit: bool) -> tuple[Flow, Flow]:
    """Three hosts: the flow to the one in the middle, and the one behind it."""
    client, middle, web = (lab.host(f"{name}{number}") for name in ("client", "exit", "web"))
    link, behind = lab.link(client, middle), lab.link(middle, web)
    middle.sysctl("net.ipv4.ip_forward", 1)
    target = behind.address(web)
    more = ('[exit]\nuse = "peer0"', "[forward]\nexit = true") if exit else ("", "")
    ends = [
        Whalescale(
            host, f"wsx{os.getpid() % 100000}-{number}{part}", (f"10.77.0.{part}/24",),
            PORT + part, dataplane=f'backend = "auto"\n\n{own}',
        )
        for host, part, own in ((client, 1, more[0]), (middle, 2, more[1]))
    ]  # fmt: skip
    for end, other in (ends, ends[::-1]):
        at = outside(link.address(other.host), other.port)
        inside = [f"{other.inside()}/32"]
        if not exit and end is ends[0]:
            inside.append(f"{target}/32")
        end.start(Peer(other.public_key, tuple(inside), at, node_id=other.node_id))
    if not exit:
        web.ip(f"route add 10.77.0.0/24 via {behind.address(middle)}")

    def answers() -> bool:
        return client.run("ping", "-c1", "-W1", target, check=False).returncode == 0

    wait_until("the web by the exit", answers, 30)
    return Flow(client, middle, ends[1].inside()), Flow(client, web, target)


def measured(seconds: float, rounds: int) -> list[dict[str, float]]:
    """Of each round "exit", "plain" and "tunnel", Gbit/s. LabError, MeasureError."""
    with Lab() as lab:
        _, by_exit = _row(lab, 1, exit=True)
        tunnel, plain = _row(lab, 2, exit=False)
        flows = {"exit": by_exit, "plain": plain, "tunnel": tunnel}
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
    hop = statistics.median(r["plain"] / r["tunnel"] for r in found)
    if chosen.json:
        print(json.dumps({"rounds": found, "ratio": ratio, "hop": hop}))
    else:
        for told in found:
            share = told["exit"] / told["plain"]
            print(
                f"plain {told['plain']:6.2f}  exit {told['exit']:6.2f} Gbit/s  {share:.3f}"
                f"  (tunnel alone {told['tunnel']:.2f})"
            )
        print(f"ratio, median of {len(found)} rounds: {ratio:.3f} (must {MUST})")
        print(f"the link behind costs, on this machine: {hop:.3f} of the tunnel alone")
    return 0 if ratio >= MUST else 1


if __name__ == "__main__":
    sys.exit(main())
