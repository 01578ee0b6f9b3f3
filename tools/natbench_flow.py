"""A stream of numbered datagrams at a steady rate, and what came of it.

    python -m tools.natbench_flow receive ADDRESS PORT SECONDS FILE  (ends at a line of stdin)
    python -m tools.natbench_flow send ADDRESS PORT SECONDS MBIT     (begins at a line of stdin)

The file has three 64-bit numbers for each datagram that came: when (ns of CLOCK_MONOTONIC), its
number, and when it was sent. "ready" is printed when the other may begin.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

SIZE = 1200
HEAD = struct.Struct("<QQ")
#: a sender that had no turn for so long goes on from here, without a burst
BEHIND_S = 0.02
BUFFER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Judged:
    """Of what came between two times; `pause_s` with the time to the first and after the last."""

    came: int
    lost: int
    reordered: int
    again: int
    pause_s: float
    #: as the sender had its turns
    sender_s: float


def judge(rows: list[tuple[int, int, int]], start: int, end: int) -> Judged:
    """`rows`: (when it came, its number, when it was sent), as they came. Times in ns."""
    inside = [r for r in rows if start <= r[0] <= end]
    highest, reordered, again = -1, 0, 0
    seen: set[int] = set()
    for _, number, _ in inside:
        again += number in seen
        reordered += number < highest and number not in seen
        seen.add(number)
        highest = max(highest, number)
    known = {number for _, number, _ in rows}
    lost = sum(n not in known for n in range(min(seen), highest)) if seen else 0
    times = [start, *(at for at, *_ in inside), end]
    sent = sorted(at for *_, at in inside)
    return Judged(
        len(inside),
        lost,
        reordered,
        again,
        max(b - a for a, b in pairwise(times)) / 1e9,
        max((b - a for a, b in pairwise(sent)), default=0) / 1e9,
    )


def read(file: Path) -> list[tuple[int, int, int]]:
    """What `receive` wrote."""
    values = array("Q")
    values.frombytes(file.read_bytes())
    return list(zip(values[::3], values[1::3], values[2::3], strict=True))


def receive(address: str, port: int, seconds: float, file: Path) -> None:
    """`seconds`: at most."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, 33, BUFFER_BYTES)  # SO_RCVBUFFORCE
        s.bind((address, port))
        s.setblocking(False)
        print("ready", flush=True)
        came = array("Q")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found, _, _ = select.select([s, sys.stdin], [], [], 0.05)
            if sys.stdin in found:
                break
            with suppress(BlockingIOError):
                while True:
                    data = s.recv(2048)
                    came.append(time.monotonic_ns())
                    came.extend(HEAD.unpack_from(data))
    file.write_bytes(came.tobytes())


def _due(pps: float, seconds: float) -> Iterator[int]:
    """How many are to be sent now, again and again."""
    began = time.monotonic()
    end, sent = began + seconds, 0
    while (now := time.monotonic()) < end:
        due = int((now - began) * pps) - sent
        if due > BEHIND_S * pps:
            began += (due - 1) / pps
            due = 1
        sent += due
        yield due
        time.sleep(0.001)


def send(address: str, port: int, seconds: float, mbit: float) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    number, refused = 0, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((address, port))
        padding = bytes(SIZE - HEAD.size)
        for due in _due(mbit * 1e6 / 8 / SIZE, seconds):
            for _ in range(due):
                try:
                    s.send(HEAD.pack(number, time.monotonic_ns()) + padding)
                    number += 1
                except OSError:
                    refused += 1
    print(json.dumps({"sent": number, "refused": refused}), flush=True)


def main() -> int:
    what, address, port, seconds, last = sys.argv[1:]
    if what == "receive":
        receive(address, int(port), float(seconds), Path(last))
    else:
        send(address, int(port), float(seconds), float(last))
    return 0


if __name__ == "__main__":
    sys.exit(main())
