#!/usr/bin/env python3
"""What is spent while nothing happens: python -m tools.restcosts [--seconds N] [--json]

In network namespaces: the memory of an agent with a session and nothing to do, and what `ws top`
takes of a core in a terminal of 120 x 40 that is drawn anew each second, beside an agent with 100
peers that do not answer. Needs root. Exit status 1: more than 60 MB, or 3 % of a core.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchkit.contestants import introduce
from tools.netlab import Host, Lab, LabError, wait_until
from tools.peers import WS, Peer, Whalescale
from whalescale.bench.measure import MeasureError, process_seconds
from whalescale.identity import Identity, encode_node_id

MEMORY_MB = 60.0
TOP_PERCENT = 3.0
PEERS = 100
ROWS, COLUMNS = 40, 120
#: what a terminal took that is worth counting as a picture
PICTURE_BYTES = 1000


def _end(host: Host, number: int) -> Whalescale:
    name = f"wsr{os.getpid() % 100000}-{number}"
    return Whalescale(host, name, (f"10.77.0.{number}/24",), 51820 + number)


def memory_mb(pid: int) -> dict[str, float]:
    """Resident, and of that what is no file's (which others may have too). MB of 10^6 bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = {m[1]: int(m[2]) for m in re.finditer(r"(VmRSS|RssAnon):\s+(\d+) kB", text)}
    return {k: round(found[n] * 1024 / 1e6, 1) for k, n in (("rss", "VmRSS"), ("anon", "RssAnon"))}


def at_rest(lab: Lab, seconds: float) -> dict[str, float]:
    """MB of an agent with one peer, `seconds` after the session is there."""
    a, b = lab.host("a"), lab.host("b")
    link = lab.link(a, b)
    ends = (_end(a, 1), _end(b, 2))
    introduce(*ends, link.address, lambda _, other: other.node_id)

    def answers() -> bool:
        return a.run("ping", "-c1", "-W1", ends[1].inside(), check=False).returncode == 0

    wait_until("a session", answers, 30)
    time.sleep(seconds)
    pid = ends[0].status()["agent"]["pid"]
    return memory_mb(pid)


def top_percent(lab: Lab, seconds: float) -> float:
    """Of a core, of one `ws top` with PEERS peers, after its first picture."""
    end = _end(lab.host("c"), 3)
    peers = [
        Peer(
            "", (f"10.78.0.{n + 1}/32",), f"192.0.2.{n + 1}:51820",
            node_id=encode_node_id(Identity.generate(os.urandom).node_id),
        )
        for n in range(PEERS)
    ]  # fmt: skip
    end.write_config(*peers)
    end.launch()
    wait_until("an agent", lambda: _status_of(end), 30)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {**os.environ, **end.env, "TERM": "xterm-256color"}
    words = [str(WS), "top", "-i", end.interface]
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    try:
        drawn = _drain(ours, 4.0)
        before, began = process_seconds(process.pid), time.monotonic()
        drawn_later = _drain(ours, seconds)
        spent = (process_seconds(process.pid) - before) / (time.monotonic() - began)
        if drawn < PICTURE_BYTES or drawn_later < PICTURE_BYTES:
            raise LabError(f"`ws top` drew {drawn} and {drawn_later} bytes")
        return spent * 100
    finally:
        process.terminate()
        process.wait(10)
        os.close(ours)


def _status_of(end: Whalescale) -> bool:
    with contextlib.suppress(LabError):
        return len(end.status()["peers"]) == PEERS
    return False


def _drain(descriptor: int, seconds: float) -> int:
    """Read for so long; how many bytes came."""
    until, count = time.monotonic() + seconds, 0
    while (left := until - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            count += len(os.read(descriptor, 1 << 16))
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description="What is spent while nothing happens.")
    parser.add_argument("--seconds", type=float, default=20, help="of `ws top`, and of rest [20]")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if os.geteuid() != 0:
        print("restcosts: needs root (network namespaces)", file=sys.stderr)
        return 4
    try:
        with Lab() as lab:
            memory = at_rest(lab, chosen.seconds)
            top = top_percent(lab, chosen.seconds)
    except (LabError, MeasureError) as error:
        print(f"restcosts: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps({"memory_mb": memory, "top_percent": round(top, 2)}))
    else:
        print(
            f"agent at rest, one peer: {memory['rss']} MB resident (must {MEMORY_MB:.0f}),"
            f" {memory['anon']} of it its own"
        )
        print(f"ws top, {PEERS} peers: {top:.1f} % of a core (must {TOP_PERCENT:.0f})")
    return 0 if memory["rss"] <= MEMORY_MB and top <= TOP_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
