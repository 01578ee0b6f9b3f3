#!/usr/bin/env python3
"""How long `ws` commands take: python -m tools.starttimes [--rounds N] [--json]

Beside an agent with one peer, in a namespace. Each command is run N times, in turn with the others;
the least of wall time and of processor time counts, for other work on the machine only adds to
them. Needs root. Exit status 1: a command needs more than 150 ms of wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.netlab import Lab, LabError
from tools.peers import Peer, Whalescale
from whalescale.cli.commands import COMMANDS as ALL
from whalescale.identity import Identity, encode_node_id

MUST_MS = 150.0
COMMANDS = (
    *("", "version", "keygen", "status", "status --json", "peers", "paths", "members"),
    *("route show", "network show", "logs", "top --once -n 0.1", "reload"),
    *("--help", *(f"{name} --help" for name in ALL)),
)
#: it waits for the second look, which a rate needs
WAITS_MS = {"top --once -n 0.1": 100.0}


def measured(rounds: int) -> dict[str, tuple[float, float]]:
    """Of each command wall and processor time in ms. LabError."""
    with Lab() as lab:
        end = Whalescale(lab.host("a"), f"wst{os.getpid() % 100000}", ("10.77.0.1/24",), 51820)
        end.env["WHALESCALE_STATE_DIR"] = str(end.runtime.with_name("state"))
        other = encode_node_id(Identity.generate(os.urandom).node_id)
        end.start(Peer("", ("10.77.0.2/32",), "192.0.2.1:51820", node_id=other))
        end.env["WS_INTERFACE"] = end.interface
        best: dict[str, tuple[float, float]] = {}
        for number in range(rounds + 1):
            for words in COMMANDS:
                before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
                end.ws(*words.split(), check=False)
                wall = (time.monotonic() - began) * 1000 - WAITS_MS.get(words, 0.0)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                if number:  # the first compiles
                    w, c = best.get(words, (wall, cpu * 1000))
                    best[words] = min(w, wall), min(c, cpu * 1000)
        return best


def main() -> int:
    parser = argparse.ArgumentParser(description="How long `ws` commands take.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    # Where it is set each command compiles its modules anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if os.geteuid() != 0:
        print("starttimes: needs root (network namespaces)", file=sys.stderr)
        return 4
    try:
        found = measured(chosen.rounds)
    except LabError as error:
        print(f"starttimes: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps(found))
    else:
        for words, (wall, cpu) in sorted(found.items(), key=lambda item: -item[1][0]):
            more = "" if wall <= MUST_MS else f"  more than {MUST_MS:.0f}"
            print(f"ws {words:18} {wall:4.0f} ms, {cpu:4.0f} ms of CPU{more}")
    return 0 if all(wall <= MUST_MS for wall, _ in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
